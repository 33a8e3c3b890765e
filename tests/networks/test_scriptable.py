"""The networks under `torch.jit.script`: the same logits and names of parameters; the network itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scanloom.networks import Ensemble, ResNetUNet, UNet
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, that TorchScript is


def unet(**options) -> Callable[[], nn.Module]:
    return lambda: UNet(**{"features": 2, "depth": 2, "padding": "same", **options})


def resnet_unet(**options) -> Callable[[], nn.Module]:
    return lambda: ResNetUNet(
        **{"pretrained": False, "depth": 18, "in_channels": 1, "decoder_features": (2,) * 5, **options}
    )


CASES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "unet 3D": (
        unet(norm="batch", spatial_dims=3, deep_supervision=1, strides=((2, 2, 1), 2)),
        [(13, 9, 7), (4, 4, 4), (1, 1, 1)],
    ),
    "unet valid": (unet(padding="valid", depth=1), [(20, 28), (24, 22)]),
    "unet of one level": (unet(depth=0), [(7, 5)]),
    "unet interpolation": (unet(norm="group", upsample="interpolation"), [(13, 9)]),
    "unet instance norm": (unet(norm="instance", dropout=0.2), [(13, 9), (2, 3)]),
    "unet batch renorm": (unet(norm="batchrenorm"), [(13, 9)]),
    "unet 3D batch renorm": (unet(norm="batchrenorm", spatial_dims=3, depth=1), [(5, 6, 7)]),
    "resnet_unet": (resnet_unet(), [(45, 37), (64, 64)]),
    "resnet_unet bottleneck": (resnet_unet(depth=50, upsample="interpolation", freeze=2), [(33, 32)]),
    "resnet_unet 3D": (resnet_unet(spatial_dims=3, shortcut="A"), [(33, 34, 35)]),
    "ensemble": (lambda: Ensemble([unet(norm="batch")() for _ in range(3)]), [(13, 9)]),
    "ensemble of one channel": (lambda: Ensemble([unet(out_channels=1)(), unet(out_channels=1)()]), [(13, 9)]),
    "ensemble of sigmoids": (lambda: Ensemble([unet()(), unet()()], activation="sigmoid"), [(13, 9)]),
}


def with_statistics(network: nn.Module) -> nn.Module:
    """In evaluation, its norms with statistics of something."""
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", CASES)
def test_a_scripted_network_has_the_same_logits_and_names(name: str, tmp_path: Path) -> None:
    make, sizes = CASES[name]
    network = with_statistics(make())
    kinds = [type(module) for module in network.modules()]
    torch.jit.save(torch.jit.script(network), tmp_path / "network.ts")
    scripted = torch.jit.load(tmp_path / "network.ts")
    assert [type(module) for module in network.modules()] == kinds
    assert list(scripted.state_dict()) == list(network.state_dict())
    for batch, size in enumerate(sizes, start=1):
        image = torch.randn(batch, 1, *size)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), network(image), rtol=0, atol=0)


def test_an_ensemble_in_double_precision_stays_in_it() -> None:
    network = Ensemble([unet()(), unet()()]).double()
    image = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), rtol=0, atol=0)


@pytest.mark.parametrize("join", [Ensemble, lambda networks: nn.Sequential(*networks)], ids=["ensemble", "sequence"])
def test_several_networks_scripted_as_one_keep_their_own_modules(join: Callable[[list[nn.Module]], nn.Module]) -> None:
    image = torch.randn(1, 1, 8, 8)
    for _ in range(12):  # torch took a module for another in every second try
        network = join([unet(norm="batchrenorm", out_channels=1)() for _ in range(2)]).eval()
        with torch.no_grad():
            expected = network(image)
            torch.testing.assert_close(torch.jit.script(network)(image), expected, rtol=0, atol=0)


def test_a_scripted_network_refuses_a_size_that_does_not_pool_evenly() -> None:
    scripted = torch.jit.script(unet(padding="valid", depth=1)().eval())
    with pytest.raises(torch.jit.Error, match="does not pool evenly"):
        scripted(torch.zeros(1, 1, 21, 28))


def test_what_is_scripted_while_training_is_the_evaluation() -> None:
    network = unet(norm="batch", deep_supervision=1)().train()
    scripted, image = torch.jit.script(network), torch.randn(1, 1, 9, 8)
    assert network.training and all(module.training for module in network.modules())
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network.eval()(image), rtol=0, atol=0)

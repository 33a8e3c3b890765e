"""Both networks under torch.compile, torch.export and ONNX: the same logits, of sizes not seen while exporting too."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from scanloom.networks import ResNetUNet, UNet
from torch import Tensor, nn
from torch.export import Dim

# the network, the size to export with, and further ones: with and without padding to the divisor, smaller, larger
Case = tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[int, ...]]]


def unet(**options) -> Callable[[], nn.Module]:
    return lambda: UNet(**{"features": 2, "depth": 2, "padding": "same", **options})


def resnet_unet(**options) -> Callable[[], nn.Module]:
    return lambda: ResNetUNet(
        **{"pretrained": False, "depth": 18, "in_channels": 1, "decoder_features": (2,) * 5, **options}
    )


CASES: dict[str, Case] = {
    "unet 2D": (unet(norm="instance"), (13, 9), [(12, 8), (16, 9), (5, 30)]),
    "unet 2D valid": (unet(padding="valid", depth=1), (20, 28), [(22, 24), (40, 32)]),
    "unet 2D interpolation": (unet(norm="group", upsample="interpolation"), (13, 9), [(12, 8), (5, 30)]),
    "unet 3D": (
        unet(norm="batch", spatial_dims=3, deep_supervision=1, strides=((2, 2, 1), 2)),
        (13, 9, 7),
        [(12, 8, 8), (6, 5, 9)],
    ),
    "unet 2D batch renorm": (unet(norm="batchrenorm"), (13, 9), [(12, 8), (5, 30)]),
    "resnet_unet 2D": (resnet_unet(upsample="interpolation", shortcut="A"), (45, 37), [(64, 64), (33, 96)]),
    "resnet_unet 3D": (resnet_unet(spatial_dims=3), (33, 34, 35), [(64, 40, 36)]),
}

# What torch itself warns of while it compiles and exports; nothing of it is about these networks.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def image_of(size: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, *size)


def every_size(size: tuple[int, ...]) -> tuple[dict[int, Dim]]:
    """Dynamic shapes for one image: the batch and every spatial axis."""
    return ({0: Dim.DYNAMIC, **dict.fromkeys(range(2, len(size) + 2), Dim.DYNAMIC)},)


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)


@functools.cache
def exported(name: str) -> tuple[nn.Module, torch.export.ExportedProgram]:
    """The network of that case and its program; exported once for all tests."""
    make, size, _ = CASES[name]
    network = make().eval()
    return network, torch.export.export(network, (image_of(size),), dynamic_shapes=every_size(size))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "unet 2D" else pytest.mark.slow) for name in CASES]
)
def test_an_exported_program_takes_other_sizes(name: str) -> None:
    network, program = exported(name)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    _, size, others = CASES[name]
    for batch, other in enumerate([size, *others], start=1):
        image = image_of(other, batch)
        torch.testing.assert_close(logits_of(loaded, image), logits_of(network, image))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_onnx_model_takes_other_sizes(name: str, tmp_path: Path) -> None:
    network, program = exported(name)
    torch.onnx.export(
        program,
        f=tmp_path / "network.onnx",
        dynamo=True,
        input_names=["image"],
        output_names=["logits"],
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", options, providers=["CPUExecutionProvider"])
    _, size, others = CASES[name]
    for batch, other in enumerate([size, *others], start=1):
        image = image_of(other, batch)
        (found,) = session.run(["logits"], {"image": image.numpy()})
        expected = logits_of(network, image).numpy()
        # onnxruntime folds batch norms into convolutions and sums in another order
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.slow
def test_a_network_compiled_by_inductor_has_the_same_logits() -> None:
    torch.compiler.reset()
    network = unet(norm="instance", depth=1)().eval()
    compiled = torch.compile(network, fullgraph=True)
    image = image_of((9, 7))
    torch.testing.assert_close(logits_of(compiled, image), logits_of(network, image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size"),
    [
        pytest.param(unet(norm="batch", spatial_dims=3), (9, 8, 7), id="unet 3D"),
        pytest.param(resnet_unet(), (33, 32), id="resnet_unet 2D"),
    ],
)
def test_a_compiled_network_has_the_same_logits_and_gradients(
    make: Callable[[], nn.Module], size: tuple[int, ...]
) -> None:
    torch.compiler.reset()
    network = make().eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    image, results = image_of(size), []
    for each in (network, compiled):
        network.zero_grad()
        logits = each(image)
        logits.square().mean().backward()
        results.append((logits.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "batchrenorm"])
def test_a_compiled_network_trains_under_bf16(norm: str) -> None:
    torch.compiler.reset()
    network = unet(norm=norm, deep_supervision=1)().train()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = compiled(image_of((13, 9)))
        sum(each.float().square().mean() for each in logits).backward()
    assert [tuple(each.shape[2:]) for each in logits] == [(13, 9), (7, 5)]
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())

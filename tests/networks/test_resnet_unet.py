"""ResNetUNet: torchvision's names, counts and outputs, the decoder, any size, freezing, its receptive field."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.networks import ResNetUNet
from scanloom.networks.resnet_encoder import ResNetEncoder
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
TRANSPOSE = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
MAX_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def plain_batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def plain_resnet(state: State, x: Tensor, depth: int, shortcut: str = "B") -> list[Tensor]:
    """torchvision's resnet without its classifier, in evaluation mode, as a function of its state dict."""
    dims = x.dim() - 2

    def convolve(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return CONVOLVE[dims](x, weight, stride=stride, padding=(weight.shape[-1] - 1) // 2)

    def block(x: Tensor, name: str, stride: int, first: bool) -> Tensor:
        y, convolutions = x, 2 if depth < 50 else 3
        for number in range(1, convolutions + 1):
            strided = number == (1 if depth < 50 else 2)
            y = convolve(y, f"{name}.conv{number}", stride if strided else 1)
            y = plain_batch_norm(state, f"{name}.bn{number}", y)
            y = functional.relu(y) if number < convolutions else y
        if x.shape != y.shape and shortcut == "A":
            padded = torch.zeros_like(y)
            padded[:, : x.shape[1]] = (
                x[:, :, ::stride, ::stride] if dims == 2 else x[:, :, ::stride, ::stride, ::stride]
            )
            x = padded
        elif first and shortcut == "B" and (stride > 1 or depth >= 50):
            x = plain_batch_norm(state, f"{name}.downsample.1", convolve(x, f"{name}.downsample.0", stride))
        return functional.relu(x + y)

    features = [functional.relu(plain_batch_norm(state, "bn1", convolve(x, "conv1", 2)))]
    x = MAX_POOL[dims](features[0], 3, stride=2, padding=1)
    for layer, blocks in enumerate(BLOCKS[depth], start=1):
        for index in range(blocks):
            x = block(x, f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1, index == 0)
        features.append(x)
    return features


def plain_resnet_unet(state: State, image: Tensor, depth: int, upsample: str) -> Tensor:
    """The whole network in evaluation mode, batch norm and ReLU in the decoder, for multiples of 32."""
    dims = image.dim() - 2
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in state.items() if name.startswith("encoder.")}
    x, *skips = [*reversed(plain_resnet(encoder, image, depth)), image]
    for level, skip in enumerate(skips):
        name = f"upsample.{level}"
        if upsample == "transposed":
            x = TRANSPOSE[dims](x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
        else:
            x = CONVOLVE[dims](x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
            x = functional.interpolate(x, size=skip.shape[2:], mode={2: "bilinear", 3: "trilinear"}[dims])
        x = torch.cat([skip, x], dim=1)
        for index in range(2):
            name = f"decoder.{level}.{index}"
            x = CONVOLVE[dims](x, state[f"{name}.convolution.weight"], padding=1)
            x = functional.relu(plain_batch_norm(state, f"{name}.norm", x))
    return CONVOLVE[dims](x, state["head.weight"], state["head.bias"])


def shake_norms(network: nn.Module) -> None:
    """Random scales, shifts and statistics, so that a norm that is left out or misplaced shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.0)


def make_network(**options) -> ResNetUNet:
    """A ResNet-18 with a narrow decoder in evaluation mode."""
    options = {"pretrained": False, "depth": 18, "decoder_features": (8, 8, 4, 4, 2), **options}
    network = ResNetUNet(**options).eval()
    shake_norms(network)
    return network


@pytest.fixture(scope="module")
def shared_network() -> ResNetUNet:
    """One for the tests that do not change it."""
    return make_network()


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # torchvision's published counts, less those of fc: 512 or 2048 times 1000, and 1000
    [
        (18, 11_689_512 - 513_000),
        (34, 21_797_672 - 513_000),
        (50, 25_557_032 - 2_049_000),
        (101, 44_549_160 - 2_049_000),
        (152, 60_192_808 - 2_049_000),
    ],
)
def test_the_encoder_has_as_many_parameters_as_torchvisions(depth: int, parameters: int) -> None:
    with torch.device("meta"):
        encoder = ResNetUNet(pretrained=False, depth=depth).encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_encoders_names_and_shapes_are_torchvisions(depth: int) -> None:
    expected = {"conv1.weight": (64, 3, 7, 7)}
    norms = {"bn1": 64}
    before = 64
    for layer, blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**layer
        after = width if depth < 50 else 4 * width
        for index in range(blocks):
            name = f"layer{layer}.{index}"
            if depth < 50:
                shapes = [(width, before, 3, 3), (width, width, 3, 3)]
            else:
                shapes = [(width, before, 1, 1), (width, width, 3, 3), (after, width, 1, 1)]
            for number, shape in enumerate(shapes, start=1):
                expected[f"{name}.conv{number}.weight"] = shape
                norms[f"{name}.bn{number}"] = shape[0]
            if index == 0 and before != after:
                expected[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                norms[f"{name}.downsample.1"] = after
            before = after
    for name, channels in norms.items():
        expected |= {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected[f"{name}.num_batches_tracked"] = ()
    with torch.device("meta"):
        state = ResNetEncoder(depth).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"depth": 18}, (64, 33)),
        ({"depth": 50}, (32, 47)),
        ({"depth": 34, "shortcut": "A"}, (40, 32)),
        ({"depth": 50, "shortcut": "A"}, (32, 32)),
        ({"depth": 18, "spatial_dims": 3, "in_channels": 1, "shortcut": "A"}, (32, 33, 16)),
    ],
)
def test_the_encoders_features_equal_an_independent_implementation(options: dict, shape: tuple[int, ...]) -> None:
    encoder = ResNetEncoder(**options).eval()
    shake_norms(encoder)
    image = torch.randn(2, options.get("in_channels", 3), *shape)
    with torch.no_grad():
        found = encoder(image)
        expected = plain_resnet(encoder.state_dict(), image, options["depth"], options.get("shortcut", "B"))
    assert [tuple(each.shape) for each in found] == [tuple(each.shape) for each in expected]
    for level, (each, other) in enumerate(zip(found, expected, strict=True)):
        assert each.shape[2:] == tuple(math.ceil(n / 2 ** (level + 1)) for n in shape)
        # absolute tolerance by the scale of the features: thousands of products are summed in another order
        torch.testing.assert_close(each, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"num_classes": 4}, (64, 32)),
        ({"depth": 50, "upsample": "interpolation", "in_channels": 2}, (32, 32)),
        ({"norm": "batchrenorm"}, (32, 32)),
        ({"spatial_dims": 3, "in_channels": 1}, (32, 32, 32)),
        ({"spatial_dims": 3, "in_channels": 1, "upsample": "interpolation"}, (32, 32, 32)),
    ],
)
def test_the_output_equals_an_independent_implementation(options: dict, shape: tuple[int, ...]) -> None:
    network = make_network(**options)
    image = torch.randn(1, options.get("in_channels", 3), *shape)
    with torch.no_grad():
        expected = plain_resnet_unet(
            network.state_dict(), image, options.get("depth", 18), options.get("upsample", "transposed")
        )
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_default_decoder_has_the_parameters_counted_by_hand() -> None:
    skips, features, below, count = (1024, 512, 256, 64, 3), (256, 128, 64, 32, 16), 2048, 16 + 1
    for skip, after in zip(skips, features, strict=True):
        count += 4 * below * after + after  # 2x2 up-convolution
        count += 9 * (after + skip) * after + 9 * after * after + 2 * 2 * after  # two convolutions, two batch norms
        below = after
    with torch.device("meta"):
        network = ResNetUNet(pretrained=False)
    assert sum(p.numel() for p in network.parameters()) == 23_508_032 + count


@settings(deadline=None, max_examples=8)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 40)))
def test_any_size_of_at_least_one_voxel_is_kept(shared_network: ResNetUNet, size: tuple[int, int]) -> None:
    with torch.no_grad():
        logits = shared_network(torch.randn(1, 3, *size))
    assert logits.shape == (1, 1, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1, 1), (33, 5, 2)])
def test_any_size_is_kept_in_3d(size: tuple[int, int, int]) -> None:
    network = make_network(spatial_dims=3, in_channels=1, num_classes=3)
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == (1, 3, *size)


def test_padding_is_zeros_after_the_last_voxel(shared_network: ResNetUNet) -> None:
    image = torch.randn(1, 3, 30, 33)
    with torch.no_grad():
        padded = shared_network(functional.pad(image, (0, 31, 0, 2)))
        torch.testing.assert_close(shared_network(image), padded[:, :, :30, :33])


@pytest.mark.parametrize("freeze", range(6))
def test_frozen_stages_neither_learn_nor_change_their_statistics(freeze: int) -> None:
    network = make_network(freeze=freeze).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)  # a step of 0.1, however small the gradient
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    stages = ["conv1.|bn1.", "layer1.", "layer2.", "layer3.", "layer4."]
    frozen = tuple(f"encoder.{part}" for stage in stages[:freeze] for part in stage.split("|"))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == bool(frozen and name.startswith(frozen)), name
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad != bool(frozen and name.startswith(frozen)), name


def test_a_copy_of_a_frozen_network_keeps_its_own_stages_frozen() -> None:
    network = make_network(freeze=1)
    twin = copy.deepcopy(network).train()
    assert twin.training
    assert not twin.encoder.bn1.training
    assert twin.encoder.layer1.training
    assert not network.training


def test_every_parameter_learns() -> None:
    network = make_network().train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("options", [{}, {"depth": 50}, {"upsample": "interpolation"}])
def test_no_voxel_outside_the_receptive_field_has_a_say_and_one_at_its_edge_has(options: dict) -> None:
    network = make_network(norm="none", activation="silu", decoder_features=(1,) * 5, in_channels=1, **options)
    make_positive(network)
    linear = options.get("upsample") == "interpolation"
    intervals = {output: interval(output, network.encoder.plan.wide_convolutions, linear) for output in range(640, 672)}
    output = max(intervals, key=lambda each: max(each - intervals[each][0], intervals[each][1] - each))
    image = torch.ones(1, 1, 32, 1312, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0, 0, :, output].sum(), image)
    felt = gradient[0, 0].sum(0).nonzero().flatten()
    assert (int(felt[0]), int(felt[-1])) == intervals[output]
    assert network.receptive_field_voxels == (2 * max(output - int(felt[0]), int(felt[-1]) - output) + 1,) * 2


def make_positive(network: ResNetUNet) -> None:
    """Weights and pooling whose gradients are nowhere zero by choice or by chance."""
    network.double().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if tensor.dim() > 1:
            tensor.fill_(1 / tensor[0].numel())
        elif tensor.is_floating_point():
            tensor.fill_(float(name.endswith(("weight", "running_var"))))
    network.encoder.maxpool = nn.AvgPool2d(3, stride=2, padding=1)


def interval(output: int, wide_convolutions: tuple[int, ...], linear: bool) -> tuple[int, int]:
    """First and last input voxel that an output voxel depends on: down the decoder, then back up the encoder."""
    low = high = output
    for _ in range(5):
        low, high = low - 2, high + 2  # two 3x3 convolutions
        # voxel i is made from cell i // 2, or by interpolation from the two whose centres are around (i - 0.5) / 2
        low, high = ((low - 1) // 2, (high + 1) // 2) if linear else (low // 2, high // 2)
    for layer in (3, 2, 1):
        low, high = low - (wide_convolutions[layer] - 1), high + (wide_convolutions[layer] - 1)
        low, high = 2 * low - 1, 2 * high + 1
    low, high = low - wide_convolutions[0], high + wide_convolutions[0]
    low, high = 2 * low - 1, 2 * high + 1  # max pooling
    return 2 * low - 3, 2 * high + 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_close_to_full(dtype: torch.dtype) -> None:
    network = make_network(norm="group", upsample="interpolation")
    # At 33 x 32 the deepest maps are 2 x 1; oneDNN's bf16 kernels now and then give NaN for these on AMX processors.
    image = torch.randn(1, 3, 65, 64)
    with torch.autocast("cpu", dtype=dtype):
        logits = network(image)
        logits.float().square().mean().backward()
    assert logits.dtype == dtype
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    with torch.no_grad():
        full = network(image)
    # bf16 keeps 8 bits: 0.4 % a layer, some thirty layers
    assert float((logits.detach().float() - full).norm() / full.norm()) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 10}, r"depth is 10; it must be one of 18, 34, 50, 101, 152"),
        ({"spatial_dims": 1}, r"spatial_dims is 1; it must be one of 2, 3"),
        ({"in_channels": 0}, r"in_channels is 0; an image has at least one channel"),
        ({"num_classes": 0}, r"num_classes is 0; the logits have at least one channel"),
        ({"freeze": 6}, r"freeze is 6; it must be one of 0, 1, 2, 3, 4, 5"),
        ({"decoder_features": (8, 8)}, r"decoder_features is \(8, 8\); it must be 5 positive numbers"),
        ({"decoder_features": (8, 8, 8, 8, 0)}, r"decoder_features is .* it must be 5 positive numbers"),
        ({"norm": "layer"}, r"norm is 'layer'"),
        ({"activation": "tanh"}, r"activation is 'tanh'"),
        ({"upsample": "nearest"}, r"upsample is 'nearest'"),
        ({"shortcut": "C"}, r"shortcut is 'C'; it must be one of 'A', 'B'"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(options: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResNetUNet(**{"pretrained": False, **options})


def test_the_encoder_refuses_a_stage_that_it_does_not_have() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="number of stages is 7"):
        ResNetEncoder(18).stages(7)

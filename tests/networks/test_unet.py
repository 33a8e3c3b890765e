"""UNet: the paper's layout and sizes, its options against an independent implementation, its receptive field."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scanloom.networks import UNet
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]
CONVOLVE = {2: functional.conv2d, 3: functional.conv3d}
TRANSPOSE = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
}


def plain_unet(state: State, x: Tensor, *, strides, kernels, padding, norm, activation, upsample) -> Tensor:
    """The U-Net in evaluation mode as one function of its weights, for images that pool evenly."""
    dims = x.dim() - 2

    def normalise(x: Tensor, name: str) -> Tensor:
        if norm == "none":
            return x
        if norm in ("batch", "batchrenorm"):
            mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
            mean, variance = (each.reshape(1, -1, *[1] * dims) for each in (mean, variance))
        else:
            groups = x.shape[1] if norm == "instance" else math.gcd(8, x.shape[1])
            grouped = x.reshape(x.shape[0], groups, -1)
            mean = grouped.mean(2, keepdim=True).expand_as(grouped).reshape(x.shape)
            variance = grouped.var(2, unbiased=False, keepdim=True).expand_as(grouped).reshape(x.shape)
        shape = (1, -1, *[1] * dims)
        scaled = (x - mean) / torch.sqrt(variance + 1e-5)
        return scaled * state[f"{name}.weight"].reshape(shape) + state[f"{name}.bias"].reshape(shape)

    def stage(x: Tensor, name: str, kernel: tuple[int, ...]) -> Tensor:
        for index in range(2):
            x = CONVOLVE[dims](
                x,
                state[f"{name}.{index}.convolution.weight"],
                state.get(f"{name}.{index}.convolution.bias"),
                padding=tuple(k // 2 for k in kernel) if padding == "same" else 0,
            )
            x = ACTIVATE[activation](normalise(x, f"{name}.{index}.norm"))
        return x

    def enlarge(x: Tensor, name: str, stride: tuple[int, ...]) -> Tensor:
        if upsample == "transposed":
            return TRANSPOSE[dims](x, state[f"{name}.weight"], state[f"{name}.bias"], stride=stride)
        x = CONVOLVE[dims](x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        size = [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
        return functional.interpolate(x, size=size, mode={2: "bilinear", 3: "trilinear"}[dims])

    skips = []
    for level, stride in enumerate(strides):
        skips.append(stage(x, f"encoder.{level}", kernels[level]))
        x = POOL[dims](skips[-1], stride)
    x = stage(x, f"encoder.{len(strides)}", kernels[-1])
    for level in reversed(range(len(strides))):
        x = enlarge(x, f"upsample.{level}", strides[level])
        skip = skips[level]
        for axis in range(2, dims + 2):
            margin = skip.shape[axis] - x.shape[axis]
            skip = skip.narrow(axis, margin // 2, x.shape[axis])
        x = stage(torch.cat([skip, x], 1), f"decoder.{level}", kernels[level])
    return CONVOLVE[dims](x, state["heads.0.weight"], state["heads.0.bias"])


def shake_norms(network: nn.Module) -> None:
    """Random scales, shifts and statistics, so that a norm that is left out or misplaced shows."""
    for name, tensor in network.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)


def make_unet(**options) -> UNet:
    """A UNet of few channels in evaluation mode."""
    network = UNet(**{"features": 4, "depth": 2, "padding": "same", **options}).eval()
    shake_norms(network)
    return network


def shape_of(make_network: Callable[[], nn.Module], *shape: int) -> tuple[int, ...]:
    """Shape of what the network makes of an image of that shape; nothing is computed."""
    with torch.device("meta"):
        return tuple(make_network()(torch.empty(shape)).shape)


def reach(network: UNet, axis: int, outputs: int) -> int:
    """The farthest that an input voxel along the axis with a say in an output voxel lies from it.

    Averages for maxima and positive weights: then the gradient is nowhere zero by choice or by chance.
    """
    network = network.double()
    network.pool = nn.ModuleList(AVERAGE_POOL[len(pool.stride)](pool.stride) for pool in network.pool)
    for name, parameter in network.named_parameters():
        parameter.data.fill_(0.0 if name.endswith("bias") else 1 / parameter[0].numel())
    shape = [next(n for n in itertools.count(1) if fits(network, n, each)) for each in range(len(network.size_divisor))]
    long = 3 * network.receptive_field_voxels[axis] + outputs
    shape[axis] = next(n for n in itertools.count(long) if fits(network, n, axis))
    image = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    logits = network(image).sum(1).squeeze(0).movedim(axis, 0).flatten(1).sum(1)
    margin = (shape[axis] - len(logits)) // 2
    distances = []
    for output in range(len(logits) // 2, len(logits) // 2 + outputs):
        (gradient,) = torch.autograd.grad(logits[output], image, retain_graph=True)
        felt = gradient[0, 0].movedim(axis, 0).flatten(1).sum(1).nonzero().flatten() - margin
        distances += [output - int(felt[0]), int(felt[-1]) - output]
    return max(distances)


def fits(network: UNet, n: int, axis: int) -> bool:
    """Whether the network takes n voxels along the axis."""
    size = [network._nearest_valid(each, 1)[-1] for each in range(len(network.size_divisor))]
    size[axis] = n
    try:
        network.output_size(size)
    except ValueError:
        return False
    return True


def test_the_papers_network_maps_572_to_388() -> None:
    assert shape_of(lambda: UNet(in_channels=3, out_channels=1, features=64), 1, 3, 572, 572) == (1, 1, 388, 388)


def test_the_defaults_are_the_layout_of_the_paper() -> None:
    with torch.device("meta"):
        network = UNet(in_channels=1, out_channels=2)
    layers = [
        (type(module).__name__, module.in_channels, module.out_channels, module.kernel_size, module.padding)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    width = [64, 128, 256, 512, 1024]
    convolutions = [("Conv2d", 1, 64, (3, 3), (0, 0)), ("Conv2d", 64, 64, (3, 3), (0, 0))]
    for narrow, wide in itertools.pairwise(width):
        convolutions += [("Conv2d", narrow, wide, (3, 3), (0, 0)), ("Conv2d", wide, wide, (3, 3), (0, 0))]
        convolutions += [("Conv2d", wide, narrow, (3, 3), (0, 0)), ("Conv2d", narrow, narrow, (3, 3), (0, 0))]
        convolutions += [("ConvTranspose2d", wide, narrow, (2, 2), (0, 0))]
    assert sorted(layers) == sorted([*convolutions, ("Conv2d", 64, 2, (1, 1), (0, 0))])
    assert not any(isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) for module in network.modules())
    assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == 18


def test_the_papers_network_has_31_million_parameters() -> None:
    width = [64, 128, 256, 512, 1024]
    count = sum(9 * a * b + b for a, b in zip([1, *width[:-1]], width, strict=True))  # first convolution of a level
    count += sum(9 * a * a + a for a in width)  # second
    count += sum(4 * 2 * a * a + a + 9 * 2 * a * a + a + 9 * a * a + a for a in width[:-1])  # the way up
    count += 64 * 2 + 2
    with torch.device("meta"):
        network = UNet(in_channels=1, out_channels=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == count == 31_030_658


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"padding": "valid"}, (44, 52)),
        ({"padding": "valid", "spatial_dims": 3, "depth": 1}, (20, 18, 22)),
        ({"in_channels": 3, "out_channels": 5, "features": (3, 5, 9)}, (8, 12)),
        ({"norm": "batch", "activation": "leaky_relu"}, (8, 12)),
        ({"norm": "batchrenorm", "spatial_dims": 3, "depth": 1}, (4, 6, 2)),
        ({"norm": "instance", "activation": "elu", "upsample": "interpolation"}, (8, 12)),
        ({"norm": "group", "activation": "silu", "features": 12, "spatial_dims": 3}, (8, 4, 4)),
        ({"strides": ((2, 2, 1), 2), "kernel_sizes": ((3, 3, 1), 3, (3, 5, 3)), "spatial_dims": 3}, (8, 4, 6)),
        ({"strides": ((2, 2, 1), 2), "spatial_dims": 3, "upsample": "interpolation", "norm": "batch"}, (4, 8, 2)),
        ({"depth": 0}, (3, 5)),
    ],
)
def test_the_output_equals_an_independent_implementation(options: dict, shape: tuple[int, ...]) -> None:
    network = make_unet(**options)
    dims, depth = len(shape), network.depth
    given_strides, given_kernels = options.get("strides", (2,) * depth), options.get("kernel_sizes", (3,) * (depth + 1))
    image = torch.randn(2, options.get("in_channels", 1), *shape)
    with torch.no_grad():
        expected = plain_unet(
            network.state_dict(),
            image,
            strides=[(s,) * dims if isinstance(s, int) else s for s in given_strides],
            kernels=[(k,) * dims if isinstance(k, int) else k for k in given_kernels],
            padding=options.get("padding", "same"),
            norm=options.get("norm", "none"),
            activation=options.get("activation", "relu"),
            upsample=options.get("upsample", "transposed"),
        )
        torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


def test_weights_begin_with_the_deviation_of_he() -> None:
    network = UNet(in_channels=8, features=64, depth=1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
            deviation = math.sqrt(2 / (kernel * module.in_channels))
            # the deviation of n normal numbers is off by 1 / sqrt(2n): the head's 128 numbers by 6 %
            assert float(module.weight.detach().std()) == pytest.approx(
                deviation, rel=4 / math.sqrt(2 * module.weight.numel())
            )
            assert not module.bias.any()


@settings(deadline=None, max_examples=40)
@given(
    size=st.lists(st.integers(1, 24), min_size=2, max_size=3),
    norm=st.sampled_from(["none", "batch", "batchrenorm", "instance", "group"]),
    upsample=st.sampled_from(["transposed", "interpolation"]),
)
@example(size=[1, 1], norm="group", upsample="transposed")  # groups of one channel, and one voxel of it
def test_same_padding_keeps_any_size_of_at_least_one_voxel(size: list[int], norm: str, upsample: str) -> None:
    network = make_unet(features=2, spatial_dims=len(size), norm=norm, upsample=upsample)
    with torch.no_grad():
        logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert logits.isfinite().all()
    assert network.output_size(size) == tuple(size)


def test_same_padding_is_zeros_after_the_last_voxel() -> None:
    network = make_unet()
    image = torch.randn(1, 1, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(functional.pad(image, (0, 1, 0, 2)))[:, :, :6, :7])


def test_an_impossible_size_is_refused_with_the_nearest_that_work() -> None:
    network = UNet(features=1)
    with pytest.raises(ValueError, match=r"input size \(572, 573\): 573 voxels along spatial axis 1.* 572 and 588"):
        network(torch.zeros(1, 1, 572, 573))
    with pytest.raises(ValueError, match=r"input size \(1, 572\).*sizes that work are 188\. Pad or crop"):
        network(torch.zeros(1, 1, 1, 572))


@pytest.mark.parametrize("options", [{}, {"strides": (3, 2)}, {"kernel_sizes": (5, 3, 1)}])
def test_the_nearest_sizes_that_it_names_work_and_none_between_does(options: dict) -> None:
    network = make_unet(features=1, padding="valid", **options)
    for n in range(1, 80):
        if fits(network, n, axis=0):
            image = torch.zeros(1, 1, n, n)
            assert network(image).shape[2:] == network.output_size((n, n))
            continue
        with pytest.raises(ValueError, match=f"{n} voxels along spatial axis 0") as refusal:
            network.output_size((n, n))
        named = [int(each) for each in re.findall(r"that work are ([\d and]+)\.", str(refusal.value))[0].split(" and ")]
        below, above = [0, *named][-2:]
        assert [m for m in range(below, above + 1) if fits(network, m, axis=0)] == named


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 3},
        {"padding": "valid"},
        {"padding": "valid", "strides": (3, 2), "kernel_sizes": (5, 3, 3)},
        {"upsample": "interpolation"},
        {"strides": (3, 2)},
        {"strides": (3, 4), "upsample": "interpolation"},
        {"strides": ((2, 1), (1, 2)), "kernel_sizes": ((3, 1), 3, (1, 5))},
        {"strides": ((2, 1, 1), (2, 1, 2)), "upsample": "interpolation", "spatial_dims": 3},
        {"depth": 0},
    ],
)
def test_no_voxel_outside_the_receptive_field_has_a_say_and_one_at_its_edge_has(options: dict) -> None:
    network = make_unet(features=1, **options)
    for axis, field in enumerate(network.receptive_field_voxels):
        assert 2 * reach(network, axis, outputs=network.size_divisor[axis]) + 1 == field


def test_deep_supervision_lists_logits_in_training_and_gives_one_tensor_in_evaluation() -> None:
    network = UNet(features=2, depth=3, padding="same", deep_supervision=2, strides=(2, (2, 1), 2))
    image = torch.randn(1, 1, 13, 9)
    logits = network.train()(image)
    assert [tuple(each.shape[2:]) for each in logits] == [(13, 9), (7, 5), (4, 5)]
    torch.testing.assert_close(network.eval()(image), logits[0])


def test_deep_supervision_trains_every_head() -> None:
    network = UNet(features=2, depth=3, padding="same", deep_supervision=2)
    sum(each.square().mean() for each in network(torch.randn(1, 1, 16, 16))).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.heads.parameters())


def test_dropout_drops_in_training_only() -> None:
    network = UNet(features=4, depth=1, padding="same", dropout=0.5)
    image = torch.randn(1, 1, 8, 8)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["none", "batch", "batchrenorm", "instance", "group"])
def test_mixed_precision_stays_close_to_full(dtype: torch.dtype, norm: str) -> None:
    network = make_unet(norm=norm, upsample="interpolation" if norm == "group" else "transposed", spatial_dims=3)
    image = torch.randn(1, 1, 9, 8, 7)
    with torch.autocast("cpu", dtype=dtype):
        logits = network.train()(image)
        logits.float().square().mean().backward()
    assert logits.dtype == dtype
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    with torch.no_grad():
        with torch.autocast("cpu", dtype=dtype):
            mixed = network.eval()(image).float()
        full = network(image)
    # bf16 keeps 8 bits: 0.4 % a layer, a dozen layers
    assert float((mixed - full).norm() / full.norm()) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, r"spatial_dims is 1; it must be one of 2, 3"),
        ({"padding": "reflect"}, r"padding is 'reflect'; it must be one of 'valid', 'same'"),
        ({"norm": "layer"}, r"norm is 'layer'.*'none', 'batch', 'batchrenorm', 'instance', 'group'"),
        ({"activation": "tanh"}, r"activation is 'tanh'.*'relu'"),
        ({"upsample": "nearest"}, r"upsample is 'nearest'.*'transposed', 'interpolation'"),
        ({"features": ()}, r"features is \(\).*at least one channel"),
        ({"features": (8, 0)}, r"features is \(8, 0\).*at least one channel"),
        ({"strides": (2, 2)}, r"strides has 2 entries; this network has 4 levels"),
        ({"strides": (2, 2, 2, (2, 2, 2))}, r"strides is .* positive int or 2 of them"),
        ({"kernel_sizes": 2}, r"kernel_sizes is 2; every kernel size must be odd"),
        ({"kernel_sizes": (3, 3)}, r"kernel_sizes has 2 entries; this network has 5 levels"),
        ({"deep_supervision": 4}, r"deep_supervision is 4; it must be one of 0, 1, 2, 3"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**{"features": 1, **options})

"""Blocks that both networks are built of: convolution, norm, activation, upsampling, initialisation; 2D and 3D."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch_renorm import BatchRenorm2d, BatchRenorm3d

CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
BATCH_RENORM: dict[int, type[nn.Module]] = {2: BatchRenorm2d, 3: BatchRenorm3d}
DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
LINEAR_MODE = {2: "bilinear", 3: "trilinear"}
ACTIVATION: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU}
NORMS = ("none", "batch", "batchrenorm", "instance", "group")
UPSAMPLES = ("transposed", "interpolation")
GROUPS = 8


class InstanceNorm(nn.Module):
    """Instance norm with scale and shift that takes a single voxel too (its output is then the shift).

    `torch.nn.InstanceNorm` refuses that case, which the bottleneck of a small scan meets.
    Source: Ulyanov 2016, arXiv:1607.08022.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        return torch.instance_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps, False)


class GroupNorm(nn.GroupNorm):
    """Group norm that takes a single value a group too, which torch's refuses, as `InstanceNorm` does.

    Source: Wu 2018, arXiv:1803.08494.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(norm: str, channels: int, spatial_dims: int) -> nn.Module:
    """The norm layer of that name; group norm takes eight groups, or as many as divide the channels."""
    if norm == "batch":
        return BATCH_NORM[spatial_dims](channels)
    if norm == "batchrenorm":
        return BATCH_RENORM[spatial_dims](channels)
    if norm == "instance":
        return InstanceNorm(channels)
    if norm == "group":
        return GroupNorm(math.gcd(GROUPS, channels), channels)
    return nn.Identity()


def conv_norm_activation(
    in_channels: int,
    out_channels: int,
    *,
    spatial_dims: int,
    kernel_size: Sequence[int],
    padding: str,
    norm: str,
    activation: str,
) -> nn.Sequential:
    """One convolution, its norm and its activation; the convolution has a bias only where no norm follows it."""
    layers = OrderedDict[str, nn.Module]()
    layers["convolution"] = CONVOLUTION[spatial_dims](
        in_channels,
        out_channels,
        tuple(kernel_size),
        padding=tuple(k // 2 for k in kernel_size) if padding == "same" else 0,
        bias=norm == "none",
    )
    if norm != "none":
        layers["norm"] = make_norm(norm, out_channels, spatial_dims)
    layers["activation"] = make_activation(activation)
    return nn.Sequential(layers)


def make_activation(activation: str) -> nn.Module:
    """The activation of that name, in place where it can be."""
    return ACTIVATION[activation](inplace=True)


def make_upsample(
    upsample: str, in_channels: int, out_channels: int, stride: Sequence[int], spatial_dims: int
) -> nn.Module:
    """Enlarge by `stride` and change the channels.

    "transposed" is the paper's up-convolution (kernel = stride); "interpolation" is linear, then a 1x1 convolution.
    """
    if upsample == "transposed":
        return TRANSPOSED[spatial_dims](in_channels, out_channels, tuple(stride), stride=tuple(stride))
    return nn.Sequential(
        CONVOLUTION[spatial_dims](in_channels, out_channels, 1),
        nn.Upsample(scale_factor=tuple(float(s) for s in stride), mode=LINEAR_MODE[spatial_dims]),
    )


def initialise(module: nn.Module) -> None:
    """He initialisation, for `Module.apply`: N(0, 2 / fan-in) weights and zero biases of every convolution.

    Source: He 2015, arXiv:1502.01852; Ronneberger 2015, section 3. A transposed convolution with kernel = stride feeds
    each output voxel from one input voxel, so its fan-in is its input channels.
    """
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / module.in_channels))
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def pad_to_multiple(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Zeros after the last voxel of each spatial axis, up to the next multiple of `divisor`."""
    padding = [amount for size, d in zip(x.shape[2:], divisor, strict=True) for amount in ((-size) % d, 0)]
    return functional.pad(x, padding[::-1])


def crop_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` voxels of each spatial axis: undoes `pad_to_multiple`.

    By negative padding, which copies: an exported program then takes sizes that need a crop and sizes that do not,
    where a view, contiguous for only some of them, would bind it to the example's case.
    """
    padding = [amount for now, then in zip(x.shape[2:], size, strict=True) for amount in (then - now, 0)]
    return functional.pad(x, padding[::-1])


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The central `size` voxels of each spatial axis, as the paper crops its skips."""
    for axis, length in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - length) // 2, length)
    return x


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises ValueError when `value` is not one of `choices`, with all of them in the message."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")

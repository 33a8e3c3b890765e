"""The U-Net of Ronneberger 2015 (arXiv:1505.04597) in 2D and 3D, with the options that later practice added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import (
    ACTIVATION,
    CONVOLUTION,
    DROPOUT,
    MAX_POOL,
    NORMS,
    UPSAMPLES,
    centre_crop,
    check_choice,
    conv_norm_activation,
    crop_to,
    initialise,
    make_upsample,
    pad_to_multiple,
)
from .scriptable import ScriptableUNet, standing_for

CONVOLUTIONS_A_STAGE = 2


class UNet(nn.Module):
    """Images (B, in_channels, *spatial) to logits (B, out_channels, *spatial').

    With the defaults it is the paper's network: each level two 3x3 convolutions without padding, each followed by a
    ReLU, then 2x2 max pooling; on the way up a 2x2 up-convolution that halves the channels, the skip cropped and
    concatenated, two convolutions; a 1x1 convolution at the end. (1, 1, 572, 572) becomes (1, 2, 388, 388).

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits, one a class (background included) or one for a binary mask.
        features: channels of the first level, doubled at each further one; or the channels of every level, whose
            number then sets the depth.
        depth: number of poolings.
        spatial_dims: 2 or 3.
        padding: "valid" (the paper: the output is smaller than the input, only sizes that pool evenly are taken) or
            "same" (output size = input size, any size of at least one voxel an axis: zeros are added inside up to
            `size_divisor` and cropped after).
        norm: "none", "batch", "batchrenorm" (for small batches: batch norm whose training nears its evaluation, in a
            warm-up of 1,600 batches), "instance" or "group", after each convolution.
        activation: "relu", "leaky_relu", "elu" or "silu".
        dropout: probability of dropping a channel at the end of the two deepest levels of the contracting path, where
            the authors' released network has it.
        upsample: "transposed" (the paper) or "interpolation" (linear, then a 1x1 convolution).
        strides: one for all poolings, or one a pooling, each an int or one an axis; 1 leaves a thick axis as it is.
        kernel_sizes: one for all levels, or one a level, each an int or one an axis; odd.
        deep_supervision: number of further heads, on the decoder levels below the finest. In training the result is
            then a list of logits, finest first; in evaluation one tensor.

    Attributes:
        size_divisor: an axis, what the padded input size is a multiple of ("same").
        receptive_field_voxels: an axis, the odd width of the window, centred on an output voxel, outside of which no
            input voxel has a say in it (norms over the image and batch aside).

    Raises:
        ValueError: an argument is not one of the above; the message says which are.
    """

    size_divisor: tuple[int, ...]
    receptive_field_voxels: tuple[int, ...]

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        features: int | Sequence[int] = 64,
        depth: int = 4,
        spatial_dims: int = 2,
        padding: str = "valid",
        norm: str = "none",
        activation: str = "relu",
        dropout: float = 0.0,
        upsample: str = "transposed",
        strides: int | Sequence[int | Sequence[int]] = 2,
        kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
        deep_supervision: int = 0,
    ) -> None:
        super().__init__()
        check_choice("spatial_dims", spatial_dims, (2, 3))
        check_choice("padding", padding, ("valid", "same"))
        check_choice("norm", norm, NORMS)
        check_choice("activation", activation, tuple(ACTIVATION))
        check_choice("upsample", upsample, UPSAMPLES)
        widths = _widths(features, depth)
        self.depth = len(widths) - 1
        self.padding = padding
        self._strides = _per_level("strides", strides, self.depth, spatial_dims)
        self._kernels = _per_level("kernel_sizes", kernel_sizes, self.depth + 1, spatial_dims)
        if any(k % 2 == 0 for kernel in self._kernels for k in kernel):
            raise ValueError(f"kernel_sizes is {kernel_sizes!r}; every kernel size must be odd.")
        check_choice("deep_supervision", deep_supervision, range(max(self.depth, 1)))

        def stage(channels_in: int, channels_out: int, level: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    conv_norm_activation(
                        channels_in if index == 0 else channels_out,
                        channels_out,
                        spatial_dims=spatial_dims,
                        kernel_size=self._kernels[level],
                        padding=padding,
                        norm=norm,
                        activation=activation,
                    )
                    for index in range(CONVOLUTIONS_A_STAGE)
                )
            )

        levels = range(self.depth)
        self.encoder = nn.ModuleList(
            stage(in_channels if level == 0 else widths[level - 1], width, level) for level, width in enumerate(widths)
        )
        self.pool = nn.ModuleList(MAX_POOL[spatial_dims](stride, stride) for stride in self._strides)
        self.upsample = nn.ModuleList(
            make_upsample(upsample, widths[level + 1], widths[level], self._strides[level], spatial_dims)
            for level in levels
        )
        self.decoder = nn.ModuleList(stage(2 * widths[level], widths[level], level) for level in levels)
        self.heads = nn.ModuleList(
            CONVOLUTION[spatial_dims](widths[level], out_channels, 1) for level in range(deep_supervision + 1)
        )
        self.dropout = DROPOUT[spatial_dims](dropout) if dropout else nn.Identity()
        self.size_divisor = tuple(_product(axis) for axis in zip(*self._strides, strict=True)) or (1,) * spatial_dims
        self.receptive_field_voxels = self._receptive_field(linear=upsample == "interpolation")
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """(B, in_channels, *spatial) -> logits; a list, finest first, in training with deep supervision.

        Raises:
            ValueError: with "valid" padding, a spatial size that does not pool evenly or leaves no output.
        """
        size = image.shape[2:]
        if self.padding == "same":
            image = pad_to_multiple(image, self.size_divisor)
        elif not torch.compiler.is_compiling():
            self.output_size(size)
        logits = self._logits(image)
        if self.padding == "same":
            logits = [crop_to(each, self._size_at(level, size)) for level, each in enumerate(logits)]
        return logits if self.training and len(self.heads) > 1 else logits[0]

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the logits of an image of that spatial size.

        Raises:
            ValueError: the network can not take that size; the message names the nearest that work.
        """
        sizes = tuple(int(n) for n in size)
        if self.padding == "same":
            return sizes
        outputs = [self._valid_output(axis, n) for axis, n in enumerate(sizes)]
        for axis, output in enumerate(outputs):
            if output is None:
                raise ValueError(
                    f"input size {sizes}: {sizes[axis]} voxels along spatial axis {axis} do not pool evenly through "
                    f"{self.depth} levels without padding; the nearest sizes that work are "
                    f"{' and '.join(map(str, self._nearest_valid(axis, sizes[axis])))}. Pad or crop to one, or use "
                    'padding="same".'
                )
        return tuple(output for output in outputs if output is not None)

    def __prepare_scriptable__(self) -> ScriptableUNet:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, ScriptableUNet(self, self._strides))

    def _logits(self, x: Tensor) -> list[Tensor]:
        """Logits of every head, finest first; only the finest in evaluation."""
        skips = []
        for level in range(self.depth):
            x = self.encoder[level](x)
            if level == self.depth - 1:
                x = self.dropout(x)
            skips.append(x)
            x = self.pool[level](x)
        x = self.dropout(self.encoder[self.depth](x))
        heads = len(self.heads) if self.training else 1
        logits = []
        for level in reversed(range(self.depth)):
            x = self.upsample[level](x)
            x = self.decoder[level](torch.cat([centre_crop(skips[level], x.shape[2:]), x], dim=1))
            if level < heads:
                logits.append(self.heads[level](x))
        return logits[::-1] if self.depth else [self.heads[0](x)]

    def _size_at(self, level: int, size: Sequence[int]) -> list[int]:
        """Size of the decoder level's grid that covers an image of `size`."""
        for stride in self._strides[:level]:
            size = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        return list(size)

    def _valid_output(self, axis: int, n: int) -> int | None:
        """Output length of an input of n voxels along the axis without padding; None where it is impossible."""
        shrink = [CONVOLUTIONS_A_STAGE * (kernel[axis] - 1) for kernel in self._kernels]
        for level, stride in enumerate(self._strides):
            n -= shrink[level]
            if n <= 0 or n % stride[axis]:
                return None
            n //= stride[axis]
        n -= shrink[self.depth]
        for level in reversed(range(self.depth)):
            n = n * self._strides[level][axis] - shrink[level]
            if n <= 0:
                return None
        return n if n > 0 else None

    def _nearest_valid(self, axis: int, n: int) -> list[int]:
        """The nearest possible input length below n, if there is one, and the nearest above."""
        below = next((m for m in range(n - 1, 0, -1) if self._valid_output(axis, m)), None)
        above = n + 1
        while not self._valid_output(axis, above):
            above += 1
        return [above] if below is None else [below, above]

    def _receptive_field(self, *, linear: bool) -> tuple[int, ...]:
        """Twice the reach to each side, and the voxel itself, along each axis.

        On the way through level l, where a voxel is `jump` input voxels wide, each convolution reaches (k - 1) / 2 of
        them further; a pooling, with the up-convolution that undoes it, s - 1 (the voxel may be the first or the last
        of its cell). Linear interpolation draws on the next cell too, for the voxels past the middle of their own:
        the first of them, number (s - 1) // 2 + 1 of 0 to s - 1, is the farthest from that cell's end.
        """
        fields = []
        for axis in range(len(self._kernels[0])):
            reach, jump = 0, 1
            for level, kernel in enumerate(self._kernels):
                passes = 1 if level == self.depth else 2
                reach += passes * CONVOLUTIONS_A_STAGE * (kernel[axis] // 2) * jump
                if level < self.depth:
                    stride = self._strides[level][axis]
                    past_middle = (stride - 1) // 2 + 1
                    reach += (2 * stride - 1 - past_middle if linear and stride > 1 else stride - 1) * jump
                    jump *= stride
            fields.append(2 * reach + 1)
        return tuple(fields)


def _widths(features: int | Sequence[int], depth: int) -> list[int]:
    widths = [features * 2**level for level in range(depth + 1)] if isinstance(features, int) else list(features)
    if not widths or min(widths) < 1:
        raise ValueError(f"features is {features!r} with depth {depth}; every level needs at least one channel.")
    return widths


def _per_level(
    name: str, value: int | Sequence[int | Sequence[int]], levels: int, spatial_dims: int
) -> list[tuple[int, ...]]:
    """One tuple a level, one number an axis, from the short forms that the constructor takes."""
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels:
        raise ValueError(f"{name} has {len(values)} entries; this network has {levels} levels that need one each.")
    rows = [(each,) * spatial_dims if isinstance(each, int) else tuple(each) for each in values]
    if any(len(row) != spatial_dims or min(row) < 1 for row in rows):
        raise ValueError(f"{name} is {value!r}; each entry must be a positive int or {spatial_dims} of them.")
    return rows


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result

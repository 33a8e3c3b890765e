"""A U-Net whose contracting path is a ResNet, pretrained if wanted; 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .blocks import (
    ACTIVATION,
    CONVOLUTION,
    NORMS,
    UPSAMPLES,
    check_choice,
    conv_norm_activation,
    crop_to,
    initialise,
    make_upsample,
    pad_to_multiple,
)
from .pretrained import imagenet_file, load_encoder, read_state_dict
from .resnet_encoder import STAGES, ResNetEncoder, ResNetPlan
from .scriptable import ScriptableResNetUNet, standing_for

STRIDE = 2  # of each of the encoder's five reductions
DIVISOR = STRIDE ** len(STAGES)
CONVOLUTIONS_A_STAGE = 2


class ResNetUNet(nn.Module):
    """Images (B, in_channels, *spatial) to logits (B, num_classes, *spatial), any size of at least one voxel an axis.

    The encoder is a ResNet with torchvision's names under `encoder.`; the decoder enlarges five times, each time
    concatenating the encoder's features of that size (layer3, layer2, layer1, the stem, and last the image itself),
    followed by two 3x3 convolutions; a 1x1 convolution ends it. Zeros are added after the last voxel of each axis, up
    to a multiple of 32, and cropped after.

    An ImageNet encoder expects RGB in [0, 1], less the mean (0.485, 0.456, 0.406), by the deviation (0.229, 0.224,
    0.225). For other `in_channels` its first convolution is fitted: one channel gets the sum of the three filters, so
    that a grey image has the response of its copy in all three; n channels get the filters in turn, times 3 / n. For
    `spatial_dims=3` 2D weights are repeated along the last axis and divided by its length.

    MedicalNet's files (Chen 2019, arXiv:1904.00625) load by path, with `spatial_dims=3`, `in_channels=1` and the
    shortcut that they were trained with: "A" for 18 and 34, "B" for the others. Its own network has dilations where
    this one has the strides of layer3 and layer4; the weights are the same.

    Args:
        num_classes: channels of the logits, one a class (background included) or one for a binary mask.
        pretrained: True for torchvision's ImageNet weights, downloaded once; a path to a state dict; or False, as
            wherever trained weights are loaded over it.
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the image.
        spatial_dims: 2 or 3.
        freeze: number of first stages of the encoder (stem, layer1, layer2, layer3, layer4) that do not learn; their
            batch norms keep their statistics, in training too.
        decoder_features: channels of the five decoder stages, smallest map first.
        norm: of the decoder: "none", "batch", "batchrenorm" (for small batches, as in `UNet`), "instance" or "group".
        activation: of the decoder: "relu", "leaky_relu", "elu" or "silu".
        upsample: "transposed" or "interpolation" (linear, then a 1x1 convolution).
        shortcut: of the encoder: "B" (torchvision), a 1x1 convolution; "A", no parameters.

    Attributes:
        size_divisor: an axis, what the padded input size is a multiple of: 32.
        receptive_field_voxels: an axis, the odd width of the window, centred on an output voxel, outside of which no
            input voxel has a say in it (norms over the image and batch aside).

    Raises:
        ValueError: an argument is not one of the above, or the weights do not fit; the message says why.
        OSError: the weights can not be downloaded, or there is no such file.

    Source: Ronneberger 2015, arXiv:1505.04597; He 2015, arXiv:1512.03385.
    """

    size_divisor: tuple[int, ...]
    receptive_field_voxels: tuple[int, ...]

    def __init__(
        self,
        num_classes: int = 1,
        pretrained: bool | str | Path = True,
        depth: int = 50,
        in_channels: int = 3,
        spatial_dims: int = 2,
        freeze: int = 0,
        decoder_features: Sequence[int] = (256, 128, 64, 32, 16),
        norm: str = "batch",
        activation: str = "relu",
        upsample: str = "transposed",
        shortcut: str = "B",
    ) -> None:
        super().__init__()
        check_choice("freeze", freeze, range(len(STAGES) + 1))
        check_choice("norm", norm, NORMS)
        check_choice("activation", activation, tuple(ACTIVATION))
        check_choice("upsample", upsample, UPSAMPLES)
        if len(decoder_features) != len(STAGES) or min(decoder_features) < 1:
            raise ValueError(f"decoder_features is {decoder_features!r}; it must be {len(STAGES)} positive numbers.")
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; the logits have at least one channel.")
        self.encoder = ResNetEncoder(depth, in_channels, spatial_dims, shortcut)
        below = (self.encoder.plan.features[-1], *decoder_features)
        skips = (*self.encoder.plan.features[-2::-1], in_channels)
        self.upsample = nn.ModuleList(
            make_upsample(upsample, before, after, (STRIDE,) * spatial_dims, spatial_dims)
            for before, after in zip(below, decoder_features, strict=False)
        )
        self.decoder = nn.ModuleList(
            _stage(after + skip, after, spatial_dims, norm, activation)
            for after, skip in zip(decoder_features, skips, strict=True)
        )
        self.head = CONVOLUTION[spatial_dims](decoder_features[-1], num_classes, 1)
        self.size_divisor = (DIVISOR,) * spatial_dims
        field = _receptive_field(self.encoder.plan, linear=upsample == "interpolation")
        self.receptive_field_voxels = (field,) * spatial_dims
        self.apply(initialise)
        if pretrained is not False:
            path = imagenet_file(depth) if pretrained is True else Path(pretrained)
            load_encoder(self.encoder, read_state_dict(path), str(path))
        self._frozen = self.encoder.stages(freeze)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train()

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> logits (B, num_classes, *spatial)."""
        padded = pad_to_multiple(image, self.size_divisor)
        skips: list[Tensor] = [padded, *self.encoder(padded)]
        x = skips.pop()
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            x = decode(torch.cat([skips.pop(), upsample(x)], dim=1))
        return crop_to(self.head(x), image.shape[2:])

    def __prepare_scriptable__(self) -> ScriptableResNetUNet:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, ScriptableResNetUNet(self))

    def train(self, mode: bool = True) -> ResNetUNet:
        """As `Module.train`, except that the frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _stage(before: int, after: int, spatial_dims: int, norm: str, activation: str) -> nn.Sequential:
    """Two 3x3 convolutions, each with its norm and activation."""
    return nn.Sequential(
        *(
            conv_norm_activation(
                before if index == 0 else after,
                after,
                spatial_dims=spatial_dims,
                kernel_size=(3,) * spatial_dims,
                padding="same",
                norm=norm,
                activation=activation,
            )
            for index in range(CONVOLUTIONS_A_STAGE)
        )
    )


def _receptive_field(plan: ResNetPlan, *, linear: bool) -> int:
    """Twice the reach to the farther side, the low one, and the voxel itself.

    At stride `jump` the decoder stage and the encoder's 3x3 convolutions reach one voxel of that size each. A reduction
    by a kernel of padding p, and the enlargement that undoes it, reach p + 1 (the voxel may be the last of its cell of
    two, and a strided kernel is centred on the first); linear interpolation p + 2.
    """
    paddings = (3, 1, 1, 1, 1)  # conv1, maxpool, and the strided convolutions of layer2, layer3 and layer4
    plain = (0, 0, plan.wide_convolutions[0], *(number - 1 for number in plan.wide_convolutions[1:]))
    reach, jump = 0, 1
    for level, convolutions in enumerate(plain):
        reach += convolutions * jump
        if level < len(paddings):
            reach += (CONVOLUTIONS_A_STAGE + paddings[level] + 1 + linear) * jump
        jump *= STRIDE
    return 2 * reach + 1

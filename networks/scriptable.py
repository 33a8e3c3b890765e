"""The networks for TorchScript: their evaluation, in the part of Python that `torch.jit.script` takes.

`torch.jit.script` asks a module for `__prepare_scriptable__` and compiles what that returns; the networks return these.
Parameters and their names are the network's own, copied, and so are the logits. TorchScript indexes a `ModuleList` by
no variable: a loop over all of it, and a comparison, stand for that. It reads a list backwards without saying so and
gives it forwards (`modules[::-1]` in PyTorch 2.13), so that is not written here.

MONAI's `python -m monai.bundle ckpt_export` scripts a bundle's network.
"""

from __future__ import annotations

import copy
from math import log
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from .ensemble import Ensemble
    from .resnet_encoder import ResNetEncoder
    from .resnet_unet import ResNetUNet
    from .unet import UNet

Replacement = TypeVar("Replacement", bound=nn.Module)


class ScriptableUNet(nn.Module):
    """The evaluation of a `UNet`."""

    def __init__(self, network: UNet, strides: list[tuple[int, ...]]) -> None:
        super().__init__()
        copied = copy.deepcopy(network).eval()
        self.encoder, self.pool, self.upsample = copied.encoder, copied.pool, copied.upsample
        self.decoder, self.heads = copied.decoder, copied.heads
        self.depth = network.depth
        self.same = network.padding == "same"
        self.divisor = list(network.size_divisor)
        self.strides = [list(stride) for stride in strides] or [[1]]  # TorchScript knows no type of an empty list

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> logits."""
        x = pad(image, self.divisor) if self.same else image
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            x = stage(x)
            if level < self.depth:
                require_even(x, self.strides[level])
                skips.append(x)
                for index, pool in enumerate(self.pool):
                    if index == level:
                        x = pool(x)
        for step in range(self.depth):
            level = self.depth - 1 - step
            for index, (enlarge, decode) in enumerate(zip(self.upsample, self.decoder)):  # noqa: B905
                if index == level:
                    x = enlarge(x)
                    x = decode(torch.cat([crop_middle(skips[level], x), x], dim=1))
        for index, head in enumerate(self.heads):
            if index == 0:
                x = head(x)
        return crop(x, image) if self.same else x


class ScriptableResNetUNet(nn.Module):
    """The evaluation of a `ResNetUNet`."""

    def __init__(self, network: ResNetUNet) -> None:
        super().__init__()
        copied = copy.deepcopy(network).eval()
        self.encoder = ScriptableEncoder(copied.encoder)
        self.upsample, self.decoder, self.head = copied.upsample, copied.decoder, copied.head
        self.divisor = list(network.size_divisor)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> logits (B, num_classes, *spatial)."""
        padded = pad(image, self.divisor)
        skips = [padded]
        skips.extend(self.encoder(padded))
        x = skips.pop()
        for enlarge, decode in zip(self.upsample, self.decoder):  # noqa: B905
            x = decode(torch.cat([skips.pop(), enlarge(x)], dim=1))
        return crop(self.head(x), image)


class ScriptableEncoder(nn.Module):
    """The evaluation of a `ResNetEncoder`."""

    def __init__(self, encoder: ResNetEncoder) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            encoder.layer1,
            encoder.layer2,
            encoder.layer3,
            encoder.layer4,
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, *spatial) -> the stem's and the four layers' features, largest map first."""
        stem = self.relu(self.bn1(self.conv1(image)))
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        return [stem, first, second, third, self.layer4(third)]


class ScriptableZeroPaddedShortcut(nn.Module):
    """A `ZeroPaddedShortcut`."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C + new_channels, *spatial / stride, rounded up)."""
        padding: list[int] = []
        for axis in range(2, x.dim()):
            x = x.index_select(axis, torch.arange(0, x.shape[axis], self.stride, device=x.device))
            padding.extend([0, 0])
        padding.extend([0, self.new_channels])
        return functional.pad(x, padding)


class ScriptableEnsemble(nn.Module):
    """The evaluation of an `Ensemble`."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.members = copy.deepcopy(ensemble.members)
        self.activation = ensemble.activation
        self.log_count = log(len(self.members))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *spatial) -> logits of the mean probabilities."""
        sums: list[Tensor] = []
        for member in self.members:
            logits = member(image)
            if logits.dtype != torch.float64:
                logits = logits.float()
            if self.activation == "sigmoid" or (self.activation == "auto" and logits.shape[1] == 1):
                logs = [functional.logsigmoid(logits), functional.logsigmoid(-logits)]
            else:
                logs = [functional.log_softmax(logits, dim=1)]
            if len(sums) > 0:
                for place in range(len(logs)):
                    logs[place] = torch.logaddexp(sums[place], logs[place])
            sums = logs
        if len(sums) == 1:
            return sums[0] - self.log_count
        return sums[0] - sums[1]


def plain_batch_norm(norm: nn.modules.batchnorm._BatchNorm, kind: type[nn.Module]) -> nn.Module:
    """A batch norm with the parameters and statistics of a batch renorm, whose evaluation it is."""
    plain = kind(norm.num_features, norm.eps, norm.momentum, norm.affine).to(norm.running_mean)
    plain.load_state_dict(norm.state_dict())
    return plain.eval()


def standing_for(replaced: nn.Module, replacement: Replacement) -> Replacement:
    """Return the replacement, which keeps the replaced module alive as long as itself.

    `torch.jit.script` remembers by its `id` what it has replaced (PyTorch 2.13). If that were freed meanwhile, the next
    module at its address would be taken for it, and the scripted network would fail or compute something else.
    """
    replacement.__dict__["stands_for"] = [replaced]  # in a list it is no submodule
    return replacement


def pad(x: Tensor, divisor: list[int]) -> Tensor:
    """As `blocks.pad_to_multiple`."""
    padding: list[int] = []
    for back in range(len(divisor)):  # the last axis first
        axis = len(divisor) - 1 - back
        padding.extend([0, (divisor[axis] - x.shape[2 + axis] % divisor[axis]) % divisor[axis]])
    return functional.pad(x, padding)


def crop(x: Tensor, image: Tensor) -> Tensor:
    """As `blocks.crop_to`, to the size of the image."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, 0, image.shape[axis])
    return x


def crop_middle(x: Tensor, other: Tensor) -> Tensor:
    """As `blocks.centre_crop`, to the size of the other."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, (x.shape[axis] - other.shape[axis]) // 2, other.shape[axis])
    return x


def require_even(x: Tensor, stride: list[int]) -> None:
    """Return where the strides divide the size; else the network would quietly drop voxels."""
    for axis in range(len(stride)):
        if x.shape[2 + axis] % stride[axis] != 0:
            raise ValueError("the image does not pool evenly; UNet.output_size says which sizes do")

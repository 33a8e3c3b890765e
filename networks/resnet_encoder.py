"""The convolutional part of ResNet-18 to ResNet-152 in 2D and 3D, with torchvision's parameter names and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from .blocks import BATCH_NORM, CONVOLUTION, MAX_POOL, check_choice
from .scriptable import ScriptableZeroPaddedShortcut, standing_for

STEM_FEATURES = 64
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
SHORTCUTS = ("A", "B")


@dataclass(frozen=True)
class ResNetPlan:
    """What sets a ResNet of one depth apart from the others: its residual blocks.

    Attributes:
        blocks: residual blocks in layer1 to layer4.
        bottleneck: 1x1, 3x3 and 1x1 convolutions a block rather than two 3x3.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def expansion(self) -> int:
        """Output channels of a block, as a multiple of the channels that its 3x3 convolution has."""
        return 4 if self.bottleneck else 1

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of the stem, at stride 2, and of layer1 to layer4, at strides 4, 8, 16, 32."""
        return (STEM_FEATURES, *(STEM_FEATURES * 2**level * self.expansion for level in range(4)))

    @property
    def wide_convolutions(self) -> tuple[int, ...]:
        """Convolutions with a 3x3 kernel in layer1 to layer4; the first of layer2, 3 and 4 has the stride."""
        return tuple(number if self.bottleneck else 2 * number for number in self.blocks)


# He 2015, arXiv:1512.03385, table 1.
PLANS = {
    18: ResNetPlan((2, 2, 2, 2), bottleneck=False),
    34: ResNetPlan((3, 4, 6, 3), bottleneck=False),
    50: ResNetPlan((3, 4, 6, 3), bottleneck=True),
    101: ResNetPlan((3, 4, 23, 3), bottleneck=True),
    152: ResNetPlan((3, 8, 36, 3), bottleneck=True),
}


class ResNetEncoder(nn.Module):
    """Images (B, in_channels, *spatial) to five maps of features, at strides 2, 4, 8, 16 and 32.

    The names of its parameters and, in 2D, its outputs are those of torchvision's `resnet18` to `resnet152`, the
    classifier left out: in a bottleneck the 3x3 convolution has the stride ("version 1.5").

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of the image.
        spatial_dims: 2 or 3.
        shortcut: what passes a residual block that changes size or channels: "B", a strided 1x1 convolution and its
            norm (torchvision); "A", no parameters: every second voxel, and zeros for the new channels (MedicalNet's
            18 and 34).

    Attributes:
        plan: the blocks and channels of this depth.

    Raises:
        ValueError: an argument is not one of the above; the message says which are.

    Source: He 2015, arXiv:1512.03385; section 4.1 for the shortcuts.
    """

    plan: ResNetPlan

    def __init__(self, depth: int = 50, in_channels: int = 3, spatial_dims: int = 2, shortcut: str = "B") -> None:
        super().__init__()
        check_choice("depth", depth, tuple(PLANS))
        check_choice("spatial_dims", spatial_dims, (2, 3))
        check_choice("shortcut", shortcut, SHORTCUTS)
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}; an image has at least one channel.")
        self.plan = PLANS[depth]
        self.conv1 = CONVOLUTION[spatial_dims](in_channels, STEM_FEATURES, 7, stride=2, padding=3, bias=False)
        self.bn1 = BATCH_NORM[spatial_dims](STEM_FEATURES)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = MAX_POOL[spatial_dims](3, stride=2, padding=1)
        self.layer1 = _layer(self.plan, 1, spatial_dims, shortcut)
        self.layer2 = _layer(self.plan, 2, spatial_dims, shortcut)
        self.layer3 = _layer(self.plan, 3, spatial_dims, shortcut)
        self.layer4 = _layer(self.plan, 4, spatial_dims, shortcut)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, *spatial) -> the stem's and the four layers' features, largest map first."""
        features = [self.relu(self.bn1(self.conv1(image)))]
        x = self.maxpool(features[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    def stages(self, number: int) -> list[nn.Module]:
        """The modules of the first `number` stages: the stem (conv1 and bn1), then layer1 to layer4.

        Raises:
            ValueError: there are not that many stages.
        """
        check_choice("number of stages", number, range(len(STAGES) + 1))
        modules: list[nn.Module] = [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4]
        return modules[: number + 1] if number else []


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the shortcut."""

    def __init__(self, channels: Sequence[int], stride: int, spatial_dims: int, downsample: nn.Module | None) -> None:
        super().__init__()
        before, width, after = channels
        self.conv1 = _convolution(before, width, 3, stride, spatial_dims)
        self.bn1 = BATCH_NORM[spatial_dims](width)
        self.conv2 = _convolution(width, after, 3, 1, spatial_dims)
        self.bn2 = BATCH_NORM[spatial_dims](after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C', *spatial / stride, rounded up)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(nn.Module):
    """A 1x1 convolution to few channels, a 3x3 that has the stride, a 1x1 to many; added to the shortcut."""

    def __init__(self, channels: Sequence[int], stride: int, spatial_dims: int, downsample: nn.Module | None) -> None:
        super().__init__()
        before, width, after = channels
        self.conv1 = _convolution(before, width, 1, 1, spatial_dims)
        self.bn1 = BATCH_NORM[spatial_dims](width)
        self.conv2 = _convolution(width, width, 3, stride, spatial_dims)
        self.bn2 = BATCH_NORM[spatial_dims](width)
        self.conv3 = _convolution(width, after, 1, 1, spatial_dims)
        self.bn3 = BATCH_NORM[spatial_dims](after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C', *spatial / stride, rounded up)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


class ZeroPaddedShortcut(nn.Module):
    """Every `stride`-th voxel, and zeros for the channels that come new: He 2015's shortcut A."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> (B, C + new_channels, *spatial / stride, rounded up)."""
        axes = x.dim() - 2
        x = x[(slice(None), slice(None), *[slice(None, None, self.stride)] * axes)]
        return functional.pad(x, [0, 0] * axes + [0, self.new_channels])

    def __prepare_scriptable__(self) -> ScriptableZeroPaddedShortcut:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, ScriptableZeroPaddedShortcut(self.new_channels, self.stride))


def _layer(plan: ResNetPlan, number: int, spatial_dims: int, shortcut: str) -> nn.Sequential:
    """Layer 1, 2, 3 or 4 of the network."""
    block = Bottleneck if plan.bottleneck else BasicBlock
    before, after = plan.features[number - 1], plan.features[number]
    width, stride = after // plan.expansion, 1 if number == 1 else 2
    downsample: nn.Module | None = None
    if stride != 1 or before != after:
        downsample = ZeroPaddedShortcut(after - before, stride)
        if shortcut == "B":
            downsample = nn.Sequential(
                _convolution(before, after, 1, stride, spatial_dims), BATCH_NORM[spatial_dims](after)
            )
    first = block((before, width, after), stride, spatial_dims, downsample)
    rest = [block((after, width, after), 1, spatial_dims, None) for _ in range(plan.blocks[number - 1] - 1)]
    return nn.Sequential(first, *rest)


def _convolution(before: int, after: int, kernel: int, stride: int, spatial_dims: int) -> nn.Module:
    return CONVOLUTION[spatial_dims](before, after, kernel, stride=stride, padding=kernel // 2, bias=False)

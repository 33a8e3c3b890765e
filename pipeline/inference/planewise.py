"""A network of planes over volumes: windows of one plane each, which the network sees as images.

A bundle says so by its inferer: windows of two numbers (`roi_size`) for an image of three axes. The planes are those
of the last axis, axial ones in canonical order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .runner import CONDITION, Network, flatten, restored

PLANE_AXES = 2


class Planewise(nn.Module):
    """A 2D network as one that takes volumes: their planes are its batch.

    What it says of itself (`size_divisor`, `receptive_field_voxels`, `padding`, `output_size`) is what the network says
    where it says it, with one voxel along the last axis.

    Args:
        network: (B, C, X, Y) -> a tensor (B, K, X', Y'), or a tuple or dictionary of them.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        for name in ("size_divisor", "receptive_field_voxels"):
            if hasattr(network, name):
                setattr(self, name, (*getattr(network, name), 1))
        if hasattr(network, "padding"):
            self.padding = network.padding

    def forward(self, windows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(B, C, X, Y, Z) -> the network's outputs (B, K, X', Y', Z), in its structure."""
        if CONDITION in kwargs:
            kwargs[CONDITION] = _planes(kwargs[CONDITION])
        keys, outputs = flatten(self.network(_planes(windows), *args, **kwargs))
        return restored(keys, [each.unflatten(0, (len(windows), -1)).movedim(1, -1) for each in outputs])

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Voxels of the output of windows of that size; the planes stay as many.

        Raises:
            ValueError: the network does not take that size.
        """
        network: Any = self.network
        return (*network.output_size(size[:PLANE_AXES]), size[PLANE_AXES])


def is_planewise(roi_size: Sequence[int] | int, axes: int) -> bool:
    """Whether windows of that size are planes of an image of that many spatial axes."""
    return isinstance(roi_size, Sequence) and len(roi_size) == PLANE_AXES and axes == PLANE_AXES + 1


def planewise(network: Network, roi_size: Sequence[int] | int, axes: int) -> Network:
    """The network as it takes windows of an image: itself, or its planes where windows of that size are planes.

    Raises:
        ValueError: the windows are planes, and the network takes volumes.
    """
    if not is_planewise(roi_size, axes):
        return network
    for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            raise ValueError(
                f"roi_size {roi_size} has 2 axes, which stand for the planes of an image of 3; the network takes "
                f"volumes ({name} is a {type(module).__name__}). Give one number an axis."
            )
    return Planewise(network)


def with_one_plane(setting: Any, roi_size: Sequence[int] | int, axes: int, value: float) -> Any:
    """A setting of one number an axis, with `value` for the last where windows are planes; one number alone stays."""
    if is_planewise(roi_size, axes) and isinstance(setting, Sequence) and len(setting) == PLANE_AXES:
        return (*setting, value)
    return setting


def _planes(volumes: Tensor) -> Tensor:
    """(B, C, X, Y, Z) -> (B * Z, C, X, Y)."""
    return volumes.movedim(-1, 1).flatten(0, 1)

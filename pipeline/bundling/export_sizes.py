"""Windows to export a network with and to check it with: what it takes is read off the network and its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..bundle import Bundle
from ..bundle_network import inference_config
from ..errors import BundleError

BATCHES = (2, 1)
"""Windows in the first check and in the second; the program is made with the first."""
SMALLEST_CELL = 4
"""Voxels an axis, at least, of the cells that the windows are made of."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Windows:
    """Two windows of noise that differ in every axis that may be free.

    Attributes:
        first: (2, C, *spatial).
        second: (1, C, *spatial).
        free_axes: in which they differ.
    """

    first: Tensor
    second: Tensor
    free_axes: tuple[int, ...]


def windows_for(network: nn.Module, bundle: Bundle) -> list[Windows]:
    """What to try, the freest first: any batch and size, then any batch, then none.

    Raises:
        BundleError: nothing says how many channels or voxels the network takes.
    """
    channels, dims = _channels(network, bundle)
    fixed = _roi_size(bundle, dims) or _valid(network, [64] * dims)
    tries = [Windows(*_noise(channels, fixed, fixed), free_axes=(0,)), _one(channels, fixed)]
    free = _free_sizes(network, dims)
    if free is not None:
        tries.insert(0, Windows(*_noise(channels, *free), free_axes=(0, *range(2, dims + 2))))
    return tries


def _free_sizes(network: nn.Module, dims: int) -> tuple[Sequence[int], Sequence[int]] | None:
    """Two sizes of a network that says which it takes; None for one that does not."""
    divisor = getattr(network, "size_divisor", None)
    if divisor is None:
        return None
    cells = [max(SMALLEST_CELL, int(n)) for n in divisor]
    first = [2 * cell + 1 + 2 * axis for axis, cell in enumerate(cells)]
    second = [3 * cell + (cell - 1 if axis else 0) for axis, cell in enumerate(cells)]  # an even one, an odd one
    if getattr(network, "padding", "same") == "same":
        return first, second
    field = getattr(network, "receptive_field_voxels", [64] * dims)
    first = _valid(network, [int(n) + 2 * cell for n, cell in zip(field, cells, strict=True)])
    return first, _valid(network, [n + 1 for n in first])


def _valid(network: nn.Module, size: Sequence[int]) -> list[int]:
    """The smallest size from `size` on, an axis, that a network without padding takes."""
    asked = getattr(network, "output_size", None)
    found = list(size)
    for axis in range(len(found)) if asked is not None else ():
        for _ in range(512):
            if _takes(asked, [found[axis]] * len(found)):
                break
            found[axis] += 1
    return found


def _takes(asked: Any, size: Sequence[int]) -> bool:
    try:
        return min(asked(size)) > 0
    except ValueError:
        return False


def _channels(network: nn.Module, bundle: Bundle) -> tuple[int, int]:
    """Channels of the image, and its spatial axes, as the first convolution has them."""
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            return module.in_channels, len(module.kernel_size)
    image = _described(bundle)
    try:
        return int(image["num_channels"]), len(image["spatial_shape"])
    except (KeyError, TypeError, ValueError):
        raise BundleError(
            f"bundle {bundle.name}: neither its network nor network_data_format in configs/metadata.json says how many "
            "channels an image has. Add network_data_format."
        ) from None


def _described(bundle: Bundle) -> Mapping[str, Any]:
    try:
        return bundle.metadata["network_data_format"]["inputs"]["image"]
    except (KeyError, TypeError):
        return {}


def _roi_size(bundle: Bundle, dims: int) -> list[int] | None:
    """The windows of the bundle's inferer, as its config has them in plain numbers."""
    parser = inference_config(bundle)
    try:
        size = [int(n) for n in parser.get("inferer#roi_size")]
    except (KeyError, TypeError, ValueError):
        return None
    return size if len(size) == dims and min(size) > 0 else None


def _one(channels: int, size: Sequence[int]) -> Windows:
    first, second = _noise(channels, size, size, (1, 1))
    return Windows(first, second, ())


def _noise(
    channels: int, first: Sequence[int], second: Sequence[int], batches: Sequence[int] = BATCHES
) -> tuple[Tensor, Tensor]:
    """Normal noise, as z-scored images are; the same each time."""
    random = torch.Generator().manual_seed(0)
    one, other = (
        torch.randn((batch, channels, *size), generator=random)
        for batch, size in zip(batches, (first, second), strict=True)
    )
    return one, other

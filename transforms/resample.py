"""Images at the coordinates of a deformation. All images of a call share them, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .deformation import Deformation
from .gather import Sampler
from .sampling import Sampling
from .tensors import in_type

BLOCK = 1 << 17
"""Voxels of a block on a processor: small enough for its cache, large enough that calls cost little."""
DEVICE_BLOCK = 1 << 22
"""The same on an accelerator: as many as its memory hardly notices."""


@torch.no_grad()
def resample(images: Sequence[Tensor], samplings: Sequence[Sampling], deformation: Deformation) -> list[Tensor]:
    """The images deformed, all from the same coordinates.

    Whole-voxel flips and crops are copied, not interpolated.

    Args:
        images: (C, *size) each, of any type, on one device; C may differ.
        samplings: one an image.
        deformation: drawn for `size`.
    Returns:
        New tensors (C, *output_size) of the images' types; integers interpolated linearly are rounded.
    Raises:
        ValueError: an image has another size.
    """
    for image in images:
        if tuple(image.shape[1:]) != deformation.size:
            raise ValueError(f"the image has size {tuple(image.shape[1:])}, the deformation is for {deformation.size}.")
    if window := deformation.window():
        slices, flipped = window
        return [image[(slice(None), *slices)].flip([axis + 1 for axis in flipped]) for image in images]
    pairs = list(zip(images, samplings, strict=True))
    suited = [_suits_grid_sample(image, sampling) for image, sampling in pairs]
    by_kernel = iter(_by_grid_sample([pair for pair, suits in zip(pairs, suited, strict=True) if suits], deformation))
    by_gather = iter(_by_gather([pair for pair, suits in zip(pairs, suited, strict=True) if not suits], deformation))
    return [next(by_kernel if suits else by_gather) for suits in suited]


def _suits_grid_sample(image: Tensor, sampling: Sampling) -> bool:
    """Whether torch's own kernel is the faster one: vectorised in 2D, fused on an accelerator."""
    fast = image.ndim == 3 or image.device.type != "cpu"
    return fast and sampling.mode != "cubic" and image.dtype == torch.float32 and min(image.shape[1:]) > 1


def _by_gather(pairs: Sequence[tuple[Tensor, Sampling]], deformation: Deformation) -> list[Tensor]:
    if not pairs:
        return []
    samplers = [Sampler(image, sampling) for image, sampling in pairs]
    outputs = [sampler.empty(deformation.output_size) for sampler in samplers]
    for block, coordinates in _blocks(deformation, pairs[0][0].device):
        for sampler, output in zip(samplers, outputs, strict=True):
            sampler.fill(output.flatten(1)[:, block], coordinates)
    return [in_type(output, image.dtype) for output, (image, _) in zip(outputs, pairs, strict=True)]


def _by_grid_sample(pairs: Sequence[tuple[Tensor, Sampling]], deformation: Deformation) -> list[Tensor]:
    if not pairs:
        return []
    grid, results = _grid(deformation, pairs[0][0].device), []
    for image, sampling in pairs:
        mode = "bilinear" if sampling.mode == "linear" else "nearest"
        padding_mode = "zeros" if sampling.padding_mode == "constant" else sampling.padding_mode
        value = sampling.padding_value if sampling.padding_mode == "constant" else 0.0
        source = image - value if value else image
        sampled = functional.grid_sample(source[None], grid, mode, padding_mode, align_corners=True)[0]
        results.append(sampled.add_(value) if value else sampled)
    return results


def _grid(deformation: Deformation, device: torch.device) -> Tensor:
    """(1, *output_size, n) coordinates in -1 to 1, the last axis first, as `grid_sample` wants them."""
    weights, sums = deformation.table(device)
    last = torch.tensor(deformation.size, device=device).sub(1).view(-1, 1, 1)
    scaled = (2 * sums / last - 1).flip(0).permute(1, 2, 0).flatten(1)
    return (weights @ scaled).view(1, *deformation.output_size, len(deformation.size))


def _blocks(deformation: Deformation, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the flattened output and their (n, voxels) coordinates, in a buffer that the next block overwrites."""
    weights, sums = deformation.table(device)
    budget = BLOCK * torch.get_num_threads() if device.type == "cpu" else DEVICE_BLOCK
    n, rows, columns = len(deformation.size), len(weights), sums.shape[2]
    width = min(columns, budget)
    height = max(1, min(rows, budget // columns))
    buffer = torch.empty(n * height * width, device=device)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            factor, part = weights[top : top + height], sums[:, :, left : left + width]
            shape = (n, len(factor), part.shape[2])
            coordinates = buffer[: n * shape[1] * shape[2]].view(shape)
            torch.matmul(factor, part, out=coordinates)
            start = top * columns + left
            yield slice(start, start + shape[1] * shape[2]), coordinates.flatten(1)

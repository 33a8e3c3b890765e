"""In and out of the kinds of image that MONAI passes around: arrays, tensors, tensors with metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor


def as_plain(image: Any) -> Tensor:
    """The image's values as a tensor without metadata or gradient; it shares the image's memory if torch can."""
    if isinstance(image, MetaTensor):
        return image.as_tensor().detach()
    if isinstance(image, np.ndarray):
        return torch.from_numpy(_readable(image))
    return torch.as_tensor(image).detach()


def as_kind_of(values: Tensor, image: Any) -> Any:
    """The values as an array if the image is one, with the image's metadata if it has any."""
    if isinstance(image, np.ndarray):
        return values.numpy()
    if isinstance(image, MetaTensor):
        return MetaTensor(values).copy_meta_from(image)
    return values


def in_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in a type, kept in its range; whole numbers are rounded."""
    if values.dtype == dtype:
        return values
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        return (values.clamp(-largest, largest) if dtype.itemsize < values.dtype.itemsize else values).to(dtype)
    if dtype == torch.bool:
        return values >= 0.5
    limits = torch.iinfo(dtype)
    # floating point would round 2**63 - 1 up, out of the range: the last of its numbers that has 53 digits
    highest = limits.max - (limits.max >> 53)
    return values.round().clamp(float(limits.min), float(highest)).to(dtype)


def check_channel_first(image: Tensor) -> None:
    """
    Raises:
        ValueError: the image is not (C, *spatial) with two or three spatial axes.
    """
    if image.ndim not in (3, 4):
        raise ValueError(
            f"the image has shape {tuple(image.shape)}; it must be (C, H, W) or (C, D, H, W): add a channel axis with "
            "EnsureChannelFirst, or wrap the transform in Batched for a batch."
        )


def _readable(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it, copied if its bytes are swapped, it is read-only or it runs backwards."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    backwards = any(stride < 0 for stride in array.strides)
    return array.copy() if backwards or not array.flags.writeable else array

"""In and out of the kinds of image that MONAI passes around: arrays, tensors, tensors with metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor


def as_plain(image: Any) -> Tensor:
    """The image's values as a tensor that shares its memory, without metadata or gradient."""
    if isinstance(image, MetaTensor):
        return image.as_tensor().detach()
    return torch.as_tensor(image).detach()


def as_kind_of(values: Tensor, image: Any) -> Any:
    """The values as an array if the image is one, with the image's metadata if it has any."""
    if isinstance(image, np.ndarray):
        return values.numpy()
    if isinstance(image, MetaTensor):
        return MetaTensor(values).copy_meta_from(image)
    return values


def in_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in a type: whole numbers are rounded and kept in its range."""
    if dtype.is_floating_point or values.dtype == dtype:
        return values.to(dtype)
    if dtype == torch.bool:
        return values >= 0.5
    limits = torch.iinfo(dtype)
    return values.round().clamp(limits.min, limits.max).to(dtype)


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

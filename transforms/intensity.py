"""What all random intensity transforms share: a change is drawn, then applied to each channel, in place on a copy.

A transform draws `Change`s, which say everything about what is done and do it; so a draw can be kept and replayed, and
single images, dictionaries and batches are changed by the same code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, RandomizableTransform
from torch import Tensor

from . import ranges
from .affine import spacing_of
from .channel import Channel
from .tensors import as_kind_of, as_plain, check_channel_first, in_type


class PointwiseChange(ABC):
    """A drawn change of every value by itself, with all its parameters."""

    @abstractmethod
    def apply(self, channel: Channel, stream: int) -> None:
        """Add the steps of the change to a channel.

        Args:
            stream: number of the channel, for changes that draw a number a voxel.
        """


class SpatialChange(ABC):
    """A drawn change that looks at a voxel's place or neighbours, with all its parameters."""

    @abstractmethod
    def apply_(self, values: Tensor, spacing: Sequence[float]) -> None:
        """Change the values of one channel in place.

        Args:
            values: (*spatial), contiguous float32 or float64.
            spacing: mm of a voxel along each axis.
        """


Change = PointwiseChange | SpatialChange


def change_intensity(
    image: Any,
    changes: Sequence[Sequence[Change]],
    background: float | None = None,
    spacing: Sequence[float] | None = None,
    stream: int = 0,
) -> Any:
    """A changed copy of an image by changes that were kept.

    Args:
        image: (C, *spatial); integers are rounded and kept in the range of their type.
        changes: for each channel in turn, those to apply one after the other; started over when channels are left.
        background: voxels of exactly this value keep it, and do not count in the statistics of pointwise changes.
        spacing: mm of a voxel along each axis; None: the image's, else 1.
        stream: of the first channel.
    """
    source = as_plain(image)
    # float32 has no room for the digits of long integers
    working = torch.float32 if source.dtype == torch.float32 or source.dtype.itemsize < 4 else torch.float64
    if background is not None and source.dtype.is_floating_point:
        background = torch.tensor(background, dtype=source.dtype).item()  # as half precision has rounded it
    result = source.to(working, copy=True, memory_format=torch.contiguous_format)
    millimetres = spacing_of(image, spacing)
    for index, values in enumerate(result if changes else ()):
        _change_channel(values, changes[index % len(changes)], background, millimetres, stream + index)
    return as_kind_of(in_type(result, source.dtype), image)


class RandIntensityChange(RandomizableTransform, ABC):
    """Base of the random intensity transforms.

    Args:
        prob: of changing an image at all.
        channel_wise: each channel has a draw of its own; else all share one (and have noise of their own).
        background: voxels of exactly this value keep it and do not count in an image's statistics; None: there is none.
        spacing: mm of a voxel along each axis, for images without an affine.
    """

    def __init__(
        self,
        prob: float = 0.1,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(ranges.probability("prob", prob))
        self.channel_wise, self.background, self.spacing = channel_wise, background, spacing
        self.changes: list[list[Change]] | None = None

    @abstractmethod
    def draw(self, spatial_dims: int) -> list[Change]:
        """The changes for one channel, drawn whatever `prob` says, to keep and to apply by `change_intensity`."""

    def randomize(self, data: Any) -> None:
        """Draw for an image (C, *spatial): `changes` holds a list a channel, or one for all; empty: nothing changes."""
        check_channel_first(data)
        super().randomize(None)
        count = data.shape[0] if self.channel_wise else 1
        self.changes = [self.draw(data.ndim - 1) for _ in range(count)] if self._do_transform else []

    def __call__(self, img: Any, randomize: bool = True, stream: int = 0) -> Any:
        """A changed copy of the image (C, *spatial); its type, device and kind (array, tensor, `MetaTensor`) stay.

        Args:
            randomize: False applies the last draw again.
            stream: of the first channel: with another one, the same draw has other noise.
        """
        if randomize:
            self.randomize(img)
        if self.changes is None:
            raise ValueError("nothing has been drawn yet; call the transform once with randomize=True.")
        return change_intensity(img, self.changes, self.background, self.spacing, stream)


class RandIntensityChanged(MapTransform, RandomizableTransform):
    """Base of the dictionary transforms: the same draw for all keys, each with noise of its own.

    Args:
        keys: the images (C, *spatial).
        prob: of changing them at all.
        allow_missing_keys: keys that are not there are passed over.
        arguments: those of the array transform, `array`.
    """

    array: ClassVar[type[RandIntensityChange]]

    def __init__(
        self, keys: KeysCollection, prob: float = 0.1, allow_missing_keys: bool = False, **arguments: Any
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = self.array(prob=prob, **arguments)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandIntensityChanged:
        """Seed the draws."""
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any], randomize: bool = True) -> dict[Hashable, Any]:
        """The dictionary with changed copies of the keyed images.

        Args:
            randomize: False applies the last draw again.
        """
        changed, stream = dict(data), 0
        for key in self.key_iterator(changed):
            image = changed[key]
            changed[key] = self.transform(image, randomize and stream == 0, stream)
            stream += image.shape[0]
        return changed


def _change_channel(
    values: Tensor, changes: Sequence[Change], background: float | None, spacing: Sequence[float], stream: int
) -> None:
    """Pointwise changes that follow one another share their passes over the values."""
    outside = None if background is None else values == background
    waiting: list[PointwiseChange] = []
    for change in changes:
        if isinstance(change, PointwiseChange):
            waiting.append(change)
            continue
        _change_values(values, outside, waiting, stream)
        waiting = []
        change.apply_(values, spacing)
        if outside is not None and background is not None:
            values.masked_fill_(outside, background)
    _change_values(values, outside, waiting, stream)


def _change_values(values: Tensor, outside: Tensor | None, changes: Sequence[PointwiseChange], stream: int) -> None:
    """All values, or those that are not outside, changed in place."""
    chosen = values if outside is None else values[~outside]
    if not changes or not chosen.numel():
        return
    channel = Channel(chosen)
    for change in changes:
        change.apply(channel, stream)
    channel.finish()
    if outside is not None:
        values[~outside] = chosen

"""Where windows lie in an image: MONAI's places and weights, a row of starts an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from monai.utils import ensure_tuple_rep, fall_back_tuple


@dataclass(frozen=True)
class WindowGrid:
    """The windows of one image: every combination of one start an axis.

    Attributes:
        size: voxels of the image, an axis.
        roi: voxels of a window, an axis.
        before: voxels of padding in front of the image where it is smaller than a window, else 0.
        starts: an axis, where windows begin in the padded image; increasing, the last at its end.
    """

    size: tuple[int, ...]
    roi: tuple[int, ...]
    before: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return prod(map(len, self.starts))

    def scaled(self, roi: Sequence[int]) -> WindowGrid:
        """The same windows on the grid of an output that has `roi` voxels for each of them.

        Raises:
            ValueError: they leave gaps there, or do not have that many voxels each.
        """
        ratios = [after / before for after, before in zip(roi, self.roi, strict=True)]
        starts = []
        for axis, (ratio, old, new) in enumerate(zip(ratios, self.roi, roi, strict=True)):
            places = [int(start * ratio) for start in self.starts[axis]]
            stops = [int((start + old) * ratio) for start in self.starts[axis]]
            fits = all(stop - start == new for start, stop in zip(places, stops, strict=True))
            if not fits or any(start > stop for stop, start in zip(stops, places[1:], strict=False)):
                raise ValueError(
                    f"the network makes {tuple(roi)} voxels of windows of {self.roi}, which do not join up along axis "
                    f'{axis}. Choose roi_size and overlap so that the output\'s windows are whole, or mode "seamless".'
                )
            starts.append(tuple(places))
        before = tuple(round(n * ratio) for n, ratio in zip(self.before, ratios, strict=True))
        size = tuple(
            min(round((n + m) * ratio), places[-1] + length) - start  # half a voxel, which no window ends with, is none
            for n, m, ratio, places, length, start in zip(
                self.before, self.size, ratios, starts, roi, before, strict=True
            )
        )
        return WindowGrid(size, tuple(roi), before, tuple(starts))


@dataclass(frozen=True)
class Span:
    """A row of windows along one axis, or several rows that are finished together.

    Attributes:
        starts: where the windows begin.
        stop: where the last of them ends.
        final: no later row reaches what lies before it.
        reached: where the row before ends; `starts[0]` where there is no overlap.
    """

    starts: tuple[int, ...]
    stop: int
    final: int
    reached: int

    @property
    def start(self) -> int:
        """Where the first window begins."""
        return self.starts[0]

    @property
    def length(self) -> int:
        """Voxels from the first start to the end."""
        return self.stop - self.start


def window_grid(size: Sequence[int], roi_size: Sequence[int] | int, overlap: Sequence[float] | float) -> WindowGrid:
    """The places of MONAI's `sliding_window_inference`.

    Args:
        size: of the image, an axis.
        roi_size: of a window; what is not positive takes the image's size.
        overlap: share of a window that the next one covers again; one number, or one an axis, at least 0, less than 1.
    Raises:
        ValueError: `roi_size` or `overlap` does not fit the image's number of axes, or an overlap is out of range.
    """
    size = tuple(int(n) for n in size)
    if isinstance(roi_size, Sequence) and len(roi_size) != len(size):
        raise ValueError(
            f"roi_size {tuple(roi_size)} has {len(roi_size)} axes, the image {size} has {len(size)} spatial axes; "
            "give one number an axis, and the image as (batch, channel, *spatial)."
        )
    overlaps = ensure_tuple_rep(overlap, len(size))
    if any(not 0 <= share < 1 for share in overlaps):
        raise ValueError(f"overlap is {overlap!r}; each must be at least 0 and less than 1.")
    roi = tuple(int(r) for r in fall_back_tuple(roi_size, size))
    return WindowGrid(
        size=size,
        roi=roi,
        before=tuple(max(r - n, 0) // 2 for n, r in zip(size, roi, strict=True)),
        starts=tuple(_starts(max(n, r), r, share) for n, r, share in zip(size, roi, overlaps, strict=True)),
    )


def spans(rows: Sequence[Sequence[int]], length: int) -> tuple[Span, ...]:
    """The rows of windows along an axis.

    Args:
        rows: of each, where its windows begin; windows may overlap, and leave no gaps.
        length: of a window along the axis.
    """
    stops = [row[-1] + length for row in rows]
    finals = [after[0] for _, after in pairwise(rows)] + stops[-1:]
    reached = [rows[0][0], *stops[:-1]]
    return tuple(Span(tuple(row), *rest) for row, *rest in zip(rows, stops, finals, reached, strict=True))


def _starts(size: int, length: int, overlap: float) -> tuple[int, ...]:
    """MONAI's: steps of the window's own part, the last window moved back to the border."""
    step = length if length == size else max(int(length * (1 - overlap)), 1)
    starts = list(range(0, max(size - length, 0), step))
    return (*starts, size - length)

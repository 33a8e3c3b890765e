"""The order in which windows are visited, and what must be held while they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, permutations, product
from math import prod

from .windows import Span, WindowGrid, spans

Box = tuple[Span, ...]
"""One span an axis: the windows that are finished together, and the voxels that are final after them."""


@dataclass(frozen=True)
class Layout:
    """The visit of a grid's windows: rows within rows, the first axis of `order` outermost.

    After a row of windows along an axis, what the next row reaches into is carried, and nothing else. So an axis costs
    its overlap, times the windows' span along the axes outside it, times the whole image along those inside it:
    whatever the length of the outermost axis.

    Attributes:
        order: axes, outermost first.
        rows: an axis, its rows.
    """

    order: tuple[int, ...]
    rows: tuple[tuple[Span, ...], ...]

    @property
    def overlaps(self) -> tuple[int, ...]:
        """An axis, the most voxels that are carried from a row to the next."""
        return tuple(max(row.stop - row.final for row in rows) for rows in self.rows)

    @property
    def longest(self) -> tuple[int, ...]:
        """An axis, the voxels of the longest row."""
        return tuple(max(row.length for row in rows) for rows in self.rows)

    @property
    def edge_voxels(self) -> int:
        """Voxels, for each channel, of the last planes of finished boxes."""
        sizes = [rows[-1].stop for rows in self.rows]
        return sum(
            prod(self.longest[axis] + 1 for axis in self.order[:place])
            * prod(sizes[axis] for axis in self.order[place + 1 :])
            for place in range(len(self.order))
        )

    @property
    def joined(self) -> bool:
        """Whether any box has more than one window."""
        return any(len(row.starts) > 1 for rows in self.rows for row in rows)

    def carry_shape(self, axis: int) -> tuple[int, ...]:
        """Voxels, an axis of the image, of what is carried along `axis`."""
        place = self.order.index(axis)
        shape = [0] * len(self.rows)
        for position, each in enumerate(self.order):
            size = self.rows[each][-1].stop
            shape[each] = self.longest[each] if position < place else self.overlaps[each] if position == place else size
        return tuple(shape)

    @property
    def voxels(self) -> int:
        """Voxels held for each channel, the windows' own not counted."""
        carried = sum(prod(self.carry_shape(axis)) for axis in self.order)
        return carried + (prod(self.longest) if self.joined else 0)

    def on(self, grid: WindowGrid) -> Layout:
        """The same visit of another grid that has as many windows along each axis."""
        axes = zip(self.rows, grid.starts, grid.roi, strict=True)
        return Layout(self.order, tuple(spans(_split(starts, rows), roi) for rows, starts, roi in axes))

    def boxes(self) -> Iterator[Box]:
        """Every box, in the order of the visit."""
        for visit in product(*(self.rows[axis] for axis in self.order)):
            yield tuple(visit[self.order.index(axis)] for axis in range(len(self.order)))

    def windows(self) -> Iterator[tuple[int, ...]]:
        """Where every window begins, an axis, in the order of the visit: box by box."""
        for box in self.boxes():
            yield from product(*(span.starts for span in box))


def lean_layout(grid: WindowGrid, stream_axis: int | None = None) -> Layout:
    """The layout that holds least.

    MONAI moves the last window of an axis back to the border, where it may lie deep in the one before; the two are
    joined where carrying the one would cost more than finishing both at once.

    Args:
        grid: the windows.
        stream_axis: the outermost axis; None takes the best.
    """
    axes = range(len(grid.size))
    layouts = []
    for joined in product((False, True), repeat=len(axes)):
        rows = tuple(
            spans(_rows(starts, join), roi) for starts, join, roi in zip(grid.starts, joined, grid.roi, strict=True)
        )
        layouts += [Layout(order, rows) for order in permutations(axes) if stream_axis in (None, order[0])]
    return min(layouts, key=lambda layout: layout.voxels)


def _rows(starts: Sequence[int], joined: bool) -> list[Sequence[int]]:
    """Each window a row; the last two one row where they are joined."""
    rows = [starts[at : at + 1] for at in range(len(starts))]
    return [*rows[:-2], starts[-2:]] if joined and len(rows) > 1 else rows


def _split(starts: Sequence[int], rows: Sequence[Span]) -> list[Sequence[int]]:
    """The starts in rows of the same numbers of windows."""
    ends = list(accumulate(len(row.starts) for row in rows))
    return [starts[end - len(row.starts) : end] for end, row in zip(ends, rows, strict=True)]

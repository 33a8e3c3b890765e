"""One section drawn into its axes: grey image, labels filled and outlined, letters, ticks, and a scale bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .sections import Section

BACKGROUND, INK, DIM, CROSS = "#101214", "#f2f2f2", "#9aa0a6", "#f0e442"
FILL_ALPHA = 0.30
LETTER_ROOM_PX = 60
"""A panel thinner than this has no letters across its thin side."""

Color = tuple[float, ...]
"""Red, green and blue from 0 to 1."""


def draw_section(axes: Axes, section: Section, window: tuple[float, float], colors: Mapping[int, Color]) -> None:
    """The image in grey, labels filled and outlined voxel by voxel, letters at the edges, ticks at the other planes.

    Args:
        axes: as high and wide as the section, in whatever unit.
        section: what is shown.
        window: intensities shown as black and white.
        colors: label value -> colour.
    """
    tall, wide = section.size_mm
    extent = (0.0, wide, tall, 0.0)
    axes.set_axis_off()
    axes.imshow(section.image, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="bilinear")
    overlay = np.zeros((*section.labels.shape, 4))
    for value in np.unique(section.labels[section.labels > 0]):
        mask = section.labels == value
        overlay[mask] = (*colors[int(value)], FILL_ALPHA)
        lines = outline(mask) * section.pixel_mm[::-1]
        axes.add_collection(LineCollection(list(lines), colors=[colors[int(value)]], linewidths=1.3))
    axes.imshow(overlay, extent=extent, interpolation="nearest")
    axes.set_xlim(0.0, wide)
    axes.set_ylim(tall, 0.0)
    _write_letters(axes, section)
    write(axes, 0.0, 1.0 + 7 / (axes.bbox.height or 1.0), section.name, size=10, color=DIM, transform=axes.transAxes)
    _draw_cross_ticks(axes, section)


def draw_scale_bar(axes: Axes, section: Section, has_spacing: bool = True) -> None:
    """A bar of a round length at the lower right, its length above it: in pixels where no spacing is known."""
    tall, wide = section.size_mm
    length = scale_bar_mm(wide)
    pixel = tall / (axes.bbox.height or 1.0)
    x, y = 0.97 * wide - length, tall - 24 * pixel
    bar = Rectangle((x, y), length, 4 * pixel, facecolor=INK, linewidth=0)
    bar.set_path_effects([withStroke(linewidth=2, foreground=BACKGROUND)])
    axes.add_patch(bar)
    write(axes, x + length, y - 4 * pixel, length_text(length, has_spacing), ha="right", va="bottom", size=9)


def scale_bar_mm(width_mm: float) -> float:
    """The longest of 1, 2, 5, 10, 20, 50 … mm that is at most a quarter of the width."""
    decade = 10.0 ** np.floor(np.log10(width_mm / 4))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= width_mm / 4))


def length_text(length_mm: float, has_spacing: bool = True) -> str:
    """A length in the unit that leaves few zeros, or where mm count pixels in those."""
    if not has_spacing:
        return f"{length_mm:g} pixels"
    scale, unit = next(((s, u) for s, u in ((1, "mm"), (1e-3, "\u00b5m")) if length_mm >= s), (1e-6, "nm"))
    return f"{round(length_mm / scale, 6):g} {unit}"


def outline(mask: np.ndarray) -> np.ndarray:
    """(N, 2, 2): the pixel edges between inside and outside, each two points (column, row) in pixels.

    Args:
        mask: (rows, columns), bool. Pixels beyond the border count as outside.
    """
    padded = np.pad(mask, 1)
    row, column = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])
    upright = np.stack([np.stack([column, row], -1), np.stack([column, row + 1], -1)], 1)
    row, column = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])
    level = np.stack([np.stack([column, row], -1), np.stack([column + 1, row], -1)], 1)
    return np.concatenate([upright, level]).astype(float)


def write(target: Axes | Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text with a dark rim, legible on white, and without mathematics: a "$" in a name is a "$"."""
    written = target.text(x, y, text, **{"color": INK, **style})
    written.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])
    written.set_parse_math(False)


def _write_letters(axes: Axes, section: Section) -> None:
    left, right, top, bottom = section.edges
    style = {"weight": "bold", "size": 11, "transform": axes.transAxes}
    if axes.bbox.width > LETTER_ROOM_PX:
        write(axes, 0.015, 0.5, left, ha="left", va="center", **style)
        write(axes, 0.985, 0.5, right, ha="right", va="center", **style)
    if axes.bbox.height > LETTER_ROOM_PX:
        write(axes, 0.5, 0.985, top, ha="center", va="top", **style)
        write(axes, 0.5, 0.015, bottom, ha="center", va="bottom", **style)


def _draw_cross_ticks(axes: Axes, section: Section) -> None:
    """Short marks at the borders where the other two planes cut this one."""
    if section.cross is None:
        return
    tall, wide = section.size_mm
    row, column = ((index + 0.5) * pixel for index, pixel in zip(section.cross, section.pixel_mm, strict=True))
    length = 0.03 * min(tall, wide)
    marks = [[(column, 0), (column, length)], [(column, tall - length), (column, tall)]]
    marks += [[(0, row), (length, row)], [(wide - length, row), (wide, row)]]
    axes.add_collection(LineCollection(marks, colors=[CROSS], linewidths=1.2))

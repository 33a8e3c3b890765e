"""A picture of the result: three planes at one scale, labels over the image, names and volumes beneath."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from ..atomic import atomic
from ..bundle import Bundle
from ..volume import Volume
from .checks import check_grid
from .measure import LabelMeasurement, measure
from .sections import Section, Sections, cut_sections

DPI = 100
PANELS_PX = (1400, 620)
"""Room for the three panels, width and height; the scale is the largest that fits."""
MARGIN_PX, TITLE_PX, LEGEND_ROW_PX = 24, 64, 26
MIN_WIDTH_PX = 900
LETTER_ROOM_PX = 60
"""A panel thinner than this has no letters across its thin side."""
LEGEND_LIMIT = 24
"""Labels named in the legend; the measurements hold them all."""
NAME_LIMIT = 40
"""Characters of a label's name in the legend."""
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: level 40, width 400."""
PERCENTILES = (1.0, 99.0)
BACKGROUND, INK, DIM, CROSS = "#101214", "#f2f2f2", "#9aa0a6", "#f0e442"
FILL_ALPHA = 0.30


def write_preview(
    path: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    measurements: Sequence[LabelMeasurement] | None = None,
) -> None:
    """Write a PNG of the three planes through the largest section of the labels.

    Args:
        path: ends in .png.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: the first channel is shown.
        bundle: gives names and colours.
        measurements: what measure() found; measured here where not given.
    Raises:
        PipelineError: labels are not on the volume's grid, or the file can not be written.
        BundleError: labels hold a value that the bundle does not name.
    """
    check_grid(labels, volume)
    found = [row for row in measurements or measure(labels, volume, bundle) if row.voxels]
    sections = cut_sections(labels, volume)
    window = choose_window(sections, volume.modality or bundle.series_rule.modality)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font without a glyph of the case's name
        figure = _draw(sections, window, found, volume, bundle)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, facecolor=BACKGROUND, metadata={"Software": "scanloom"})


def choose_window(sections: Sections, modality: str | None) -> tuple[float, float]:
    """Intensities shown as black and white: soft tissue for CT, else percentiles of what the sections show."""
    if modality == "CT":
        return CT_WINDOW_HU
    values = np.concatenate([section.image.ravel() for section in sections.planes])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)


def _draw(
    sections: Sections,
    window: tuple[float, float],
    found: Sequence[LabelMeasurement],
    volume: Volume,
    bundle: Bundle,
) -> Figure:
    """Lay the panels out in pixels, all at the same scale, and fill them."""
    heights, widths = zip(*(section.size_mm for section in sections.planes), strict=True)
    scale = min((PANELS_PX[0] - 2 * MARGIN_PX) / sum(widths), PANELS_PX[1] / max(heights))
    width = max(MIN_WIDTH_PX, scale * sum(widths) + 4 * MARGIN_PX)
    entries = _legend_entries(found)
    legend_columns = max(1, int((width - 2 * MARGIN_PX) // (70 + 9 * max(len(text) for text, _ in entries))))
    legend_rows = -(-len(entries) // legend_columns)
    bottom = MARGIN_PX + LEGEND_ROW_PX * (legend_rows + 1)
    height = TITLE_PX + scale * max(heights) + bottom

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    colors = {label.value: tuple(part / 255 for part in label.color) for label in bundle.labels}
    left = (width - scale * sum(widths) - 2 * MARGIN_PX) / 2
    for section in sections.planes:
        tall, wide = (scale * length for length in section.size_mm)
        base = bottom + (scale * max(heights) - tall) / 2
        axes = figure.add_axes((left / width, base / height, wide / width, tall / height))
        _draw_section(axes, section, window, colors)
        left += wide + MARGIN_PX
    _draw_scale_bar(figure.axes[0], sections.planes[0])
    _write_texts(figure, sections, window, volume, bundle)
    _write_legend(figure, [(text, colors.get(value, BACKGROUND)) for text, value in entries], legend_columns)
    return figure


def _draw_section(
    axes: Axes,
    section: Section,
    window: tuple[float, float],
    colors: dict[int, tuple[float, ...]],
) -> None:
    """The image in grey, labels filled and outlined voxel by voxel, letters at the edges."""
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
    _write(axes, 0.0, 1.0 + 7 / (axes.bbox.height or 1.0), section.name, size=10, color=DIM, transform=axes.transAxes)
    _draw_cross_ticks(axes, section)


def _write_letters(axes: Axes, section: Section) -> None:
    left, right, top, bottom = section.edges
    style = {"weight": "bold", "size": 11, "transform": axes.transAxes}
    if axes.bbox.width > LETTER_ROOM_PX:
        _write(axes, 0.015, 0.5, left, ha="left", va="center", **style)
        _write(axes, 0.985, 0.5, right, ha="right", va="center", **style)
    if axes.bbox.height > LETTER_ROOM_PX:
        _write(axes, 0.5, 0.985, top, ha="center", va="top", **style)
        _write(axes, 0.5, 0.015, bottom, ha="center", va="bottom", **style)


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


def volume_text(volume_ml: float) -> str:
    """Millilitres with three digits that count, such as "1.80 ml", "23.4 ml" or "1210 ml"."""
    decimals = max(0, 2 - int(np.floor(np.log10(volume_ml))))
    return f"{volume_ml:.{decimals}f} ml"


def scale_bar_mm(width_mm: float) -> float:
    """The longest of 1, 2, 5, 10, 20, 50 … mm that is at most a quarter of the width."""
    decade = 10.0 ** np.floor(np.log10(width_mm / 4))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= width_mm / 4))


def _draw_cross_ticks(axes: Axes, section: Section) -> None:
    """Short marks at the borders where the other two planes cut this one."""
    tall, wide = section.size_mm
    row, column = ((index + 0.5) * pixel for index, pixel in zip(section.cross, section.pixel_mm, strict=True))
    length = 0.03 * min(tall, wide)
    marks = [[(column, 0), (column, length)], [(column, tall - length), (column, tall)]]
    marks += [[(0, row), (length, row)], [(wide - length, row), (wide, row)]]
    axes.add_collection(LineCollection(marks, colors=[CROSS], linewidths=1.2))


def _draw_scale_bar(axes: Axes, section: Section) -> None:
    tall, wide = section.size_mm
    length = scale_bar_mm(wide)
    x, y = 0.97 * wide - length, 0.955 * tall
    bar = Rectangle((x, y), length, 0.008 * tall, facecolor=INK, linewidth=0)
    bar.set_path_effects([withStroke(linewidth=2, foreground=BACKGROUND)])
    axes.add_patch(bar)
    _write(axes, x + length / 2, y - 0.01 * tall, f"{length:g} mm", ha="center", va="bottom", size=9)


def _write_texts(
    figure: Figure, sections: Sections, window: tuple[float, float], volume: Volume, bundle: Bundle
) -> None:
    width, height = figure.get_size_inches() * DPI
    left = MARGIN_PX / width
    _write(figure, left, 1 - 12 / height, volume.case, va="top", weight="bold", size=13)
    right, anterior, superior = sections.point_ras_mm
    where = f"planes through R {right:.1f}  A {anterior:.1f}  S {superior:.1f} mm"
    shown = f"window {window[0]:.4g} to {window[1]:.4g}"
    made = f"{bundle.name} {bundle.version}"
    _write(figure, 1 - left, 1 - 15 / height, made, va="top", ha="right", size=10, color=DIM)
    _write(figure, left, 12 / height, f"{where}   {shown}   patient right on the left", size=9, color=DIM)
    _write(figure, 1 - left, 12 / height, "research only, not for diagnosis", ha="right", size=9, color=DIM)


def _legend_entries(found: Sequence[LabelMeasurement]) -> list[tuple[str, int]]:
    """Text and label value of each entry; value 0 where the entry is no label."""
    if not found:
        return [("no label found", 0)]
    entries = [(f"{row.name[:NAME_LIMIT]}  {volume_text(row.volume_ml)}", row.value) for row in found[:LEGEND_LIMIT]]
    more = len(found) - LEGEND_LIMIT
    return [*entries, (f"and {more} more", 0)] if more > 0 else entries


def _write_legend(figure: Figure, entries: Sequence[tuple[str, Any]], columns: int) -> None:
    width, height = figure.get_size_inches() * DPI
    legend = figure.legend(
        handles=[Patch(color=color, label=text) for text, color in entries],
        loc="lower left",
        bbox_to_anchor=((MARGIN_PX - 6) / width, LEGEND_ROW_PX / height),
        ncols=columns,
        frameon=False,
        fontsize=11,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _write(target: Axes | Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text with a dark rim, legible on white, and without mathematics: a "$" in a name is a "$"."""
    written = target.text(x, y, text, **{"color": INK, **style})
    written.set_path_effects([withStroke(linewidth=2.5, foreground=BACKGROUND)])
    written.set_parse_math(False)

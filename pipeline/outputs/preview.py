"""A picture of the result: three planes through all labels, a close-up of each of the largest, names and volumes.

Of a picture, or a scan of one slice, it is that plane alone, as large as there is room.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..atomic import write_whole
from ..bundle import Bundle
from ..verdict import Verdict
from ..volume import Volume
from .banner import COLORS, banner_px, draw_banner
from .checks import check_grid
from .measure import LabelMeasurement, measure, size_text
from .panel import BACKGROUND, DIM, INK, Color, draw_scale_bar, draw_section, write
from .sections import Sections, close_up, cut_sections
from .window import choose_window

DPI = 100
WIDTH_PX, MIN_WIDTH_PX = 1400, 900
PANELS_PX = (1304, 620)
"""Room for the planes through all labels, width without what lies between them, and height."""
PLANE_PX = (1304, 1000)
"""Room for the only plane."""
CLOSE_UP_PX = (590, 200)
"""Room for a close-up's planes; two close-ups stand side by side."""
MARGIN_PX, TITLE_PX, ROW_TITLE_PX, LEGEND_ROW_PX = 24, 64, 60, 26
CLOSE_UPS = 6
"""Labels that get planes of their own: those that the first planes miss, then the largest. All are in the legend."""
CLOSE_UP_MARGIN_MM = 8.0
LEGEND_LIMIT = 24
"""Labels named in the legend; the measurements hold them all."""
NAME_LIMIT = 40
"""Characters of a label's name."""


@dataclass(frozen=True)
class Row:
    """Three planes side by side at one scale, or one.

    Attributes:
        sections: the planes.
        title: what they go through; empty for the first row.
        color: of the title.
        scale: pixels a mm.
    """

    sections: Sections
    title: str
    color: Color
    scale: float

    @property
    def height_px(self) -> float:
        """Of its panels."""
        return self.scale * max(section.size_mm[0] for section in self.sections.planes)

    @property
    def width_px(self) -> float:
        """Of its panels and the room between them."""
        return self.scale * sum(section.size_mm[1] for section in self.sections.planes) + MARGIN_PX * (
            len(self.sections.planes) - 1
        )


def write_preview(
    path: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    measurements: Sequence[LabelMeasurement] | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write a PNG of the planes through the largest section of all labels, and of up to CLOSE_UPS labels from near.

    Args:
        path: ends in .png.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: the first channel is shown.
        bundle: gives names and colours.
        measurements: what measure() found; measured here where not given.
        verdict: whether the result can be trusted; a banner where it is not ok.
    Raises:
        PipelineError: labels are not on the volume's grid, or the file can not be written.
        BundleError: labels hold a value that the bundle does not name.
    """
    check_grid(labels, volume)
    found = [row for row in measurements or measure(labels, volume, bundle) if row.voxels]
    colors = {label.value: tuple(part / 255 for part in label.color) for label in bundle.labels}
    rows = _rows(labels, volume, found, colors)
    values = np.concatenate([section.image.ravel() for section in rows[0].sections.planes])
    window = choose_window(values, volume.modality or bundle.series_rule.modality, volume.padding)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font without a glyph of the case's name
        figure = _draw(rows, window, found, colors, volume, banner_px(verdict))
        _write_texts(figure, rows[0].sections, window, volume, bundle, verdict)
        draw_banner(figure, verdict, DPI)
        figure.savefig(picture, format="png", dpi=DPI, facecolor=BACKGROUND, metadata={"Software": "scanloom"})
    write_whole(path, picture.getvalue())


def _rows(
    labels: np.ndarray, volume: Volume, found: Sequence[LabelMeasurement], colors: Mapping[int, Color]
) -> list[Row]:
    """All labels first, then some of them from near; a single one only where that shows more of it."""
    sections = cut_sections(labels, volume)
    if len(sections.planes) == 1:
        return [_row(sections, PLANE_PX, "", (1.0, 1.0, 1.0))]
    first = _row(sections, PANELS_PX, "", (1.0, 1.0, 1.0))
    seen = {int(value) for section in first.sections.planes for value in np.unique(section.labels)}
    rows = []
    chosen = sorted(found, key=lambda row: (row.value in seen, -row.voxels))[:CLOSE_UPS]
    for label in sorted(chosen, key=lambda row: row.value):
        near = close_up(cut_sections(labels, volume, label.value), label.value, CLOSE_UP_MARGIN_MM)
        title = f"{label.name[:NAME_LIMIT]}  {size_text(label, volume)}"
        rows.append(_row(near, CLOSE_UP_PX, title, colors[label.value]))
    return [first] if len(rows) == 1 and rows[0].scale <= first.scale else [first, *rows]


def _row(sections: Sections, room_px: tuple[int, int], title: str, color: Color) -> Row:
    """The largest scale at which the panels fit."""
    heights, widths = zip(*(section.size_mm for section in sections.planes), strict=True)
    return Row(sections, title, color, min(room_px[0] / sum(widths), room_px[1] / max(heights)))


def _draw(
    rows: Sequence[Row],
    window: tuple[float, float],
    found: Sequence[LabelMeasurement],
    colors: Mapping[int, Color],
    volume: Volume,
    above_px: int,
) -> Figure:
    """Lay the rows out in pixels, from the top, close-ups two by two, and fill them; the legend beneath.

    Args:
        volume: says what lengths and sizes count in.
        above_px: left free at the top.
    """
    first, *near = rows
    width = WIDTH_PX if len(near) > 1 else max(MIN_WIDTH_PX, *(row.width_px + 2 * MARGIN_PX for row in rows))
    entries = _legend_entries(found, volume)
    columns = max(1, int((width - 2 * MARGIN_PX) // (70 + 9 * max(len(text) for text, _ in entries))))
    bottom = MARGIN_PX + LEGEND_ROW_PX * (-(-len(entries) // columns) + 1)
    pairs = [near[index : index + 2] for index in range(0, len(near), 2)]
    heights = [max(row.height_px for row in pair) for pair in pairs]
    title = TITLE_PX + above_px
    height = title + first.height_px + sum(heights) + ROW_TITLE_PX * len(pairs) + bottom
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    _draw_row(figure, first, window, colors, ((width - first.width_px) / 2, title), volume.has_spacing)
    top = title + first.height_px + ROW_TITLE_PX
    for pair, tall in zip(pairs, heights, strict=True):
        for row, left in zip(pair, (MARGIN_PX, WIDTH_PX / 2 + MARGIN_PX / 2), strict=False):
            _draw_row(figure, row, window, colors, (left, top), volume.has_spacing)
        top += tall + ROW_TITLE_PX
    _write_legend(figure, [(text, colors.get(value, BACKGROUND)) for text, value in entries], columns)
    return figure


def _draw_row(
    figure: Figure,
    row: Row,
    window: tuple[float, float],
    colors: Mapping[int, Color],
    corner_px: tuple[float, float],
    has_spacing: bool,
) -> None:
    """Title and panels; the corner is the panels' upper left one."""
    width, height = figure.get_size_inches() * DPI
    left, top = corner_px
    write(figure, left / width, 1 - (top - 26) / height, row.title, size=11, weight="bold", color=row.color)
    for section in row.sections.planes:
        tall, wide = (row.scale * length for length in section.size_mm)
        base = height - top - (row.height_px + tall) / 2
        axes = figure.add_axes((left / width, base / height, wide / width, tall / height))
        draw_section(axes, section, window, colors)
        if section is row.sections.planes[0]:
            draw_scale_bar(axes, section, has_spacing)
        left += wide + MARGIN_PX


def _write_texts(
    figure: Figure,
    sections: Sections,
    window: tuple[float, float],
    volume: Volume,
    bundle: Bundle,
    verdict: Verdict | None,
) -> None:
    width, height = figure.get_size_inches() * DPI
    left, top = MARGIN_PX / width, banner_px(verdict)
    write(figure, left, 1 - (top + 12) / height, volume.case, va="top", weight="bold", size=13)
    shown = f"window {window[0]:.4g} to {window[1]:.4g}"
    made = f"{bundle.name} {bundle.version}"
    if verdict is not None and not top:
        why = ", ".join(note.partition(":")[0] for note in verdict.notes)
        line = f"verdict: {verdict.status}" + (f" ({why})" if why else "")
        write(figure, left, 1 - 34 / height, line, va="top", size=9, color=COLORS[verdict.status])
    write(figure, 1 - left, 1 - (top + 15) / height, made, va="top", ha="right", size=10, color=DIM)
    write(figure, left, 12 / height, f"{_where(sections, volume)}   {shown}".strip(), size=9, color=DIM)
    write(figure, 1 - left, 12 / height, "research only, not for diagnosis", ha="right", size=9, color=DIM)


def _where(sections: Sections, volume: Volume) -> str:
    """Where the upper planes lie, and how they are turned; of a picture nothing is known of that."""
    if volume.is_picture:
        return sections.page
    right, anterior, superior = sections.point_ras_mm
    planes = "planes" if len(sections.planes) > 1 else "plane"
    return f"upper {planes} through R {right:.1f}  A {anterior:.1f}  S {superior:.1f} mm   patient right on the left"


def _legend_entries(found: Sequence[LabelMeasurement], volume: Volume) -> list[tuple[str, int]]:
    """Text and label value of each entry; value 0 where the entry is no label."""
    if not found:
        return [("no label found", 0)]
    entries = [(f"{row.name[:NAME_LIMIT]}  {size_text(row, volume)}", row.value) for row in found[:LEGEND_LIMIT]]
    more = len(found) - LEGEND_LIMIT
    return [*entries, (f"and {more} more", 0)] if more > 0 else entries


def _write_legend(figure: Figure, entries: Sequence[tuple[str, Color | str]], columns: int) -> None:
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

"""The verdict across the top of a picture: loud where it is not ok."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..verdict import CHECK, OK, REJECT, Verdict

COLORS = {OK: "#58c98b", CHECK: "#f0c75e", REJECT: "#ff5a4f"}
HEADS = {CHECK: "CHECK before use", REJECT: "REJECT: not like the training data, do not rely on this result"}
LINES = 4
"""Reasons that are written out; report.json has all."""
HEAD_PX, LINE_PX, MARGIN_PX = 30, 18, 24
CHARACTER_PX = 7.2
"""Of the reasons' letters, on average and a bit."""
DARK = "#101214"


def banner_px(verdict: Verdict | None) -> int:
    """Height of the banner; 0 where there is nothing to say."""
    if verdict is None or verdict.status == OK:
        return 0
    return HEAD_PX + LINE_PX * len(_lines(verdict)) + LINE_PX // 3


def draw_banner(figure: Figure, verdict: Verdict | None, dpi: int) -> None:
    """Fill the figure's uppermost `banner_px` with the verdict and its reasons."""
    tall = banner_px(verdict)
    if verdict is None or not tall:
        return
    width, height = figure.get_size_inches() * dpi
    corner = (0.0, 1 - tall / height)
    figure.add_artist(Rectangle(corner, 1.0, tall / height, facecolor=COLORS[verdict.status], linewidth=0))
    texts = [(HEADS[verdict.status], "bold", 12)] + [(line, "normal", 10) for line in _lines(verdict)]
    most = int((width - 2 * MARGIN_PX) / CHARACTER_PX)
    for number, (line, weight, size) in enumerate(texts):
        below = 8 if number == 0 else HEAD_PX + LINE_PX * (number - 1)
        shown = line if len(line) <= most else line[: most - 1] + "…"
        written = figure.text(
            MARGIN_PX / width, 1 - below / height, shown, va="top", color=DARK, weight=weight, size=size
        )
        written.set_parse_math(False)


def _lines(verdict: Verdict) -> list[str]:
    lines = [reason.message for reason in verdict.reasons]
    more = len(lines) - LINES
    return [*lines[:LINES], f"and {more} more, in report.json"] if more > 0 else lines

"""The verdict across a preview."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scanloom.pipeline.outputs.banner import COLORS, LINES, banner_px, draw_banner
from scanloom.pipeline.verdict import Reason, Verdict

DPI = 100


def verdict(*severities: str) -> Verdict:
    return Verdict(
        tuple(Reason("cut", severity, f"reason {number}: 5 $ and x_2") for number, severity in enumerate(severities))
    )


def drawn(given: Verdict | None) -> tuple[np.ndarray, list[str]]:
    figure = Figure(figsize=(9, 4), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    draw_banner(figure, given, DPI)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3], [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("given", [None, Verdict(), Verdict(notes=("no fingerprint: so",))])
def test_what_is_ok_has_no_banner(given: Verdict | None) -> None:
    assert banner_px(given) == 0
    pixels, texts = drawn(given)
    assert texts == []
    assert (pixels == 255).all()


@pytest.mark.parametrize("status", ["check", "reject"])
def test_the_banner_has_the_verdict_s_color_across_the_whole_width(status: str) -> None:
    given = verdict(status)
    pixels, texts = drawn(given)
    color = [int(COLORS[status][place : place + 2], 16) for place in (1, 3, 5)]
    tall = banner_px(given)
    assert (pixels[2, :] == color).all()
    assert (pixels[tall + 2] == 255).all()
    assert texts[0].startswith(status.upper())
    assert texts[1] == "reason 0: 5 $ and x_2"


def test_many_reasons_are_counted() -> None:
    _, texts = drawn(verdict(*["check"] * 9))
    assert len(texts) == 1 + LINES + 1
    assert texts[-1] == f"and {9 - LINES} more, in report.json"


def test_a_long_reason_is_cut_to_the_picture_s_width() -> None:
    _, texts = drawn(Verdict((Reason("cut", "check", "x" * 999),)))
    assert texts[1].endswith("…")
    assert len(texts[1]) < 200

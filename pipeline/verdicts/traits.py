"""The facts that are compared with the training's, a row each: how they are measured, and how they are said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

from .expected import Yardstick

AXES = ("left-right", "posterior-anterior", "inferior-superior")
"""What messages call the axes R, A and S."""


@dataclass(frozen=True)
class Trait:
    """One fact of a scan or a label.

    Attributes:
        fact: the attribute's name, in `case_facts` and in the fingerprint.
        code: of the reason.
        what: the reason's subject; "{axis}" is the axis, where there is one a component.
        how: it is measured.
        say: a number in words.
        in_mm: it follows from the spacing, and means nothing where that is not known.
        gravest: the most that it can bring about alone.
    """

    fact: str
    code: str
    what: str
    how: Yardstick
    say: Callable[[float], str] = "{:.3g}".format
    in_mm: bool = False
    gravest: str = "reject"


def _percent(share: float) -> str:
    """A limit may lie beyond what a share can be."""
    return f"{100 * min(max(share, 0.0), 1.0):.3g} %"


_SHAPE = "the histogram's shape (deviations from the mean)"
_DETAIL = "the step from voxel to voxel along {axis} (deviations)"
_FLAT = "the share of neighbouring voxels of the very same value"

SCAN = (
    Trait("shape", "histogram", _SHAPE, Yardstick(0.05), gravest="check"),
    Trait("detail", "detail", _DETAIL, Yardstick(0.06, ratio=True), gravest="check"),
    Trait("flat", "flat", _FLAT, Yardstick(0.02, low=False), _percent, gravest="check"),
)
"""Of a scan, beside spacing, size and intensities, which have rules of their own. Noise adds detail, blur takes it.

A network may cope with another look of the scan: alone it is never beyond belief, what comes of it may be."""

_ML, _MM, _NUMBER = "{:.3g} ml".format, "{:.3g} mm".format, "{:.0f}".format

LABEL = (
    Trait("volume_ml", "volume", "its volume", Yardstick(log(1.1), ratio=True), _ML, in_mm=True),
    Trait("share", "volume", "its share of the scan", Yardstick(log(1.15), ratio=True), _percent),
    Trait("extent_mm", "extent", "its extent along {axis}", Yardstick(log(1.1), ratio=True), _MM, in_mm=True),
    Trait("centre", "position", "its centre, along {axis} of the scan", Yardstick(0.02), _percent),
    Trait("border", "cut", "the share of it at the scan's border", Yardstick(0.003, low=False), _percent),
    Trait("components", "parts", "the number of its parts", Yardstick(log(1.5), ratio=True, low=False), _NUMBER),
    Trait("largest", "parts", "the share of it in its largest part", Yardstick(0.02, high=False), _percent),
    Trait("skew", "shape", "its skew along {axis}", Yardstick(0.05)),
    Trait("offset_mm", "layout", "its place among the labels, along {axis}", Yardstick(0.5), _MM, in_mm=True),
    Trait("level", "contrast", "its mean value (deviations from the scan's mean)", Yardstick(0.05)),
)
"""Of each label."""

CONFIDENCE = Trait(
    "surface_confidence",
    "confidence",
    "the network's mean probability on its surface",
    Yardstick(0.01, high=False),
    _percent,
)

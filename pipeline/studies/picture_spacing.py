"""What the description in a TIFF says of spacing and axes: OME's and ImageJ's; no other is trusted.

Source: OME Data Model 2016-06, Pixels; ImageJ's FileInfo and TiffEncoder (`unit`, `spacing`, `slices`, …).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

Spacing = tuple[float, float, float | None]
"""Edges of a pixel along columns and rows and the distance of pages, in mm; None where that is not told."""

_UNITS_MM = {
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "mm": 1.0,
}  # fmt: skip
"""Lengths of microscopes; inches and cm are a printer's."""

_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^<>]*)")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']")
_MOST_MM = 1e6


@dataclass(frozen=True)
class TiffText:
    """What a description says.

    Attributes:
        spacing: None where it is not told.
        channels, slices, times: 1 where it is not told.
        planes: how many pages there should be; None where it is not told.
    """

    spacing: Spacing | None = None
    channels: int = 1
    slices: int = 1
    times: int = 1
    planes: int | None = None


def read_tiff_text(description: str, x_resolution: float | None, y_resolution: float | None) -> TiffText:
    """What an ImageDescription says.

    Args:
        description: as read with one byte a character.
        x_resolution: XResolution, pixels a unit.
        y_resolution: YResolution.
    """
    text = description.encode("latin-1", "replace").decode("utf-8", "replace")
    if pixels := _PIXELS.search(text):
        return _ome(dict(_ATTRIBUTE.findall(pixels[1])))
    if text.startswith("ImageJ="):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return _imagej(fields, x_resolution, y_resolution)
    return TiffText()


def _ome(fields: Mapping[str, str]) -> TiffText:
    x, y, z = (
        _length(fields.get(f"PhysicalSize{axis}"), fields.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XYZ"
    )
    channels, slices, times = (_count(fields.get(f"Size{axis}")) for axis in "CZT")
    return TiffText(
        spacing=None if x is None or y is None else (x, y, z),
        channels=channels,
        slices=slices,
        times=times,
        planes=slices * times if "SizeZ" in fields or "SizeT" in fields else None,
    )


def _imagej(fields: Mapping[str, str], x_resolution: float | None, y_resolution: float | None) -> TiffText:
    unit = fields.get("unit", "").replace("\\u00B5", "\u00b5")
    x, y = (_length(None if one is None else 1 / one, unit) for one in (x_resolution, y_resolution))
    return TiffText(
        spacing=None if x is None or y is None else (x, y, _length(fields.get("spacing"), unit)),
        channels=_count(fields.get("channels")),
        slices=_count(fields.get("slices")),
        times=_count(fields.get("frames")),
        planes=_count(fields["images"]) if "images" in fields else None,
    )


def _length(value: str | float | None, unit: str) -> float | None:
    """A length in mm; None where it is none, or of another unit."""
    scale = _UNITS_MM.get(unit.strip().lower())
    try:
        length = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return length * scale if scale and 0 < length < _MOST_MM else None


def _count(value: str | None) -> int:
    return int(value) if value is not None and value.strip().isdecimal() and int(value) > 0 else 1

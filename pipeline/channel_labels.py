"""Labels of a bundle that has no `label_classes`: the channels of its network's output, as the Model Zoo names them."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from typing import Any

from .bundle import Bundle, Code, LabelClass
from .errors import BundleError
from .organ_codes import organ_code

BACKGROUND = re.compile(r"(?i)\s*(back\s*ground|bg|other|others|none|no\s.*|non[- ].*)\s*")
"""What channel 0 of a network is called that gives every voxel one label."""
FIRST_COLORS = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
"""Okabe and Ito's, which all eyes tell apart."""
GOLDEN = 0.618034


def labels_of_channels(bundle: Bundle) -> tuple[LabelClass, ...] | None:
    """The labels that `network_data_format.outputs.pred.channel_def` names; None where there is no such.

    Raises:
        BundleError: it is no mapping of channels to names, or its channels may overlap.
    """
    try:
        output = bundle.metadata["network_data_format"]["outputs"]["pred"]
        channels = output["channel_def"]
    except (KeyError, TypeError):
        return None
    where = f"bundle {bundle.name}: channel_def in configs/metadata.json"
    names = _names(channels)
    if not names:
        raise BundleError(f'{where} is {channels!r}. Make it an object such as {{"0": "background", "1": "spleen"}}.')
    if len(names) == 1 and 0 in names and not BACKGROUND.fullmatch(names[0]):
        names = {1: names[0]}  # one channel: what is above the threshold
    elif 0 in names and not BACKGROUND.fullmatch(names[0]):
        raise BundleError(
            f"{where} has no background ({', '.join(names.values())}), so that its labels may overlap, where a voxel "
            "can have one label here. Take a bundle with a background channel."
        )
    named = [(value, name) for value, name in sorted(names.items()) if value > 0]
    if not named:
        raise BundleError(f"{where} names no label. Add those beside the background.")
    return tuple(_label(value, name, place) for place, (value, name) in enumerate(named))


def _names(channels: Any) -> dict[int, str]:
    """Channel -> name; empty where it is none."""
    try:
        names = {int(channel): str(name).strip() for channel, name in dict(channels).items()}
    except (TypeError, ValueError):
        return {}
    usable = isinstance(channels, Mapping) and all(name and value >= 0 for value, name in names.items())
    return names if usable else {}


def _label(value: int, name: str, place: int) -> LabelClass:
    code = organ_code(name)
    return LabelClass(
        value=value,
        name=name,
        category=Code(*code.category),
        type=Code(*code.type),
        modifier=Code(*code.modifier) if code.modifier else None,
        color=_color(place),
    )


def _color(place: int) -> tuple[int, int, int]:
    """sRGB of the label at that place; every one its own hue after the first seven."""
    if place < len(FIRST_COLORS):
        return FIRST_COLORS[place]
    parts = colorsys.hls_to_rgb(GOLDEN * place % 1, 0.55 + 0.1 * (place % 3), 0.75)
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue

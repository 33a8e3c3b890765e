"""What a bundle's metadata may say of its verdicts, as `verdict`: wider or narrower limits, rules that do not apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BundleError

NUMBERS = ("check", "reject", "surface_confidence", "mirrored")


@dataclass(frozen=True)
class Settings:
    """How strict the rules are.

    Attributes:
        check: deviations from the training's median at which a number is worth a look.
        reject: those at which it is beyond belief.
        surface_confidence: least mean probability of the winning class on a label's surface, where no case was held
            out to learn it from.
        mirrored: by how much a mirror image must fit the training better, in squared deviations.
        ignore: codes of reasons that this bundle does not give.
    """

    check: float = 4.0
    reject: float = 8.0
    surface_confidence: float = 0.55
    mirrored: float = 15.0
    ignore: frozenset[str] = frozenset()


def settings_of(name: str, metadata: Mapping[str, Any]) -> Settings:
    """Those in a bundle's metadata; what it does not say is as `Settings` has it.

    Args:
        name: of the bundle.
        metadata: of it.
    Raises:
        BundleError: `verdict` is something else.
    """
    values = metadata.get("verdict", {})
    try:
        numbers = {key: float(values[key]) for key in NUMBERS if key in values}
        settings = Settings(**numbers, ignore=frozenset(map(str, values.get("ignore", ()))))
        unknown = set(values) - {*NUMBERS, "ignore"}
        if unknown or isinstance(values.get("ignore"), str) or not 0 < settings.check <= settings.reject:
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise BundleError(
            f"bundle {name}: verdict in configs/metadata.json is {values!r}. Make it an object such as "
            '{"check": 4, "reject": 8, "surface_confidence": 0.55, "ignore": ["detail"]}, check not above reject, '
            "or leave it out."
        ) from None
    return settings

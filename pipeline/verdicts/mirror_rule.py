"""Do the labels lie as in training, or as in a mirror: a scan whose header takes left for right looks like any other.

Where the training's labels lie to one side, or have a thicker end, a case can be held against them as it is and
mirrored. Where the training has both sides alike, both fit equally well, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..case_facts import LabelFacts
from ..fingerprint import Fingerprint
from ..verdict import CHECK, Reason
from .expected import deviations
from .settings import Settings
from .traits import AXES, LABEL

MIRRORED: Mapping[str, Callable[[float], float]] = {
    "centre": lambda place: 1 - place,
    "skew": lambda value: -value,
    "offset_mm": lambda value: -value,
}
"""Fact -> what a mirror makes of it."""
FARTHEST = 5.0
"""Deviations that one fact counts for at most, so that no single one decides."""


def mirror_reasons(
    labels: Mapping[int, LabelFacts], fingerprint: Fingerprint, settings: Settings, axes: Sequence[int]
) -> Iterator[Reason]:
    """One reason an axis along which the mirror image fits the training better by `settings.mirrored`.

    Args:
        labels: value -> facts of the labels that were found.
        fingerprint: of the training.
        settings: of the bundle.
        axes: along which the training's scans have more than a voxel.
    """
    for axis in axes:
        given, mirrored = (_misfit(labels, fingerprint, axis, mirror) for mirror in (False, True))
        if given - mirrored > settings.mirrored:
            yield Reason(
                "mirrored",
                CHECK,
                f"mirrored along {AXES[axis]} the labels would lie as in training, and as they are they do not "
                f"(squared deviations {mirrored:.0f} and {given:.0f}): a scan flipped, or the body's other side",
            )


def _misfit(labels: Mapping[int, LabelFacts], fingerprint: Fingerprint, axis: int, mirror: bool) -> float:
    """Sum of the squares of what the facts along the axis lie from their medians, in deviations."""
    total = 0.0
    for value, found in labels.items():
        size = fingerprint.labels[value]
        for trait in LABEL:
            spreads = size.facts.get(trait.fact)
            if trait.fact in MIRRORED and spreads:
                number = getattr(found, trait.fact)[axis]
                number = MIRRORED[trait.fact](number) if mirror else number
                away = deviations(number, spreads[axis], size.cases, trait.how)
                total += min(abs(away), FARTHEST) ** 2
    return total

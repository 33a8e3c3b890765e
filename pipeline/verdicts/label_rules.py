"""Are the labels like those of the training: is each there, as large, in its place, whole, in one piece, as sure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..case_facts import LabelFacts
from ..fingerprint import Fingerprint, LabelSize, Spread, Spreads
from ..verdict import CHECK, REJECT, Reason
from .compared import compared
from .settings import Settings
from .traits import CONFIDENCE, LABEL, Trait

USUAL = 0.8
"""A label that fewer of the training cases hold may be missing."""
VOLUMES = ("volume_ml", "share")
"""The first is compared where the spacing is known, else the second."""


def label_reasons(
    labels: Mapping[int, LabelFacts],
    surfaces: Mapping[int, float],
    knows_spacing: bool,
    fingerprint: Fingerprint,
    settings: Settings,
    axes: Sequence[int],
) -> Iterator[Reason]:
    """Whatever is not as in training; of one code the gravest, and how many labels share it.

    Args:
        labels: value -> facts of the labels that were found.
        surfaces: value -> mean probability of the winning class on its surface.
        knows_spacing: the scan says how large its voxels are.
        fingerprint: of the training.
        settings: of the bundle.
        axes: along which the training's scans have more than a voxel.
    """
    by_code: defaultdict[str, dict[str, Reason]] = defaultdict(dict)
    in_mm = fingerprint.has_spacing and knows_spacing
    for value, size in fingerprint.labels.items():
        if value not in labels:
            reasons = [_missing(size, fingerprint.cases)]
        else:
            reasons = [
                *_of_label(value, labels[value], size, in_mm, fingerprint, settings, axes),
                _confidence(value, size, surfaces, fingerprint, settings),
            ]
        for reason in filter(None, reasons):
            by_code[reason.code][size.name] = _graver(by_code[reason.code].get(size.name), reason)
    yield from map(_one_of, by_code.values())


def _missing(size: LabelSize, cases: int) -> Reason | None:
    share = size.cases / max(cases, 1)
    if share < USUAL:
        return None
    severity = REJECT if size.cases == cases else CHECK
    return Reason("missing", severity, f"{size.name}: not found, and {size.cases} of {cases} training cases have it")


def _of_label(
    value: int,
    found: LabelFacts,
    size: LabelSize,
    in_mm: bool,
    fingerprint: Fingerprint,
    settings: Settings,
    axes: Sequence[int],
) -> Iterator[Reason]:
    for trait in LABEL:
        if (trait.in_mm and not in_mm) or (in_mm and trait.fact == VOLUMES[1]):
            continue
        spreads = _spreads(value, size, trait, fingerprint)
        reason = spreads and compared(trait, getattr(found, trait.fact), spreads, size.cases, settings, size.name, axes)
        if reason:
            yield reason


def _spreads(value: int, size: LabelSize, trait: Trait, fingerprint: Fingerprint) -> Spreads:
    """Over the annotated cases; wider where the network's own results, on cases held out, reach farther."""
    own = (size.volume_ml,) if trait.fact == "volume_ml" and size.volume_ml else size.facts.get(trait.fact, ())
    seen = fingerprint.held_out.labels.get(value, {}).get(trait.fact, ()) if fingerprint.held_out else ()
    if not own or not seen:
        return own
    return tuple(_reaching(a, b) for a, b in zip(own, seen, strict=True))


def _reaching(own: Spread, other: Spread) -> Spread:
    return replace(own, least=min(own.least, other.least), most=max(own.most, other.most))


def _confidence(
    value: int, size: LabelSize, surfaces: Mapping[int, float], fingerprint: Fingerprint, settings: Settings
) -> Reason | None:
    if value not in surfaces:
        return None
    held_out = fingerprint.held_out
    spreads = held_out.labels.get(value, {}).get(CONFIDENCE.fact) if held_out else None
    if held_out and spreads:
        return compared(CONFIDENCE, surfaces[value], spreads, held_out.cases, settings, size.name)
    if surfaces[value] >= settings.surface_confidence:
        return None
    found, least = CONFIDENCE.say(surfaces[value]), CONFIDENCE.say(settings.surface_confidence)
    return Reason(CONFIDENCE.code, CHECK, f"{size.name}: {CONFIDENCE.what} is {found}, expected {least} at least")


def _graver(one: Reason | None, other: Reason) -> Reason:
    return one if one is not None and one.severity == REJECT else other


def _one_of(by_label: Mapping[str, Reason]) -> Reason:
    """The gravest, and how many other labels it is said of."""
    first = max(by_label.values(), key=lambda reason: reason.severity == REJECT)
    more = len(by_label) - 1
    likewise = f"; likewise {more} other label{'s' if more > 1 else ''}" if more else ""
    return replace(first, message=first.message + likewise)

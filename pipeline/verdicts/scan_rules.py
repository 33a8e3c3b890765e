"""Is the scan like those of the training: its modality, spacing, size, intensities, histogram and detail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log

from ..case_facts import ScanFacts
from ..fingerprint import Fingerprint, Spread
from ..verdict import CHECK, REJECT, Reason
from .compared import compared
from .expected import Yardstick
from .settings import Settings
from .traits import SCAN, Trait

SPACING, SIZE, PIXELS = (
    Trait(fact, code, f"the {code} along {{axis}}", Yardstick(log(least), ratio=True), say)
    for fact, code, least, say in (
        ("spacing_mm", "spacing", 1.07, "{:.3g} mm".format),
        ("extent_mm", "size", 1.05, "{:.4g} mm".format),
        ("size_voxels", "size", 1.05, "{:.0f} voxels".format),
    )
)
INTENSITIES = Trait("levels", "intensities", "the values' {level}", Yardstick(0.1), gravest=CHECK)
LEVEL_NAMES = ("lowest (percentile 0.5)", "lower quartile", "median", "upper quartile", "highest (percentile 99.5)")
NEGATIVE = 0.1
"""Of the highest value: what noise about 0 reaches below it in a scan of magnitudes, at most."""
OF_PIECES = 0.0
"""Scans whose labels lie at the border, in the median of the training cases, to a larger share than this are pieces of
something larger, of which a scan may show more, and is still no other thing where it shows less."""


def scan_reasons(
    scan: ScanFacts,
    modality: str | None,
    knows_spacing: bool,
    fingerprint: Fingerprint,
    settings: Settings,
    axes: Sequence[int],
) -> Iterator[Reason]:
    """Whatever is not as in training.

    Args:
        scan: its facts.
        modality: of it, where it says.
        knows_spacing: it says how large its voxels are.
        fingerprint: of the training.
        settings: of the bundle.
        axes: along which the training's scans have more than a voxel.
    """
    if modality and fingerprint.modality and modality != fingerprint.modality:
        yield Reason("modality", REJECT, f"the modality is {modality}, expected {fingerprint.modality}")
    if fingerprint.has_spacing and not knows_spacing:
        yield Reason("spacing", CHECK, "the scan does not say how large its voxels are; 1 mm was taken")
    found = [_size(scan, knows_spacing, fingerprint, settings, axes), _intensities(scan, fingerprint, settings)]
    if fingerprint.has_spacing and knows_spacing:
        spacing = compared(SPACING, scan.spacing_mm, fingerprint.spacing_mm, fingerprint.cases, settings, axes=axes)
        found.insert(0, spacing)
    for trait in SCAN:
        spreads = fingerprint.scan.get(trait.fact)
        if spreads:
            found.append(compared(trait, getattr(scan, trait.fact), spreads, fingerprint.cases, settings, axes=axes))
    yield from (reason for reason in found if reason is not None)


def _size(
    scan: ScanFacts, knows_spacing: bool, fingerprint: Fingerprint, settings: Settings, axes: Sequence[int]
) -> Reason | None:
    trait = SIZE if fingerprint.has_spacing and knows_spacing else PIXELS
    if _are_pieces(fingerprint):
        trait = replace(trait, how=replace(trait.how, high=False), gravest=CHECK)
    values, spreads = getattr(scan, trait.fact), getattr(fingerprint, trait.fact)
    return compared(trait, values, spreads, fingerprint.cases, settings, axes=axes)


def _are_pieces(fingerprint: Fingerprint) -> bool:
    borders = [label.facts["border"][0].median for label in fingerprint.labels.values() if "border" in label.facts]
    return any(border > OF_PIECES for border in borders)


def _intensities(scan: ScanFacts, fingerprint: Fingerprint, settings: Settings) -> Reason | None:
    """The first percentile that lies far out; by ratio where the training has no negative value, for scales differ."""
    spreads = tuple(fingerprint.image_levels.values())
    if len(spreads) != len(scan.levels):
        return None
    lowest, highest = scan.levels[0], scan.levels[-1]
    never_negative = spreads[0].least >= 0
    if never_negative and lowest < -NEGATIVE * abs(highest):
        return Reason(INTENSITIES.code, CHECK, f"the scan has values below 0 ({lowest:.3g}), expected none")
    how = Yardstick(0.1, ratio=True) if never_negative else Yardstick(0.05 * _width(spreads))
    for name, value, spread in list(zip(LEVEL_NAMES, scan.levels, spreads, strict=True))[1 if never_negative else 0 :]:
        trait = replace(INTENSITIES, what=INTENSITIES.what.format(level=name), how=how)
        reason = compared(trait, value, (spread,), fingerprint.cases, settings)
        if reason:
            return reason
    return None


def _width(spreads: Sequence[Spread]) -> float:
    """Of the median scan's intensities."""
    return max(spreads[-1].median - spreads[0].median, 1e-6)

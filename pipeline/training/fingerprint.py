"""Takes the fingerprint of a dataset, case by case."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..case_facts import LEVELS as IMAGE_LEVELS
from ..case_facts import LabelFacts, ScanFacts, look_at_labels, look_at_scan
from ..fingerprint import Fingerprint, HeldOut, Intensities, LabelSize, Spread, Spreads, spreads_of
from .dataset_check import LabelledImage

FOREGROUND_LEVELS = (0.5, 50.0, 99.5)
"""Source: Isensee 2021, Nature Methods 18:203: clipping of CT."""
SAMPLED = 10_000
"""Foreground voxels that a case gives at most, so that large cases do not outvote small ones. Source: nnU-Net."""
SCAN_FACTS = ("shape", "detail", "flat")
LABEL_FACTS = ("share", "components", "largest", "centre", "extent_mm", "border", "skew", "offset_mm", "level")
"""What a fingerprint holds of `ScanFacts` and `LabelFacts`, beside what it has names of its own for."""


class FingerprintBuilder:
    """Takes cases one at a time; what it keeps of each is small.

    Args:
        ignore: the label of voxels that were not annotated.
    """

    def __init__(self, ignore: int | None = None) -> None:
        self.ignore = ignore
        self._rows: list[dict[str, Any]] = []

    def add(self, case: LabelledImage) -> None:
        """One case more."""
        image, array = case.image, case.image.array[0]
        foreground = array[self._is_foreground(case.labels)]
        scan = look_at_scan(image)
        values = [value for value in case.voxels if value not in (0, self.ignore)]
        self._rows.append(
            {
                "case": case.name,
                "modality": image.modality,
                "has_spacing": image.has_spacing,
                "scan": scan,
                "labels": look_at_labels(case.labels, image, scan, values),
                "nonzero": _nonzero_share(array),
                "foreground": _sampled(foreground, SAMPLED, np.random.default_rng(len(self._rows))),
                "ends": (foreground.min(), foreground.max()) if foreground.size else (np.inf, -np.inf),
            }
        )

    def build(
        self, labels: Mapping[int, str], modality: str | None = None, cases: Collection[str] | None = None
    ) -> Fingerprint:
        """The fingerprint of the cases so far.

        Args:
            labels: value -> name, without the background.
            modality: as the dataset's description has it; None takes the scans' own, where they are of one.
            cases: names of those to take; None takes all.
        Raises:
            ValueError: there was none, or none with a label.
        """
        rows = [row for row in self._rows if cases is None or row["case"] in cases]
        pooled = np.concatenate([row["foreground"] for row in rows]) if rows else np.empty(0)
        if not pooled.size:
            raise ValueError("no voxel of any case is labelled. Label some, or pass another dataset.")
        scans: list[ScanFacts] = [row["scan"] for row in rows]
        modalities = {row["modality"] for row in rows}
        levels = spreads_of([scan.levels for scan in scans])
        return Fingerprint(
            cases=len(rows),
            modality=modality or (modalities.pop() if len(modalities) == 1 else None),
            spacing_mm=spreads_of([scan.spacing_mm for scan in scans]),
            size_voxels=spreads_of([scan.size_voxels for scan in scans]),
            extent_mm=spreads_of([scan.extent_mm for scan in scans]),
            nonzero_share=Spread.of([row["nonzero"] for row in rows]),
            foreground=_intensities(rows, pooled),
            image_levels=dict(zip(IMAGE_LEVELS, levels, strict=True)),
            labels={value: _label_size(rows, value, name) for value, name in sorted(labels.items())},
            scan=facts_of(scans, SCAN_FACTS),
            has_spacing=any(row["has_spacing"] for row in rows),
        )

    def _is_foreground(self, labels: np.ndarray) -> np.ndarray:
        return labels > 0 if self.ignore is None else (labels > 0) & (labels != self.ignore)


def _intensities(rows: Sequence[Mapping[str, Any]], pooled: np.ndarray) -> Intensities:
    p00_5, median, p99_5 = (float(value) for value in np.percentile(pooled, FOREGROUND_LEVELS))
    return Intensities(
        mean=float(pooled.mean(dtype=np.float64)),
        std=float(pooled.std(dtype=np.float64)),
        least=float(min(row["ends"][0] for row in rows)),
        p00_5=p00_5,
        median=median,
        p99_5=p99_5,
        most=float(max(row["ends"][1] for row in rows)),
    )


def _label_size(rows: Sequence[Mapping[str, Any]], value: int, name: str) -> LabelSize:
    found: list[LabelFacts] = [row["labels"][value] for row in rows if value in row["labels"]]
    volume = Spread.of([each.volume_ml for each in found]) if found else None
    return LabelSize(name, len(found), volume, facts_of(found, LABEL_FACTS))


def facts_of(found: Sequence[ScanFacts | LabelFacts], names: Sequence[str]) -> dict[str, Spreads]:
    """Name of a fact -> its spreads over what was found; empty where nothing was."""
    return {
        name: spreads_of([np.atleast_1d(getattr(each, name)).tolist() for each in found]) for name in names if found
    }


def joined(fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    """One of several training sets that share most of their cases, as those of the folds of a dataset do.

    What lies farthest out of any is what lies farthest out of all; the percentiles between are means. The number of
    cases is that of the largest.
    """
    first, *others = fingerprints
    if not others:
        return first
    labels = {
        value: LabelSize(
            size.name,
            max(each.labels[value].cases for each in fingerprints),
            _joined_spread([each.labels[value].volume_ml for each in fingerprints]),
            _joined_facts([each.labels[value].facts for each in fingerprints]),
        )
        for value, size in first.labels.items()
    }
    held_out = [each.held_out for each in fingerprints if each.held_out is not None]
    ends = [each.foreground for each in fingerprints]
    foreground = replace(first.foreground, least=min(each.least for each in ends), most=max(each.most for each in ends))
    return replace(
        first,
        cases=max(each.cases for each in fingerprints),
        spacing_mm=_joined_spreads([each.spacing_mm for each in fingerprints]),
        size_voxels=_joined_spreads([each.size_voxels for each in fingerprints]),
        extent_mm=_joined_spreads([each.extent_mm for each in fingerprints]),
        nonzero_share=_joined_spread([each.nonzero_share for each in fingerprints]),
        foreground=foreground,
        image_levels={
            level: _joined_spread([each.image_levels[level] for each in fingerprints]) for level in first.image_levels
        },
        labels=labels,
        scan=_joined_facts([each.scan for each in fingerprints]),
        held_out=_joined_held_out(held_out),
    )


def _joined_held_out(found: Sequence[HeldOut]) -> HeldOut | None:
    if not found:
        return None
    values = {value for each in found for value in each.labels}
    labels = {
        value: _joined_facts([each.labels[value] for each in found if value in each.labels]) for value in sorted(values)
    }
    return HeldOut(sum(each.cases for each in found), labels)


def _joined_facts(found: Sequence[Mapping[str, Spreads]]) -> dict[str, Spreads]:
    """Of the facts that all have; who holds none has seen no such label."""
    held = [each for each in found if each]
    names = [name for name in held[0] if all(name in each for each in held)] if held else []
    return {name: _joined_spreads([each[name] for each in held]) for name in names}


def _joined_spreads(found: Sequence[Spreads]) -> Spreads:
    joined = [_joined_spread(component) for component in zip(*found, strict=True)]
    return tuple(spread for spread in joined if spread is not None)


def _joined_spread(found: Sequence[Spread | None]) -> Any:
    held = [spread for spread in found if spread is not None]
    if not held:
        return None
    inner = {name: float(np.mean([getattr(each, name) for each in held])) for name in ("p10", "median", "p90")}
    return Spread(least=min(each.least for each in held), most=max(each.most for each in held), **inner)


def _sampled(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """All values (n,), or `count` of them, drawn with replacement as nnU-Net does; float64."""
    if len(values) > count:
        values = values[random.integers(len(values), size=count)]
    return values.astype(np.float64)


def _nonzero_share(array: np.ndarray) -> float:
    """Share of the array that the box around its values other than 0 takes; 1 for an empty one."""
    taken = [np.flatnonzero(array.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    share = 1.0
    for axis, places in enumerate(taken):
        if not places.size:
            return 1.0
        share *= (places[-1] - places[0] + 1) / array.shape[axis]
    return float(share)

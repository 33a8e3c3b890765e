"""What a case is like, to be held against the training: the scan and its labels as one, or plane by plane."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..case_facts import LabelFacts, ScanFacts, in_patient_order, look_at_labels, look_at_scan, patient_spacing
from ..fingerprint import Fingerprint
from ..volume import Volume

PLANES = 8
"""Of a stack whose planes are judged each by itself, this many are looked at."""


@dataclass(frozen=True)
class Look:
    """Facts of a case.

    Attributes:
        scan: of the scan.
        labels: value -> facts, of the labels that are there.
        axes: along which the training's scans have more than a voxel.
        planes: how many planes were looked at, where the training's scans are single planes and this is a stack; the
            facts are medians over them. 1 else.
    """

    scan: ScanFacts
    labels: Mapping[int, LabelFacts]
    axes: tuple[int, ...]
    planes: int = 1


def look(volume: Volume, labels: np.ndarray, fingerprint: Fingerprint) -> Look:
    """The facts of a case that the fingerprint can be asked about.

    Args:
        volume: as read.
        labels: (X, Y, Z) on its grid.
        fingerprint: of the training.
    """
    values = list(fingerprint.labels)
    axes = tuple(axis for axis, spread in enumerate(fingerprint.size_voxels) if spread.most > 1)
    flat = [axis for axis in range(3) if axis not in axes]
    if len(flat) != 1 or in_patient_order(labels, volume.affine).shape[flat[0]] == 1:
        scan = look_at_scan(volume)
        return Look(scan, look_at_labels(labels, volume, scan, values), axes)
    planes = list(_planes(volume, labels, flat[0]))
    looks = [_facts(part, part_labels, values) for part, part_labels in planes]
    found = {
        value: _median([each[value] for _, each in looks if value in each])
        for value in values
        if 2 * sum(value in each for _, each in looks) >= len(looks)
    }
    return Look(_median([scan for scan, _ in looks]), found, axes, len(planes))


def _facts(volume: Volume, labels: np.ndarray, values: Collection[int]) -> tuple[ScanFacts, dict[int, LabelFacts]]:
    scan = look_at_scan(volume)
    return scan, look_at_labels(labels, volume, scan, values)


def _planes(volume: Volume, labels: np.ndarray, axis: int) -> list[tuple[Volume, np.ndarray]]:
    """Some planes across the patient's `axis`, evenly spaced, each as a volume in patient order."""
    image, marked = (in_patient_order(array, volume.affine) for array in (volume.array[0], labels))
    affine = np.diag([*patient_spacing(volume), 1.0])
    places = np.unique(np.linspace(0, image.shape[axis] - 1, PLANES).round().astype(int))
    cuts = [tuple(slice(at, at + 1) if dim == axis else slice(None) for dim in range(3)) for at in places]
    return [(replace(volume, array=image[cut][np.newaxis], affine=affine), marked[cut]) for cut in cuts]


def _median(facts: Sequence[Any]) -> Any:
    """Of facts of one kind, each number by itself."""
    first = facts[0]
    numbers = {}
    for name in vars(first):
        middle = np.median([getattr(each, name) for each in facts], axis=0)
        numbers[name] = tuple(map(float, middle)) if isinstance(getattr(first, name), tuple) else float(middle)
    return replace(first, **numbers)

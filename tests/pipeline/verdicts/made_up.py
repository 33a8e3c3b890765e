"""A made-up organ of two labels, off centre and thicker at one end, in noise: cases to train on, and to spoil."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scanloom.pipeline.fingerprint import Fingerprint, HeldOut, Spread
from scanloom.pipeline.training.dataset_check import LabelledImage
from scanloom.pipeline.training.fingerprint import FingerprintBuilder
from scanloom.pipeline.training.voxel_faults import count_labels
from scanloom.pipeline.volume import Notice, Volume

NAMES = {1: "head", 2: "tail"}
SURE = {1: 0.87, 2: 0.86}


def make_case(seed: int = 0, size: tuple[int, int, int] = (30, 36, 28), unit: float = 1.0) -> tuple[Volume, np.ndarray]:
    """A scan and its labels; `unit` is the millimetres of a voxel."""
    random = np.random.default_rng(seed)
    size = tuple(int(n + random.integers(-1, 2)) for n in size)  # type: ignore[assignment]
    middle = np.array([0.4, 0.5, 0.5]) * size + random.normal(0, 0.4, 3)
    x, y, z = np.indices(size) - middle.reshape(3, 1, 1, 1)
    along = (y + 10) / 20  # 0 at the tail's end, 1 at the head's
    wide = (2.2 + 3.5 * along) * random.normal(1, 0.03)
    inside = (along > 0) & (along < 1) & ((x - 2 * along) ** 2 + z**2 < wide**2)
    labels = np.where(inside, np.where(along > 0.6, 1, 2), 0).astype(np.uint8)
    array = 300 + 80 * (labels == 1) + 60 * (labels == 2) + random.normal(0, 30, size)
    affine = np.diag([unit, unit, unit, 1.0])
    return Volume(array.astype(np.float32)[np.newaxis], affine, f"case{seed}", "MR"), labels


def make_fingerprint(cases: int = 40, held_out: bool = True) -> Fingerprint:
    """Of cases 100 and on, so that others are new."""
    builder = FingerprintBuilder()
    for seed in range(100, 100 + cases):
        volume, labels = make_case(seed)
        builder.add(LabelledImage(volume.case, volume, labels, count_labels(labels).voxels))
    made = builder.build(NAMES)
    if not held_out:
        return made
    spreads = {value: {"surface_confidence": (Spread(0.83, 0.85, 0.87, 0.88, 0.89),)} for value in NAMES}
    return replace(made, held_out=HeldOut(10, spreads))


def spoilt(volume: Volume, array: np.ndarray) -> Volume:
    """The case with other voxels."""
    return replace(volume, array=np.ascontiguousarray(array, np.float32)[np.newaxis])


def without_spacing(volume: Volume) -> Volume:
    """As a picture is read that does not say how large its pixels are."""
    return replace(volume, notices=(Notice("no-spacing", "1 mm was taken"),))

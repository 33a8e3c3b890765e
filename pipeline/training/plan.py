"""A training planned from a dataset's fingerprint: spacing, patch, batch, network, normalisation, windows.

The rules are nnU-Net's (Isensee 2021, Nature Methods 18:203, supplementary note 2), in our own words and for our own
network; docs/planning.md has them as a table, and where they differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, prod
from typing import Any

from ..fingerprint import Fingerprint
from .topology import Topology, feature_values, plan_topology

ANISOTROPIC = 3.0
"""An axis is thick whose spacing is more than this many times the others', and whose voxels are as many times fewer."""
LARGEST_BATCH_SHARE = 0.05
"""Of all voxels of the dataset that a batch may see."""
TRAINED_SHARE = 0.8
"""Of the cases that train in a fold of five."""
MASKED_BELOW = 0.75
"""Share of a scan that the box around its values other than 0 takes, below which the rest is no measurement."""
OVERSAMPLED_FROM = 1.5
"""Patches in the median scan from which on foreground is oversampled."""
VALIDATIONS = 10
SIDES = {"left", "right", "l", "r", "lt", "rt", "lh", "rh"}


@dataclass(frozen=True)
class Budget:
    """What a step may cost.

    Attributes:
        name: of the kind of machine.
        values: that the network's feature maps may have for one patch, where two fill the memory.
        features: channels of the first level.
        most_features: of any level.
        steps: of the whole training.
        mirror_axes: along which the anatomy is mirrored, if no label names a side.
        window_values: channels of the first level times voxels of a window at inference.
        cache_voxels: of prepared scans that are kept in memory.
    """

    name: str
    values: float
    features: int
    most_features: int
    steps: int
    mirror_axes: tuple[int, ...]
    window_values: float
    cache_voxels: float


BUDGETS = {
    "gpu": Budget("gpu", 560e6, 32, 320, 25_000, (0, 1, 2), 100e6, 4e9),
    "cpu": Budget("cpu", 20e6, 16, 160, 5_000, (0,), 50e6, 1e9),
}
"""`gpu` is nnU-Net's, for 8 GiB of GPU memory; `cpu` is ours, a second or two a step on two cores."""


@dataclass(frozen=True)
class Normalisation:
    """How intensities become the network's input.

    Attributes:
        kind: "clip" (to `low` and `high`, then less `mean`, by `std`), or "z-score" of each scan.
        nonzero: a z-score of the values other than 0 alone.
    """

    kind: str
    nonzero: bool = False
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What a training is set to. Lengths an axis are in the order R, A, S.

    Attributes:
        budget: name of the budget.
        spacing_mm: that scans are resampled to.
        median_size: voxels of the median scan at that spacing.
        patch_size: voxels of a training crop; a multiple of `size_divisor`.
        batch_size: crops a step.
        strides: of each pooling.
        kernel_sizes: of each level.
        features: channels of each level.
        normalisation: of intensities.
        mirror_axes: that crops, and scans at inference, are mirrored along.
        thick_axis: along which a patch has so few voxels that it is not rotated into the others; None for none.
        oversampled: a third of the crops is centred on a label.
        epochs: passes over the cases of a fold.
        validate_every: epochs.
        cache_rate: share of the cases whose prepared scans are kept in memory.
    """

    budget: str
    spacing_mm: tuple[float, ...]
    median_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    normalisation: Normalisation
    mirror_axes: tuple[int, ...]
    thick_axis: int | None
    oversampled: bool
    epochs: int
    validate_every: int
    cache_rate: float

    @property
    def size_divisor(self) -> tuple[int, ...]:
        """What the patch is a multiple of, an axis."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True)) or (1,) * len(self.patch_size)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a bundle's metadata, as `plan`."""
        return {
            key: list(map(list, value)) if key in ("strides", "kernel_sizes") else value
            for key, value in asdict(self).items()
        }


def plan_training(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The settings for data of this fingerprint."""
    spacing = target_spacing(fingerprint)
    median = tuple(max(round(n), 1) for n in fingerprint.median_size(spacing))
    classes = len(fingerprint.labels) + 1
    topology = _fitting(spacing, median, classes, budget)
    features = _features(topology, budget)
    batch = _batch_size(topology, features, classes, median, fingerprint.cases, budget)
    epochs = ceil(budget.steps / max(floor(fingerprint.cases * TRAINED_SHARE) // batch, 1))
    patch = topology.patch_size
    largest = max(patch)
    thinnest = min(range(len(patch)), key=patch.__getitem__)
    is_thick = largest > ANISOTROPIC * patch[thinnest]
    cached = prod(fingerprint.median_size(spacing)) * fingerprint.cases
    return Plan(
        budget=budget.name,
        spacing_mm=spacing,
        median_size=median,
        patch_size=patch,
        batch_size=batch,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        features=features,
        normalisation=_normalisation(fingerprint),
        mirror_axes=_mirror_axes([label.name for label in fingerprint.labels.values()], budget),
        thick_axis=thinnest if is_thick else None,
        oversampled=prod(median) >= OVERSAMPLED_FROM * prod(patch),
        epochs=epochs,
        validate_every=max(epochs // VALIDATIONS, 1),
        cache_rate=min(1.0, floor(100 * budget.cache_voxels / cached) / 100),
    )


def target_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """The median spacing; along a thick axis that has few voxels the finer tenth, but no finer than the other axes."""
    spacing = list(fingerprint.median_spacing_mm)
    size = fingerprint.median_size(spacing)
    thick = max(range(len(spacing)), key=spacing.__getitem__)
    others = [axis for axis in range(len(spacing)) if axis != thick]
    coarsest = max(spacing[axis] for axis in others)
    if spacing[thick] > ANISOTROPIC * coarsest and size[thick] * ANISOTROPIC < min(size[axis] for axis in others):
        spacing[thick] = max(fingerprint.spacing_mm[thick].p10, coarsest)
    return tuple(float(f"{mm:.6g}") for mm in spacing)


def inference_windows(
    plan: Plan, fingerprint: Fingerprint, receptive_field: Sequence[int] | None
) -> tuple[str, tuple[int, ...]]:
    """The inferer's mode and window.

    Without seams where a window of reasonable memory holds the largest scan, or at least twice the halo that it gives
    up; else blended windows of the patch's size. See docs/inference.md for why.

    Args:
        plan: the settings.
        fingerprint: of the data.
        receptive_field: of the network, an axis; None where it can not be tiled without seams.
    """
    if receptive_field is not None:
        halos = [field // 2 for field in receptive_field]
        largest = fingerprint.largest_size(plan.spacing_mm)
        room = BUDGETS[plan.budget].window_values / plan.features[0]
        for wanted in ([max(n, 2.5 * h) for n, h in zip(largest, halos, strict=True)], [4.0 * h for h in halos]):
            window = tuple(ceil(n / d) * d for n, d in zip(wanted, plan.size_divisor, strict=True))
            if prod(window) <= room:
                return "seamless", window
    return "gaussian", plan.patch_size


def _fitting(spacing: Sequence[float], median: Sequence[int], classes: int, budget: Budget) -> Topology:
    """The largest patch that the budget allows: as large as a scan, or cut along the axis that covers most of one."""
    cube = [256 * prod(spacing) ** (1 / len(spacing)) / mm for mm in spacing]  # of equal edges in mm
    topology = plan_topology(spacing, [min(round(edge), n) for edge, n in zip(cube, median, strict=True)])
    while feature_values(topology, _features(topology, budget), classes) > budget.values:
        patch, divisor = list(topology.patch_size), topology.size_divisor
        can_shrink = [axis for axis, n in enumerate(patch) if n > divisor[axis]]
        if not can_shrink:
            break
        axis = max(reversed(can_shrink), key=lambda each: patch[each] / median[each])  # of equals the last
        shrunk = list(patch)
        shrunk[axis] -= divisor[axis]
        patch[axis] -= plan_topology(spacing, shrunk).size_divisor[axis]  # a smaller patch may pool less
        topology = plan_topology(spacing, patch)
    return topology


def _features(topology: Topology, budget: Budget) -> tuple[int, ...]:
    """Channels of each level: doubled, up to the most."""
    return tuple(min(budget.features * 2**level, budget.most_features) for level in range(len(topology.kernel_sizes)))


def _batch_size(
    topology: Topology, features: Sequence[int], classes: int, median: Sequence[int], cases: int, budget: Budget
) -> int:
    """What fills the budget, but no more than a twentieth of the data, at least two, and no more than a fold has."""
    fills = round(2 * budget.values / feature_values(topology, features, classes))
    twentieth = round(LARGEST_BATCH_SHARE * prod(median) * cases / prod(topology.patch_size))
    return max(min(max(min(fills, twentieth), 2), floor(cases * TRAINED_SHARE)), 1)


def _normalisation(fingerprint: Fingerprint) -> Normalisation:
    """CT has a scale of its own, which is kept; other scans are brought to one."""
    values = fingerprint.foreground
    if fingerprint.modality == "CT" and values.p99_5 > values.p00_5 and values.std > 0:
        return Normalisation("clip", low=values.p00_5, high=values.p99_5, mean=values.mean, std=values.std)
    return Normalisation("z-score", nonzero=fingerprint.nonzero_share.median < MASKED_BELOW)


def _mirror_axes(names: Sequence[str], budget: Budget) -> tuple[int, ...]:
    """The budget's, without the first where a label is named after a side of the body."""
    words = {word for name in names for word in re.split(r"[^a-z]+", name.lower())}
    return tuple(axis for axis in budget.mirror_axes if axis or not words & SIDES)


def describe_plan(plan: Plan, fingerprint: Fingerprint) -> Mapping[str, str]:
    """The plan in words, setting -> value, for the command's answer and the model card."""
    normalisation = plan.normalisation
    intensities = (
        f"clipped to {normalisation.low:g} and {normalisation.high:g}, less {normalisation.mean:.4g}, "
        f"divided by {normalisation.std:.4g}"
        if normalisation.kind == "clip"
        else "z-score of each scan" + (" where it is not 0" if normalisation.nonzero else "")
    )
    return {
        "cases": str(fingerprint.cases),
        "modality": fingerprint.modality or "not known",
        "spacing": f"{_sizes(plan.spacing_mm)} mm",
        "median scan": f"{_sizes(plan.median_size)} voxels",
        "patch": f"{_sizes(plan.patch_size)} voxels, {plan.batch_size} a batch",
        "levels": f"{', '.join(map(str, plan.features))} channels",
        "strides": ", ".join(_sizes(stride) for stride in plan.strides) or "none",
        "intensities": intensities,
        "mirrored axes": ", ".join("xyz"[axis] for axis in plan.mirror_axes) or "none",
        "training": f"{plan.epochs} epochs, budget {plan.budget}",
    }


def _sizes(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)

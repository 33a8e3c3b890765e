"""How well membranes part a picture into cells: the scores of the ISBI 2012 challenge.

A map of membranes is good where the cells that it parts are the true ones, not where every voxel is right: a gap of one
pixel merges two cells. So the map is cut at a threshold, its regions grow into the membranes until those are thin, and
the two partitions are compared on the pixels that the truth calls a cell.

Source: Arganda-Carreras 2015, Frontiers in Neuroanatomy 9:142, sections 2.3.2 and 2.3.3: foreground-restricted Rand and
information theoretic scores after border thinning, the mean over the slices, the best over the thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from scipy.sparse import csr_matrix
from skimage.measure import label as connected_components
from skimage.metrics import contingency_table
from skimage.segmentation import watershed

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
"""Probabilities of membrane at which a map is cut; the best one counts, as in the challenge."""


@dataclass(frozen=True)
class PartitionScores:
    """How like two partitions are; 1 is equal.

    Attributes:
        v_rand: F-score of split and merge below.
        v_rand_split: the share of pairs of pixels of one cell that are together; less where cells are split.
        v_rand_merge: the share of pairs of pixels found together that are of one cell; less where cells are merged.
        v_info: mutual information over the mean of both entropies.
    """

    v_rand: float
    v_rand_split: float
    v_rand_merge: float
    v_info: float


def partition_scores(truth: np.ndarray, found: np.ndarray) -> PartitionScores:
    """The scores of a partition on the pixels where `truth` has a cell.

    Args:
        truth: cells numbered from 1, 0 between them, any shape.
        found: numbers of regions, same shape; 0 is a region as any other.
    Raises:
        ValueError: the shapes differ, or there is no cell.
    """
    if truth.shape != found.shape:
        raise ValueError(f"a partition of {found.shape} pixels can not be compared with one of {truth.shape}.")
    inside = truth > 0
    if not inside.any():
        raise ValueError("the truth has no cell. Check which value of the labels is membrane.")
    joint = csr_matrix(contingency_table(truth[inside], found[inside], normalize=True))
    pairs = joint.power(2).sum()
    of_truth, of_found = (np.asarray(joint.sum(axis=axis)).ravel() for axis in (1, 0))
    true_pairs, found_pairs = float((of_truth**2).sum()), float((of_found**2).sum())
    entropies = _entropy(of_truth), _entropy(of_found)
    mutual = sum(entropies) - _entropy(joint.data)
    return PartitionScores(
        v_rand=float(2 * pairs / (true_pairs + found_pairs)),
        v_rand_split=float(pairs / true_pairs),
        v_rand_merge=float(pairs / found_pairs),
        v_info=2 * mutual / sum(entropies) if sum(entropies) else 1.0,
    )


def cells(membrane: np.ndarray) -> np.ndarray:
    """The regions (X, Y) that a mask of membranes parts, numbered from 1, 0 on the membranes.

    Two pixels are of one cell where they touch by an edge.
    """
    return np.asarray(connected_components(~membrane, connectivity=1))


def thinned_cells(probability: np.ndarray, threshold: float) -> np.ndarray:
    """The regions that a map of membranes parts at a threshold, grown over the membranes until they meet.

    Args:
        probability: (X, Y) of membrane.
        threshold: above it is membrane.
    """
    return np.asarray(watershed(probability, cells(probability > threshold)))


def membrane_scores(
    truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, float]:
    """What the challenge reports of a stack: the mean over its slices, each score at its best threshold.

    Args:
        truths: a slice, a mask of membrane (X, Y).
        probabilities: a slice, of membrane (X, Y).
        thresholds: to choose from.
    Returns:
        v_rand, v_rand_split, v_rand_merge and v_rand_threshold, v_info (all after thinning), rand_error (1 - the best
        F-score without thinning), pixel_error (share of wrong pixels at 0.5) and pixel_f_error (1 - the best F-score
        of the membrane's pixels).
    Raises:
        ValueError: there is no slice, or one without a cell.
    """
    if not truths:
        raise ValueError("there is no slice to judge.")
    partitions = [cells(truth) for truth in truths]
    pairs = list(zip(partitions, probabilities, strict=True))
    thinned = {t: _mean([partition_scores(one, thinned_cells(map_, t)) for one, map_ in pairs]) for t in thresholds}
    plain = {t: _mean([partition_scores(one, cells(map_ > t)) for one, map_ in pairs]) for t in thresholds}
    best = max(thinned, key=lambda threshold: thinned[threshold]["v_rand"])
    wrong = [np.mean((map_ > 0.5) != truth) for truth, map_ in zip(truths, probabilities, strict=True)]
    overlap = [_pixel_f_score(truths, [map_ > t for map_ in probabilities]) for t in thresholds]
    return {
        **{name: thinned[best][name] for name in ("v_rand", "v_rand_split", "v_rand_merge")},
        "v_rand_threshold": best,
        "v_info": max(scores["v_info"] for scores in thinned.values()),
        "rand_error": 1 - max(scores["v_rand"] for scores in plain.values()),
        "pixel_error": float(np.mean(wrong)),
        "pixel_f_error": 1 - max(overlap),
    }


def _entropy(shares: np.ndarray) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _mean(scores: Sequence[PartitionScores]) -> Mapping[str, float]:
    names = [field.name for field in fields(PartitionScores)]
    return dict(zip(names, np.mean([astuple(each) for each in scores], axis=0).tolist(), strict=True))


def _pixel_f_score(truths: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> float:
    """F-score (Dice) of the membrane's pixels over all slices."""
    both = sum(int((truth & mask).sum()) for truth, mask in zip(truths, masks, strict=True))
    either = sum(int(truth.sum()) + int(mask.sum()) for truth, mask in zip(truths, masks, strict=True))
    return 2 * both / either if either else 1.0

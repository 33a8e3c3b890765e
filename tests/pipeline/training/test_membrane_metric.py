"""The challenge's score as MONAI's engines call it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scanloom.pipeline.training.membrane_metric import VRand
from scanloom.pipeline.training.partitions import membrane_scores


def one_hot(membrane: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([~membrane, membrane])).float()


def slices() -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(0)
    truths = [np.zeros((24, 24), bool) for _ in range(3)]
    for number, truth in enumerate(truths):
        truth[8 + number], truth[:, 12] = True, True
    maps = [np.clip(0.6 * truth + random.uniform(0, 0.4, truth.shape), 0, 1) for truth in truths]
    return truths, maps


def test_the_metric_is_the_score_of_the_whole_stack_however_it_is_batched() -> None:
    truths, maps = slices()
    expected = membrane_scores(truths, maps)["v_rand"]
    whole, parts = VRand(), VRand()
    labels = torch.stack([one_hot(truth) for truth in truths])
    found = torch.stack([torch.from_numpy(np.stack([1 - each, each])).float() for each in maps])
    whole(y_pred=found, y=labels)
    parts(y_pred=found[:1], y=labels[:1])
    parts(y_pred=[*found[1:]], y=[*labels[1:]])  # decollated
    assert whole.aggregate().item() == pytest.approx(expected, abs=1e-6)
    assert parts.aggregate().item() == pytest.approx(expected, abs=1e-6)


def test_after_a_reset_nothing_of_the_last_validation_is_left() -> None:
    truths, maps = slices()
    metric = VRand(thresholds=(0.5,))
    metric(y_pred=one_hot(maps[0] < 2)[None], y=one_hot(truths[0])[None])
    metric.reset()
    metric(y_pred=one_hot(truths[1])[None], y=one_hot(truths[1])[None])
    assert metric.aggregate().item() == pytest.approx(1.0)


def test_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities of shape \(1, 2, 4, 4, 4\); slices"):
        VRand()._compute_tensor(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 2, 4, 4, 4))


def test_without_a_slice_there_is_no_score() -> None:
    with pytest.raises(ValueError, match="no slice was judged"):
        VRand().aggregate()

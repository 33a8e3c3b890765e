"""The V-Rand of the membrane challenge as a metric of MONAI's, for the validations of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from .partitions import THRESHOLDS, cells, partition_scores, thinned_cells


class VRand(CumulativeIterationMetric):
    """Foreground-restricted Rand score after thinning, the mean over the slices at the best threshold.

    Called with (B, K, X, Y) probabilities and one-hot labels, one slice a sample; see `partitions` for the score.

    Args:
        channel: of the membrane.
        thresholds: to choose from; few make a validation quick.
    """

    def __init__(self, channel: int = 1, thresholds: Sequence[float] = THRESHOLDS) -> None:
        super().__init__()
        self.channel, self.thresholds = channel, tuple(thresholds)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(B, T): the score of each slice at each threshold."""
        if y is None or y_pred.ndim != 4:
            raise ValueError(
                f"probabilities of shape {tuple(y_pred.shape)}; slices (B, K, X, Y) and labels are needed."
            )
        scores = []
        for found, label in zip(y_pred, y, strict=True):
            probability = found[self.channel].float().cpu().numpy()
            truth = cells(label[self.channel].cpu().numpy() > 0)
            scores.append([partition_scores(truth, thinned_cells(probability, t)).v_rand for t in self.thresholds])
        return torch.tensor(scores)

    def aggregate(self, *args: Any, **kwargs: Any) -> Tensor:
        """The score of all slices, a scalar."""
        scores = self.get_buffer()
        if not isinstance(scores, Tensor) or not len(scores):
            raise ValueError("no slice was judged.")
        return scores.mean(dim=0).max()

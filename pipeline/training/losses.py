"""What MONAI's losses lack: voxels that do not count, and labels larger than the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from monai.losses import (
    BoundaryLoss,
    DiceCELoss,
    HausdorffDTLoss,
    NACLLoss,
    SoftclDiceLoss,
    SoftDiceclDiceLoss,
    SSIMLoss,
)
from torch import Tensor, nn

NEIGHBOURS = (BoundaryLoss, HausdorffDTLoss, NACLLoss, SoftclDiceLoss, SoftDiceclDiceLoss, SSIMLoss)
"""Losses that look at the neighbours of a voxel, and so at voxels that do not count."""


class IgnoreLabel(nn.Module):
    """A loss of the voxels whose label is not `ignore_label`, as if the others were not there.

    Those get a gradient of exactly zero, change no mean, and their logits may be anything. MONAI's own `ignore_index`
    is no substitute: `DiceCELoss` has none, and `FocalLoss` is multiplied by the number of classes by it. In
    `DeepSupervisionLoss` it belongs inside, around the loss of one head: the label is shrunk by nearest neighbours, so
    that the value stays what it is.

    Args:
        loss: of logits (B, K, *spatial) and a label, a sum or mean over voxels: cross entropies, focal, Dice, Tversky,
            `DiceCELoss`. One that takes a mean over samples (`batch: false`) takes it over those with a voxel that
            counts.
        ignore_label: the label's value there; in a label of several channels, in all of them.
    Raises:
        ValueError: the loss looks at neighbours, does not reduce to a mean, or mixes means over samples and voxels.
    """

    def __init__(self, loss: nn.Module, ignore_label: int = 255) -> None:
        super().__init__()
        name = type(loss).__name__
        if isinstance(loss, NEIGHBOURS):
            raise ValueError(f"{name} looks at the neighbours of a voxel, and so at ignored ones. Take another loss.")
        if getattr(loss, "reduction", "mean") != "mean":
            raise ValueError(f"{name} has the reduction {loss.reduction!r}; IgnoreLabel needs 'mean'.")
        self.loss = loss
        self.ignore_label = ignore_label
        self._terms = _terms(loss)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """(B, K, *spatial) and (B, L, *spatial) -> scalar; 0 where no voxel counts."""
        counts = (label != self.ignore_label).any(dim=1)
        if counts.all():
            return self.loss(logits, label)
        total = logits.flatten()[:0].sum()  # 0, whose gradient is 0
        if counts.any():
            for term in self._terms:
                total = total + term(logits, label, counts)
        return total


class CroppedLabel(nn.Module):
    """A loss for networks without padding, whose logits are smaller than the image: of the label its middle is taken.

    Args:
        loss: of logits and a label of one size.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """(B, K, *inner) and (B, L, *spatial) -> what the loss says of the label's middle, (B, L, *inner).

        Raises:
            ValueError: the logits are larger, or lie not in the middle of a voxel grid.
        """
        sizes = list(zip(label.shape[2:], logits.shape[2:], strict=True))
        if any(outer < inner or (outer - inner) % 2 for outer, inner in sizes):
            raise ValueError(
                f"logits of {tuple(logits.shape[2:])} have no middle in a label of {tuple(label.shape[2:])}."
            )
        middle = [slice((outer - inner) // 2, (outer + inner) // 2) for outer, inner in sizes]
        return self.loss(logits, label[(slice(None), slice(None), *middle)])


@dataclass(frozen=True)
class _Term:
    """A weighted loss over all voxels at once, or the mean over samples of one."""

    loss: Callable[[Tensor, Tensor], Tensor]
    a_sample: bool
    weight: float = 1.0

    def __call__(self, logits: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        if not self.a_sample:
            return self.weight * self.loss(_chosen(logits, counts), _chosen(label, counts))
        samples = zip(logits.split(1), label.split(1), counts.split(1), strict=True)
        losses = [self.loss(_chosen(one, some), _chosen(its, some)) for one, its, some in samples if some.any()]
        return self.weight * torch.stack(losses).mean()


def _terms(loss: nn.Module) -> list[_Term]:
    if isinstance(loss, DiceCELoss):
        dice = _Term(loss.dice, not loss.dice.batch, loss.lambda_dice)
        return [dice, _Term(partial(_cross_entropy, loss), False, loss.lambda_ce)]
    if any(getattr(part, "batch", True) is False for part in loss.modules() if part is not loss):
        raise ValueError(
            f"{type(loss).__name__} adds a mean over samples to one over voxels, and IgnoreLabel can not part them. "
            "Pass it batch: true, or take DiceCELoss."
        )
    return [_Term(loss, getattr(loss, "batch", True) is False)]


def _cross_entropy(loss: DiceCELoss, logits: Tensor, label: Tensor) -> Tensor:
    return loss.ce(logits, label) if logits.shape[1] != 1 else loss.bce(logits, label)


def _chosen(values: Tensor, counts: Tensor) -> Tensor:
    """(B, C, *spatial) -> (1, C, N): the voxels that count, of all samples, in a row."""
    return values.movedim(1, 0)[:, counts].unsqueeze(0)

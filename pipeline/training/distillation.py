"""One network taught by another, or by an ensemble: what a train config names for it.

The teacher sees the batch that the student sees, after augmentation, so its opinion is of that very image. It travels
with the label, as further channels after the label's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ..bundle import find_bundle
from ..bundle_network import load_network
from .step import AutocastInferer


def load_teacher(bundle: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The bundle's network with its weights, in evaluation, learning nothing, in the memory format of training.

    Its inference config is run: what names a bundle here has to trust it.

    Raises:
        BundleError: there is no such bundle, or its config and weights do not fit each other.
    """
    network = load_network(find_bundle(bundle)).eval().requires_grad_(False).to(device)
    for parameter in network.parameters():
        if parameter.dim() in (4, 5):
            layout = torch.channels_last if parameter.dim() == 4 else torch.channels_last_3d
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


class TaughtBatch:
    """`prepare_batch` of a MONAI trainer: another one's image and label, the label with the teacher's logits behind it.

    Args:
        prepare_batch: makes image and label, on the device and augmented.
        teacher: (B, C, *spatial) -> logits (B, K, *spatial); see `load_teacher`.
        precision: "auto", "bf16" or "fp32", in which the teacher computes, as of `AutocastInferer`.
    """

    def __init__(
        self, prepare_batch: Callable[..., Sequence[Any]], teacher: nn.Module, precision: str = "auto"
    ) -> None:
        self.prepare_batch = prepare_batch
        self.teacher = teacher.eval()
        self.precision = precision
        self._infer = AutocastInferer(precision)

    def __call__(self, batchdata: Mapping[Any, Any], *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Image, and (B, L + K, *spatial) for `DistillationLoss`; what else `prepare_batch` gives stays."""
        image, label, *more = self.prepare_batch(batchdata, *args, **kwargs)
        with torch.no_grad():
            logits = self._infer(image, self.teacher)
        return (image, torch.cat([label.to(logits.dtype), logits], dim=1), *more)


class DistillationLoss(nn.Module):
    """(1 - weight) * loss(student, label) + weight * temperature^2 * KL(teacher || student), both softened.

    The divergence is a mean over voxels, at the finest head; the loss gets whatever the student returns, so that with
    `DeepSupervisionLoss` each head learns from the label. Where the loss ignores a label, the teacher still counts.

    Args:
        loss: of the student's output and the label.
        weight: of the teacher, 0 to 1.
        temperature: what both logits are divided by; above 1 small probabilities are learned from, too.
    Raises:
        ValueError: weight or temperature is out of range.

    Source: Hinton 2015, arXiv:1503.02531; the square keeps the gradients' size whatever the temperature.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.5, temperature: float = 2.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight is {weight}; it must be between 0 (the label alone) and 1 (the teacher alone).")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be a positive number.")
        self.loss = loss
        self.weight = weight
        self.temperature = temperature

    def forward(self, student: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Logits (B, K, *spatial), or those of all heads, finest first; (B, L + K, *spatial) of `TaughtBatch`.

        Raises:
            ValueError: the teacher's channels are not the student's.
        """
        finest = student if isinstance(student, Tensor) else student[0]
        classes = finest.shape[1]
        if target.shape[1] not in (classes + 1, 2 * classes):
            raise ValueError(
                f"the student makes {classes} channels, label and teacher together {target.shape[1]}; the teacher must "
                "make as many as the student. Take a teacher with the same labels."
            )
        label, teacher = target[:, :-classes], target[:, -classes:]
        soft = kl_div(self._softened(finest), self._softened(teacher), reduction="none", log_target=True)
        divergence = soft.sum(dim=1).mean()
        return (1 - self.weight) * self.loss(student, label) + self.weight * self.temperature**2 * divergence

    def _softened(self, logits: Tensor) -> Tensor:
        """Log-probabilities; those of one channel with those of its absence."""
        logits = logits.float() / self.temperature
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return log_softmax(logits, dim=1)

"""Several processes that train one network, started by `torchrun`: each has a part of every batch.

A step is then the step of one process with the batches of all: batch norm takes its statistics over all parts, the loss
is taken over all parts (a Dice over the batch is not the mean of the parts' Dice), gradients are averaged. Dropout
alone differs: each process draws its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from ..errors import BundleError
from .processes import process_count, process_rank
from .synchronized_norm import synchronize_batch_norm


@contextmanager
def joined_processes() -> Iterator[None]:
    """The processes joined in a group while the block lasts; nothing where there is one, or they are joined already."""
    if process_count() == 1 or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def told_by_the_first(value: Any) -> Any:
    """The value that the first process calls this with, in every process, when all have come here."""
    if not distributed.is_initialized():
        return value
    told = [value]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def train_together(trainer: Any) -> None:
    """Make a MONAI trainer one of several processes that train as one.

    Args:
        trainer: a SupervisedTrainer, not yet run.
    Raises:
        BundleError: its loader would give every process the same cases.
    """
    if not distributed.is_initialized():
        return
    if not isinstance(getattr(trainer.data_loader, "sampler", None), DistributedSampler):
        raise BundleError(
            "train config: several processes would train on the same cases. Give train#dataloader the sampler "
            "scanloom.pipeline.training.order.EpochSampler, or start one process."
        )
    if process_rank():  # or all would drop the same channels
        torch.manual_seed(int(torch.randint(2**31, (1,))) + process_rank())
    device = trainer.state.device
    synchronize_batch_norm(trainer.network, device)
    devices = [device] if device.type == "cuda" else None
    trainer.network = DistributedDataParallel(trainer.network, device_ids=devices)
    trainer.loss_function = GatheredLoss(trainer.loss_function)


class GatheredLoss(nn.Module):
    """A loss over the batch of all processes together, the same in each.

    Args:
        loss: of (logits, target), the logits a tensor or, under deep supervision, a list of them.
    """

    def __init__(self, loss: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Any, target: Any) -> Tensor:
        """The loss of what all processes have, for which each keeps the gradient of its own part."""
        return self.loss(_gather(logits), _gather(target))


def _gather(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_gather(each) for each in value)
    return _Gather.apply(value)


class _Gather(torch.autograd.Function):
    """(B, …) of each process -> (B * processes, …), by rank."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(process_count())]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Our part of the gradient, as often as there are processes: DistributedDataParallel takes the mean of them."""
        return gradients[0].chunk(process_count())[process_rank()] * process_count()

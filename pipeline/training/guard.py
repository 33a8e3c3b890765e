"""Stops a training whose loss is no number, and says where."""

from __future__ import annotations

import math
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..errors import PipelineError


class LossError(PipelineError):
    """The loss is no number."""


def stop_where_loss_is_no_number(trainer: Engine) -> None:
    """Let the trainer raise after the first step whose loss is NaN or infinite.

    The error names epoch, step and the cases of the batch as the dataset calls them. What was learned up to the epoch's
    start is in the last checkpoint.
    """
    trainer.add_event_handler(Events.ITERATION_COMPLETED, _check)


def _check(trainer: Engine) -> None:
    loss = loss_of(trainer)
    if math.isfinite(loss):
        return
    length = trainer.state.epoch_length or 1
    step = (trainer.state.iteration - 1) % length + 1
    cases = ", ".join(case_names(trainer.state.batch)) or "of no name"
    raise LossError(
        f"the loss is {loss} in epoch {trainer.state.epoch}, step {step} of {length}, cases {cases}. "
        f"The checkpoint is of epoch {trainer.state.epoch - 1}. Look at these cases, or train anew with a lower "
        "learning rate or precision fp32 (--set)."
    )


def loss_of(trainer: Engine) -> float:
    """The loss of a trainer's last step, its output decollated or not."""
    output = trainer.state.output
    item = output[0] if isinstance(output, list | tuple) else output
    return float(torch.as_tensor(item["loss"]).detach())


def case_names(batch: Any) -> list[str]:
    """The names in the dataset of a batch's cases; none where the batch does not say them."""
    if isinstance(batch, list | tuple):
        return [name for item in batch for name in case_names(item)]
    names = batch.get("case", ()) if isinstance(batch, dict) else ()
    return [names] if isinstance(names, str) else [str(name) for name in names]

"""Gradients no longer than a limit, a handler for MONAI's trainer, which does not clip."""

from __future__ import annotations

import math
from typing import Any

from ignite.engine import Engine
from monai.engines import IterationEvents
from torch.nn.utils import clip_grad_norm_


class GradientClipping:
    """Scales the gradient before a step of the optimiser so that its norm is at most `max_norm`; nnU-Net's is 12.

    Under a gradient scaler (fp16) the gradient is unscaled first: the limit is on the true one. With
    `accumulation_steps` it is that of all their batches together. `engine.state.gradient_norm` is the norm before.

    Args:
        max_norm: the limit, over all parameters that the optimiser has.
        norm_type: p of the norm; inf limits the largest element.
    Raises:
        ValueError: the limit is not a positive number.
    """

    def __init__(self, max_norm: float, norm_type: float = 2.0) -> None:
        if not 0 < max_norm < math.inf:
            raise ValueError(f"max_norm is {max_norm}; it must be a positive number.")
        self.max_norm = max_norm
        self.norm_type = norm_type

    def attach(self, engine: Engine) -> None:
        """Clip between backward pass and step of this `SupervisedTrainer`."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Clip, where the optimiser is about to step."""
        if not _is_last_to_accumulate(engine):
            return
        if engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [each for group in engine.optimizer.param_groups for each in group["params"]]
        engine.state.gradient_norm = clip_grad_norm_(parameters, self.max_norm, self.norm_type)


def _is_last_to_accumulate(engine: Any) -> bool:
    """Whether `SupervisedTrainer` steps after this batch."""
    steps, length = engine.accumulation_steps, engine.state.epoch_length
    number = engine.state.iteration if length is None else (engine.state.iteration - 1) % length + 1
    return number % steps == 0 or number == length

"""Stop a training that no longer gets better, a handler that can be named in a config and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping as IgniteEarlyStopping


class EarlyStopping:
    """Ends the training after `patience` validations in a row whose key metric is no better than the best before.

    MONAI's `EarlyStopHandler` must be given its trainer, which a config can not do (the trainer holds the validation,
    which would hold the trainer), and does not resume. This one stands among the trainer's handlers, after the
    `ValidationHandler`, and learns its trainer there.

    Args:
        validator: the evaluator, whose key metric decides.
        patience: validations, not epochs.
        threshold: by how much a metric must be better than the best to count as better.
        mode: "max" for metrics that grow, "min" for those that fall.

    Attributes:
        stopped: whether it has ended the training. A resumed training that had ended does not begin again.

    Raises:
        ValueError: the patience is less than one validation, the threshold negative, or there is no such mode.
    """

    def __init__(
        self, validator: Engine, patience: int, threshold: float = 0.0, mode: Literal["max", "min"] = "max"
    ) -> None:
        self.validator = validator
        self._rule = IgniteEarlyStopping(
            patience, _key_metric, Engine(lambda engine, batch: None), threshold, cumulative=True, mode=mode
        )

    @property
    def stopped(self) -> bool:
        """Whether it has ended the training."""
        return self._rule.counter >= self._rule.patience

    def attach(self, engine: Engine) -> None:
        """Watch over this trainer."""
        self._rule.trainer = engine
        self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._rule)
        engine.add_event_handler(Events.STARTED, self._end_again)

    def state_dict(self) -> dict[str, Any]:
        """Validations since the best one, and its metric."""
        return dict(self._rule.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self._rule.load_state_dict(state)

    def _end_again(self, trainer: Engine) -> None:
        if self.stopped:
            trainer.terminate()


def _key_metric(validator: Engine) -> float:
    return float(validator.state.metrics[validator.state.key_metric_name])

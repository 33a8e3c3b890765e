"""Early stopping: after so many validations without a better one, also across a resumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from ignite.engine import Engine, Events
from scanloom.pipeline.training.early_stopping import EarlyStopping


def make_training(scores: Sequence[float], patience: int, **options: object) -> tuple[Engine, EarlyStopping]:
    """A trainer of 20 epochs that validates after each, with these key metrics in turn."""
    rest: Iterator[float] = iter(scores)
    trainer, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    validator.state.key_metric_name = "val_mean_dice"
    validator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_mean_dice=next(rest))
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0]))
    stopping = EarlyStopping(validator, patience, **options)
    stopping.attach(trainer)
    return trainer, stopping


@pytest.mark.parametrize(
    ("scores", "options", "epochs"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.59], {}, 5),
        ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.6], {}, 7),
        ([0.9, 0.5, 0.6, 0.7], {}, 4),  # better than the one before is not better than the best
        ([0.50, 0.505, 0.51, 0.515], {"threshold": 0.02}, 4),
        ([0.50, 0.515, 0.53, 0.51, 0.52, 0.53], {"threshold": 0.02}, 6),
        ([0.5, 0.4, 0.3, 0.3, 0.35, 0.3], {"mode": "min"}, 6),
    ],
)
def test_a_training_ends_after_validations_that_are_no_better(scores: list[float], options: dict, epochs: int) -> None:
    trainer, stopping = make_training(scores, patience=3, **options)
    trainer.run([0], max_epochs=20)
    assert trainer.state.epoch == epochs
    assert stopping.stopped


def test_a_training_that_gets_better_goes_on_to_its_end() -> None:
    trainer, stopping = make_training([0.01 * epoch for epoch in range(20)], patience=1)
    trainer.run([0], max_epochs=20)
    assert trainer.state.epoch == 20 and not stopping.stopped


def test_a_resumed_training_has_as_much_patience_left() -> None:
    first, stopping = make_training([0.6, 0.5], patience=3)
    first.run([0], max_epochs=2)
    resumed, again = make_training([0.59, 0.5, 0.7], patience=3)
    again.load_state_dict(stopping.state_dict())
    resumed.run([0], max_epochs=20)
    assert resumed.state.epoch == 2


def test_a_training_that_was_ended_does_not_begin_again() -> None:
    first, stopping = make_training([0.6, 0.5], patience=1)
    first.run([0], max_epochs=20)
    resumed, again = make_training([], patience=1)
    again.load_state_dict(stopping.state_dict())
    resumed.run([0], max_epochs=20)
    assert resumed.state.iteration == 0


def test_it_says_nothing_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, _ = make_training([0.6, 0.5], patience=1)
    trainer.run([0], max_epochs=20)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience should be positive"),
        ({"patience": 1, "threshold": -0.1}, "threshold should not be a negative"),
        ({"patience": 1, "mode": "best"}, "mode should be either"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(Engine(lambda engine, batch: None), **options)

"""A loss that is no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.training.guard import case_names, stop_where_loss_is_no_number


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_it_names_epoch_step_and_cases(bad: float) -> None:
    steps = []

    def step(engine: Engine, batch: Any) -> dict[str, torch.Tensor]:
        steps.append(batch)
        return {"loss": torch.tensor(bad if len(steps) == 5 else 1.0)}

    trainer = Engine(step)
    stop_where_loss_is_no_number(trainer)
    batches = [{"case": [f"scan_{number}", f"scan_{number + 1}"]} for number in (0, 2, 4)]
    words = (
        rf"^the loss is {bad} in epoch 2, step 2 of 3, cases scan_2, scan_3\. The checkpoint is of epoch 1\. Look at"
    )
    with pytest.raises(PipelineError, match=words):
        trainer.run(batches, max_epochs=3)
    assert len(steps) == 5


def test_cases_are_found_in_collated_and_decollated_batches() -> None:
    assert case_names({"case": ["a", "b"]}) == ["a", "b"]
    assert case_names([{"case": "a"}, {"case": "b"}]) == ["a", "b"]
    assert case_names({"image": torch.zeros(1)}) == []

"""Clipping: the step is taken along the true gradient, no longer than the limit, also of accumulated or scaled ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.engines.workflow import Workflow
from scanloom.pipeline.training.clipping import GradientClipping
from torch import Tensor, nn


def make_trainer(handlers: list[Any], batches: int = 1, **options: Any) -> SupervisedTrainer:
    """A linear network of 4 weights whose loss is steep, trained by plain steps of length 1."""
    network = nn.Linear(4, 1, bias=False)
    data = [{"image": torch.randn(2, 4), "label": torch.randn(2, 1)} for _ in range(batches)]
    return SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda output, label: 100 * (output - label).square().mean(),
        train_handlers=handlers,
        decollate=False,
        **options,
    )


def gradient_of(trainer: SupervisedTrainer) -> Tensor:
    """Of the loss over all batches, at the weights of now."""
    losses = [trainer.loss_function(trainer.network(each["image"]), each["label"]) for each in trainer.data_loader]
    return torch.autograd.grad(sum(losses) / len(losses), trainer.network.weight)[0]


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_step_follows_the_clipped_gradient(steps: int, norm_type: float) -> None:
    """With accumulation the limit is on the gradient of all its batches."""
    trainer = make_trainer([GradientClipping(0.5, norm_type)], batches=steps, accumulation_steps=steps)
    before, gradient = trainer.network.weight.detach().clone(), gradient_of(trainer)
    norm = torch.linalg.vector_norm(gradient, norm_type)
    assert norm > 0.5
    trainer.run()
    torch.testing.assert_close(before - trainer.network.weight.detach(), 0.5 * gradient / norm, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.state.gradient_norm, norm)


def test_the_last_batches_of_an_epoch_are_clipped_too() -> None:
    trainer = make_trainer([GradientClipping(1e-3)], batches=3, accumulation_steps=2)
    before = trainer.network.weight.detach().clone()
    trainer.run()  # two steps: of batches 1 and 2, and of batch 3
    moved = torch.linalg.vector_norm(before - trainer.network.weight.detach())
    assert 1e-3 < moved <= 2e-3 + 1e-6


def test_a_gradient_below_the_limit_is_left_alone() -> None:
    clipped, plain = make_trainer([GradientClipping(1e6)]), make_trainer([])
    plain.network.load_state_dict(clipped.network.state_dict())
    plain.data_loader = clipped.data_loader
    clipped.run(), plain.run()
    assert torch.equal(clipped.network.weight, plain.network.weight)


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
def test_under_a_scaler_the_limit_is_on_the_true_gradient() -> None:
    """MONAI's trainer makes its scaler for CUDA; on a processor one of torch's for it stands in."""
    trainer = make_trainer([GradientClipping(0.5)], amp=True)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before, gradient = trainer.network.weight.detach().clone(), gradient_of(trainer)
    Workflow.run(trainer)
    expected = 0.5 * gradient / torch.linalg.vector_norm(gradient)
    torch.testing.assert_close(before - trainer.network.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trainer.state.gradient_norm, torch.linalg.vector_norm(gradient))


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=rf"max_norm is {limit}; it must be a positive number"):
        GradientClipping(limit)

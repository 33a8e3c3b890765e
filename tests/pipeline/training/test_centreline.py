"""A cross entropy that counts the middle of thin structures more."""

from __future__ import annotations

import pytest
import torch
from scanloom.pipeline.training.centreline import CentrelineCrossEntropy
from torch.nn import functional


def membrane(dims: int = 2) -> torch.Tensor:
    """(1, 1, 16, …): a wall 5 voxels thick."""
    label = torch.zeros(1, 1, *[16] * dims)
    label[:, :, 5:10] = 1
    return label


def test_the_centre_line_is_the_middle_of_the_wall_as_thick_as_said() -> None:
    loss = CentrelineCrossEntropy(thickness=3)
    middle = loss.centre_lines(membrane())[0, 0, :, 8]
    assert middle.nonzero().ravel().tolist() == [6, 7, 8]


@pytest.mark.parametrize("dims", [2, 3])
def test_with_a_weight_of_one_it_is_the_cross_entropy(dims: int) -> None:
    label = membrane(dims)
    logits = torch.randn(1, 2, *label.shape[2:])
    plain = functional.cross_entropy(logits, label[:, 0].long())
    assert CentrelineCrossEntropy(weight=1.0)(logits, label) == pytest.approx(plain.item(), rel=1e-6)


def test_a_gap_in_the_middle_costs_more_than_a_rim_too_thin() -> None:
    label = membrane()
    sure = 4.0 * torch.cat([1 - 2 * label, 2 * label - 1], dim=1)
    gap, rim = sure.clone(), sure.clone()
    gap[:, :, 6:9, 8] *= -1  # three pixels of the middle
    rim[:, :, 5, 7:10] *= -1  # three pixels of the rim
    loss = CentrelineCrossEntropy(weight=4.0)
    assert loss(gap, label) > 3 * loss(rim, label)
    assert CentrelineCrossEntropy(weight=1.0)(gap, label) == pytest.approx(
        CentrelineCrossEntropy(weight=1.0)(rim, label).item(), rel=1e-4
    )


def test_background_never_counts_more() -> None:
    label = membrane()
    assert not (CentrelineCrossEntropy(thickness=15).centre_lines(label) * (1 - label)).any()
    assert not CentrelineCrossEntropy().centre_lines(torch.zeros(2, 1, 8, 8)).any()


def test_its_gradient_flows_to_the_logits() -> None:
    logits = torch.zeros(1, 2, 16, 16, requires_grad=True)
    CentrelineCrossEntropy()(logits, membrane()).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1, 7, 8] == pytest.approx(4 * float(logits.grad[0, 1, 5, 8]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"weight": 0.5}, "weight is 0.5; it must be 1 or more"), ({"thickness": 2}, "thickness is 2; it must be odd")],
)
def test_impossible_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CentrelineCrossEntropy(**arguments)

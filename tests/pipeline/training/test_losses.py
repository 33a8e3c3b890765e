"""The ignore label: voxels that have it might as well not be there, for every loss. Labels larger than the logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.losses import (
    DeepSupervisionLoss,
    DiceCELoss,
    DiceFocalLoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    TverskyLoss,
)
from scanloom.pipeline.training.losses import CroppedLabel, IgnoreLabel
from torch import Tensor, nn

IGNORE = 255
SIZE = (6, 6, 6)
SOFTMAX = {"to_onehot_y": True, "softmax": True}
WEIGHT = torch.tensor([0.2, 1.0, 3.0])

Make = Callable[[bool], nn.Module]
"""A loss, pooled over the batch or not."""

MULTI_CLASS: dict[str, Make] = {
    "cross entropy": lambda batch: DiceCELoss(**SOFTMAX, lambda_dice=0.0, batch=batch),
    "weighted cross entropy": lambda batch: DiceCELoss(**SOFTMAX, lambda_dice=0.0, weight=WEIGHT, batch=batch),
    "Dice": lambda batch: DiceLoss(**SOFTMAX, batch=batch),
    "Dice of the foreground": lambda batch: DiceLoss(**SOFTMAX, include_background=False, batch=batch),
    "generalised Dice": lambda batch: GeneralizedDiceLoss(**SOFTMAX, batch=batch),
    "Tversky": lambda batch: TverskyLoss(**SOFTMAX, alpha=0.3, beta=0.7, batch=batch),
    "focal": lambda batch: FocalLoss(to_onehot_y=True, use_softmax=True),
    "Dice + cross entropy": lambda batch: DiceCELoss(**SOFTMAX, include_background=False, weight=WEIGHT, batch=batch),
}
ONE_CHANNEL: dict[str, Make] = {
    "BCE with logits": lambda batch: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
    "Dice of a mask": lambda batch: DiceLoss(sigmoid=True, batch=batch),
    "Dice + BCE": lambda batch: DiceCELoss(sigmoid=True, batch=batch),
    "focal of a mask": lambda batch: FocalLoss(),
}
CASES = [
    pytest.param(make, classes, batch, id=f"{name}, {'the batch' if batch else 'a sample'}")
    for losses, classes in ((MULTI_CLASS, 3), (ONE_CHANNEL, 1))
    for name, make in losses.items()
    for batch in (True, False)
]


def make_pair(classes: int, samples: int = 2) -> tuple[Tensor, Tensor]:
    logits = torch.randn(samples, classes, *SIZE, requires_grad=True)
    return logits, torch.randint(max(classes, 2), (samples, 1, *SIZE)).float()


@pytest.mark.parametrize(("make", "classes", "batch"), CASES)
def test_ignored_voxels_count_as_cut_off(make: Make, classes: int, batch: bool) -> None:
    """Half of each volume is ignored: the loss and its gradient are those of the other halves alone."""
    logits, label = make_pair(classes)
    label[..., 3:] = IGNORE
    loss = IgnoreLabel(make(batch), IGNORE)(logits, label)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = make(batch)(logits[..., :3], label[..., :3])
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert torch.equal(gradient[..., 3:], torch.zeros_like(gradient[..., 3:]))
    assert gradient[..., :3].abs().max() > 0


@pytest.mark.parametrize(("make", "classes", "batch"), CASES)
def test_what_a_network_says_there_changes_nothing(make: Make, classes: int, batch: bool) -> None:
    """Scattered voxels, more in one sample than in the other, and logits that are no numbers."""
    logits, label = make_pair(classes)
    ignored = torch.rand(label.shape) < torch.tensor([0.1, 0.6]).reshape(2, 1, 1, 1, 1)
    label[ignored] = IGNORE
    loss = IgnoreLabel(make(batch), IGNORE)
    (gradient,) = torch.autograd.grad(loss(logits, label), logits)
    wild = torch.where(ignored, torch.nan, logits)
    assert torch.equal(loss(wild, label), loss(logits, label))
    everywhere = ignored.expand_as(gradient)
    assert torch.equal(gradient[everywhere], torch.zeros_like(gradient[everywhere]))
    assert gradient.isfinite().all() and gradient[~everywhere].abs().max() > 0


@pytest.mark.parametrize(("make", "classes", "batch"), CASES)
def test_without_ignored_voxels_it_is_the_loss(make: Make, classes: int, batch: bool) -> None:
    logits, label = make_pair(classes)
    assert torch.equal(IgnoreLabel(make(batch), IGNORE)(logits, label), make(batch)(logits, label))


def test_the_terms_of_a_sum_are_ignored_each_in_its_own_way() -> None:
    """Dice a sample with the mean over samples, cross entropy over all voxels, by hand."""
    logits, label = make_pair(3)
    label[0, ..., 1:] = IGNORE  # 36 voxels count of one sample, 216 of the other
    found = IgnoreLabel(DiceCELoss(**SOFTMAX, weight=WEIGHT, lambda_ce=0.5, lambda_dice=2.0), IGNORE)(logits, label)
    dice = DiceLoss(**SOFTMAX, weight=WEIGHT)
    dices = (dice(logits[:1, ..., :1], label[:1, ..., :1]) + dice(logits[1:], label[1:])) / 2
    entropy = nn.CrossEntropyLoss(WEIGHT, ignore_index=IGNORE)(logits, label[:, 0].long())
    torch.testing.assert_close(found, 2.0 * dices + 0.5 * entropy)


@pytest.mark.parametrize("batch", [True, False])
def test_a_sample_without_a_voxel_that_counts_is_left_out(batch: bool) -> None:
    logits, label = make_pair(3)
    label[1] = IGNORE
    loss = IgnoreLabel(DiceCELoss(**SOFTMAX, batch=batch), IGNORE)(logits, label)
    torch.testing.assert_close(loss, DiceCELoss(**SOFTMAX, batch=batch)(logits[:1], label[:1]))


def test_a_batch_without_a_voxel_that_counts_has_no_loss_and_no_gradient() -> None:
    logits, label = make_pair(3)
    loss = IgnoreLabel(DiceCELoss(**SOFTMAX), IGNORE)(logits, torch.full_like(label, IGNORE))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and torch.equal(gradient, torch.zeros_like(gradient))


def test_inside_deep_supervision_every_head_ignores_its_voxels() -> None:
    logits, label = make_pair(3)
    coarse = torch.randn(2, 3, 3, 3, 3, requires_grad=True)
    label[..., 2:] = IGNORE
    one = DiceCELoss(**SOFTMAX, batch=True)
    loss = DeepSupervisionLoss(IgnoreLabel(one, IGNORE), weights=[1.0, 0.25])([logits, coarse], label)
    gradients = torch.autograd.grad(loss, [logits, coarse])
    expected = one(logits[..., :2], label[..., :2]) + 0.25 * one(coarse[..., :1], label[:, :, 1::2, 1::2, 1:2])
    torch.testing.assert_close(loss, expected)
    assert gradients[0][..., 2:].abs().max() == 0 and gradients[1][..., 1:].abs().max() == 0
    assert gradients[1][..., :1].abs().max() > 0


def test_in_a_label_of_several_channels_all_of_them_say_it() -> None:
    logits = torch.randn(2, 2, *SIZE, requires_grad=True)
    label = torch.randint(2, (2, 2, *SIZE)).float()
    label[..., 3:] = IGNORE
    loss = nn.BCEWithLogitsLoss()
    torch.testing.assert_close(IgnoreLabel(loss, IGNORE)(logits, label), loss(logits[..., :3], label[..., :3]))


def test_monais_own_ignore_index_multiplies_the_focal_loss_by_the_classes() -> None:
    """Why it is no substitute; MONAI 1.6.1 divides by voxels there and by voxels times classes without it."""
    logits, label = make_pair(3)
    options = {"to_onehot_y": True, "use_softmax": True}
    alone = FocalLoss(**options)(logits, label)
    torch.testing.assert_close(FocalLoss(**options, ignore_index=IGNORE)(logits, label), 3 * alone)
    assert torch.equal(IgnoreLabel(FocalLoss(**options), IGNORE)(logits, label), alone)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (HausdorffDTLoss(), r"HausdorffDTLoss looks at the neighbours of a voxel, and so at ignored ones"),
        (DiceLoss(reduction="sum"), r"DiceLoss has the reduction 'sum'; IgnoreLabel needs 'mean'"),
        (DiceFocalLoss(softmax=True), r"DiceFocalLoss adds a mean over samples to one over voxels.*batch: true"),
    ],
)
def test_a_loss_that_can_not_ignore_is_refused(loss: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IgnoreLabel(loss)
    IgnoreLabel(DiceFocalLoss(softmax=True, batch=True))


def test_of_a_label_larger_than_the_logits_the_middle_counts() -> None:
    loss = DiceCELoss(**SOFTMAX)
    logits, label = torch.randn(2, 3, 4, 6), torch.randint(0, 3, (2, 1, 8, 8)).float()
    assert CroppedLabel(loss)(logits, label) == loss(logits, label[:, :, 2:6, 1:7])


def test_of_a_label_of_the_logits_size_everything_counts() -> None:
    loss = DiceCELoss(**SOFTMAX)
    logits, label = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 1, 4, 4)).float()
    assert CroppedLabel(loss)(logits, label) == loss(logits, label)


@pytest.mark.parametrize("size", [(7, 8), (4, 3)])
def test_a_label_without_a_middle_of_the_logits_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"logits of \(4, 4\) have no middle in a label of"):
        CroppedLabel(DiceCELoss(**SOFTMAX))(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, *size))

"""Distillation: a teacher of the very batch, the loss by its formula, a student that moves to its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import make_bundle
from monai.engines import SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss
from scanloom.networks import Ensemble, UNet
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.training.distillation import DistillationLoss, TaughtBatch, load_teacher
from scanloom.pipeline.training.losses import IgnoreLabel
from scanloom.pipeline.training.step import AugmentedBatch
from torch import Tensor, nn

SIZE = (8, 8, 8)


def make_network(seed: int = 0, **options: Any) -> UNet:
    torch.manual_seed(seed)
    settings = {"out_channels": 3, "features": [4, 8], "spatial_dims": 3, "padding": "same"}
    return UNet(**settings | options)


def make_batch(samples: int = 2) -> dict[str, Tensor]:
    return {
        "image": torch.randn(samples, 1, *SIZE),
        "label": torch.randint(3, (samples, 1, *SIZE)).float(),
    }


def test_the_teacher_sees_the_augmented_batch() -> None:
    teacher, batch = make_network().eval(), make_batch()
    mirror = lambda pair: {key: value.flip(2) for key, value in pair.items()}  # noqa: E731
    prepare = TaughtBatch(AugmentedBatch([mirror]), teacher, "fp32")
    image, target = prepare(batch, "cpu")
    assert torch.equal(image, batch["image"].flip(2))
    assert torch.equal(target[:, :1], batch["label"].flip(2))
    with torch.no_grad():
        torch.testing.assert_close(target[:, 1:], teacher(image), rtol=1e-4, atol=1e-5)  # channels last adds otherwise


def test_the_teacher_is_in_evaluation_and_learns_nothing() -> None:
    teacher = make_network().train()
    prepare = TaughtBatch(AugmentedBatch([]), teacher, "fp32")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    _, target = prepare(make_batch(), "cpu")
    assert not teacher.training and not target.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_the_teacher_computes_in_the_precision_asked_for() -> None:
    batch, teacher = make_batch(), make_network()
    full, half = (
        TaughtBatch(AugmentedBatch([]), teacher, precision)(batch, "cpu")[1] for precision in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1
    with pytest.raises(ValueError, match=r"precision is 'fp16'"):
        TaughtBatch(AugmentedBatch([]), teacher, "fp16")


def test_what_else_a_prepare_batch_gives_stays() -> None:
    prepare = TaughtBatch(lambda batch: (batch["image"], batch["label"], (1,), {"a": 2}), make_network(), "fp32")
    assert prepare(make_batch())[2:] == ((1,), {"a": 2})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [1, 3])
def test_the_loss_is_its_formula(classes: int, temperature: float) -> None:
    student, teacher = torch.randn(2, classes, *SIZE), torch.randn(2, classes, *SIZE)
    label = torch.randint(2, (2, 1, *SIZE)).float()
    hard = DiceCELoss(sigmoid=True) if classes == 1 else DiceCELoss(softmax=True, to_onehot_y=True)
    found = DistillationLoss(hard, 0.3, temperature)(student, torch.cat([label, teacher], 1))
    p, q = ((logits.double() / temperature) for logits in (teacher, student))
    if classes == 1:
        p, q = (torch.cat([each.sigmoid(), 1 - each.sigmoid()], 1) for each in (p, q))
    else:
        p, q = p.softmax(1), q.softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.7 * hard(student, label).double() + 0.3 * temperature**2 * divergence
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_student_that_agrees_has_the_labels_loss_alone() -> None:
    logits, label = torch.randn(2, 3, *SIZE), make_batch()["label"]
    hard = DiceCELoss(softmax=True, to_onehot_y=True)
    found = DistillationLoss(hard, 0.25)(logits, torch.cat([label, logits.log_softmax(1)], 1))
    torch.testing.assert_close(found, 0.75 * hard(logits, label), rtol=1e-5, atol=1e-6)


def test_the_weight_goes_from_the_label_to_the_teacher() -> None:
    student, label = torch.randn(2, 3, *SIZE), make_batch()["label"]
    target = torch.cat([label, torch.randn(2, 3, *SIZE)], 1)
    hard = DiceCELoss(softmax=True, to_onehot_y=True)
    losses = [DistillationLoss(hard, weight)(student, target) for weight in (0.0, 0.5, 1.0)]
    assert torch.equal(losses[0], hard(student, label))
    torch.testing.assert_close(losses[1], (losses[0] + losses[2]) / 2)


def test_every_head_learns_from_the_label_and_the_finest_from_the_teacher() -> None:
    heads = [torch.randn(2, 3, *[size] * 3, requires_grad=True) for size in (8, 4)]
    label, teacher = make_batch()["label"], torch.randn(2, 3, *SIZE)
    hard = DeepSupervisionLoss(DiceCELoss(softmax=True, to_onehot_y=True))
    found = DistillationLoss(hard, 0.4, 1.0)(heads, torch.cat([label, teacher], 1))
    soft = DistillationLoss(hard, 1.0, 1.0)(heads[0], torch.cat([label, teacher], 1))
    torch.testing.assert_close(found, 0.6 * hard(heads, label) + 0.4 * soft)
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(found, heads))


def test_where_the_label_is_ignored_the_teacher_still_counts() -> None:
    student = torch.randn(2, 3, *SIZE, requires_grad=True)
    label = torch.full((2, 1, *SIZE), 255.0)
    loss = DistillationLoss(IgnoreLabel(DiceCELoss(softmax=True, to_onehot_y=True, batch=True), 255), 0.5)
    loss(student, torch.cat([label, torch.randn(2, 3, *SIZE)], 1)).backward()
    assert student.grad is not None and student.grad.abs().min() > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_moves_to_its_teacher(precision: str) -> None:
    """With labels of pure noise beside: what is learned is the teacher's, and the divergence all but goes."""
    teacher = Ensemble([make_network(seed) for seed in (1, 2)])
    student = make_network(3)
    data, loss = [make_batch() for _ in range(4)], DistillationLoss(DiceCELoss(softmax=True, to_onehot_y=True), 1.0)

    def divergence() -> float:
        with torch.no_grad():
            targets = [torch.cat([each["label"], teacher(each["image"])], 1) for each in data]
            pairs = zip(data, targets, strict=True)
            return float(sum(loss(student(each["image"]), target) for each, target in pairs))

    before = divergence()
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=40,
        train_data_loader=data,
        network=student,
        optimizer=torch.optim.Adam(student.parameters(), lr=0.03),
        loss_function=loss,
        prepare_batch=TaughtBatch(AugmentedBatch([]), teacher, precision),
        decollate=False,
    )
    trainer.run()
    assert divergence() < before / 10


def test_a_bundles_network_teaches(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    teacher = load_teacher(str(tmp_path))
    expected = UNet(out_channels=3, features=[4, 8], spatial_dims=3, padding="same").eval()
    expected.load_state_dict(torch.load(bundle.weights, weights_only=True))
    image = torch.randn(1, 1, *SIZE)
    torch.testing.assert_close(teacher(image), expected(image))
    assert not teacher.training and not any(each.requires_grad for each in teacher.parameters())
    (weight,) = [each for name, each in teacher.named_parameters() if name.endswith("encoder.1.0.convolution.weight")]
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_teacher_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        load_teacher(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 1.5}, r"weight is 1\.5; it must be between 0 .* and 1"),
        ({"weight": float("nan")}, r"weight is nan"),
        ({"temperature": 0}, r"temperature is 0; it must be a positive number"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(nn.BCEWithLogitsLoss(), **options)


def test_a_teacher_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the student makes 3 channels, label and teacher together 5; .*same labels"):
        DistillationLoss(DiceCELoss())(torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 4, 4))

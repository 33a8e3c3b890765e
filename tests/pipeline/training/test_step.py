"""What happens to a batch in a training step: plain tensors, seeded augmentation, precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Randomizable
from scanloom.pipeline.training import step
from scanloom.pipeline.training.step import AugmentedBatch, AutocastInferer
from torch import Tensor, nn


class AddNoise(Randomizable):
    """A batch transform that adds one random number to the image."""

    def __call__(self, batch: Mapping[Any, Tensor]) -> Mapping[Any, Tensor]:
        return {**batch, "image": batch["image"] + self.R.uniform()}


def make_batch() -> dict[str, Any]:
    return {
        "image": MetaTensor(torch.zeros(2, 1, 4, 4, 4)),
        "label": MetaTensor(torch.ones(2, 1, 4, 4, 4)),
        "case": "x",
    }


def test_a_batch_becomes_plain_tensors_on_the_device() -> None:
    image, label = AugmentedBatch([])(make_batch(), device="meta")
    assert type(image) is Tensor and type(label) is Tensor
    assert image.device.type == label.device.type == "meta"


def test_transforms_run_in_order_on_the_whole_batch() -> None:
    double = lambda batch: {**batch, "image": batch["image"] * 2}  # noqa: E731
    add = lambda batch: {**batch, "image": batch["image"] + batch["label"]}  # noqa: E731
    image, label = AugmentedBatch([add, double])(make_batch())
    assert torch.equal(image, torch.full((2, 1, 4, 4, 4), 2.0))
    assert torch.equal(label, torch.ones(2, 1, 4, 4, 4))


def test_transforms_see_the_affines_of_the_samples() -> None:
    seen = []
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])).double()
    samples = [{key: MetaTensor(torch.zeros(1, 4, 4, 4), affine=affine) for key in ("image", "label")}] * 2
    AugmentedBatch([lambda batch: seen.append(batch["image"].affine) or batch])(list_data_collate(samples))
    assert torch.equal(seen[0], affine.expand(2, 4, 4))


def test_keys_can_be_others() -> None:
    batch = {"scan": torch.zeros(1, 1, 2), "mask": torch.ones(1, 1, 2)}
    image, label = AugmentedBatch([], keys=("scan", "mask"))(batch)
    assert (image.sum(), label.sum()) == (0, 2)


def test_the_seed_decides_the_augmentation() -> None:
    def first_two(seed: int) -> list[float]:
        prepare = AugmentedBatch([AddNoise()], seed)
        return [float(prepare(make_batch())[0].mean()) for _ in range(2)]

    assert first_two(1) == first_two(1)
    assert first_two(1) != first_two(2)
    assert first_two(1)[0] != first_two(1)[1]


def test_each_transform_has_random_numbers_of_its_own() -> None:
    one, other = AddNoise(), AddNoise()
    AugmentedBatch([one, other], seed=3)
    assert one.R.uniform() != other.R.uniform()


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision is 'fp16'; it must be 'auto', 'bf16' or 'fp32'"):
        AutocastInferer("fp16")


class Spy(nn.Module):
    """Returns a convolution's output in the shape asked for, and keeps its type and its input's layout."""

    def __init__(self, dimensions: int, outputs: int | None = None) -> None:
        super().__init__()
        self.layer = (nn.Conv2d, nn.Conv3d)[dimensions - 2](2, 2, 1)
        self.outputs = outputs

    def forward(self, inputs: Tensor) -> Any:
        self.channels_last = inputs.stride(1) == 1
        result = self.layer(inputs)
        self.dtype = result.dtype
        return result if self.outputs is None else [result] * self.outputs


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_network_computes_in_the_precision_and_gives_float32(
    precision: str, dtype: torch.dtype, dimensions: int
) -> None:
    network = Spy(dimensions)
    logits = AutocastInferer(precision)(torch.randn(1, 2, *[4] * dimensions), network)
    assert network.dtype == dtype and network.channels_last
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(("available", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bf16_where_the_device_has_it(
    available: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "has_bf16", lambda device: available)
    network = Spy(3)
    AutocastInferer()(torch.randn(1, 2, 4, 4, 4), network)
    assert network.dtype == dtype


def test_a_list_of_logits_stays_a_list_of_float32() -> None:
    logits = AutocastInferer("bf16")(torch.randn(1, 2, 4, 4, 4), Spy(3, outputs=2))
    assert isinstance(logits, list) and [each.dtype for each in logits] == [torch.float32] * 2


def test_gradients_flow_through_the_mixed_precision() -> None:
    network = Spy(3)
    AutocastInferer("bf16")(torch.randn(1, 2, 4, 4, 4), network).sum().backward()
    assert network.layer.weight.grad is not None and network.layer.weight.grad.dtype == torch.float32

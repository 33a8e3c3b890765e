"""Items that depend on seed, epoch and case alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose, RandCropByPosNegLabeld, RandGaussianNoised, RandSpatialCropd
from scanloom.pipeline.training.order import SAMPLE_SEED, EpochSampler, SeededDataset
from scanloom.pipeline.training.step import AugmentedBatch
from scanloom.transforms import Batched, RandIntensityd, RandSpatialDeformationd

KEYS = ["image", "label"]


def cases(count: int = 7) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": torch.tensor(rng.normal(size=(1, 9, 9)), dtype=torch.float32),
            "label": torch.arange(9.0).expand(1, 9, 9).gt(3) * n,
        }
        for n in range(count)
    ]


def random_crop() -> Compose:
    return Compose([RandSpatialCropd(KEYS, (5, 5), random_size=False), RandGaussianNoised("image", prob=0.7)])


def loader(workers: int = 0, seed: int = 3, batch_size: int = 2, **processes: int) -> DataLoader:
    dataset = SeededDataset(CacheDataset(cases(), random_crop(), progress=False), seed)
    sampler = EpochSampler(dataset, batch_size, seed, **processes)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers)


def epoch_of(data: DataLoader, epoch: int) -> list[dict[str, torch.Tensor]]:
    data.sampler.set_epoch(epoch)
    return list(data)


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in (*KEYS, SAMPLE_SEED))


def test_two_workers_give_what_none_gives() -> None:
    assert same(epoch_of(loader(0), 1), epoch_of(loader(2), 1))


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    fresh, used = loader(), loader()
    for epoch in range(4):
        epoch_of(used, epoch)
    assert same(epoch_of(fresh, 4), epoch_of(used, 4))


def test_epochs_and_seeds_differ() -> None:
    assert not same(epoch_of(loader(), 1), epoch_of(loader(), 2))
    assert not same(epoch_of(loader(seed=3), 1), epoch_of(loader(seed=4), 1))


def test_every_crop_of_a_case_has_a_seed_of_its_own() -> None:
    crops = Compose([RandCropByPosNegLabeld(KEYS, "label", (5, 5), num_samples=3)])
    item = SeededDataset(Dataset(cases(), crops), 0)[5]
    assert len(item) == 3 and len({crop[SAMPLE_SEED] for crop in item}) == 3


def test_a_dataset_without_transforms_is_passed_on() -> None:
    item = SeededDataset(Dataset(cases(3)), 0)[4]
    assert float(item["label"].max()) == 1  # case 1 in epoch 1


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 5))
def test_the_parts_of_all_processes_are_the_batches_of_one(cases: int, batch: int, count: int, epoch: int) -> None:
    whole = EpochSampler(range(cases), batch * count, 5, num_replicas=1, rank=0)
    parts = [EpochSampler(range(cases), batch, 5, num_replicas=count, rank=rank) for rank in range(count)]
    for sampler in (whole, *parts):
        sampler.set_epoch(epoch)
    one = np.array(list(whole)).reshape(-1, batch * count)
    together = [np.array(list(part)).reshape(-1, batch) for part in parts]
    assert np.array_equal(one, np.concatenate(together, axis=1))
    assert len(whole) == one.size and {len(part) for part in parts} == {one.size // count}


@given(st.integers(1, 40), st.integers(0, 9))
def test_every_case_comes_once_an_epoch(cases: int, epoch: int) -> None:
    sampler = EpochSampler(range(cases), 1, num_replicas=1, rank=0)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert sorted(key % cases for key in keys) == list(range(cases))
    assert {key // cases for key in keys} == {epoch}


def test_a_sample_is_augmented_alike_in_any_batch() -> None:
    deform = RandSpatialDeformationd(KEYS, prob=1, rotation=20, displacement=0.5)
    batch = epoch_of(loader(batch_size=6), 2)[0]
    together = AugmentedBatch([Batched(deform), Batched(RandIntensityd("image", prob_noise=1))])(batch)
    for number in (4, 1):
        alone = {key: batch[key][number : number + 1] for key in (*KEYS, SAMPLE_SEED)}
        image, label = AugmentedBatch([Batched(deform), Batched(RandIntensityd("image", prob_noise=1))], seed=9)(alone)
        assert torch.equal(image[0], together[0][number]) and torch.equal(label[0], together[1][number])
    assert not torch.equal(together[0], batch["image"])


def test_as_many_seeds_as_samples_are_asked_for() -> None:
    batched = Batched(RandSpatialDeformationd("image", prob=1))
    batched.seed_samples([1, 2])
    with pytest.raises(ValueError, match="2 seeds for 3 samples; give one a sample"):
        batched({"image": torch.zeros(3, 1, 5, 5)})

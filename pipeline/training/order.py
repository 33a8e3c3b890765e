"""Data whose order and random changes depend on seed, epoch and case alone, not on workers or on what ran before.

A random state that lives on from item to item is another one in each worker, and lost when a training is killed. Here
the key of an item says its epoch, and its random numbers come from (seed, epoch, case); a training that resumes at an
epoch draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from .processes import process_count, process_rank

SAMPLE_SEED = "sample_seed"
"""Key of an item's own seed, for the transforms that are applied to it later, in its batch."""


class SeededDataset(Dataset):
    """A dataset of MONAI whose random transforms are seeded anew for each item.

    Args:
        dataset: holds its transforms as `transform`, as `monai.data.Dataset` and `CacheDataset` do; items are
            dictionaries.
        seed: of the training.
    """

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> Any:
        """The item of the case `key % len(self)` in the epoch `key // len(self)`, with its seed as `sample_seed`."""
        epoch, index = divmod(int(key), len(self.dataset))
        own, later = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        transform: Any = getattr(self.dataset, "transform", None)
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=int(own))
        item = self.dataset[index]
        if isinstance(item, list):  # several crops of a case
            return [{**crop, SAMPLE_SEED: (int(later) + number) % 2**32} for number, crop in enumerate(item)]
        return {**item, SAMPLE_SEED: int(later)}


class EpochSampler(DistributedSampler):
    """Keys of a `SeededDataset` in an order that is drawn for each epoch; a last batch that is not full is left out.

    MONAI's engines tell a DistributedSampler the epoch. With several processes each batch is cut into their parts: what
    they train on together in a step is what one process with the batches of all would.

    Args:
        dataset: counted only.
        batch_size: of each process.
        seed: of the training.
        num_replicas: processes; None asks the environment that `torchrun` sets.
        rank: this one's number; likewise.
    """

    def __init__(
        self, dataset: Sized, batch_size: int, seed: int = 0, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        replicas = process_count() if num_replicas is None else num_replicas
        number = process_rank() if rank is None else rank
        super().__init__(dataset, num_replicas=replicas, rank=number, seed=seed)  # type: ignore[arg-type]
        self.cases = len(dataset)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.cases // (self.batch_size * self.num_replicas) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.cases)
        whole = order[: len(self) * self.num_replicas].reshape(-1, self.num_replicas, self.batch_size)
        return iter((self.epoch * self.cases + whole[:, self.rank].ravel()).tolist())

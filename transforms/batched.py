"""A transform of single images, applied to a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms.transform import Randomizable, Transform
from torch import Tensor


class Batched(Randomizable, Transform):
    """Apply a transform to every sample of a batch, each with a draw of its own, on the device where the batch is.

    For a batch that has arrived on the GPU, or for one process that augments what a cache holds, where a worker would
    apply the same transform to single images. A sample's result is that of the single transform for the same draw.

    Args:
        transform: of (C, *spatial) images or of dictionaries of them, such as all of this package's.
    """

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform = transform
        self._seeds: list[int] = []

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Batched:
        """Seed the transform, if it is random."""
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed, state)
        return self

    def seed_samples(self, seeds: Iterable[int]) -> None:
        """Give each sample of the next batch a seed of its own: its draw is then the same in any batch."""
        self._seeds = [int(seed) for seed in seeds]

    def randomize(self, data: Any) -> None:
        """Nothing: the transform draws for each sample when it is applied."""

    def __call__(self, batch: Any) -> Any:
        """The batch, every sample transformed.

        Args:
            batch: (B, C, *spatial), or a dictionary that holds such tensors. Of a `MetaTensor` the affines, one a
                sample, are used and moved along; other metadata is dropped.
        Returns:
            The same with new tensors, and what the transform has added; what it leaves alone stays.
        Raises:
            ValueError: there is no tensor, or the tensors hold different numbers of samples, or not as many as there
                are seeds of `seed_samples`.
        """
        if isinstance(batch, Mapping):
            return self._dictionary(batch)
        return _stacked(self._each(_samples(batch)), batch)

    def _dictionary(self, batch: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor) and value.ndim > 2}
        counts = {key: len(value) for key, value in tensors.items()}
        if not tensors:
            raise ValueError(f"no (B, C, *spatial) tensor among the keys {list(batch)}; make arrays tensors first.")
        if len(set(counts.values())) > 1:
            raise ValueError(f"the tensors hold different numbers of samples: {counts}.")
        samples = zip(*(_samples(value) for value in tensors.values()), strict=True)
        inputs = [dict(zip(tensors, sample, strict=True)) for sample in samples]
        outputs = self._each(inputs)
        changed = {
            key: _stacked([output[key] for output in outputs], batch.get(key))
            for key in outputs[0]
            if any(output[key] is not given.get(key) for output, given in zip(outputs, inputs, strict=True))
        }
        return {**batch, **changed}

    def _each(self, samples: list[Any]) -> list[Any]:
        """Every sample transformed, with its own seed where there are seeds."""
        seeds, self._seeds = self._seeds, []
        if not seeds:
            return [self.transform(sample) for sample in samples]
        if len(seeds) != len(samples):
            raise ValueError(f"{len(seeds)} seeds for {len(samples)} samples; give one a sample.")
        transformed = []
        for sample, seed in zip(samples, seeds, strict=True):
            self.set_random_state(seed)
            transformed.append(self.transform(sample))
        return transformed


def _samples(batch: Tensor) -> list[Tensor]:
    """Views of the samples, each with its own affine if the batch has affines."""
    if not isinstance(batch, MetaTensor):
        return list(batch)
    affines = batch.affine if batch.affine.ndim == 3 else batch.affine.expand(len(batch), -1, -1)
    return [MetaTensor(sample, affine=affine) for sample, affine in zip(batch.as_tensor(), affines, strict=True)]


def _stacked(samples: list[Any], batch: Any) -> Any:
    """Tensors as one batch, with their affines if the batch they came from has affines; else the list."""
    if not isinstance(samples[0], Tensor):
        return samples
    if not isinstance(batch, MetaTensor):
        return torch.stack(samples)
    stacked = MetaTensor(torch.stack([sample.as_tensor() for sample in samples]))
    stacked.is_batch = True
    stacked.meta["affine"] = torch.stack([sample.affine for sample in samples])
    return stacked

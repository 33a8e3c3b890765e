"""What happens to a batch in a training step: to the device, augmented, through the network in bf16 or fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from ..device import has_bf16
from .order import SAMPLE_SEED

Batch = Mapping[Any, Tensor]


class AugmentedBatch:
    """`prepare_batch` of a MONAI engine: image and label on the device, changed by batch transforms, as plain tensors.

    Args:
        transforms: callables from a mapping of (B, C, *spatial) tensors to one. Where the batch brings its samples'
            own seeds (see `SeededDataset`), those with `seed_samples` draw by these, so that a sample is changed alike
            in any batch, process or resumed training.
        seed: of the random transforms where the batch brings no seeds; each has a number of its own.
        keys: of the image and of the label.
    """

    def __init__(
        self, transforms: Sequence[Callable[[Batch], Batch]], seed: int = 0, keys: tuple[str, str] = ("image", "label")
    ) -> None:
        self.transforms = tuple(transforms)
        self.keys = tuple(keys)
        for index, transform in enumerate(self.transforms):
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(seed=seed + index)

    def __call__(
        self, batchdata: Batch, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The image and label of the batch, augmented."""
        batch: Batch = {
            key: torch.as_tensor(batchdata[key]).to(device, non_blocking=non_blocking, **kwargs) for key in self.keys
        }
        seeds = torch.as_tensor(batchdata.get(SAMPLE_SEED, ())).tolist()
        for index, transform in enumerate(self.transforms):
            if seeds and hasattr(transform, "seed_samples"):
                transform.seed_samples((seed + index) % 2**32 for seed in seeds)
            batch = transform(batch)
        changed = (batch[key] for key in self.keys)
        image, label = (value.as_tensor() if isinstance(value, MetaTensor) else value for value in changed)
        return image, label


class AutocastInferer(Inferer):
    """The forward pass of a training step: channels-last, in the precision asked for, logits in fp32.

    Args:
        precision: "fp32", "bf16", or "auto", which is bf16 where the device has units for it. On a processor without
            them bf16 is emulated, tens of times slower than fp32.
    Raises:
        ValueError: the precision is none of these.
    """

    def __init__(self, precision: str = "auto") -> None:
        if precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision is {precision!r}; it must be 'auto', 'bf16' or 'fp32'.")
        self.precision = precision

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The network's output for (B, C, *spatial), each tensor of it in float32."""
        bf16 = self.precision == "bf16" or (self.precision == "auto" and has_bf16(inputs.device))
        layout = torch.channels_last_3d if inputs.ndim == 5 else torch.channels_last
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            logits = network(inputs.contiguous(memory_format=layout), *args, **kwargs)
        return [each.float() for each in logits] if isinstance(logits, list | tuple) else logits.float()

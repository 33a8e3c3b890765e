"""Sliding windows, ours and those of others, as functions of a volume, a network and its windows to labels.

Each is used as its users do: MONAI, nnU-Net and torchio give logits of the whole volume, whose argmax is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import torch
from torch import Tensor, nn

Inference = Callable[[Tensor, nn.Module, tuple[int, ...], float], Tensor]
"""(1, C, *spatial), network, window, overlap -> (*spatial) labels."""


class CostsNothing(nn.Module):
    """A network whose output is there already: zeros, which those who weight what they are given in place leave as is.

    Args:
        channels: of the output.
        window: voxels, an axis.
    """

    def __init__(self, channels: int, window: tuple[int, ...]) -> None:
        super().__init__()
        self.output = torch.zeros((1, channels, *window)).add_(0.0)  # written, so that no page of it comes late

    def forward(self, windows: Tensor) -> Tensor:
        """The same for every window."""
        return self.output


def ours(volume: Tensor, network: nn.Module, window: tuple[int, ...], overlap: float) -> Tensor:
    """`StreamingInferer` with labels out."""
    from scanloom.pipeline.inference import StreamingInferer

    return StreamingInferer(window, overlap=overlap, mode="gaussian", output="labels")(volume, network)[0, 0]


def monai(volume: Tensor, network: nn.Module, window: tuple[int, ...], overlap: float) -> Tensor:
    """`SlidingWindowInferer`, its weights kept."""
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer(window, overlap=overlap, mode="gaussian", cache_roi_weight_map=True)
    return inferer(volume, network)[0].argmax(0)


def nnunet(volume: Tensor, network: nn.Module, window: tuple[int, ...], overlap: float) -> Tensor:
    """`nnUNetPredictor` without mirroring; its accumulators are float16, its windows evenly spaced."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(1 - overlap, use_mirroring=False, device=volume.device, allow_tqdm=False)
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=window)
    channels = network(volume[(slice(None), slice(None), *(slice(n) for n in window))]).shape[1]
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=channels)
    return predictor.predict_sliding_window_return_logits(volume[0]).argmax(0)


def torchio(volume: Tensor, network: nn.Module, window: tuple[int, ...], overlap: float) -> Tensor:
    """`GridSampler` and `GridAggregator` with its Hann weights."""
    import torchio as tio
    from torch.utils.data import DataLoader

    subject = tio.Subject(image=tio.ScalarImage(tensor=volume[0]))
    sampler = tio.GridSampler(subject, window, tuple(int(n * overlap) // 2 * 2 for n in window))
    aggregator = tio.GridAggregator(sampler, overlap_mode="hann")
    for batch in tio.SubjectsLoader(sampler, batch_size=1) if hasattr(tio, "SubjectsLoader") else DataLoader(sampler):
        aggregator.add_batch(network(batch["image"][tio.DATA]), batch[tio.LOCATION])
    return aggregator.get_output_tensor().argmax(0)


PEERS: dict[str, Inference] = {"ours": ours, "MONAI": monai, "nnU-Net": nnunet, "torchio": torchio}

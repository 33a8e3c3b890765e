"""A bundle's own postprocessing: logits -> the labels that its author measured, on the scan's grid.

Most bundles take the largest of the logits on the scan's grid, which is done window by window in little memory. What
comes after that (the largest component, say) is done to the labels. Any other chain, such as a softmax before the
interpolation, would give other labels, so it runs as it stands, on the logits of the whole scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureTyped,
    Invertd,
    SaveClassificationd,
    SaveImage,
    SaveImaged,
    ToTensord,
)

from ..errors import BundleError
from ..volume import Volume
from .prepare import after_loader

WRITERS = (SaveImage, SaveImaged, SaveClassificationd)
"""Steps that write files, which the command line does itself."""
HALF = 0.5
"""The threshold of a probability that is the logit 0."""


@dataclass(frozen=True)
class Postprocessing:
    """Steps on the key "pred", without those that write files.

    Attributes:
        head: from the logits to labels.
        tail: what is done to labels on the scan's grid.
        is_largest: head takes the largest logit of a voxel, or of a single channel what is above 0, and no more.
        is_interpolated: it does so after bringing the logits themselves to the scan's grid by interpolation.
        thresholds: it compares each channel with a threshold, so that labels of several channels may overlap.
    """

    head: tuple[Callable[[Any], Any], ...] = ()
    tail: tuple[Callable[[Any], Any], ...] = ()
    is_largest: bool = True
    is_interpolated: bool = True
    thresholds: bool = False

    def equals_streaming(self, resampled: bool) -> bool:
        """Whether the largest logit on the scan's grid is what head gives.

        Args:
            resampled: the network's grid is not the scan's.
        """
        return self.is_largest and (self.is_interpolated or not resampled)

    def labels(self, logits: torch.Tensor, prepared: dict[str, Any], preprocessing: Compose, volume: Volume) -> Any:
        """The whole chain: logits of the whole scan -> labels.

        Args:
            logits: (K, *spatial) for prepared["image"].
            prepared: what `prepare` returned.
            preprocessing: as given to `prepare`.
            volume: in canonical order.
        Returns:
            (X, Y, Z) integers on the canonical volume's grid.
        Raises:
            BundleError: a step fails, the chain does not lead to the scan's grid, or its labels overlap.
        """
        image = prepared["image"]
        pred = MetaTensor(logits.float().cpu(), meta=image.meta, applied_operations=image.applied_operations)
        data: dict[str, Any] = {"image": image, "pred": pred}
        steps = [*self.head, *self.tail]
        if not any(isinstance(step, Invertd) for step in steps):
            steps.append(Invertd("pred", after_loader(preprocessing), "image", nearest_interp=True))
        return _labels(_run(steps, data), volume)

    def finish(self, labels: np.ndarray, volume: Volume) -> np.ndarray:
        """Labels on the canonical volume's grid, (X, Y, Z) -> what tail makes of them."""
        if not self.tail:
            return labels
        pred = MetaTensor(torch.from_numpy(labels.astype(np.float32))[None], affine=torch.from_numpy(volume.affine))
        return _labels(_run(self.tail, {"pred": pred}), volume)


def read_postprocessing(built: Any, preprocessing: Compose) -> Postprocessing:
    """What a bundle's postprocessing does.

    Args:
        built: of the config, a `Compose` or one step.
        preprocessing: that it inverts.
    """
    steps = built.flatten().transforms if isinstance(built, Compose) else [built]
    steps = [step for step in steps if not isinstance(step, WRITERS)]
    inverts, squashes, decides = False, False, ""
    interpolated = largest = True
    for place, step in enumerate(steps):
        if inverts and decides:
            return Postprocessing(
                tuple(steps[:place]), tuple(steps[place:]), largest, interpolated, decides == "threshold"
            )
        if isinstance(step, EnsureTyped | ToTensord):
            continue
        if isinstance(step, Activationsd) and not decides and all(other is None for other in step.other):
            squashes = True
        elif isinstance(step, Invertd) and not inverts:
            inverts = True
            plain = (
                step.transform is preprocessing
                and not any(step.nearest_interp)
                and not any(map(callable, step.post_func))
            )
            interpolated = plain and not squashes and not decides
        elif isinstance(step, AsDiscreted) and not decides and (decision := _decision(step)):
            decides = decision
        else:
            largest = False
    largest = largest and bool(decides)
    return Postprocessing(tuple(steps), (), largest, interpolated and inverts, decides == "threshold")


def without_writers(config: Any) -> Any:
    """The config of a postprocessing without the steps that write files, as far as it names them."""
    if isinstance(config, dict) and isinstance(config.get("transforms"), list):
        names = {writer.__name__ for writer in WRITERS}
        kept = [
            each
            for each in config["transforms"]
            if not (isinstance(each, dict) and str(each.get("_target_", "")).rpartition(".")[2] in names)
        ]
        return {**deepcopy(config), "transforms": deepcopy(kept)}
    return config


def _decision(step: AsDiscreted) -> str:
    """How it decides where that is by the largest or the half; empty else."""
    argmax, threshold = step.argmax[0], step.threshold[0]
    if step.to_onehot[0] is not None or step.rounding[0] is not None:
        return ""
    if argmax and threshold is None:
        return "argmax"
    return "threshold" if not argmax and threshold == HALF else ""


def _run(steps: Sequence[Callable[[Any], Any]], data: dict[str, Any]) -> torch.Tensor:
    for step in steps:
        try:
            data = step(data)
        except Exception as error:  # a step is anyone's code
            why = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise BundleError(
                f"the bundle's postprocessing fails at {type(step).__name__}: {why[:300]}. Mend configs/inference."
            ) from error
    pred = torch.as_tensor(data["pred"])
    return pred.as_tensor() if isinstance(pred, MetaTensor) else pred


def _labels(pred: torch.Tensor, volume: Volume) -> np.ndarray:
    """(C, X, Y, Z) -> (X, Y, Z) in the smallest unsigned type."""
    if tuple(pred.shape[1:]) != volume.spatial_shape:
        raise BundleError(
            f"the bundle's postprocessing leads to {tuple(pred.shape[1:])} voxels, where the scan has "
            f"{volume.spatial_shape}. Let it invert the preprocessing (Invertd)."
        )
    if len(pred) > 1:
        is_binary = bool(((pred == 0) | (pred == 1)).all())
        if is_binary and not bool((pred.sum(dim=0) == 1).all()):
            raise BundleError(
                f"the bundle's postprocessing gives {len(pred)} masks that may overlap, where a voxel can have one "
                "label here. Let it take the largest (AsDiscreted with argmax)."
            )
        return _smallest(pred.argmax(dim=0).cpu().numpy())
    values = pred[0].cpu().numpy()
    if not np.array_equal(values, np.round(values)) or values.min(initial=0) < 0:
        raise BundleError(
            "the bundle's postprocessing gives numbers that are no labels. Let it end in labels (AsDiscreted)."
        )
    return _smallest(values)


def _smallest(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8 if values.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)

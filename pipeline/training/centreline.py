"""A cross entropy that minds whether thin structures hold together: it counts their centre lines more."""

from __future__ import annotations

import numpy as np
import torch
from skimage.morphology import skeletonize
from torch import Tensor, nn
from torch.nn import functional


class CentrelineCrossEntropy(nn.Module):
    """Cross entropy in which the middle of each thin structure of the foreground has more weight.

    A gap of one pixel in a membrane merges two cells and is one wrong pixel among thousands, so a network that learns
    pixels alone leaves gaps wherever it doubts. A weight on all of a membrane closes them and makes it thick; a weight
    on its centre line does not: there the label is sure.

    Args:
        weight: of a voxel on or beside the centre line; the others have 1.
        thickness: voxels across of what counts as centre line, odd.
    Raises:
        ValueError: the weight is less than 1, or the thickness not odd.

    Source: after Kirchhoff 2024, arXiv:2404.03010 (skeleton recall), as a weight of the cross entropy.
    """

    def __init__(self, weight: float = 4.0, thickness: int = 3) -> None:
        super().__init__()
        if weight < 1:
            raise ValueError(f"weight is {weight}; it must be 1 or more.")
        if thickness < 1 or thickness % 2 == 0:
            raise ValueError(f"thickness is {thickness}; it must be odd.")
        self.weight, self.thickness = weight, thickness

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """(B, K, *spatial) logits and (B, 1, *spatial) labels, in 2D or 3D -> scalar."""
        losses = functional.cross_entropy(logits, label[:, 0].long(), reduction="none")
        weights = 1 + (self.weight - 1) * self.centre_lines(label)[:, 0]
        return (weights * losses).mean()

    def centre_lines(self, label: Tensor) -> Tensor:
        """1 on the voxels of the label that count more, else 0; of the label's shape."""
        masks = label.detach().cpu().numpy() > 0
        lines = torch.from_numpy(np.stack([skeletonize(mask[0])[None] for mask in masks])).to(label.device).float()
        pool = functional.max_pool2d if label.ndim == 4 else functional.max_pool3d
        return pool(lines, self.thickness, stride=1, padding=self.thickness // 2) * (label > 0)

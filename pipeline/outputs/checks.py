"""What every writer asks of labels before it writes them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError, PipelineError
from ..volume import Volume


def check_grid(labels: np.ndarray, volume: Volume) -> None:
    """Refuse labels that do not lie on the volume's grid.

    Raises:
        PipelineError: the shapes differ.
    """
    if labels.shape != volume.spatial_shape:
        raise PipelineError(
            f"case {volume.case}: labels have {labels.shape} voxels, the scan has {volume.spatial_shape}. "
            "Bring the labels back to the source grid before writing them."
        )


def check_named(values: Iterable[int], bundle: Bundle) -> None:
    """Refuse label values that the bundle has no name for; 0 is background and needs none.

    Raises:
        BundleError: names the values.
    """
    unnamed = sorted({int(value) for value in values} - {0, *(label.value for label in bundle.labels)})
    if unnamed:
        raise BundleError(
            f"bundle {bundle.name}: labels hold {', '.join(map(str, unnamed))}, which label_classes does not name. "
            "Add each to configs/metadata.json, or correct the network's number of outputs."
        )

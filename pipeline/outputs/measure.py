"""What the labels measure: voxels, millilitres, mean intensity and centroid of each, in the source's own values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_whole
from ..bundle import Bundle
from ..volume import Volume
from .checks import check_grid, check_named

INTENSITY_UNITS = {"CT": "HU"}
"""Unit of the intensities by modality; where none is known it is "as in the source"."""
SMALL_ML = 1e-4
"""Less is written with a power of ten."""
CSV_COLUMNS = (
    "case",
    "value",
    "label",
    "voxels",
    "volume_ml",
    "mean_intensity",
    "intensity_unit",
    "centroid_right_mm",
    "centroid_anterior_mm",
    "centroid_superior_mm",
)


@dataclass(frozen=True)
class LabelMeasurement:
    """One label of a case.

    Attributes:
        value: the integer in the label map.
        name: the bundle's name for it.
        voxels: how many voxels carry it.
        volume_ml: their volume in millilitres.
        mean_intensity: mean of the source's values there; None where there is no voxel or the mean is not finite.
        centroid_ras_mm: mean position (right, anterior, superior) in mm; None where there is no voxel.
    """

    value: int
    name: str
    voxels: int
    volume_ml: float
    mean_intensity: float | None
    centroid_ras_mm: tuple[float, float, float] | None


def measure(labels: np.ndarray, volume: Volume, bundle: Bundle) -> list[LabelMeasurement]:
    """One measurement for each label of the bundle, absent ones included, in the order of their values.

    Args:
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: intensities of the first channel, and the affine.
        bundle: names the labels.
    Raises:
        PipelineError: labels are not on the volume's grid.
        BundleError: labels hold a value that the bundle does not name.
    """
    check_grid(labels, volume)
    size = 1 + max([int(labels.max(initial=0)), *(label.value for label in bundle.labels)])
    voxels, intensity_sums, index_sums = _sums(labels, volume.array[0], size)
    check_named(np.flatnonzero(voxels), bundle)
    found = []
    for label in bundle.labels:
        count = int(voxels[label.value])
        mean = intensity_sums[label.value] / count if count else np.nan
        found.append(
            LabelMeasurement(
                value=label.value,
                name=label.name,
                voxels=count,
                volume_ml=count * volume.voxel_ml,
                mean_intensity=float(mean) if np.isfinite(mean) else None,
                centroid_ras_mm=_to_ras(index_sums[:, label.value] / count, volume.affine) if count else None,
            )
        )
    return found


def write_measurements(folder: Path, measurements: Sequence[LabelMeasurement], volume: Volume) -> tuple[Path, Path]:
    """Write `measurements.json` and `measurements.csv` (a row a label) into the folder and return their paths.

    Raises:
        PipelineError: a file can not be written.
    """
    json_path, csv_path = folder / "measurements.json", folder / "measurements.csv"
    document = measurements_document(measurements, volume)
    table = io.StringIO()
    writer = csv.DictWriter(table, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(measurement, volume) for measurement in measurements)
    write_whole(json_path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    write_whole(csv_path, table.getvalue().encode())
    return json_path, csv_path


def measurements_document(measurements: Sequence[LabelMeasurement], volume: Volume) -> dict[str, Any]:
    """The content of measurements.json: the case, the units, and one object a label."""
    return {
        "case": volume.case,
        "units": {
            "volume_ml": "ml",
            "mean_intensity": intensity_unit(volume),
            "centroid_ras_mm": "mm; right, anterior, superior",
        },
        "voxel_volume_ml": volume.voxel_ml,
        "spacing_known": volume.has_spacing,
        "labels": [asdict(measurement) for measurement in measurements],
    }


def intensity_unit(volume: Volume) -> str:
    """The unit of the volume's intensities."""
    return INTENSITY_UNITS.get(volume.modality or "", "as in the source")


def volume_text(volume_ml: float) -> str:
    """Millilitres with three digits that count, such as "1.80 ml", "23.4 ml" or "1210 ml"."""
    if volume_ml <= 0:
        return "0 ml"
    if volume_ml < SMALL_ML:
        return f"{volume_ml:.3g} ml"
    decimals = max(0, 2 - int(np.floor(np.log10(volume_ml))))
    return f"{volume_ml:.{decimals}f} ml"


def size_text(measurement: LabelMeasurement, volume: Volume) -> str:
    """A label's size in words: millilitres, or of a picture its pixels and their share of it."""
    if not volume.is_picture:
        return volume_text(measurement.volume_ml)
    share = measurement.voxels / np.prod(volume.spatial_shape)
    return f"{measurement.voxels:,} pixels ({100 * share:.3g} %)"


def _csv_row(measurement: LabelMeasurement, volume: Volume) -> dict[str, str | int]:
    """One row by column name; what there is no value for is left out."""
    row: dict[str, str | int] = {
        "case": volume.case,
        "value": measurement.value,
        "label": measurement.name,
        "voxels": measurement.voxels,
        "volume_ml": f"{measurement.volume_ml:.6g}",
        "intensity_unit": intensity_unit(volume),
    }
    if measurement.mean_intensity is not None:
        row["mean_intensity"] = f"{measurement.mean_intensity:.6g}"
    if measurement.centroid_ras_mm is not None:
        digits = "6g" if volume.is_picture else "3f"  # a microscope's pixels are millionths of a mm
        row |= {
            name: f"{part:.{digits}}" for name, part in zip(CSV_COLUMNS[-3:], measurement.centroid_ras_mm, strict=True)
        }
    return row


def _sums(labels: np.ndarray, intensities: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel counts, intensity sums (both (size,)) and index sums (3, size) by label value.

    Slab by slab, because bincount turns what it is given into 64-bit numbers.
    """
    counts = np.zeros(size, dtype=np.int64)
    intensity_sums = np.zeros(size)
    index_sums = np.zeros((3, size))
    _, y_size, z_size = labels.shape
    y_index, z_index = (grid.ravel() for grid in np.indices((y_size, z_size)))
    for x, (label_slab, intensity_slab) in enumerate(zip(labels, intensities, strict=True)):
        slab = label_slab.ravel()
        slab_counts = np.bincount(slab, minlength=size)
        if slab_counts[0] == slab.size:
            counts[0] += slab.size
            continue
        counts += slab_counts
        intensity_sums += np.bincount(slab, weights=intensity_slab.ravel(), minlength=size)
        index_sums[0] += x * slab_counts
        index_sums[1] += np.bincount(slab, weights=y_index, minlength=size)
        index_sums[2] += np.bincount(slab, weights=z_index, minlength=size)
    return counts, intensity_sums, index_sums


def _to_ras(index: np.ndarray, affine: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(part) for part in affine[:3, :3] @ index + affine[:3, 3])
    return x, y, z

"""Volumes, NIfTI files, DICOM series and tiny bundles for tests, with the faults that tests ask for."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.studies import mr_series

PATIENT = {"PatientName": "PHICANARY^TEST", "PatientID": "PHICANARY", "PatientBirthDate": "19500101"}
"""Identifiers of nobody that may appear in no output."""

Edit = Callable[[pydicom.Dataset, int], None]


SMALL_TRAINING: dict[str, Any] = {
    "network_def#features": [2, 4],
    "network_def#deep_supervision": 0,
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "roi_size": [16, 16, 16],
    "val_interval": 1,
    "precision": "fp32",
}
"""`--set` values with which the hippocampus bundle trains an epoch of tiny crops in a tenth of a second."""


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """(3, 3), turned about x, then y, then z."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = [(1, 2), (2, 0), (0, 1)][axis]
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turned = one @ turned
    return turned


def make_affine(
    spacing: Sequence[float] = (1.0, 1.5, 2.0),
    degrees: Sequence[float] = (0.0, 0.0, 0.0),
    origin: Sequence[float] = (-20.0, -30.0, 10.0),
) -> np.ndarray:
    """(4, 4), voxel index -> RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def make_volume(
    shape: Sequence[int] = (6, 7, 8),
    spacing: Sequence[float] = (1.0, 1.5, 2.0),
    degrees: Sequence[float] = (0.0, 0.0, 0.0),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """An array (X, Y, Z) of whole numbers 0 to 999 as int16, and its affine (voxel index -> RAS mm)."""
    array = np.random.default_rng(seed).integers(0, 1000, tuple(shape), dtype=np.int16)
    return array, make_affine(spacing, degrees)


def reorient(
    array: np.ndarray, affine: np.ndarray, axes: Sequence[int], flips: Sequence[bool] = (False, False, False)
) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its axes in another order, then reversed where `flips` says so; no voxel moves."""
    array, columns, origin = array.transpose(axes), affine[:3, list(axes)].copy(), affine[:3, 3].copy()
    for axis in np.flatnonzero(flips):
        origin += columns[:, axis] * (array.shape[axis] - 1)
        columns[:, axis] *= -1
        array = np.flip(array, axis)
    return np.ascontiguousarray(array), np.vstack([np.column_stack([columns, origin]), [0, 0, 0, 1]])


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, edit: Callable[[Any], None] | None = None) -> Path:
    """Writes a NIfTI-1 file with sform and qform; `edit` changes its header first."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    if edit:
        edit(image.header)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_mr_series(
    folder: Path,
    array: np.ndarray | None = None,
    affine: np.ndarray | None = None,
    *,
    number: int = 1,
    description: str = "T1",
    seed: str = "test",
    gap_after: int | None = None,
    duplicate: int | None = None,
    shuffle_names: bool = False,
    edit: Edit | None = None,
) -> list[Path]:
    """Writes an MR series, then breaks it.

    Args:
        folder: where the files go.
        array: (X, Y, Z) whole numbers; `make_volume()` where None.
        affine: (4, 4), voxel index -> RAS mm.
        number: SeriesNumber.
        description: SeriesDescription.
        seed: decides the UIDs.
        gap_after: the slice after which one is left out.
        duplicate: the slice whose place the next one takes, too.
        shuffle_names: opaque names whose order means nothing, and InstanceNumbers to match.
        edit: changes a slice's dataset, given its index.
    Returns:
        The files in slice order.
    """
    made, grid = make_volume()
    array = made if array is None else array
    affine = grid if affine is None else affine
    files = mr_series.write_mr_series(
        folder, array, affine, series_number=number, series_description=description, seed=seed
    )
    for index, file in enumerate(files):
        if edit:
            _edit(file, index, edit)
    if duplicate is not None:
        position = pydicom.dcmread(files[duplicate]).ImagePositionPatient
        _edit(files[duplicate + 1], 0, lambda dataset, _: setattr(dataset, "ImagePositionPatient", position))
    if gap_after is not None:
        files.pop(gap_after + 1).unlink()
    return _shuffled(files) if shuffle_names else files


def write_ct_series(
    folder: Path, array: np.ndarray | None = None, *args: Any, edit: Edit | None = None, **kwargs: Any
) -> list[Path]:
    """As `write_mr_series`, of modality CT with RescaleIntercept -1024: stored 1024 is 0 HU."""

    def to_ct(dataset: pydicom.Dataset, index: int) -> None:
        dataset.Modality, dataset.SOPClassUID = "CT", pydicom.uid.CTImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
        if edit:
            edit(dataset, index)

    return write_mr_series(folder, array, *args, edit=to_ct, **kwargs)


def write_enhanced_mr(
    file: Path,
    volumes: Sequence[np.ndarray],
    affine: np.ndarray,
    *,
    edit_frame: Callable[[pydicom.Dataset, int, int], None] | None = None,
    seed: str = "enhanced",
) -> Path:
    """Writes an Enhanced MR file whose frames are the slices of the volumes, one time point after the other.

    Args:
        file: where it goes.
        volumes: arrays (X, Y, Z) of whole numbers.
        affine: (4, 4), voxel index -> RAS mm.
        edit_frame: changes the functional groups of a frame, given its time point and slice.
        seed: decides the UIDs.
    """
    folder = file.parent / "single-frame"
    slices = [pydicom.dcmread(path) for path in write_mr_series(folder, volumes[0], affine, seed=seed)]
    dataset = slices[0]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedMRImageStorage
    dataset.NumberOfFrames = sum(array.shape[2] for array in volumes)
    shared = pydicom.Dataset()
    shared.PlaneOrientationSequence = [pydicom.Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = pydicom.dcmread(folder / "MR01_0000.dcm")[
        0x00200037
    ].value
    shared.PixelMeasuresSequence = [pydicom.Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = pydicom.dcmread(folder / "MR01_0000.dcm").PixelSpacing
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for time, array in enumerate(volumes):
        for z in range(array.shape[2]):
            group = pydicom.Dataset()
            group.PlanePositionSequence = [pydicom.Dataset()]
            position = pydicom.dcmread(folder / f"MR01_{z:04d}.dcm").ImagePositionPatient
            group.PlanePositionSequence[0].ImagePositionPatient = position
            group.FrameContentSequence = [pydicom.Dataset()]
            group.FrameContentSequence[0].StackID = "1"
            group.FrameContentSequence[0].TemporalPositionIndex = time + 1
            if edit_frame:
                edit_frame(group, time, z)
            groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    frames = [array[:, :, z].T for array in volumes for z in range(array.shape[2])]
    dataset.PixelData = np.ascontiguousarray(frames).astype("<u2").tobytes()
    dataset.save_as(file)
    shutil.rmtree(folder)
    return file


def edit_file(file: Path, **values: Any) -> None:
    """Sets elements of one DICOM file by keyword; None deletes."""

    def change(dataset: pydicom.Dataset, _: int) -> None:
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    _edit(file, 0, change)


def make_bundle(
    folder: Path,
    *,
    spacing: Sequence[float] | None = None,
    mirror_axes: Sequence[int] = (),
    out_channels: int = 3,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> Bundle:
    """Writes a tiny bundle that `Predictor` runs: metadata.json, inference.yaml and a small UNet's random weights.

    Args:
        folder: of the bundle; made where it is missing.
        spacing: what the preprocessing resamples to, in mm; None leaves the voxels as they are.
        mirror_axes: of the `StreamingInferer`; without any, the inferer is MONAI's.
        out_channels: of the network; the labels are 1 to out_channels - 1, or 1 for one channel.
        seed: of the weights.
        config: ids of inference.yaml that replace or, where None, drop those made here.
        metadata: keys of metadata.json likewise.
    """
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    labels = [_label_class(value) for value in range(1, max(out_channels, 2))]
    described = {"name": "tiny", "version": "0.0.1", "label_classes": labels} | metadata
    settings = _inference_config(spacing, mirror_axes, out_channels) | (config or {})
    for file, content in {"metadata.json": described, "inference.yaml": settings}.items():
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / "configs" / file).write_text(json.dumps(kept, indent=1), encoding="utf-8")  # JSON is YAML, too
    _write_weights(folder / "models" / "model.pt", out_channels, seed)
    return find_bundle(folder)


def _edit(file: Path, index: int, edit: Edit) -> None:
    dataset = pydicom.dcmread(file)
    edit(dataset, index)
    dataset.save_as(file)


def _shuffled(files: list[Path]) -> list[Path]:
    order = random.Random(0).sample(range(len(files)), len(files))
    renamed = []
    for file, place in zip(files, order, strict=True):
        edit_file(file, InstanceNumber=place + 1)
        renamed.append(file.rename(file.with_name(f"{place:03d}{hash(place) % 97:02d}")))
    return renamed


def _label_class(value: int) -> dict[str, Any]:
    return {
        "value": value,
        "name": f"part{value}",
        "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"},
        "color": [50 * value, 255 - 50 * value, 128],
    }


def _inference_config(spacing: Sequence[float] | None, mirror_axes: Sequence[int], out_channels: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "scanloom.pipeline.studies.reader.StudyReader",
            "ensure_channel_first": True,
        },
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
    ]
    if spacing is not None:
        steps.append({"_target_": "Spacingd", "keys": "image", "pixdim": [*spacing], "mode": "bilinear"})
    steps.append({"_target_": "NormalizeIntensityd", "keys": "image"})
    windows: dict[str, Any] = {"roi_size": [12, 12, 12], "overlap": 0.5, "mode": "gaussian"}
    if mirror_axes:
        windows |= {"_target_": "scanloom.pipeline.inference.StreamingInferer", "mirror_axes": [*mirror_axes]}
    else:
        windows |= {"_target_": "SlidingWindowInferer"}
    return {
        "network_def": {"_target_": "scanloom.networks.UNet", **_tiny_network(out_channels)},
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": windows,
    }


def _tiny_network(out_channels: int) -> dict[str, Any]:
    return {"out_channels": out_channels, "features": [4, 8], "spatial_dims": 3, "padding": "same"}


def _write_weights(path: Path, out_channels: int, seed: int) -> None:
    """Random weights whose biases give every label a share of a noisy image."""
    import torch
    from scanloom.networks import UNet

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = UNet(**_tiny_network(out_channels))
        logits = network(torch.randn(1, 1, 12, 12, 12))
        network.heads[0].bias -= logits.mean(dim=(0, 2, 3, 4))
    torch.save(network.state_dict(), path)

"""Writes a volume as a correct DICOM MR series of nobody, for the demo and for tests."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GeometryError
from .geometry import COSINE_TOLERANCE, ras_to_lps, slice_normal

if TYPE_CHECKING:
    from pydicom import Dataset

_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_DATE, _TIME = "20260102", "101112"


def write_mr_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    series_number: int = 1,
    series_description: str = "T1",
    seed: str | None = None,
) -> list[Path]:
    """Writes one MR Image Storage file a slice of the array's last axis.

    For other slice planes permute and flip array and affine first.

    Args:
        folder: where the files go; made where it is missing.
        array: (X, Y, Z) whole numbers from -32,768 to 65,535 that fit either signed or unsigned 16 bits.
        affine: (4, 4), voxel index -> RAS mm; the first two axes at right angles, the third may lean (gantry tilt).
        series_number: SeriesNumber (0020,0011), and the start of the file names.
        series_description: SeriesDescription (0008,103E).
        seed: decides all UIDs; series of one seed belong to one study and frame of reference. None draws one.
    Returns:
        The files, in the order of the slices.
    Raises:
        ValueError: the array is not 3D or holds other than whole 16-bit numbers.
        GeometryError: rows and columns are not at right angles.
    Source: DICOM PS3.3 A.4.3 (MR Image IOD), C.7.6.2 (Image Plane), C.8.3.1 (MR Image).
    """
    pixels = _whole_numbers(array)
    seed = seed or uuid.uuid4().hex
    common = _series(ras_to_lps(np.asarray(affine, float)), seed, series_number, series_description)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(pixels.shape[2]):
        path = folder / f"MR{series_number:02d}_{index:04d}.dcm"
        _write(path, common, pixels[:, :, index], ras_to_lps(np.asarray(affine, float)), seed, index)
        files.append(path)
    return files


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    """The array as uint16, or as int16 where it holds negative numbers."""
    low, high = (float(array.min()), float(array.max())) if array.ndim == 3 and array.size else (np.nan, np.nan)
    kind = np.uint16 if low >= 0 else np.int16
    if not (low >= np.iinfo(kind).min and high <= np.iinfo(kind).max and np.all(array == np.rint(array))):
        raise ValueError(
            f"array of shape {array.shape} from {low:g} to {high:g} is not 3D of whole 16-bit numbers. "
            "Round or scale it."
        )
    return array.astype(kind)


def _series(affine: np.ndarray, seed: str, number: int, description: str) -> Dataset:
    """What all files of the series share: patient, study, series, equipment, acquisition, plane."""
    from pydicom import Dataset

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    orientation = (affine[:3, :2] / spacing[:2]).T.ravel()
    normal = slice_normal(orientation, f"number {number}")
    between = abs(float(affine[:3, 2] @ normal))
    if between < COSINE_TOLERANCE * spacing[2]:
        raise GeometryError(f"series number {number}: slices lie in one plane. Write its affine again.", "bad-affine")
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = "ANONYMOUS^EXAMPLE", "ANONYMOUS"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.PatientIdentityRemoved = "", "", "YES"
    dataset.DeidentificationMethod = "Example without a patient"
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime = _uid(seed, "study"), _DATE, _TIME
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.Modality, dataset.SeriesInstanceUID = "MR", _uid(seed, "series", number)
    dataset.SeriesNumber, dataset.SeriesDescription, dataset.PatientPosition = number, description, "HFS"
    dataset.BodyPartExamined = "BRAIN"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = _uid(seed, "frame of reference"), ""
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = "scanloom", "example", "1"
    dataset.SOPClassUID, dataset.ImageType = _MR_IMAGE_STORAGE, ["DERIVED", "SECONDARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "NONE", ""
    dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime = "3D", "8", "3"
    dataset.EchoTrainLength, dataset.MagneticFieldStrength = 1, "3"
    dataset.SliceThickness = dataset.SpacingBetweenSlices = _decimal(between)
    dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    dataset.ImageOrientationPatient = [_decimal(cosine) for cosine in orientation]
    return dataset


def _write(path: Path, common: Dataset, pixels: np.ndarray, affine: np.ndarray, seed: str, index: int) -> None:
    """Writes one slice, (columns, rows), as Explicit VR Little Endian."""
    from copy import deepcopy

    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = deepcopy(common)
    dataset.SOPInstanceUID = _uid(seed, "instance", int(common.SeriesNumber), index)
    dataset.InstanceNumber, dataset.AcquisitionNumber = index + 1, 1
    dataset.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3] + index * affine[:3, 2]]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype == np.int16)
    dataset.PixelData = np.ascontiguousarray(pixels.T).astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def _decimal(value: float) -> str:
    """The closest Decimal String of at most 16 characters and 12 decimals.

    Smaller parts of a millimetre mean nothing, and pydicom writes some of their exponents one character too long.
    """
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(round(float(value), 12) + 0.0)


def _uid(seed: str, *parts: str | int) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=["scanloom", seed, *map(str, parts)])

"""The pixels of a DICOM series, each slice decoded and rescaled on its own, as a `Volume`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..errors import StudyError
from ..volume import SourceSlice, Volume
from .dicom_header import UNREADABLE, quiet_pydicom
from .study import Series

_BLOCK = 16
"""Slices that are decoded before they go into the volume together: z is its fastest axis, 16 float32 a cache line."""


def read_dicom(series: Series) -> Volume:
    """The volume of a series that `find_series` did not refuse.

    Returns:
        array (1, columns, rows, slices) float32, RescaleSlope and RescaleIntercept applied slice by slice; slices
        ascend along row x column.
    Raises:
        StudyError: a file is cut short, uses a transfer syntax without decoder, or is not what its header said.
    """
    assert series.shape is not None and series.affine is not None and series.uid is not None
    array = np.empty((1, *series.shape), np.float32)
    for start in range(0, len(series.files), _BLOCK):
        slices = [_read_slice(series, index) for index in range(start, min(start + _BLOCK, len(series.files)))]
        array[0, :, :, start : start + len(slices)] = np.stack(slices).transpose(2, 1, 0)
    return Volume(
        array=array,
        affine=series.affine.copy(),
        case=series.case,
        modality=series.modality,
        sources=tuple(SourceSlice(file, None, z) for z, file in enumerate(series.files)),
        series_sha256=hashlib.sha256(series.uid.encode()).hexdigest(),
        notices=series.notices,
    )


def _read_slice(series: Series, index: int) -> np.ndarray:
    """(rows, columns) float32 of slice `index`, rescaled."""
    where = f"series {series.case}: slice {index} of {len(series.files)}"
    with quiet_pydicom():
        dataset = _read_file(series.files[index], where)
        slope, intercept = _rescale(dataset, where)
        try:
            _check_stored(dataset, where)
            stored = dataset.pixel_array
        except UNREADABLE as error:
            raise _undecodable(dataset, where, error) from None
    if series.shape is None or stored.shape != (series.shape[1], series.shape[0]):
        raise StudyError(
            f"{where} decodes to {stored.shape}, not to its Rows and Columns. Export it again.", "bad-pixels"
        )
    if slope == 1.0 and intercept == 0.0:
        return stored.astype(np.float32)
    return (stored * np.float64(slope) + intercept).astype(np.float32)


def _read_file(path: Path, where: str) -> Any:
    """The whole dataset; one without file meta information gets the transfer syntax that it was read with."""
    try:
        dataset = pydicom.dcmread(path, force=True)
    except UNREADABLE as error:
        raise _damaged(where, error) from None
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _check_stored(dataset: Any, where: str) -> None:
    """Refuses a slice that can not hold the pixels it claims, before they are allocated."""
    if "ModalityLUTSequence" in dataset:
        raise StudyError(f"{where} has a ModalityLUTSequence, which is not read. Convert it to NIfTI.", "modality-lut")
    if "PixelData" not in dataset:
        raise StudyError(f"{where} has no PixelData. Export the series again.", "truncated")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and (not syntax.is_transfer_syntax or syntax.is_compressed):
        return
    needed = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) < needed:
        raise StudyError(
            f"{where} holds {len(dataset.PixelData):,} bytes of pixels, its header claims {needed:,} (cut short). "
            "Copy or export the series again.",
            "truncated",
        )


def _undecodable(dataset: Any, where: str, error: BaseException) -> StudyError:
    """The reason in our own words: those of pydicom may quote values."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or (syntax.is_transfer_syntax and not syntax.is_compressed):
        return _damaged(where, error)
    name = syntax.name if re.fullmatch(r"[\d.]+", syntax) else "(not a UID)"
    return StudyError(
        f"{where}: no installed decoder reads its transfer syntax {name} ({type(error).__name__}). "
        "Convert the series to an uncompressed one (dcmconv, gdcmconv --raw), or copy it again if it is damaged.",
        "undecodable",
    )


def _damaged(where: str, error: BaseException) -> StudyError:
    text = f"{where} can not be read ({type(error).__name__}): the file is damaged. Copy or export the series again."
    return StudyError(text, "unreadable")


def _rescale(dataset: Any, where: str) -> tuple[float, float]:
    """RescaleSlope (0028,1053) and RescaleIntercept (0028,1052) of one slice; 1 and 0 where absent or empty."""
    values = []
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        try:
            value = dataset.get(keyword)
            values.append(default if value in (None, "") else float(value))
        except UNREADABLE:
            values.append(float("nan"))
    if not np.all(np.isfinite(values)) or values[0] == 0:
        raise StudyError(f"{where} has an unusable RescaleSlope or RescaleIntercept. Export it again.", "bad-rescale")
    return values[0], values[1]

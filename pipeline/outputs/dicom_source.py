"""The image planes that a volume was read from, as the DICOM objects written here refer to them.

A plane is an instance, or a frame of one. Directions and spacings come from the volume's affine, whose third axis may
lean; the places come from the planes' own headers, so that what is written lies on the source exactly, and must agree
with the affine. This is the one module of the writers where RAS becomes LPS.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ..dicom_reading import UNREADABLE, quiet_dicom
from ..errors import StudyError, UsageError
from ..volume import SourceSlice, Volume
from .dicom_attributes import of_the_images, patient_and_study, raw_text
from .dicom_planes import DicomSource, SourcePlane, uid_of

OFF_PLANE_VOXELS = 0.5
"""How far, in voxels of the finest axis, a header's place may lie from the volume's."""
EVEN_VOXELS = 1e-3
"""Steps between planes that differ by less, in voxels, are one spacing."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def require_dicom(volume: Volume, what: str) -> None:
    """Refuse a volume that was not read from DICOM.

    Args:
        volume: the volume.
        what: the format's name on the command line.
    Raises:
        UsageError: it has no source instances.
    """
    if not volume.sources:
        raise UsageError(
            f"case {volume.case}: {what} refers to DICOM instances and this input has none. "
            f"Leave out --format {what}, or give the DICOM series as input."
        )


def read_source(volume: Volume) -> DicomSource:
    """The source planes of a DICOM volume, their files read again without pixels.

    Raises:
        StudyError: a file is gone or unreadable; its UIDs are missing, no UIDs, or of several series; a plane does not
            lie where the volume has it.
    """
    with quiet_dicom():
        read = lru_cache(maxsize=8)(lambda file: _read_header(file, volume))
        first = read(volume.sources[0].file)
        planes, frames = [], {}
        for place in volume.sources:
            header = read(place.file)
            _require_uids(header, first, volume)
            plane = _plane(header, place, volume)
            planes.append(plane)
            if plane.frame is not None:
                frames[plane.sop_uid] = _whole_number(header, "NumberOfFrames")
        _require_planes_apart(planes, volume)
        x, y, z = (_RAS_LPS[:3, :3] @ volume.affine[:3, :3]).T
        step = abs(float(z @ np.cross(x, y))) / float(np.linalg.norm(np.cross(x, y)))
        columns, rows, _ = volume.spatial_shape
        series_uid = raw_text(first, "SeriesInstanceUID")
        return DicomSource(
            case=volume.case,
            planes=tuple(planes),
            frames=frames,
            patient_and_study=patient_and_study(first),
            of_the_images=of_the_images(first),
            study_uid=raw_text(first, "StudyInstanceUID"),
            series_uid=series_uid,
            series_number=_whole_number(first, "SeriesNumber"),
            frame_of_reference=_frame_of_reference(first, series_uid),
            size=(columns, rows),
            axes=np.stack([x, y], axis=1),
            spacing_between=_spacing_between(volume, step),
            thickness=_thickness(first) or step,
        )


def source_or_reason(volume: Volume) -> DicomSource | StudyError:
    """What `read_source` returns, or raises."""
    try:
        return read_source(volume)
    except StudyError as error:
        return error


def _read_header(file: Path, volume: Volume) -> Dataset:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except OSError as error:
        reason = f"can not be read again ({error.strerror or type(error).__name__})"
    except UNREADABLE as error:
        reason = f"has a header that pydicom can not read ({type(error).__name__})"
    raise _refusal(volume, f"a source file {reason}", "Keep the input in place until the case is done.")


def _plane(header: Dataset, place: SourceSlice, volume: Volume) -> SourcePlane:
    slices = volume.spatial_shape[2]
    index = int(np.rint(place.z))
    if not 0 <= index < slices:
        raise _refusal(volume, f"a source plane lies at slice {place.z:g} of {slices}", "Report this.")
    return SourcePlane(
        sop_class=raw_text(header, "SOPClassUID"),
        sop_uid=raw_text(header, "SOPInstanceUID"),
        frame=None if place.frame is None else place.frame + 1,
        index=index,
        position=_position(header, place, volume),
    )


def _position(header: Dataset, place: SourceSlice, volume: Volume) -> np.ndarray:
    """ImagePositionPatient as the header has it, or where it has none as the volume's affine."""
    expected = (_RAS_LPS @ volume.affine @ [0.0, 0.0, place.z, 1.0])[:3]
    found = _header_position(header, place.frame)
    if found is None:
        return expected
    off = float(np.linalg.norm(found - expected)) / min(volume.spacing)
    if not off <= OFF_PLANE_VOXELS:
        raise _refusal(
            volume,
            f"the plane of slice {place.z:g} lies {off:.2f} voxels from where the volume has it",
            "The geometry was corrected in a way that an object on the source planes can not follow.",
        )
    return found


def _header_position(header: Dataset, frame: int | None) -> np.ndarray | None:
    places: list[Any] = [header]
    if frame is not None:
        places = [_group(header, "PerFrameFunctionalGroupsSequence", frame)]
        places.append(_group(header, "SharedFunctionalGroupsSequence", 0))
        places = [_group(group, "PlanePositionSequence", 0) for group in places]
    for place in places:
        try:
            position = np.array([float(part) for part in place.ImagePositionPatient])
        except UNREADABLE:
            continue
        if position.shape == (3,) and np.isfinite(position).all():
            return position
    return None


def _group(dataset: Any, sequence: str, index: int) -> Any:
    try:
        return dataset.get(sequence)[index]
    except UNREADABLE:
        return None


def _thickness(header: Dataset) -> float:
    measures = _group(_group(header, "SharedFunctionalGroupsSequence", 0), "PixelMeasuresSequence", 0)
    for place in (header, measures):
        try:
            thickness = float(place.SliceThickness)
        except UNREADABLE:
            continue
        if 0 < thickness < 1e4:
            return thickness
    return 0.0


def _whole_number(header: Dataset, keyword: str) -> int:
    """The value where it is one from 1 to 999,999; else 0."""
    text = raw_text(header, keyword)
    return int(text) if re.fullmatch(r"\+?[0-9]{1,6}", text) else 0


def _frame_of_reference(header: Dataset, series_uid: str) -> str:
    text = raw_text(header, "FrameOfReferenceUID")
    return text if len(text) <= 64 and _UID.fullmatch(text) else uid_of("frame of reference", series_uid)


def _spacing_between(volume: Volume, step: float) -> float | None:
    steps = np.diff([source.z for source in volume.sources])
    if not steps.size:
        return step
    return float(step * steps.mean()) if np.ptp(steps) < EVEN_VOXELS else None


def _require_uids(header: Dataset, first: Dataset, volume: Volume) -> None:
    """Refuse what can not be referred to, and several studies or series."""
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
        text = raw_text(header, keyword)
        if len(text) > 64 or not _UID.fullmatch(text):
            state = "is no UID" if text else "is empty or missing"
            what = f"{keyword} of a source instance {state}, so nothing can refer to it"
            raise _refusal(volume, what, "Export the series with its UIDs.")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if raw_text(header, keyword) != raw_text(first, keyword):
            raise _refusal(volume, f"its source instances have several {keyword}s", "Predict each series on its own.")


def _require_planes_apart(planes: list[SourcePlane], volume: Volume) -> None:
    (_, most), *_ = Counter((plane.sop_uid, plane.frame) for plane in planes).most_common(1)
    if most > 1:
        raise _refusal(volume, "several source files have the same SOPInstanceUID", "Export the series again.")


def _refusal(volume: Volume, what: str, mend: str) -> StudyError:
    """The one-line error; the rest of the case's files can still be written."""
    return StudyError(
        f"case {volume.case}: no DICOM object can be written on its source: {what}. {mend}", code="seg-source"
    )

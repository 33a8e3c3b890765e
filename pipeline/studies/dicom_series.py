"""From the headers of DICOM images to series: grouped, ordered, placed, or refused with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice
from .geometry import lateral_shift_mm, lps_to_ras, plane_affine, plane_name, slice_normal, stack_affine, voxel_spacing
from .study import MAX_VOXELS, Series, dicom_case

if TYPE_CHECKING:
    from .dicom_header import Header

_ENHANCED = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130", "6.2", "7.4")
)
"""SOP classes whose geometry is in functional groups: enhanced and legacy converted CT, MR, PET, US."""


def group_series(headers: Iterable[Header], notices: tuple[Notice, ...] = ()) -> list[Series]:
    """The series that images belong to, by SeriesInstanceUID, in the order of their numbers.

    Args:
        headers: of any number of series, in any order.
        notices: what to tell with each of them.
    """
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.series_uid, []).append(header)
    series = [_describe(uid, group, notices) for uid, group in groups.items()]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.case))


def _describe(uid: str, headers: list[Header], notices: tuple[Notice, ...]) -> Series:
    first = headers[0]
    case = dicom_case(first.modality, uid)
    series = Series(
        case=case,
        kind="dicom",
        files=tuple(sorted(header.path for header in headers)),
        modality=first.modality,
        number=first.series_number,
        uid=uid,
        description=first.description,
        notices=notices,
    )
    try:
        kept, dropped = _without_copies(headers, case)
        _check_kind(kept, case)
        _check_same(kept, case)
        ordered, affine, corrections = _place(kept, case)
        _check_size(ordered, case)
    except StudyError as reason:
        return _refused(series, headers, reason)
    return Series(
        **{name: getattr(series, name) for name in ("case", "kind", "modality", "number", "uid", "description")},
        files=tuple(header.path for header in ordered),
        shape=(first.columns, first.rows, len(ordered)),
        spacing=voxel_spacing(affine),
        plane=plane_name(affine),
        affine=affine,
        notices=(*notices, *dropped, *corrections, *_remarks(ordered, case)),
    )


def _refused(series: Series, headers: Sequence[Header], reason: StudyError) -> Series:
    """The series with the reason, and its matrix and plane where all its images agree on them."""
    sizes = {(header.columns, header.rows) for header in headers}
    shape = (*sizes.pop(), len(headers)) if len(sizes) == 1 else None
    return replace(series, shape=shape, refused=reason)


def _without_copies(headers: list[Header], case: str) -> tuple[list[Header], list[Notice]]:
    """The headers with one for each SOPInstanceUID, where the files of one UID are equal to the byte.

    Raises:
        StudyError: files of one SOPInstanceUID differ.
    """
    kept: dict[str, Header] = {}
    nameless = [header for header in headers if not header.sop_uid]
    for header in headers:
        if not header.sop_uid:
            continue
        other = kept.setdefault(header.sop_uid, header)
        if other is not header and _digest(other) != _digest(header):
            raise StudyError(
                f"series {case}: two files hold different images under one SOPInstanceUID"
                f"{_instance(header)}. Export the series again.",
                "contradicting-copies",
            )
    copies = len(headers) - len(kept) - len(nameless)
    notices = [Notice("duplicate-files", f"series {case}: {copies} files are copies of others and are left out.")]
    return [*kept.values(), *nameless], notices if copies else []


def _digest(header: Header) -> str:
    with header.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_kind(headers: Sequence[Header], case: str) -> None:
    """Accepts single-frame greyscale images in slices of their own."""
    for header in headers:
        if header.frames != 1 or header.sop_class in _ENHANCED:
            raise StudyError(
                f"series {case}: multi-frame (enhanced) DICOM, {header.frames} frames in a file, is not read yet. "
                "Convert it to single-frame DICOM or NIfTI.",
                "multi-frame",
            )
        if "MOSAIC" in header.image_type:
            raise StudyError(
                f"series {case}: Siemens mosaic (slices tiled in one image) is not read. Convert it to NIfTI.",
                "mosaic",
            )
        if header.samples != 1 or header.photometric not in ("MONOCHROME2", ""):
            raise StudyError(
                f"series {case}: pixels are {_photometric(header)} with {header.samples} samples, only "
                "MONOCHROME2 with one is read. Choose another series.",
                "not-monochrome2",
            )


def _photometric(header: Header) -> str:
    known = ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
    return header.photometric if header.photometric in known else "of an unknown kind"


def _check_same(headers: Sequence[Header], case: str) -> None:
    """Accepts images of one patient, each with a place."""
    alike = [
        ("patients", "mixed-patients", [header.patient for header in headers]),
        ("frames of reference", "mixed-frames-of-reference", [header.frame_of_reference for header in headers]),
        ("modalities", "mixed-modalities", [header.modality for header in headers]),
    ]
    for what, code, values in alike:
        if len(set(values)) > 1:
            counts = sorted((values.count(value) for value in set(values)), reverse=True)
            raise GeometryError(
                f"series {case}: {len(counts)} {what} in one series ({', '.join(map(str, counts[:6]))} images). "
                "Separate them, or export the series again.",
                code,
            )
    for header in headers:
        for keyword, value in _places(header).items():
            if value is None:
                lacking = sum(_places(one)[keyword] is None for one in headers)
                raise GeometryError(
                    f"series {case}: {lacking} of {len(headers)} images{_instance(header)} have no usable {keyword}. "
                    "Export the series again; a place in the patient is never guessed.",
                    "no-geometry",
                )


def _places(header: Header) -> dict[str, np.ndarray | None]:
    spacing = header.pixel_spacing
    return {
        "ImageOrientationPatient": header.orientation,
        "ImagePositionPatient": header.position,
        "PixelSpacing": None if spacing is None or np.min(spacing) <= 0 else spacing,
    }


def _place(headers: list[Header], case: str) -> tuple[list[Header], np.ndarray, list[Notice]]:
    """The headers in slice order, the affine (RAS mm), and what to tell about it."""
    orientations = _equal([header.orientation for header in headers], "orientations", 1e-3, case)
    _equal([np.array([header.columns, header.rows]) for header in headers], "matrix sizes", 0.0, case)
    spacings = _equal([header.pixel_spacing for header in headers], "pixel spacings", 1e-4, case)
    normal = slice_normal(orientations, case)
    ordered = sorted(headers, key=lambda header: float(header.position @ normal))
    positions = np.array([header.position for header in ordered])
    if len(ordered) == 1:
        affine, notice = _single(ordered[0], orientations, spacings, positions[0], normal, case)
        return ordered, lps_to_ras(affine), [notice]
    affine = stack_affine(orientations, spacings, positions, case)
    return ordered, lps_to_ras(affine), _shear(affine, spacings, len(ordered), case)


def _equal(values: Sequence[np.ndarray | None], what: str, tolerance: float, case: str) -> np.ndarray:
    """The first of values that are all the same.

    Raises:
        GeometryError: they differ; the message counts the stacks.
    """
    rows = np.array(values, dtype=float)
    distinct: list[np.ndarray] = []
    for row in rows:
        if not any(np.max(np.abs(row - known)) <= tolerance for known in distinct):
            distinct.append(row)
    if len(distinct) > 1:
        raise GeometryError(
            f"series {case}: {len(distinct)} {what} among {len(rows)} images; slices of one volume share one. "
            "It is a scout, or series were merged: choose another series, or separate them.",
            f"mixed-{what.replace(' ', '-')}",
        )
    return rows[0]


def _single(
    header: Header, orientation: np.ndarray, spacing: np.ndarray, position: np.ndarray, normal: np.ndarray, case: str
) -> tuple[np.ndarray, Notice]:
    """The affine of one slice alone, whose extent only SliceThickness tells."""
    if not header.thickness or header.thickness <= 0:
        raise GeometryError(
            f"series {case}: a single slice without SliceThickness has no extent. Pass the whole series.",
            "no-thickness",
        )
    notice = Notice(
        "single-slice", f"series {case}: a single slice; its extent of {header.thickness:g} mm is SliceThickness."
    )
    return plane_affine(orientation, spacing, position, normal * header.thickness), notice


def _shear(affine: np.ndarray, spacing: np.ndarray, slices: int, case: str) -> list[Notice]:
    """A notice where the stack leans by more than a tenth of a pixel over all its slices."""
    shift = lateral_shift_mm(affine)
    if shift * (slices - 1) <= 0.1 * float(np.min(spacing)):
        return []
    text = f"series {case}: each slice lies {shift:.3f} mm sideways of the last (gantry tilt); the affine carries it."
    return [Notice("sheared-slices", text)]


def _check_size(headers: Sequence[Header], case: str) -> None:
    """Accepts what fits in memory, and pixels that the file is long enough to hold.

    Raises:
        StudyError: it does not.
    """
    first = headers[0]
    voxels = first.rows * first.columns * len(headers)
    if voxels > MAX_VOXELS:
        raise StudyError(
            f"series {case}: {voxels:,} voxels claimed, at most {MAX_VOXELS:,} are read. Crop the series.", "too-large"
        )


def _remarks(headers: Sequence[Header], case: str) -> list[Notice]:
    """What does not stop the reading, and yet is worth knowing."""
    notices = []
    if any(header.lossy for header in headers):
        notices.append(Notice("lossy", f"series {case}: the pixels were compressed with loss."))
    if headers[0].modality == "CT" and not all(header.has_rescale for header in headers):
        text = f"series {case}: CT without RescaleSlope and RescaleIntercept; the values may not be Hounsfield units."
        notices.append(Notice("no-rescale", text))
    if not headers[0].series_uid:
        notices.append(Notice("no-uid", f"series {case}: SeriesInstanceUID is empty; the case name is not unique."))
    return notices


def _instance(header: Header) -> str:
    """Which image, in a way that holds nothing of the patient: " (such as InstanceNumber 7)"."""
    return "" if header.instance_number is None else f" (such as InstanceNumber {header.instance_number})"

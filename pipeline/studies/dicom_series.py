"""From the headers of DICOM images to series: grouped, ordered, placed, or refused with the reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice
from .dicom_elements import NATIVE
from .dicom_frames import check_frames
from .dicom_stacks import Stack, split_stacks
from .geometry import lps_to_ras, plane_affine, plane_name, slice_normal, voxel_spacing
from .slices import SliceGrid, grid_slices
from .study import MAX_VOXELS, Series, dicom_case, source_case

if TYPE_CHECKING:
    from .dicom_header import Header

UNKNOWN_THICKNESS_MM = 1.0
"""The extent that a single slice gets where no attribute tells it."""
_SMALL_IMAGE_BYTES = 2**25
_DENSEST = 1032
"""The most that one compressed byte of a larger image may hold, so that a small file can not claim a large image."""
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_KNOWN_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
)


def group_series(
    headers: Iterable[Header],
    notices: tuple[Notice, ...] = (),
    max_voxels: int = MAX_VOXELS,
    names_of_source: bool = False,
) -> list[Series]:
    """The volumes that image planes belong to, by SeriesInstanceUID, in the order of their numbers.

    Args:
        headers: of any number of series, in any order.
        notices: what to tell with each of them.
        max_voxels: a volume of more is refused.
        names_of_source: call cases after the folders of their files, not after hashes alone.
    """
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(_series_key(header), []).append(header)
    series = [
        one for uid, group in groups.items() for one in _describe(uid, group, notices, max_voxels, names_of_source)
    ]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.case))


def _series_key(header: Header) -> str:
    """SeriesInstanceUID; where it is empty, what else images of one series have in common."""
    others = (header.patient, header.frame_of_reference, header.modality, str(header.series_number))
    return header.series_uid or " ".join(others)


def _describe(
    uid: str, headers: list[Header], notices: tuple[Notice, ...], max_voxels: int, names_of_source: bool
) -> list[Series]:
    """The volumes of one series; the whole of it as one refused where it can not be told what they are."""
    first = headers[0]
    folder = min(headers, key=lambda header: header.path).path.parent
    whole = Series(
        case=source_case(folder, uid) if names_of_source else dicom_case(first.modality, uid),
        kind="dicom",
        files=_files(sorted(headers, key=lambda header: header.path)),
        modality=first.modality,
        number=first.series_number,
        uid=uid,
        description=first.description,
        notices=notices,
    )
    try:
        kept, dropped = _without_copies(headers, whole.case)
        _check_kind(kept, whole.case)
        _check_same(kept, whole.case)
        stacks = split_stacks(kept, whole.case)
    except StudyError as reason:
        return [_refused(whole, headers, reason)]
    whole = replace(whole, notices=(*notices, *dropped))
    if len(stacks) == 1:
        return [_placed(whole, stacks[0], max_voxels)]
    return [
        _placed(replace(whole, case=f"{whole.case}-{number}", part=stack.part), stack, max_voxels)
        for number, stack in enumerate(stacks, start=1)
    ]


def _placed(series: Series, stack: Stack, max_voxels: int) -> Series:
    """The series of one stack with its place, or with the reason why it has none."""
    planes, case = stack.planes, series.case
    series = replace(series, files=_files(planes))
    try:
        grid = _grid(planes, case)
        _check_size(planes, grid, case, max_voxels)
    except StudyError as reason:
        return _refused(series, planes, reason)
    affine = lps_to_ras(grid.affine)
    return replace(
        series,
        planes=planes,
        z=grid.z,
        shape=(planes[0].columns, planes[0].rows, grid.size),
        spacing=voxel_spacing(affine),
        plane=plane_name(affine),
        affine=affine,
        notices=(*series.notices, *stack.notices, *grid.notices, *_remarks(planes, case)),
    )


def _files(headers: Sequence[Header]) -> tuple:
    """The files of the planes, each once, in their order."""
    return tuple(dict.fromkeys(header.path for header in headers))


def _refused(series: Series, headers: Sequence[Header], reason: StudyError) -> Series:
    """The series with the reason, and its matrix where all its images agree on it."""
    sizes = {(header.columns, header.rows) for header in headers}
    shape = (*sizes.pop(), len(headers)) if len(sizes) == 1 else None
    return replace(series, shape=shape, refused=reason)


def _without_copies(headers: list[Header], case: str) -> tuple[list[Header], list[Notice]]:
    """The headers without those of files that are equal to the byte, and what to tell of them.

    Different images under one SOPInstanceUID are kept: their places decide.
    """
    kept: dict[tuple, Header] = {}
    digests: dict[Path, str] = {}
    repeated = {uid for (uid, _), count in Counter((h.sop_uid, h.frame) for h in headers).items() if uid and count > 1}
    for header in headers:
        if header.sop_uid not in repeated:
            kept[header.path, header.frame] = header
            continue
        digest = digests.setdefault(header.path, _digest(header))
        kept.setdefault((header.sop_uid, header.frame, digest), header)
    copies = len(headers) - len(kept)
    named = len(Counter((header.sop_uid, header.frame) for header in kept.values() if header.sop_uid in repeated))
    different = sum(header.sop_uid in repeated for header in kept.values()) - named
    told = [
        ("duplicate-files", copies, f"{copies} images are copies of others and are left out."),
        ("repeated-uid", different, f"{different} images have the SOPInstanceUID of another one."),
    ]
    return list(kept.values()), [Notice(code, f"series {case}: {text}") for code, count, text in told if count]


def _digest(header: Header) -> str:
    with header.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_kind(headers: Sequence[Header], case: str) -> None:
    """Accepts greyscale planes that are slices of their own, stored in a way that is read."""
    for header in headers:
        if header.mosaic:
            raise StudyError(
                f"series {case}: Siemens mosaic (slices tiled in one image) is not read. Convert it to NIfTI with a "
                "tool that knows mosaics, or export it as enhanced DICOM.",
                "mosaic",
            )
        check_frames(header, case)
        if header.rows < 1 or header.columns < 1:
            raise StudyError(
                f"series {case}: an image{_instance(header)} of {header.columns} columns and {header.rows} rows. "
                "Export the series again.",
                "bad-pixels",
            )
        if header.samples != 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
            raise StudyError(
                f"series {case}: pixels are {_photometric(header)} with {header.samples} samples, only greyscale "
                "(MONOCHROME2 or 1) is read. Choose another series.",
                "not-greyscale",
            )
        if header.lookup:
            raise StudyError(
                f"series {case}: a ModalityLUTSequence maps the pixels, which is not read. Convert it to NIfTI.",
                "modality-lut",
            )
        pixels = header.pixels
        if not 0 < pixels.stored <= pixels.allocated or not pixels.stored - 1 <= pixels.high < pixels.allocated:
            raise StudyError(
                f"series {case}: BitsAllocated {pixels.allocated}, BitsStored {pixels.stored} and HighBit "
                f"{pixels.high} contradict each other{_instance(header)}. Export the series again.",
                "bad-pixels",
            )
        for value, keyword in ((header.slope, "RescaleSlope"), (header.intercept, "RescaleIntercept")):
            if value is not None and (not np.isfinite(value) or (keyword == "RescaleSlope" and value == 0)):
                raise StudyError(
                    f"series {case}: {keyword} is unusable{_instance(header)}; the values would be a guess. "
                    "Export the series again.",
                    "bad-rescale",
                )


def _photometric(header: Header) -> str:
    return header.photometric if header.photometric in _KNOWN_PHOTOMETRIC else "of an unknown kind"


def _check_same(headers: Sequence[Header], case: str) -> None:
    """Accepts images of one patient, each with a place."""
    alike = [
        ("patients", "mixed-patients", [header.patient for header in headers]),
        ("birth dates", "mixed-patients", [header.birth_date for header in headers if header.birth_date]),
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


def _grid(planes: Sequence[Header], case: str) -> SliceGrid:
    """The grid (LPS mm) of planes in the order of their places."""
    orientation, spacing = planes[0].orientation, planes[0].pixel_spacing
    assert orientation is not None and spacing is not None
    positions = np.array([plane.position for plane in planes], float)
    if len(planes) > 1:
        return grid_slices(orientation, spacing, positions, case)
    return _single(planes[0], orientation, spacing, positions[0], case)


def _single(header: Header, orientation: np.ndarray, spacing: np.ndarray, position: np.ndarray, case: str) -> SliceGrid:
    """The grid of one slice alone, whose extent only SliceThickness tells."""
    normal = slice_normal(orientation, case)
    if header.thickness and header.thickness > 0:
        extent = header.thickness
        text = f"series {case}: a single slice; its extent of {extent:g} mm is SliceThickness."
    else:
        extent = UNKNOWN_THICKNESS_MM
        text = f"series {case}: a single slice without SliceThickness; its extent of {extent:g} mm is a guess."
    return SliceGrid(
        plane_affine(orientation, spacing, position, normal * extent), 1, (0.0,), (Notice("single-slice", text),)
    )


def _check_size(planes: Sequence[Header], grid: SliceGrid, case: str, max_voxels: int) -> None:
    """Accepts what fits in memory, and pixels that the files are long enough to hold.

    Raises:
        StudyError: they are not.
    """
    first = planes[0]
    voxels = first.rows * first.columns * grid.size
    if voxels > max_voxels:
        raise StudyError(
            f"series {case}: {voxels:,} voxels claimed, at most {max_voxels:,} are read. Crop the series, or allow "
            "more with --max-voxels.",
            "too-large",
        )
    for plane in planes:
        _check_length(plane, case)


def _check_length(plane: Header, case: str) -> None:
    """Accepts a file that can hold the pixels it claims."""
    pixels = plane.pixels
    needed = plane.rows * plane.columns * pixels.allocated // 8 * max(1, plane.frames)
    if plane.syntax in NATIVE:
        if pixels.at is None or pixels.length is None:
            raise StudyError(
                f"series {case}: an image{_instance(plane)} has no PixelData. Export the series again.", "truncated"
            )
        present = min(pixels.length, plane.path.stat().st_size - pixels.at)
        if present < needed:
            raise StudyError(
                f"series {case}: an image{_instance(plane)} holds {present:,} bytes of pixels, its header claims "
                f"{needed:,} (cut short). Copy or export the series again.",
                "truncated",
            )
    elif needed > max(_SMALL_IMAGE_BYTES, plane.path.stat().st_size * _DENSEST):
        raise StudyError(
            f"series {case}: an image{_instance(plane)} claims {needed:,} bytes, more than its file can hold even "
            "compressed. Export the series again.",
            "too-large",
        )


def _remarks(planes: Sequence[Header], case: str) -> list[Notice]:
    """What does not stop the reading, and yet is worth knowing."""
    first = planes[0]
    nonsense = sorted({keyword for plane in planes for keyword in plane.nonsense})
    remarks = [
        ("bad-values", bool(nonsense), f"{', '.join(nonsense)} hold no valid numbers or dates; they are not used."),
        ("lossy", any(plane.lossy for plane in planes), "the pixels were compressed with loss."),
        (
            "no-rescale",
            first.modality == "CT" and any(plane.slope is None and plane.intercept is None for plane in planes),
            "CT without RescaleSlope and RescaleIntercept; the values may not be Hounsfield units.",
        ),
        (
            "monochrome1",
            any(plane.photometric == "MONOCHROME1" for plane in planes),
            "MONOCHROME1: low values are meant to be shown bright; the values are kept as they are.",
        ),
        (
            "burned-in-annotation",
            any(plane.burned_in for plane in planes),
            "BurnedInAnnotation is YES: the pixels, and pictures of them, may show who the patient is.",
        ),
        (
            "signedness",
            _contradicts_codestream(first),
            "PixelRepresentation contradicts the compressed pixels; these are believed.",
        ),
        ("no-uid", not first.series_uid, "SeriesInstanceUID is empty; the case name is not unique."),
    ]
    return [Notice(code, f"series {case}: {text}") for code, applies, text in remarks if applies]


def _contradicts_codestream(header: Header) -> bool:
    """Whether JPEG 2000 pixels say of themselves that they are signed where the header says that they are not.

    Source: ISO/IEC 15444-1 A.5.1, the component sizes of the SIZ marker.
    """
    if header.syntax not in _JPEG_2000 or header.pixels.at is None:
        return False
    with header.path.open("rb") as file:
        file.seek(header.pixels.at)
        start = file.read(2**16)
    at = start.find(b"\xff\x4f\xff\x51")
    return at >= 0 and len(start) > at + 42 and bool(start[at + 42] & 0x80) != header.pixels.signed


def _instance(header: Header) -> str:
    """Which image, in a way that holds nothing of the patient: " (such as InstanceNumber 7)"."""
    if header.frame is not None:
        return f" (such as frame {header.frame + 1})"
    return "" if header.instance_number is None else f" (such as InstanceNumber {header.instance_number})"

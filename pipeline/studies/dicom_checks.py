"""What images of a DICOM series must be to become volumes: the reasons to refuse them, and what to tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice
from .dicom_elements import NATIVE
from .dicom_frames import check_frames

if TYPE_CHECKING:
    from .dicom_header import Header

_SMALL_IMAGE_BYTES = 2**25
_DENSEST = 1032
"""The most that one compressed byte of a larger image may hold, so that a small file can not claim a large image."""
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_KNOWN_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR"),
    *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"),
)


def check_kind(headers: Sequence[Header], case: str) -> None:
    """Accepts greyscale planes that are slices of their own, stored in a way that is read.

    Raises:
        StudyError: one is not.
    """
    for header in headers:
        _check_plane(header, case)
        _check_pixels(header, case)


def _check_plane(header: Header, case: str) -> None:
    if header.mosaic:
        raise StudyError(
            f"series {case}: Siemens mosaic (slices tiled in one image) is not read. Convert it to NIfTI with a "
            "tool that knows mosaics, or export it as enhanced DICOM.",
            "mosaic",
        )
    check_frames(header, case)
    if header.rows < 1 or header.columns < 1:
        raise StudyError(
            f"series {case}: an image{which_image(header)} of {header.columns} columns and {header.rows} rows. "
            "Export the series again.",
            "bad-pixels",
        )
    if header.samples != 1 or header.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise StudyError(
            f"series {case}: pixels are {_photometric(header)} with {header.samples} samples, only greyscale "
            "(MONOCHROME2 or 1) is read. Choose another series.",
            "not-greyscale",
        )


def _check_pixels(header: Header, case: str) -> None:
    pixels = header.pixels
    if not 0 < pixels.stored <= pixels.allocated or not pixels.stored - 1 <= pixels.high < pixels.allocated:
        raise StudyError(
            f"series {case}: BitsAllocated {pixels.allocated}, BitsStored {pixels.stored} and HighBit "
            f"{pixels.high} contradict each other{which_image(header)}. Export the series again.",
            "bad-pixels",
        )
    if header.lookup:
        raise StudyError(
            f"series {case}: a ModalityLUTSequence maps the pixels, which is not read. Convert it to NIfTI.",
            "modality-lut",
        )
    for value, keyword in ((header.slope, "RescaleSlope"), (header.intercept, "RescaleIntercept")):
        if value is not None and (not np.isfinite(value) or (keyword == "RescaleSlope" and value == 0)):
            raise StudyError(
                f"series {case}: {keyword} is unusable{which_image(header)}; the values would be a guess. "
                "Export the series again.",
                "bad-rescale",
            )


def _photometric(header: Header) -> str:
    return header.photometric if header.photometric in _KNOWN_PHOTOMETRIC else "of an unknown kind"


def check_same(headers: Sequence[Header], case: str) -> None:
    """Accepts images of one patient, each with a place.

    Raises:
        GeometryError: they differ in it, or one has none.
    """
    alike = [
        ("patients", "mixed-patients", [header.patient for header in headers]),
        ("birth dates", "mixed-patients", _told(header.birth_date for header in headers)),
        ("studies", "mixed-studies", _told(header.study_uid for header in headers)),
        ("frames of reference", "mixed-frames-of-reference", _told(header.frame_of_reference for header in headers)),
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
                    f"series {case}: {lacking} of {len(headers)} images{which_image(header)} have no usable {keyword}. "
                    "Export the series again; a place in the patient is never guessed.",
                    "no-geometry",
                )


def _told(values: Iterable[str]) -> list[str]:
    """Those that are not empty: what an image does not say contradicts no other."""
    return [value for value in values if value]


def _places(header: Header) -> dict[str, np.ndarray | None]:
    spacing = header.pixel_spacing
    return {
        "ImageOrientationPatient": header.orientation,
        "ImagePositionPatient": header.position,
        "PixelSpacing": None if spacing is None or np.min(spacing) <= 0 else spacing,
    }


def check_size(planes: Sequence[Header], slices: int, case: str, max_voxels: int) -> None:
    """Accepts what fits in memory, and pixels that the files are long enough to hold.

    Args:
        planes: of one matrix.
        slices: of the grid that they are read to.
        case: for messages.
        max_voxels: more are refused.
    Raises:
        StudyError: they are not.
    """
    first = planes[0]
    voxels = first.rows * first.columns * slices
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
                f"series {case}: an image{which_image(plane)} has no PixelData. Export the series again.", "truncated"
            )
        present = min(pixels.length, plane.path.stat().st_size - pixels.at)
        if present >= 2 * needed:
            raise StudyError(
                f"series {case}: an image{which_image(plane)} holds {present:,} bytes of pixels, its header claims "
                f"{needed:,}: more images than it says. Export the series again.",
                "bad-pixels",
            )
        if present < needed:
            raise StudyError(
                f"series {case}: an image{which_image(plane)} holds {present:,} bytes of pixels, its header claims "
                f"{needed:,} (cut short). Copy or export the series again.",
                "truncated",
            )
    elif needed > max(_SMALL_IMAGE_BYTES, plane.path.stat().st_size * _DENSEST):
        raise StudyError(
            f"series {case}: an image{which_image(plane)} claims {needed:,} bytes, more than its file can hold even "
            "compressed. Export the series again.",
            "too-large",
        )


def remarks(planes: Sequence[Header], case: str) -> list[Notice]:
    """What does not stop the reading, and yet is worth knowing."""
    first = planes[0]
    nonsense = sorted({keyword for plane in planes for keyword in plane.nonsense})
    told = [
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
            "no-frame-of-reference",
            len({bool(plane.frame_of_reference) for plane in planes}) > 1,
            "some images name no frame of reference; they are taken to share that of the others.",
        ),
        (
            "signedness",
            _contradicts_codestream(first),
            "PixelRepresentation contradicts the compressed pixels; these are believed.",
        ),
        ("no-uid", not first.series_uid, "SeriesInstanceUID is empty; the case name is not unique."),
    ]
    return [Notice(code, f"series {case}: {text}") for code, applies, text in told if applies]


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


def which_image(header: Header) -> str:
    """Which image, in a way that holds nothing of the patient: " (such as InstanceNumber 7)"."""
    if header.frame is not None:
        return f" (such as frame {header.frame + 1})"
    return "" if header.instance_number is None else f" (such as InstanceNumber {header.instance_number})"

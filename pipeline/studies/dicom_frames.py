"""The frames of an enhanced multi-frame file (CT, MR, PET; legacy converted too) as image planes of their own.

Source: DICOM PS3.3 C.7.6.16 (multi-frame functional groups), A.36 (enhanced MR), A.38 (enhanced CT), A.70 to A.72.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..dicom_reading import UNREADABLE, element_text, quiet_dicom
from ..errors import StudyError
from .dicom_elements import read_dataset
from .dicom_header import Header, number, numbers, rescale_number

_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
_NOT_TELLING = ("ImageType", "StackID")
"""Of the whole file; each frame has its own."""


def frame_headers(header: Header) -> list[Header]:
    """The header of each frame, in the file's order.

    Args:
        header: of the file as a whole.
    Returns:
        One header a frame; the file's own where its functional groups are missing or not as many as its frames, which
        `dicom_series` refuses.
    Raises:
        UNREADABLE: the file breaks off.
    """
    with quiet_dicom():
        dataset = read_dataset(header.path, stop_before_pixels=True)
        shared = _first(dataset, "SharedFunctionalGroupsSequence")
        groups = _items(dataset, "PerFrameFunctionalGroupsSequence")
        if header.frames < 1 or len(groups) != header.frames:
            return [header]
        return [_frame(header, index, [group, *shared]) for index, group in enumerate(groups)]


def _frame(header: Header, index: int, groups: Sequence[Any]) -> Header:
    slope = _text(groups, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _text(groups, "PixelValueTransformationSequence", "RescaleIntercept")
    kind = next((text for name in _FRAME_TYPES if (text := _text(groups, name, "FrameType"))), "").upper()
    return replace(
        header,
        frame=index,
        position=numbers(_text(groups, "PlanePositionSequence", "ImagePositionPatient"), 3),
        orientation=numbers(_text(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        pixel_spacing=numbers(_text(groups, "PixelMeasuresSequence", "PixelSpacing"), 2),
        thickness=number(_text(groups, "PixelMeasuresSequence", "SliceThickness")),
        slope=rescale_number(slope) if slope else header.slope,
        intercept=rescale_number(intercept) if intercept else header.intercept,
        varies=_varies(header, groups, kind),
    )


def _varies(header: Header, groups: Sequence[Any], kind: str) -> dict[str, str]:
    """What can tell this frame from others of its place."""
    found = {name: value for name, value in header.varies.items() if name not in _NOT_TELLING}
    frame = {
        "StackID": _text(groups, "FrameContentSequence", "StackID"),
        "ImageType": kind,
        "EchoTime": _text(groups, "MREchoSequence", "EffectiveEchoTime"),
        "InversionTime": _text(groups, "MRModifierSequence", "InversionTimes"),
        "DiffusionBValue": _text(groups, "MRDiffusionSequence", "DiffusionBValue"),
        "DiffusionDirection": _direction(groups),
        "TemporalPositionIdentifier": _text(groups, "FrameContentSequence", "TemporalPositionIndex"),
        "TriggerTime": _text(groups, "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "AcquisitionNumber": _text(groups, "FrameContentSequence", "FrameAcquisitionNumber"),
        "AcquisitionDateTime": _text(groups, "FrameContentSequence", "FrameAcquisitionDateTime"),
    }
    return found | {name: value for name, value in frame.items() if value}


def _direction(groups: Sequence[Any]) -> str:
    for group in groups:
        for diffusion in _first(group, "MRDiffusionSequence"):
            return _text([diffusion], "DiffusionGradientDirectionSequence", "DiffusionGradientOrientation")
    return ""


def _text(groups: Sequence[Any], sequence: str, keyword: str) -> str:
    """The element of the first of the groups, the frame's own before the shared, that has it."""
    for group in groups:
        for item in _first(group, sequence):
            text = element_text(item, keyword)
            if text:
                return text
    return ""


def _items(dataset: Any, keyword: str) -> list[Any]:
    try:
        return list(dataset.get(keyword) or [])
    except UNREADABLE:
        return []


def _first(dataset: Any, keyword: str) -> list[Any]:
    return _items(dataset, keyword)[:1]


def check_frames(header: Header, case: str) -> None:
    """Refuses a multi-frame file whose frames have no places.

    Raises:
        StudyError: it has no functional groups, or not as many as frames.
    """
    if header.is_multi_frame and header.frame is None:
        raise StudyError(
            f"series {case}: a multi-frame file of {header.frames:,} frames without a functional group for each; the "
            "places of its frames are unknown. Export it as single-frame or enhanced DICOM.",
            "multi-frame",
        )

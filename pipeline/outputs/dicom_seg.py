"""The label map as a DICOM Segmentation on its source instances.

Frames copy their position and orientation from the instances, so they lie on them exactly, whatever the tilt.
LPS exists only inside the files; nothing here converts coordinates. Source: DICOM PS3.3 A.51, C.8.20.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ..atomic import atomic
from ..bundle import Bundle, Code, LabelClass
from ..errors import StudyError, UsageError
from ..volume import Volume
from .checks import check_grid, check_named
from .seg_source import mended_source

SERIES_NUMBER_OFFSET = 1000
"""Added to the source's SeriesNumber (0020,0011), so that the two do not collide."""
ALL_FRAMES_LIMIT_BYTES = 256 * 2**20
"""Pixel data up to this size keeps its empty frames."""
LONG_STRING = 64
"""Characters that the value representation LO holds. Source: DICOM PS3.5 6.2."""


def write_dicom_seg(path: Path, labels: np.ndarray, volume: Volume, bundle: Bundle) -> None:
    """Write a BINARY segmentation: one segment a label of the bundle, also those without a voxel in this case.

    Segment numbers are 1, 2, … in the order of the label values (PS3.3 C.8.20.2 wants them without gaps). Frames
    without a voxel are kept, so that a reader finds the whole source grid; only where that would take more than
    ALL_FRAMES_LIMIT_BYTES are they left out.

    Args:
        path: ends in .dcm.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: a DICOM volume: sources[k] is slice labels[:, :, k].
        bundle: gives the codes, names and colours of the labels, and is named as the algorithm.
    Raises:
        UsageError: the volume does not come from DICOM.
        StudyError: the source instances do not allow a segmentation.
        BundleError: labels hold a value that the bundle does not name.
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    check_instances(volume)
    with _silence():
        segmentation = _build(_read_sources(volume), _segment_frames(labels, bundle), volume, bundle)
        with atomic(path) as temporary:
            segmentation.save_as(temporary, enforce_file_format=True)


def check_instances(volume: Volume) -> None:
    """Refuse a volume whose slices are not one DICOM instance each.

    Raises:
        UsageError: the volume does not come from DICOM.
        StudyError: there are not as many instances as slices.
    """
    if not volume.sources:
        raise UsageError(
            f"case {volume.case}: a DICOM SEG refers to DICOM instances and this input has none. "
            "Leave out --format dicom-seg, or give the DICOM series as input."
        )
    files, slices = len({source.file for source in volume.sources}), volume.spatial_shape[2]
    if files != slices or len(volume.sources) != slices:
        raise StudyError(
            f"case {volume.case}: {files} source files for {slices} slices; a DICOM SEG is written only on one file "
            "a slice. Predict with --format nifti.",
            code="seg-source",
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep pydicom and highdicom quiet: their warnings and log lines quote the values that they complain about."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _read_sources(volume: Volume) -> list[Dataset]:
    try:
        sources = [pydicom.dcmread(source.file, stop_before_pixels=True, force=True) for source in volume.sources]
    except OSError as error:
        raise StudyError(
            f"case {volume.case}: a source file can not be read again ({error.strerror or type(error).__name__}). "
            "Keep the input in place until the case is done.",
            code="seg-source",
        ) from None
    return [mended_source(source, volume) for source in sources]


def _segment_frames(labels: np.ndarray, bundle: Bundle) -> np.ndarray:
    """(Z, Y, X), that is (frame, row, column), holding segment numbers instead of label values."""
    highest = max([int(labels.max(initial=0)), *(label.value for label in bundle.labels)])
    numbers = np.full(highest + 1, -1, dtype=np.int32 if len(bundle.labels) > 2**15 - 1 else np.int16)
    numbers[0] = 0
    for number, label in enumerate(bundle.labels, start=1):
        numbers[label.value] = number
    frames = numbers[labels.transpose(2, 1, 0)]
    if frames.min(initial=0) < 0:
        check_named(np.unique(labels), bundle)
    return frames.astype(np.uint8 if len(bundle.labels) < 256 else np.uint16)


def _build(sources: list[Dataset], frames: np.ndarray, volume: Volume, bundle: Bundle) -> hd.seg.Segmentation:
    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_describe_segments(bundle),
            series_instance_uid=generate_uid(prefix=None),
            series_number=_series_number(sources[0]),
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="scanloom",
            manufacturer_model_name=bundle.name[:LONG_STRING],
            software_versions=version("scanloom"),
            device_serial_number=bundle.weights_sha256,
            content_label="LABELS",
            content_description=f"{bundle.name} {bundle.version}"[:LONG_STRING],
            content_creator_name="scanloom^",
            series_description=f"{bundle.name} labels"[:LONG_STRING],
            omit_empty_frames=frames.size * len(bundle.labels) // 8 > ALL_FRAMES_LIMIT_BYTES,
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        # The library's own text may quote the patient's attributes: only the kind of the error is passed on.
        raise StudyError(
            f"case {volume.case}: highdicom can not make a DICOM SEG of this series ({type(error).__name__}). "
            "Predict with --format nifti.",
            code="seg-source",
        ) from None
    return segmentation


def _series_number(source: Dataset) -> int:
    number = source.get("SeriesNumber")
    return SERIES_NUMBER_OFFSET + (int(number) if number and 0 < int(number) < 10**6 else 0)


def _describe_segments(bundle: Bundle) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=bundle.name[:LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=bundle.version[:LONG_STRING],
        source="scanloom",
        parameters={"weights_sha256": bundle.weights_sha256},
    )
    return [_describe(number, label, algorithm) for number, label in enumerate(bundle.labels, start=1)]


def _describe(
    number: int, label: LabelClass, algorithm: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label.name[:LONG_STRING],
        segmented_property_category=_concept(label.category),
        segmented_property_type=_concept(label.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        display_color=hd.color.CIELabColor.from_rgb(*label.color),
    )
    if label.modifier is not None:
        # highdicom has no argument for it; the sequence lies inside the type's item. Source: PS3.3 table C.8.20-4.
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(label.modifier)]
    return description


def _concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)

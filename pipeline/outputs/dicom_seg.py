"""The label map as a DICOM Segmentation whose frames lie on the source's image planes, whatever their tilt.

highdicom builds the object on stand-ins, one single-frame image a plane: it takes neither frames of several files nor
some of one file's, and chokes on much that scanners write elsewhere in a header. The references are then pointed at
the true instances and frames. Source: DICOM PS3.3 A.51, C.8.20, C.7.6.16.2.6.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from ..bundle import Bundle
from ..dicom_reading import quiet_dicom
from ..verdict import Verdict
from ..volume import Volume
from .checks import check_grid, check_named
from .dicom_attributes import CHARACTER_SET
from .dicom_file import write_dicom
from .dicom_maker import equipment, refusing, series_description
from .dicom_planes import DicomSource, WrittenSegmentation
from .dicom_source import read_source, require_dicom
from .seg_segments import LONG_STRING, describe_segments

SERIES_NUMBER_OFFSET = 1000
"""Added to the source's SeriesNumber (0020,0011), so that the two do not collide."""
LABELMAP_OFFSET = 4000
"""The same for a label map; 2000 and 3000 are the report's and the structure set's."""
ALL_FRAMES_LIMIT_BYTES = 256 * 2**20
"""Pixel data up to this size keeps its empty frames."""


def write_dicom_seg(
    path: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    source: DicomSource | None = None,
    *,
    labelmap: bool = False,
    verdict: Verdict | None = None,
) -> WrittenSegmentation:
    """Write a segmentation: one segment a label of the bundle, also those without a voxel in this case.

    A frame holds the labels of the slice that is nearest to its source plane; slices that were filled in between the
    source's have no plane and so no frame. Segment numbers are 1, 2, … in the order of the label values. Frames
    without a voxel are kept, so that a reader finds the whole source grid; only where that would take more than
    ALL_FRAMES_LIMIT_BYTES are they left out.

    Args:
        path: ends in .dcm.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: a DICOM volume.
        bundle: gives the codes, names and colours of the labels, and is named as the algorithm.
        source: what `read_source` says of the volume; None reads it.
        labelmap: write a Label Map Segmentation (one frame a plane, segment numbers as pixels) instead of a BINARY one
            (one frame a plane and segment), which more software reads.
        verdict: on the case, for the series' description.
    Raises:
        UsageError: the volume does not come from DICOM.
        StudyError: the source instances do not allow a segmentation.
        BundleError: labels hold a value that the bundle does not name.
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    require_dicom(volume, "dicom-seg-labelmap" if labelmap else "dicom-seg")
    source = source or read_source(volume)
    with quiet_dicom():
        description = series_description(bundle, "label map" if labelmap else "labels", verdict)
        segmentation = _build(source, _segment_frames(labels, source, bundle), bundle, labelmap, description)
        _refer(segmentation, source)
        write_dicom(path, segmentation)
    return WrittenSegmentation(
        str(segmentation.SOPClassUID), str(segmentation.SOPInstanceUID), str(segmentation.SeriesInstanceUID)
    )


def _segment_frames(labels: np.ndarray, source: DicomSource, bundle: Bundle) -> np.ndarray:
    """(plane, row, column), holding segment numbers instead of label values."""
    highest = max([int(labels.max(initial=0)), *(label.value for label in bundle.labels)])
    numbers = np.full(highest + 1, -1, dtype=np.int32 if len(bundle.labels) > 2**15 - 1 else np.int16)
    numbers[0] = 0
    for number, label in enumerate(bundle.labels, start=1):
        numbers[label.value] = number
    columns, rows = source.size
    frames = np.empty((len(source.planes), rows, columns), np.uint8 if len(bundle.labels) < 256 else np.uint16)
    for frame, plane in zip(frames, source.planes, strict=True):
        frame_numbers = numbers[labels[:, :, plane.index].T]
        if frame_numbers.min(initial=0) < 0:
            check_named(np.unique(labels), bundle)
        frame[...] = frame_numbers
    return frames


def _build(
    source: DicomSource, frames: np.ndarray, bundle: Bundle, labelmap: bool, description: str
) -> hd.seg.Segmentation:
    kinds = hd.seg.SegmentationTypeValues
    copies = frames.itemsize if labelmap else len(bundle.labels) / 8
    with refusing(source.case, "DICOM SEG", "Predict with --format nifti."):
        return hd.seg.Segmentation(
            source_images=_stand_ins(source),
            pixel_array=frames,
            segmentation_type=kinds.LABELMAP if labelmap else kinds.BINARY,
            segment_descriptions=describe_segments(bundle, source),
            series_instance_uid=generate_uid(prefix=None),
            series_number=(LABELMAP_OFFSET if labelmap else SERIES_NUMBER_OFFSET) + source.series_number,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            **equipment(bundle),
            content_label="LABELS",
            content_description=f"{bundle.name} {bundle.version}"[:LONG_STRING],
            content_creator_name="scanloom^",
            series_description=description,
            omit_empty_frames=frames.size * copies > ALL_FRAMES_LIMIT_BYTES,
            specific_character_set=CHARACTER_SET,
        )


def _stand_ins(source: DicomSource) -> list[Dataset]:
    """A single-frame image for each plane, with the source's attributes and a SOPInstanceUID that counts the planes."""
    columns, rows = source.size
    stand_ins = []
    for number, plane in enumerate(source.planes, start=1):
        image = Dataset()
        image.update(source.patient_and_study)
        image.update(source.of_the_images)
        image.StudyInstanceUID, image.SeriesInstanceUID = source.study_uid, source.series_uid
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"2.25.{number}"
        image.FrameOfReferenceUID = source.frame_of_reference
        image.ImagePositionPatient = _decimals(plane.position)
        image.ImageOrientationPatient = _decimals(source.orientation)
        image.PixelSpacing = _decimals(source.pixel_spacing)
        image.SliceThickness = _decimals([source.thickness])[0]
        if source.spacing_between is not None:
            image.SpacingBetweenSlices = _decimals([source.spacing_between])[0]
        image.Rows, image.Columns = rows, columns
        stand_ins.append(image)
    return stand_ins


def _decimals(values: np.ndarray | list[float]) -> list[str]:
    """Decimal strings of at most 16 characters, exact to a nanometre or a billionth."""
    return [f"{round(float(value), 9) + 0.0:.10g}" for value in values]


def _refer(segmentation: Dataset, source: DicomSource) -> None:
    """Point every reference from the stand-ins to the true instances and frames."""
    planes = {f"2.25.{number}": plane for number, plane in enumerate(source.planes, start=1)}
    items = [
        item
        for frame in segmentation.PerFrameFunctionalGroupsSequence
        for item in frame.DerivationImageSequence[0].SourceImageSequence
    ]
    for item, plane in [(item, planes[item.ReferencedSOPInstanceUID]) for item in items]:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = plane.sop_class, plane.sop_uid
        if plane.frame is not None:
            item.ReferencedFrameNumber = plane.frame
    segmentation.SourceImageSequence = source.references(with_frames=True)
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = source.references(with_frames=False)

"""The labels as a DICOM RT Structure Set: closed contours in patient mm on the source's image planes.

One region of interest a label, also for those without a voxel in this case. A contour lies on its plane whatever the
plane's direction and the stack's tilt, holes are keyholes; see `dicom_contours`.
Source: DICOM PS3.3 A.19.3, C.8.8.5, C.8.8.6, C.8.8.8.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from ..bundle import Bundle, Code, LabelClass
from ..dicom_reading import quiet_dicom
from ..verdict import Verdict
from ..volume import Volume
from .checks import check_grid, check_named
from .dicom_attributes import CHARACTER_SET
from .dicom_contours import keyhole_contours
from .dicom_file import write_dicom
from .dicom_maker import equipment, series_description
from .dicom_planes import DicomSource, SourcePlane
from .dicom_source import read_source, require_dicom
from .seg_segments import LONG_STRING

SERIES_NUMBER_OFFSET = 3000
"""Added to the source's SeriesNumber (0020,0011)."""
SHORT_STRING = 16
"""Characters that the value representation SH holds. Source: DICOM PS3.5 6.2."""
_DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""Retired, and still what RTReferencedStudySequence (3006,0012) asks for. Source: PS3.3 C.8.8.5."""


def write_rtstruct(
    path: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    source: DicomSource | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write the structure set; a plane's contours outline the labels of the slice that is nearest to it.

    Args:
        path: ends in .dcm.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: a DICOM volume.
        bundle: gives the names, codes and colours of the labels, and is named as the algorithm.
        source: what `read_source` says of the volume; None reads it.
        verdict: on the case, for the series' description.
    Raises:
        UsageError: the volume does not come from DICOM.
        StudyError: the source instances do not allow a structure set.
        BundleError: labels hold a value that the bundle does not name.
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    require_dicom(volume, "rtstruct")
    check_named(np.unique(labels), bundle)
    source = source or read_source(volume)
    with quiet_dicom():
        structures = _head(source, bundle, series_description(bundle, "contours", verdict))
        structures.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
        numbered = list(enumerate(bundle.labels, start=1))
        structures.StructureSetROISequence = [_region(number, label, source, bundle) for number, label in numbered]
        structures.ROIContourSequence = _contours(labels, source, bundle)
        structures.RTROIObservationsSequence = [_observation(number, label) for number, label in numbered]
        write_dicom(path, structures)


def _head(source: DicomSource, bundle: Bundle, description: str) -> Dataset:
    """File meta information, patient, study, series, equipment, structure set and SOP common."""
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    head = Dataset()
    head.update(source.patient_and_study)
    head.StudyInstanceUID = source.study_uid
    head.SOPClassUID, head.SOPInstanceUID = RTStructureSetStorage, generate_uid(prefix=None)
    head.InstanceCreationDate, head.InstanceCreationTime = date, time
    head.SpecificCharacterSet = CHARACTER_SET
    head.Modality, head.OperatorsName = "RTSTRUCT", ""
    head.SeriesInstanceUID = generate_uid(prefix=None)
    head.SeriesNumber = SERIES_NUMBER_OFFSET + source.series_number
    head.SeriesDescription = description
    head.FrameOfReferenceUID, head.PositionReferenceIndicator = source.frame_of_reference, ""
    maker = equipment(bundle)
    head.Manufacturer, head.ManufacturerModelName = maker["manufacturer"], maker["manufacturer_model_name"]
    head.DeviceSerialNumber, head.SoftwareVersions = maker["device_serial_number"], maker["software_versions"]
    head.InstanceNumber = 1
    head.StructureSetLabel = bundle.name[:SHORT_STRING]
    head.StructureSetDescription = f"{bundle.name} {bundle.version}, not for diagnosis or treatment"[:1024]
    head.StructureSetDate, head.StructureSetTime = date, time
    head.ApprovalStatus = "UNAPPROVED"
    head.file_meta = FileMetaDataset()
    head.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return head


def _frame_of_reference(source: DicomSource) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = source.references(with_frames=True)
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _DETACHED_STUDY_MANAGEMENT, source.study_uid
    study.RTReferencedSeriesSequence = [series]
    reference = Dataset()
    reference.FrameOfReferenceUID = source.frame_of_reference
    reference.RTReferencedStudySequence = [study]
    return reference


def _region(number: int, label: LabelClass, source: DicomSource, bundle: Bundle) -> Dataset:
    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = source.frame_of_reference
    region.ROIName = label.name[:LONG_STRING]
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = f"{bundle.name} {bundle.version}"[:LONG_STRING]
    return region


def _contours(labels: np.ndarray, source: DicomSource, bundle: Bundle) -> list[Dataset]:
    """ROIContourSequence (3006,0039); without contours where a label is absent."""
    found: dict[int, list[Dataset]] = {label.value: [] for label in bundle.labels}
    for plane in source.planes:
        section = np.ascontiguousarray(labels[:, :, plane.index].T)
        for value in map(int, np.unique(section)):
            if value:
                polygons = keyhole_contours(np.equal(section, value))
                found[value] += [_contour(polygon, plane, source) for polygon in polygons]
    items = []
    for number, label in enumerate(bundle.labels, start=1):
        item = Dataset()
        item.ROIDisplayColor = list(label.color)
        item.ReferencedROINumber = number
        if found[label.value]:
            item.ContourSequence = found[label.value]
        items.append(item)
    return items


def _contour(polygon: np.ndarray, plane: SourcePlane, source: DicomSource) -> Dataset:
    """One polygon, (N, 2) of row and column, in LPS mm."""
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = plane.sop_class, plane.sop_uid
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame
    points = plane.position + polygon[:, ::-1] @ source.axes.T
    contour = Dataset()
    contour.ContourImageSequence = [image]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{part:.4f}" for part in points.ravel()]
    return contour


def _observation(number: int, label: LabelClass) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType, observation.ROIInterpreter = "", ""
    observation.ROIObservationLabel = label.name[:SHORT_STRING]
    observation.RTROIIdentificationCodeSequence = [_code(label.type)]
    return observation


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item

"""The measurements as a DICOM structured report: volume and mean intensity of each segment of a segmentation.

A Comprehensive SR of template TID 1500 with one volumetric group (TID 1411) a label. A label that is absent is measured
as 0 cm3 and has no mean. Source: DICOM PS3.3 A.35.3, PS3.16 TID 1500, 1411, 1419.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from ..bundle import Bundle, LabelClass
from ..dicom_reading import quiet_dicom
from ..verdict import Verdict
from ..volume import Volume
from .dicom_attributes import CHARACTER_SET
from .dicom_file import write_dicom
from .dicom_maker import equipment, refusing, series_description
from .dicom_planes import DicomSource, WrittenSegmentation, uid_of
from .dicom_source import read_source, require_dicom
from .measure import LabelMeasurement
from .seg_segments import LONG_STRING, concept, tracking_uid

SERIES_NUMBER_OFFSET = 2000
"""Added to the source's SeriesNumber (0020,0011); the segmentation's is 1000 higher than the source's."""
PROCEDURES = {
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
    "PT": codes.cid100.PETUnspecifiedBodyRegion,
}
"""Procedure reported by modality; an imaging procedure where it is another. Source: CID 100."""
INTENSITIES = {
    "CT": (codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit),
    "MR": (codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits),
}
"""What the voxels of a modality measure, and its unit; of others no mean is reported. Source: CID 7469."""
LATERALITIES = (codes.SCT.Right, codes.SCT.Left, codes.SCT.Bilateral)


def write_dicom_sr(
    path: Path,
    measurements: Sequence[LabelMeasurement],
    volume: Volume,
    bundle: Bundle,
    segmentation: WrittenSegmentation,
    source: DicomSource | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write the structured report.

    Args:
        path: ends in .dcm.
        measurements: of every label of the bundle, in the order of their values.
        volume: a DICOM volume.
        bundle: gives the codes of the labels, and is named as the algorithm and the observing device.
        segmentation: the one of the same labels that the groups refer to, segment by segment.
        source: what `read_source` says of the volume; None reads it.
        verdict: on the case, for the series' description.
    Raises:
        UsageError: the volume does not come from DICOM.
        StudyError: the source instances do not allow a report.
        PipelineError: the file can not be written.
    """
    require_dicom(volume, "dicom-sr")
    source = source or read_source(volume)
    with quiet_dicom():
        instead = "Leave out --format dicom-sr; measurements.json holds the same numbers."
        with refusing(volume.case, "DICOM SR", instead):
            description = series_description(bundle, "measurements", verdict)
            report = _build(source, measurements, volume.modality or "", bundle, segmentation, description)
        write_dicom(path, report)


def _build(
    source: DicomSource,
    measurements: Sequence[LabelMeasurement],
    modality: str,
    bundle: Bundle,
    segmentation: WrittenSegmentation,
    description: str,
) -> Dataset:
    groups = [
        _group(number, label, measured, modality, bundle, source, segmentation)
        for number, (label, measured) in enumerate(zip(bundle.labels, measurements, strict=True), start=1)
    ]
    report = sr.MeasurementReport(
        observation_context=_observer(bundle),
        procedure_reported=PROCEDURES.get(modality, codes.cid100.ImagingProcedure),
        imaging_measurements=groups,
    )
    return sr.ComprehensiveSR(
        evidence=_evidence(source, segmentation),
        content=report[0],
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER_OFFSET + source.series_number,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        **equipment(bundle),
        series_description=description,
        is_complete=True,
        specific_character_set=CHARACTER_SET,
    )


def _group(
    number: int,
    label: LabelClass,
    measured: LabelMeasurement,
    modality: str,
    bundle: Bundle,
    source: DicomSource,
    segmentation: WrittenSegmentation,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid(label, bundle, source), identifier=label.name[:LONG_STRING]
        ),
        referenced_segment=_segment(number, source, segmentation),
        finding_category=concept(label.category),
        finding_type=concept(label.type),
        finding_sites=_sites(label),
        algorithm_id=sr.AlgorithmIdentification(
            name=bundle.name[:LONG_STRING],
            version=bundle.version[:LONG_STRING],
            parameters=[f"weights_sha256={bundle.weights_sha256}"],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer="scanloom",
        ),
        measurements=_numbers(measured, modality),
    )


def _segment(number: int, source: DicomSource, segmentation: WrittenSegmentation) -> sr.ReferencedSegment:
    """The segment and what it was made from: the series, or the frames where these are only some of their file's."""
    images = [
        sr.SourceImageForSegmentation(sop_class, sop_uid, frames)
        for (sop_class, sop_uid), frames in source.instances.items()
        if frames and len(frames) != source.frames.get(sop_uid)
    ]
    return sr.ReferencedSegment(
        sop_class_uid=segmentation.sop_class,
        sop_instance_uid=segmentation.sop_uid,
        segment_number=number,
        source_images=images or None,
        source_series=None if images else sr.SourceSeriesForSegmentation(source.series_uid),
    )


def _sites(label: LabelClass) -> list[sr.FindingSite] | None:
    """Where the finding is, which only a label with a modifier (left, anterior) says beyond its type."""
    if label.modifier is None:
        return None
    modifier = concept(label.modifier)
    kind = "laterality" if modifier in LATERALITIES else "topographical_modifier"
    return [sr.FindingSite(anatomic_location=concept(label.type), **{kind: modifier})]


def _numbers(measured: LabelMeasurement, modality: str) -> list[sr.Measurement]:
    """Volume in cm3, which is ml (CID 7462 has no ml), and the mean intensity; six digits."""
    volume = float(f"{measured.volume_ml:.6g}")
    found = [sr.Measurement(name=codes.SCT.Volume, value=volume, unit=codes.UCUM.CubicCentimeter)]
    if measured.mean_intensity is not None and modality in INTENSITIES:
        name, unit = INTENSITIES[modality]
        mean = float(f"{measured.mean_intensity:.6g}")
        found.append(sr.Measurement(name=name, value=mean, unit=unit, derivation=codes.SCT.Mean))
    return found


def _observer(bundle: Bundle) -> sr.ObservationContext:
    """The device that measured: these weights."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", bundle.name, bundle.weights_sha256),
        name="scanloom",
        manufacturer_name="scanloom",
        model_name=bundle.name[:LONG_STRING],
        serial_number=bundle.weights_sha256,
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


def _evidence(source: DicomSource, segmentation: WrittenSegmentation) -> list[Dataset]:
    """The segmentation, with the patient and study that the report copies, and the source instances."""
    first = Dataset()
    first.update(source.patient_and_study)
    first.SOPClassUID, first.SOPInstanceUID = segmentation.sop_class, segmentation.sop_uid
    first.SeriesInstanceUID = segmentation.series_uid
    evidence = [first]
    for sop_class, sop_uid in source.instances:
        instance = Dataset()
        instance.SOPClassUID, instance.SOPInstanceUID = sop_class, sop_uid
        instance.SeriesInstanceUID = source.series_uid
        evidence.append(instance)
    for instance in evidence:
        instance.StudyInstanceUID = source.study_uid
    return evidence

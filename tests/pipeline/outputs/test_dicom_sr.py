from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom import sr
from pydicom.sr.codedict import codes
from scanloom.pipeline.errors import StudyError, UsageError
from scanloom.pipeline.outputs import measure, write_dicom_seg, write_dicom_sr
from scanloom.pipeline.outputs.dicom_planes import WrittenSegmentation
from scanloom.pipeline.volume import SourceSlice

AXIAL = np.diag([-1.0, -1.5, 2.0, 1.0])


@pytest.fixture
def write_both(tmp_path, bundle):
    """Writes segmentation and report of a volume; returns both as read again."""

    def write(labels, volume, bundle=bundle):
        segmentation = write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)
        write_dicom_sr(tmp_path / "sr.dcm", measure(labels, volume, bundle), volume, bundle, segmentation)
        return pydicom.dcmread(tmp_path / "seg.dcm"), sr.srread(tmp_path / "sr.dcm")

    return write


def numbers(group, name):
    return [(item.value, item.unit) for item in group.get_measurements(name=name)]


@pytest.mark.parametrize(
    ("modality", "name", "unit"),
    [
        ("CT", codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit),
        ("MR", codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits),
    ],
)
def test_each_segment_has_its_volume_and_mean_with_units(
    make_volume, make_labels, write_dicom_volume, bundle, write_both, modality, name, unit
):
    volume = replace(write_dicom_volume(make_volume((12, 10, 8), AXIAL)), modality=modality)
    labels = make_labels(volume.spatial_shape)
    segmentation, report = write_both(labels, volume)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 2
    for number, (group, row) in enumerate(zip(groups, measure(labels, volume, bundle), strict=True), start=1):
        assert numbers(group, codes.SCT.Volume) == [
            (pytest.approx(row.volume_ml, rel=1e-5), codes.UCUM.CubicCentimeter)
        ]
        assert numbers(group, name) == [(pytest.approx(row.mean_intensity, rel=1e-5), unit)]
        (mean,) = group.get_measurements(name=name)
        assert mean.derivation == codes.SCT.Mean
        segment = segmentation.SegmentSequence[number - 1]
        assert group.reference_type == codes.DCM.ReferencedSegment
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        (item,) = (item for item in group.referenced_segment if "ReferencedSOPSequence" in item)
        assert item.ReferencedSOPSequence[0].ReferencedSegmentNumber == number
        assert (group.tracking_identifier, group.tracking_uid) == (segment.TrackingID, segment.TrackingUID)
        assert group.finding_type == hd.sr.CodedConcept("5366008", "SCT", "Hippocampus")
        (site,) = group.finding_sites
        assert site.topographical_modifier.value in ("255549009", "255551008")


def test_an_absent_label_has_volume_nought_and_no_mean(make_volume, write_dicom_volume, write_both, dciodvfy_errors):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    _, report = write_both(np.zeros((6, 5, 4), np.uint8), volume)
    for group in report.content.get_volumetric_roi_measurement_groups():
        assert numbers(group, codes.SCT.Volume) == [(0.0, codes.UCUM.CubicCentimeter)]
        assert len(group.get_measurements()) == 1


def test_the_mean_of_another_modality_is_left_out(make_volume, make_labels, write_dicom_volume, write_both):
    volume = replace(write_dicom_volume(make_volume((9, 8, 7), AXIAL)), modality="PT")
    _, report = write_both(make_labels(), volume)
    assert [len(group.get_measurements()) for group in report.content.get_volumetric_roi_measurement_groups()] == [1, 1]


def test_the_report_belongs_to_the_study_and_lists_its_evidence(
    tmp_path, make_volume, make_labels, write_dicom_volume, write_both, dciodvfy_errors, bundle
):
    volume = write_dicom_volume(make_volume((12, 10, 8), AXIAL))
    segmentation, report = write_both(make_labels(volume.spatial_shape), volume)
    source = pydicom.dcmread(volume.sources[0].file)
    assert (report.StudyInstanceUID, report.PatientName) == (source.StudyInstanceUID, source.PatientName)
    assert (report.Modality, report.SOPClassUID) == ("SR", "1.2.840.10008.5.1.4.1.1.88.33")
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = {str(item.ReferencedSOPInstanceUID) for entry in series for item in entry.ReferencedSOPSequence}
    assert uids == {segmentation.SOPInstanceUID} | {
        str(pydicom.dcmread(place.file).SOPInstanceUID) for place in volume.sources
    }
    assert bundle.weights_sha256 in {item.get("TextValue") for item in report.ContentSequence}
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_some_frames_of_a_file_are_named(
    tmp_path, make_volume, make_labels, write_enhanced, write_both, dciodvfy_errors
):
    places = [(np.diag([-1.0, -1.0, 1.0, 1.0]) @ AXIAL @ [0, 0, z, 1])[:3] for z in (9, 0, 1, 2)]
    write_enhanced(tmp_path / "one.dcm", places, AXIAL)
    sources = tuple(SourceSlice(tmp_path / "one.dcm", z + 1, z) for z in range(3))
    _, report = write_both(make_labels((9, 8, 3)), make_volume((9, 8, 3), AXIAL, sources=sources, modality="MR"))
    group = report.content.get_volumetric_roi_measurement_groups()[0]
    _, image = group.referenced_segment
    assert image.name == codes.DCM.SourceImageForSegmentation
    assert list(image.referenced_frame_numbers) == [2, 3, 4]
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_what_is_no_dicom_or_fails_in_highdicom_is_refused_without_quoting(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle, monkeypatch
):
    segmentation = WrittenSegmentation("1.2.840.10008.5.1.4.1.1.66.4", "1.2.3", "1.2.4")
    labels, volume = make_labels(), make_volume()
    with pytest.raises(UsageError, match="dicom-sr refers to DICOM instances"):
        write_dicom_sr(tmp_path / "sr.dcm", measure(labels, volume, bundle), volume, bundle, segmentation)

    def refuse(*arguments, **keywords):
        raise ValueError("PHICANARY")

    volume = write_dicom_volume(make_volume(affine=AXIAL))
    monkeypatch.setattr(sr, "ComprehensiveSR", refuse)
    with pytest.raises(StudyError, match=r"highdicom can not make a DICOM SR of this series \(ValueError\)") as caught:
        write_dicom_sr(tmp_path / "sr.dcm", measure(labels, volume, bundle), volume, bundle, segmentation)
    assert "PHICANARY" not in str(caught.value)
    assert not (tmp_path / "sr.dcm").exists()

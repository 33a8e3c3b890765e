import json
import os
import subprocess
import sys

import numpy as np
import pydicom
import pytest
import scanloom.pipeline.outputs
from PIL import Image
from scanloom.pipeline.errors import PipelineError, StudyError, UsageError
from scanloom.pipeline.outputs import FORMATS, RunFacts, choose_formats, whole_report, write_case
from scanloom.pipeline.outputs import case as case_module
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.volume import SourceSlice

AXIAL = np.diag([-1.0, -1.0, 2.0, 1.0])
FACTS = RunFacts("cpu", {"read": 0.5})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_image_file_gives_everything_but_the_dicom_seg(tmp_path, make_volume, make_labels, bundle):
    written = write_case(tmp_path / "case_1", make_labels(), make_volume(), bundle, FACTS)
    assert names(tmp_path / "case_1") == [
        "labels.nii.gz",
        "measurements.csv",
        "measurements.json",
        "preview.png",
        "report.json",
    ]
    assert sorted(path.name for path in written.values()) == names(tmp_path / "case_1")
    report = json.loads(written["report"].read_text())
    assert report["outputs"] == ["labels.nii.gz", "measurements.json", "measurements.csv", "preview.png"]
    assert report["seconds"]["read"] == 0.5
    assert report["seconds"]["outputs"] > 0


def test_a_dicom_series_gives_a_dicom_seg_as_well(tmp_path, make_volume, make_labels, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    written = write_case(tmp_path / "out", make_labels(), volume, bundle, FACTS)
    assert written["segmentation"].name == "segmentation.dcm"
    assert json.loads(written["report"].read_text())["input"]["kind"] == "dicom"


def test_only_the_formats_asked_for_are_written(tmp_path, make_volume, make_labels, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    written = write_case(tmp_path / "out", make_labels(), volume, bundle, FACTS, ["dicom-seg"])
    assert "labels" not in written
    assert "segmentation.dcm" in names(tmp_path / "out")
    assert "labels.nii.gz" not in names(tmp_path / "out")


def test_all_dicom_objects_are_written_where_asked_for_and_refer_to_one_another(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle
):
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    written = write_case(
        tmp_path / "out", make_labels(), volume, bundle, FACTS, [name for name in FORMATS if name != "tiff"]
    )
    files = ["segmentation.dcm", "labelmap.dcm", "measurements.dcm", "rtstruct.dcm"]
    assert [path.name for path in written.values() if path.suffix == ".dcm"] == files
    modalities = [pydicom.dcmread(tmp_path / "out" / name).Modality for name in files]
    assert modalities == ["SEG", "SEG", "SR", "RTSTRUCT"]
    evidence = pydicom.dcmread(written["measurements"]).CurrentRequestedProcedureEvidenceSequence[0]
    uids = {
        str(item.ReferencedSOPInstanceUID)
        for row in evidence.ReferencedSeriesSequence
        for item in row.ReferencedSOPSequence
    }
    assert pydicom.dcmread(written["segmentation"]).SOPInstanceUID in uids


@pytest.fixture
def nameless_volume(make_volume, write_dicom_volume):
    """A series whose instances have no UIDs to refer to."""
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    for source in volume.sources:
        dataset = pydicom.dcmread(source.file)
        dataset.SOPInstanceUID = ""
        dataset.save_as(source.file)
    return volume


def test_a_source_that_allows_no_dicom_object_costs_that_object_alone(tmp_path, nameless_volume, make_labels, bundle):
    (tmp_path / "segmentation.dcm").write_bytes(b"of an earlier run")
    written = write_case(tmp_path, make_labels(), nameless_volume, bundle, FACTS)
    report = json.loads(written["report"].read_text())
    assert [warning["code"] for warning in report["warnings"]] == ["seg-source"]
    assert "SOPInstanceUID of a source instance is empty" in report["warnings"][0]["message"]
    assert "segmentation.dcm" not in names(tmp_path)
    assert {"labels.nii.gz", "measurements.csv", "preview.png"} <= {*report["outputs"]}
    assert report["formats"] == {"written": ["nifti"], "usual": ["nifti"]}
    assert whole_report(tmp_path, bundle.weights_sha256)


def test_a_refused_object_that_was_asked_for_is_an_error_once_all_else_is_written(
    tmp_path, nameless_volume, make_labels, bundle
):
    asked = ["nifti", "dicom-sr", "rtstruct"]
    with pytest.raises(StudyError, match="no DICOM object can be written on its source") as caught:
        write_case(tmp_path, make_labels(), nameless_volume, bundle, FACTS, asked)
    assert (caught.value.code, caught.value.exit_status) == ("seg-source", 3)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["warnings"]) == 1
    assert "labels.nii.gz" in report["outputs"]
    assert not [name for name in names(tmp_path) if name.endswith(".dcm")]
    assert whole_report(tmp_path, bundle.weights_sha256, asked) is None


def test_formats_follow_the_request_and_the_input(make_volume, tmp_path):
    image, series = make_volume(), make_volume(sources=(SourceSlice(tmp_path / "1", None, 0),))
    assert choose_formats(None, image) == ("nifti",)
    picture = make_volume((9, 8, 1), is_picture=True)
    assert choose_formats(None, picture) == ("nifti", "tiff")
    assert choose_formats(["tiff"], picture) == ("tiff",)
    assert choose_formats((), series) == ("nifti", "dicom-seg")
    assert choose_formats(["dicom-seg", "nifti", "nifti"], series) == ("nifti", "dicom-seg")
    assert choose_formats(["dicom-sr"], series) == ("dicom-seg", "dicom-sr")
    assert choose_formats(["dicom-sr", "dicom-seg-labelmap"], series) == ("dicom-seg-labelmap", "dicom-sr")
    assert choose_formats(["rtstruct"], series) == ("rtstruct",)


def test_formats_that_can_not_be_are_refused(make_volume):
    with pytest.raises(UsageError, match=r"format 'nrrd' is not known. Use --format nifti or --format dicom-seg"):
        choose_formats(["nrrd"], make_volume())
    with pytest.raises(UsageError, match=r"case_1: dicom-seg refers to DICOM instances.* Leave out --format dicom-seg"):
        choose_formats(["dicom-seg"], make_volume())
    with pytest.raises(UsageError, match=r"dicom-sr refers to DICOM instances.* Leave out --format dicom-sr"):
        choose_formats(["nifti", "dicom-sr"], make_volume())
    with pytest.raises(UsageError, match="dicom-seg refers to DICOM instances and this input has none"):
        choose_formats(["tiff", "dicom-seg"], make_volume(is_picture=True))
    with pytest.raises(UsageError, match=r"only pictures get one\. Leave out --format tiff"):
        choose_formats(["tiff"], make_volume())


def test_a_picture_gives_a_tiff_of_its_own_rows_and_columns(tmp_path, make_volume, bundle):
    volume = make_volume((30, 20, 1), affine=np.diag([-1.0, -1, 1, 1]), is_picture=True)
    labels = np.zeros((30, 20, 1), np.uint8)
    labels[3:9, 2:5] = 1
    written = write_case(tmp_path / "out", labels, volume, bundle, FACTS, pages=True)
    assert written["label_picture"].name == "labels.tif"
    with Image.open(written["label_picture"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels[..., 0].T)
    report = json.loads(written["report"].read_text())
    assert report["formats"]["usual"] == ["nifti", "tiff"]
    assert whole_report(tmp_path / "out", bundle.weights_sha256) is not None
    measurements = json.loads(written["measurements_json"].read_text())
    assert measurements["labels"][0]["voxels"] == 18


def test_a_report_vouches_for_files_of_one_run_only(tmp_path, make_volume, make_labels, bundle, monkeypatch):
    write_case(tmp_path, make_labels(), make_volume(), bundle, FACTS)

    def fail(*arguments):
        raise PipelineError("full")

    monkeypatch.setattr(case_module, "write_measurements", fail)
    with pytest.raises(PipelineError, match="full"):
        write_case(tmp_path, make_labels(), make_volume(), bundle, FACTS)
    assert "report.json" not in names(tmp_path)
    assert "labels.nii.gz" in names(tmp_path)


def test_a_report_that_can_not_be_replaced_is_named(tmp_path, make_volume, make_labels, bundle):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(PipelineError, match=r"report.json: can not be replaced"):
        write_case(tmp_path, make_labels(), make_volume(), bundle, FACTS)


def test_a_patient_is_named_in_the_dicom_seg_only(tmp_path, make_volume, make_labels, write_dicom_volume, bundle):
    def rename(dataset):
        dataset.PatientName, dataset.PatientID = "PHICANARY^TEST", "PHICANARY"
        dataset.SeriesDescription = dataset.StudyID = "PHICANARY"

    volume = write_dicom_volume(make_volume(affine=AXIAL), change=rename)
    written = write_case(tmp_path / "out", make_labels(), volume, bundle, FACTS)
    seg = written.pop("segmentation")
    assert pydicom.dcmread(seg).PatientID == "PHICANARY"
    for path in written.values():
        assert b"PHICANARY" not in path.read_bytes()
        assert "PHICANARY" not in path.name


@pytest.mark.data
def test_the_real_study_is_written_without_its_patient(tmp_path, bundle, data_folder):
    scans = [scan for scan in find_series(data_folder / "dicom" / "hippocampus_study") if scan.slices > 8]
    assert len(scans) == 2
    for scan in scans:
        volume = read_series(scan)
        labels = (volume.array[0] > np.percentile(volume.array, 90)).astype(np.uint8)
        written = write_case(tmp_path / volume.case, labels, volume, bundle, FACTS)
        assert pydicom.dcmread(written.pop("segmentation")).PatientID == "PHICANARY"
        assert not [path for path in written.values() if b"PHICANARY" in path.read_bytes()]


def test_the_face_names_what_it_has():
    for name in scanloom.pipeline.outputs.__all__:
        assert hasattr(scanloom.pipeline.outputs, name)
    with pytest.raises(AttributeError, match="has no attribute 'write_everything'"):
        _ = scanloom.pipeline.outputs.write_everything


def test_importing_the_face_imports_neither_highdicom_nor_matplotlib_nor_torch():
    code = (
        "import sys, scanloom.pipeline.outputs; "
        "print({'highdicom', 'matplotlib', 'torch', 'monai'} & {name.split('.')[0] for name in sys.modules})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert found.stdout.strip() == "set()"

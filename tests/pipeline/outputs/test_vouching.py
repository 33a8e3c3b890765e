import json

import pytest
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs import RunFacts, whole_report, write_case
from scanloom.pipeline.outputs.vouching import file_facts


@pytest.fixture
def folder(tmp_path, make_volume, make_labels, bundle):
    """A case's folder, all files written."""
    write_case(tmp_path / "out", make_labels(), make_volume(), bundle, RunFacts("cpu"))
    return tmp_path / "out"


def test_a_report_names_size_and_digest_of_every_file(folder):
    report = json.loads((folder / "report.json").read_text())
    paths = [path for path in folder.iterdir() if path.name != "report.json"]
    assert report["files"] == file_facts(paths)
    assert set(report["files"]) == set(report["outputs"])
    assert len(report["files"]["labels.nii.gz"]["sha256"]) == 64


def test_a_case_as_it_was_written_is_whole(folder, bundle):
    report = whole_report(folder, bundle.weights_sha256)
    assert report is not None
    assert report["labels"][0]["name"] == "anterior"


@pytest.mark.parametrize("name", ["labels.nii.gz", "measurements.csv", "preview.png", "report.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "one byte changed"])
def test_any_damage_to_any_file_is_noticed(folder, bundle, name, damage):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "empty":
        path.touch()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "one byte changed" and name != "report.json":
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert whole_report(folder, bundle.weights_sha256) is None


def test_other_weights_and_other_formats_are_not_done(folder, bundle):
    assert whole_report(folder, "0" * 64) is None
    assert whole_report(folder, bundle.weights_sha256, ["nifti"])
    assert whole_report(folder, bundle.weights_sha256, ["nifti", "dicom-seg"]) is None


@pytest.mark.parametrize("content", ["[]", "{}", '{"bundle": null}', "\x00"])
def test_a_report_of_another_kind_is_none(folder, bundle, content):
    (folder / "report.json").write_text(content)
    assert whole_report(folder, bundle.weights_sha256) is None


def test_reports_from_before_digests_are_redone(folder, bundle):
    report = json.loads((folder / "report.json").read_text())
    del report["files"]
    (folder / "report.json").write_text(json.dumps(report))
    assert whole_report(folder, bundle.weights_sha256) is None


def test_a_file_that_can_not_be_read_again_is_named(tmp_path):
    (tmp_path / "labels.nii.gz").mkdir()
    with pytest.raises(PipelineError, match=r"labels.nii.gz: was written and can not be read again \(Is a directory\)"):
        file_facts([tmp_path / "labels.nii.gz"])

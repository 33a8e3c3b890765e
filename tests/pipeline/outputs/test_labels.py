import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline import nifti_writer
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs import write_labels
from scanloom.pipeline.volume import Volume


def rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


@settings(max_examples=15, deadline=None)
@given(
    degrees=st.floats(-180, 180),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_labels_and_affine_come_back_from_any_grid(tmp_path_factory, degrees, spacing, flips, origin):
    affine = rotation(degrees) @ np.diag([*np.multiply(spacing, flips), 1.0])
    affine[:3, 3] = origin
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    path = tmp_path_factory.mktemp("labels") / "labels.nii.gz"

    write_labels(path, labels, Volume(labels[None], affine, "case"))

    image = nib.load(path)
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert np.array_equal(image.affine, affine.astype(np.float32))
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-3)


def test_header_says_the_geometry_and_nothing_else(tmp_path, make_volume, make_labels):
    write_labels(tmp_path / "labels.nii.gz", make_labels(), make_volume())
    header = nib.load(tmp_path / "labels.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert not any(bytes(header[field]).strip(b"\0") for field in ("descrip", "aux_file", "intent_name", "db_name"))


def test_a_sheared_grid_has_an_sform_only(tmp_path, make_volume, make_labels):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[1, 2] = 0.8
    write_labels(tmp_path / "labels.nii.gz", make_labels(), make_volume(affine=affine))
    image = nib.load(tmp_path / "labels.nii.gz")
    assert np.array_equal(image.affine, affine.astype(np.float32))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)


@pytest.mark.parametrize(("highest", "expected"), [(0, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_the_type_is_the_smallest_that_holds_the_labels(tmp_path, make_volume, highest, expected):
    labels = np.full((2, 3, 4), highest, np.int64)
    write_labels(tmp_path / "labels.nii.gz", labels, make_volume((2, 3, 4)))
    image = nib.load(tmp_path / "labels.nii.gz")
    assert image.get_data_dtype() == expected
    assert np.array_equal(np.asarray(image.dataobj), labels)


def test_two_writes_of_the_same_labels_give_the_same_bytes(tmp_path, make_volume, make_labels):
    for name in ("one.nii.gz", "two.nii.gz"):
        write_labels(tmp_path / name, make_labels(), make_volume())
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_labels_of_another_grid_are_refused_with_both_shapes(tmp_path, make_volume):
    with pytest.raises(PipelineError, match=r"case_1: labels have \(2, 3, 4\) voxels, the scan has \(9, 8, 7\)"):
        write_labels(tmp_path / "labels.nii.gz", np.zeros((2, 3, 4), np.uint8), make_volume())
    assert not list(tmp_path.glob("*.nii.gz"))


def test_a_writer_that_fails_midway_keeps_the_old_file(tmp_path, make_volume, make_labels, monkeypatch):
    path = tmp_path / "labels.nii.gz"
    write_labels(path, make_labels(), make_volume())
    old = path.read_bytes()

    def write_half(file, *arguments, **settings):
        file.write(gzip.compress(b"half"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti_writer, "_write", write_half)
    with pytest.raises(PipelineError, match="No space left on device"):
        write_labels(path, make_labels() * 2, make_volume())
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["labels.nii.gz"]

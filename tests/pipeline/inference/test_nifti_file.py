"""From file to file: the result in memory, on the same grid, whole or not at all."""

import errno
import gzip
import os
import shutil

import nibabel
import numpy as np
import pytest
import torch
from factories import make_affine, make_volume, write_nifti
from scanloom.pipeline.errors import PipelineError, StudyError
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.nifti_file import stream_nifti
from torch import nn

SHAPE = (20, 17, 12)


def network(classes=3, channels=1):
    return nn.Conv3d(channels, classes, 3, padding=1).requires_grad_(False)


def inferer(**settings):
    return StreamingInferer(**{"roi_size": 8, "overlap": 0.5, "mode": "gaussian"} | settings)


def source(folder, array=None, degrees=(10, -20, 30), edit=None):
    array = make_volume(SHAPE)[0] if array is None else array
    return write_nifti(folder / "in" / "scan.nii", array, make_affine(degrees=degrees), edit)


def in_memory(array, body, **settings):
    image = torch.from_numpy(np.array(array, dtype=np.float32))[None, None]
    return inferer(**settings)(image, body)[0].numpy()


@pytest.mark.parametrize("classes", [1, 3, 300])
def test_labels_are_those_of_the_result_in_memory(tmp_path, classes):
    body, path = network(classes), source(tmp_path)
    facts = stream_nifti(path, tmp_path / "out.nii", body, inferer(output="labels"))
    written = nibabel.load(tmp_path / "out.nii")
    assert written.shape == SHAPE
    assert written.get_data_dtype() == (np.uint8 if classes <= 256 else np.uint16)
    expected = in_memory(make_volume(SHAPE)[0], body, output="labels")
    assert np.array_equal(np.asarray(written.dataobj), expected[0])
    assert facts.windows == 4 * 4 * 2


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_several_channels_are_a_fourth_dimension(tmp_path, output):
    body, path = network(), source(tmp_path)
    stream_nifti(path, tmp_path / "out.nii", body, inferer(output=output))
    written = nibabel.load(tmp_path / "out.nii")
    assert (written.shape, written.get_data_dtype()) == ((*SHAPE, 3), np.float32)
    expected = in_memory(make_volume(SHAPE)[0], body, output=output)
    np.testing.assert_allclose(np.moveaxis(written.get_fdata(dtype=np.float32), -1, 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output", ["labels", "logits"])
def test_the_geometry_is_kept_and_nothing_else(tmp_path, output):
    def edit(header):
        header["descrip"] = b"PHICANARY"
        header["db_name"] = b"PHICANARY"
        header.set_xyzt_units("mm", "sec")

    path = source(tmp_path, edit=edit)
    stream_nifti(path, tmp_path / "out.nii", network(), inferer(output=output))
    before, after = nibabel.load(path), nibabel.load(tmp_path / "out.nii")
    np.testing.assert_allclose(after.affine, before.affine, rtol=0, atol=1e-5)
    np.testing.assert_allclose(after.get_qform(), before.affine, rtol=0, atol=1e-4)
    np.testing.assert_allclose(after.header.get_zooms()[:3], before.header.get_zooms(), rtol=1e-6)
    assert after.header["sform_code"] == after.header["qform_code"] == before.header["sform_code"]
    assert after.header.get_xyzt_units() == ("mm", "sec")
    assert b"PHICANARY" not in (tmp_path / "out.nii").read_bytes()


def test_a_sheared_grid_has_an_sform_only(tmp_path):
    affine = make_affine()
    affine[0, 2] = 0.7
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(make_volume(SHAPE)[0], affine), path)
    stream_nifti(path, tmp_path / "out.nii", network(), inferer(output="labels"))
    after = nibabel.load(tmp_path / "out.nii")
    np.testing.assert_allclose(after.affine, affine, rtol=0, atol=1e-5)
    np.testing.assert_allclose(after.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5)
    assert after.header["qform_code"] == 0


def test_a_grid_that_only_the_qform_says_is_kept(tmp_path):
    path = source(tmp_path, edit=lambda header: header.set_sform(None, code=0))
    stream_nifti(path, tmp_path / "out.nii", network(), inferer(output="labels"))
    after = nibabel.load(tmp_path / "out.nii")
    np.testing.assert_allclose(after.affine, nibabel.load(path).affine, rtol=0, atol=1e-5)
    assert after.header["sform_code"] == 1


def test_slope_and_intercept_are_applied(tmp_path):
    body = network()
    path = source(tmp_path, edit=lambda header: header.set_slope_inter(0.5, -1024))
    stored = np.asarray(nibabel.load(path).dataobj.get_unscaled())
    assert stored.dtype == np.int16
    values = nibabel.load(path).get_fdata()
    stream_nifti(path, tmp_path / "out.nii", body, inferer(output="logits"))
    written = np.moveaxis(nibabel.load(tmp_path / "out.nii").get_fdata(dtype=np.float32), -1, 0)
    np.testing.assert_allclose(written, in_memory(values, body), rtol=1e-5, atol=2e-3)
    assert nibabel.load(tmp_path / "out.nii").dataobj.slope == 1


@pytest.mark.parametrize("kind", [">i2", ">f4", ">f8", "<u2", "<i4"])
def test_every_type_and_order_of_bytes_is_read(tmp_path, kind):
    body, array = network(), make_volume(SHAPE)[0]
    path = tmp_path / "scan.nii"
    header = nibabel.Nifti1Header(endianness=kind[0])
    header.set_data_dtype(np.dtype(kind))
    nibabel.save(nibabel.Nifti1Image(array.astype(kind), make_affine(), header), path)
    assert nibabel.load(path).header.endianness == kind[0]
    stream_nifti(path, tmp_path / "out.nii", body, inferer(output="labels"))
    assert np.array_equal(
        np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), in_memory(array, body, output="labels")[0]
    )


def test_preprocessing_is_of_each_region_and_may_add_channels(tmp_path):
    body, path = network(channels=2), source(tmp_path)

    def prepare(region):
        region.div_(500).sub_(1)
        return torch.cat([region, region.square()])

    stream_nifti(path, tmp_path / "out.nii", body, inferer(output="labels"), prepare=prepare)
    image = prepare(torch.from_numpy(make_volume(SHAPE)[0].astype(np.float32))[None])
    expected = inferer(output="labels")(image[None], body)[0, 0].numpy()
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), expected)


def test_the_source_is_not_changed(tmp_path):
    path = source(tmp_path, edit=lambda header: header.set_slope_inter(2, 1))
    before = path.read_bytes()
    stream_nifti(path, tmp_path / "out.nii", network(), StreamingInferer((-1, -1, -1), output="labels"),
                 prepare=lambda region: region.mul_(2))  # fmt: skip
    assert path.read_bytes() == before


def test_progress_is_reported(tmp_path):
    told = []
    stream_nifti(source(tmp_path), tmp_path / "out.nii", network(), inferer(),
                 report=lambda line, done=None: told.append(done))  # fmt: skip
    assert len(told) == 32
    assert told[-1] == 1.0


@pytest.mark.parametrize("after", [0, 5])
def test_nothing_is_left_where_the_network_fails(tmp_path, after):
    body, calls = network(), []

    def failing(windows):
        calls.append(1)
        if len(calls) > after:
            raise RuntimeError("no such layer")
        return body(windows)

    folder = tmp_path / "out"
    with pytest.raises(RuntimeError, match="no such layer"):
        stream_nifti(source(tmp_path), folder / "out.nii", failing, inferer())
    assert list(folder.iterdir()) == []


def test_what_stood_there_is_kept_where_the_network_fails(tmp_path):
    target = tmp_path / "out.nii"
    target.write_bytes(b"before")
    with pytest.raises(PipelineError, match="out of memory on cpu with one window of 8 x 8 x 8 voxels"):
        stream_nifti(source(tmp_path), target, lambda windows: torch.empty(2**60), inferer())
    assert target.read_bytes() == b"before"
    stream_nifti(source(tmp_path), target, network(), inferer(output="labels"))
    assert nibabel.load(target).shape == SHAPE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.nii"]


def test_a_compressed_file_is_refused(tmp_path):
    path = source(tmp_path)
    with path.open("rb") as plain, gzip.open(tmp_path / "scan.nii.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    with pytest.raises(StudyError, match=r"scan\.nii\.gz: is compressed, which can only be read as a whole"):
        stream_nifti(tmp_path / "scan.nii.gz", tmp_path / "out.nii", network(), inferer())
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 4, 2), np.int16), r"Nifti1Image of shape \(4, 4, 4, 2\) and type int16; this reads NIfTI"),
        (np.zeros((4, 4), np.int16), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.complex64), r"type complex64; this reads NIfTI volumes of three dimensions and real"),
    ],
    ids=["4D", "2D", "complex"],
)
def test_other_images_are_refused(tmp_path, array, message):
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(StudyError, match=message):
        stream_nifti(path, tmp_path / "out.nii", network(), inferer())


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"no image" * 100)
    with pytest.raises(StudyError, match=r"scan\.nii: is no readable NIfTI file \(ImageFileError\)\. Convert it"):
        stream_nifti(path, tmp_path / "out.nii", network(), inferer())
    with pytest.raises(StudyError, match=r"is no readable NIfTI file \(FileNotFoundError\)"):
        stream_nifti(tmp_path / "none.nii", tmp_path / "out.nii", network(), inferer())


def test_a_file_that_ends_too_early_is_refused(tmp_path):
    path = source(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StudyError, match=r"scan\.nii: the voxels can not be read \(\w+\)\. Copy it again"):
        stream_nifti(path, tmp_path / "out.nii", network(), inferer())


def test_a_target_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"out\.nii: can not be written"):
        stream_nifti(source(tmp_path), tmp_path / "file" / "out.nii", network(), inferer())


def test_a_full_disk_is_told_after_the_first_pass(tmp_path, monkeypatch):
    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = []
    monkeypatch.setattr("os.posix_fallocate", full)
    body = network()
    body.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(PipelineError, match="No space left on device"):
        stream_nifti(source(tmp_path), tmp_path / "out.nii", body, inferer(output="labels"))
    assert len(calls) == 1  # the pass that tells how many channels there will be
    assert [path.name for path in tmp_path.glob("*out*")] == []

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scanloom.pipeline import nifti_writer
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.nifti_writer import geometry_header, nifti_bytes, write_nifti_volume

AFFINE = np.array([[-0.9, 0, 0, 80], [0, 1.1, 0, -90.5], [0, 0, 2.5, 12], [0, 0, 0, 1]])
TYPES = ("?", "i1", "u1", ">i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", ">f8", "g")


def voxels(dtype: str = "i2", shape=(7, 6, 5)) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 50, shape).astype(dtype)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_nibabel_reads_voxels_of_any_real_type(tmp_path, dtype, name):
    array = voxels(dtype)
    if array.dtype.kind == "f":
        array[1, 2, 3] = np.nan
    write_nifti_volume(tmp_path / name, array, AFFINE)
    image = nib.load(tmp_path / name)
    assert np.array_equal(image.affine, AFFINE.astype(np.float32))
    read = np.asarray(image.dataobj)
    assert read.dtype == nifti_writer.stored_type(array.dtype)
    assert np.array_equal(read, array.astype(read.dtype), equal_nan=read.dtype.kind == "f")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("steps", [(1, 1, 1), (-1, 1, -1), (2, 1, 3)])
@pytest.mark.parametrize("chunk", [1, 200, 10**6])
def test_any_memory_order_and_chunk_gives_the_same_bytes(tmp_path, monkeypatch, order, steps, chunk):
    monkeypatch.setattr(nifti_writer, "CHUNK_BYTES", chunk)
    array = voxels(shape=(21, 10, 9)).transpose(order)[tuple(slice(None, None, step) for step in steps)]
    write_nifti_volume(tmp_path / "scan.nii.gz", array, AFFINE)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "scan.nii.gz").dataobj), array)
    assert (tmp_path / "scan.nii.gz").read_bytes() == nifti_bytes(np.ascontiguousarray(array), AFFINE)


def test_voxels_that_lie_in_file_order_are_not_copied():
    array = np.asfortranarray(voxels())
    for chunk in nifti_writer._chunks(array, array.dtype):
        assert np.shares_memory(np.asarray(chunk), array)


def test_the_gzip_header_holds_neither_a_name_nor_a_time(tmp_path):
    write_nifti_volume(tmp_path / "a-name.nii.gz", voxels(), AFFINE)
    flags, time = (content := (tmp_path / "a-name.nii.gz").read_bytes())[3], content[4:8]
    assert (flags, time) == (0, bytes(4))
    assert b"a-name" not in content


def test_the_geometry_is_said_in_mm_and_nothing_else(tmp_path):
    write_nifti_volume(tmp_path / "scan.nii.gz", voxels(), AFFINE)
    header = nib.load(tmp_path / "scan.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_zooms() == pytest.approx((0.9, 1.1, 2.5))
    assert header.get_slope_inter() == (None, None) or header.get_slope_inter() == (1.0, 0.0)
    assert len(header.extensions) == 0
    assert not any(bytes(header[field]).strip(b"\0") for field in ("descrip", "aux_file", "intent_name", "db_name"))


@pytest.mark.parametrize(("cosine", "code"), [(2e-5, 1), (5e-4, 0), (0.2, 0)])
def test_a_qform_is_said_only_where_it_can_say_the_grid(cosine, code):
    sheared = np.diag([1.0, 1.0, 3.0, 1.0])
    sheared[1, 2] = 3 * cosine
    header = geometry_header((4, 5, 6), np.dtype("u1"), sheared)
    assert int(header["qform_code"]) == code
    assert header.get_zooms() == pytest.approx(np.linalg.norm(sheared[:3, :3], axis=0), rel=1e-5)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("fault", ["truncated", "flipped bit"])
def test_a_file_that_reached_the_disk_otherwise_is_not_kept(tmp_path, monkeypatch, name, fault):
    write_nifti_volume(tmp_path / name, voxels(), AFFINE)
    old = (tmp_path / name).read_bytes()

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        if fault == "truncated":
            del content[-1:]
        else:
            content[len(content) // 2] ^= 4
        path.write_bytes(content)

    monkeypatch.setattr("scanloom.pipeline.atomic._flush", damage)
    with pytest.raises(PipelineError, match=rf"{name}: what reached the disk does not read as it was written"):
        write_nifti_volume(tmp_path / name, voxels() + 1, AFFINE)
    assert (tmp_path / name).read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_less_room_than_the_voxels_take_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 500}))
    with pytest.raises(PipelineError, match=r"\(No space left on device\). It needs 772 bytes and 500 are free"):
        write_nifti_volume(tmp_path / "scan.nii", voxels(), AFFINE)
    assert not list(tmp_path.iterdir())


def test_what_nifti_can_not_hold_is_refused(tmp_path):
    with pytest.raises(PipelineError, match="32768 x 1 x 1 voxels: NIfTI-1 holds 32767 along an axis"):
        write_nifti_volume(tmp_path / "scan.nii", np.zeros((32768, 1, 1), np.uint8), AFFINE)
    with pytest.raises(TypeError, match="complex128 are no real numbers"):
        write_nifti_volume(tmp_path / "scan.nii", voxels().astype(complex), AFFINE)
    assert not list(tmp_path.iterdir())


def test_any_gzip_reads_it(tmp_path):
    array = voxels()
    write_nifti_volume(tmp_path / "scan.nii.gz", array, AFFINE)
    content = gzip.decompress((tmp_path / "scan.nii.gz").read_bytes())
    assert content[352:] == array.tobytes(order="F")

"""NIfTI, NRRD and MetaImage files to volumes, and what is refused of them."""

import gzip

import itk
import nibabel
import numpy as np
import pytest
from factories import make_affine, make_volume, reorient, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError, StudyError
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.studies import nifti as nifti_module
from scanloom.pipeline.studies.volume_file import file_case

ITK_WARNS = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
"""For tests that write with ITK, whose wrapping warns where it is imported."""


def read_one(path):
    (series,) = find_series(path)
    return read_series(series)


def save(path, array, affine, kind=nibabel.Nifti1Image):
    nibabel.save(kind(array, affine), path)
    return path


def codes(volume):
    return [notice.code for notice in volume.notices]


@settings(max_examples=12, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_any_orientation_reads_back_to_the_voxels_and_affine(tmp_path_factory, axes, flips, degrees):
    array, affine = reorient(*make_volume((4, 5, 6), degrees=degrees), axes, flips)
    volume = read_one(write_nifti(tmp_path_factory.mktemp("n") / "x.nii", array, affine))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)  # srow is float32
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "int32", "float32", "float64", ">f4"])
def test_versions_byte_orders_and_types_are_read(tmp_path, kind, dtype):
    array = make_volume()[0] % 200
    image = kind(array.astype(dtype), make_affine())
    if dtype.startswith(">"):
        image = kind(array.astype(dtype), make_affine(), kind.header_class(endianness=">"))
        image.set_data_dtype(np.dtype(dtype))
    nibabel.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_one(tmp_path / "x.nii.gz").array[0], array)


def test_gzip_is_told_by_content_not_name(tmp_path):
    array, affine = make_volume()
    plain = write_nifti(tmp_path / "plain.nii", array, affine).read_bytes()
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "not.nii.gz").write_bytes(plain)
    for name in ("zipped.nii", "not.nii.gz"):
        np.testing.assert_array_equal(read_one(tmp_path / name).array[0], array)


def test_slope_and_intercept_are_applied(tmp_path):
    array, affine = make_volume()
    # nibabel stores an array as it is where the header has a slope already
    write_nifti(tmp_path / "x.nii", array, affine, lambda header: header.set_slope_inter(0.5, -1000))
    np.testing.assert_allclose(read_one(tmp_path / "x.nii").array[0], array * 0.5 - 1000)


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    array, affine = make_volume()
    volume = read_one(save(tmp_path / "x.nii", array[..., np.newaxis], affine))
    np.testing.assert_array_equal(volume.array[0], array)


def test_the_sform_wins_and_a_conflict_is_told(tmp_path):
    array, affine = make_volume()
    other = np.diag([-1.0, 1, 1, 1]) @ affine
    volume = read_one(write_nifti(tmp_path / "x.nii", array, affine, lambda header: header.set_qform(other, 1)))
    np.testing.assert_allclose(volume.affine, affine)
    assert codes(volume) == ["sform-qform"]


def test_the_qform_is_taken_where_no_sform_is_coded(tmp_path):
    array, affine = make_volume(degrees=(10, 20, 30))
    volume = read_one(write_nifti(tmp_path / "x.nii", array, affine, lambda header: header.set_sform(None, 0)))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert codes(volume) == []


def test_a_file_without_orientation_is_told(tmp_path):
    volume = read_one(save(tmp_path / "x.nii", make_volume()[0], None))
    assert codes(volume) == ["no-orientation"]


def test_a_sheared_sform_is_kept_and_told(tmp_path):
    array, affine = make_volume()
    affine[1, 2] = 0.5
    volume = read_one(save(tmp_path / "x.nii", array, affine))
    np.testing.assert_allclose(volume.affine, affine)
    assert codes(volume) == ["sheared-slices"]


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1000), ("micron", 0.001)])
def test_lengths_are_converted_to_mm(tmp_path, unit, scale):
    array, affine = make_volume()
    volume = read_one(write_nifti(tmp_path / "x.nii", array, affine, lambda header: header.set_xyzt_units(unit)))
    np.testing.assert_allclose(volume.spacing, [scale, 1.5 * scale, 2 * scale])
    assert codes(volume) == ["units"]


def test_integers_that_float32_rounds_are_told(tmp_path):
    array = np.full((3, 4, 5), 2**24 + 1, np.int32)
    assert codes(read_one(save(tmp_path / "x.nii", array, make_affine()))) == ["rounded-integers"]


@pytest.mark.parametrize(
    ("array", "message", "code"),
    [
        (np.zeros((4, 5), np.int16), "4 x 5, not one 3D volume", "not-3d"),
        (np.zeros((4, 5, 6, 2), np.int16), "4 x 5 x 6 x 2, not one 3D volume", "not-3d"),
        (np.zeros((4, 5, 6), np.complex64), "voxels of type complex64", "not-scalar"),
        (
            np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])),
            "not single real numbers",
            "not-scalar",
        ),
        (np.array([[[1.0, np.nan, np.inf]]], np.float32), "2 of 3 voxels are NaN or infinite", "not-finite"),
    ],
)
def test_what_is_no_scalar_volume_is_refused(tmp_path, array, message, code):
    with pytest.raises(StudyError, match=message) as caught:
        read_one(save(tmp_path / "x.nii.gz", array, make_affine()))
    assert caught.value.code == code


def patched(path, offset, values):
    """A NIfTI file with some bytes of its header replaced."""
    content = bytearray(write_nifti(path, *make_volume()).read_bytes())
    content[offset : offset + len(values)] = values
    path.write_bytes(content)
    return path


def test_singular_and_nan_affines_are_refused(tmp_path):
    with pytest.raises(GeometryError, match="the affine is singular"):
        read_one(patched(tmp_path / "flat.nii", 280 + 32, bytes(16)))
    nan = np.full(12, np.nan, "<f4").tobytes()
    with pytest.raises(GeometryError, match="the affine holds NaN"):
        read_one(patched(tmp_path / "nan.nii", 280, nan))


def test_a_unit_that_is_no_length_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="xyzt_units names no length"):
        read_one(patched(tmp_path / "x.nii", 123, b"\x07"))


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    large = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    with pytest.raises(StudyError, match="27,000,000,000,000 voxels claimed"):
        read_one(patched(tmp_path / "bomb.nii", 40, large))
    large = np.array([3, 300, 300, 300, 1, 1, 1, 1], "<i2").tobytes()
    with pytest.raises(StudyError, match="claims 54,000,000 bytes of voxels, the file is too short"):
        read_one(patched(tmp_path / "short.nii", 40, large))


def test_a_type_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(StudyError, match="the NIfTI header can not be read"):
        read_one(patched(tmp_path / "x.nii", 70, b"\x99\x09"))


def test_a_file_cut_short_is_refused(tmp_path):
    whole = write_nifti(tmp_path / "x.nii.gz", *make_volume((20, 20, 20))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) * 7 // 10])
    with pytest.raises(StudyError, match=r"the voxels can not be read \(EOFError") as caught:
        read_one(tmp_path / "cut.nii.gz")
    assert caught.value.code == "truncated"
    inflated = gzip.decompress(whole)
    (tmp_path / "less.nii.gz").write_bytes(gzip.compress(inflated[:-100]))
    with pytest.raises(StudyError, match=r"15,900 of 16,000 bytes of voxels"):
        read_one(tmp_path / "less.nii.gz")


def test_a_file_that_goes_on_after_its_voxels_is_refused(tmp_path):
    whole = write_nifti(tmp_path / "x.nii", *make_volume()).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(whole + bytes(2**21)))
    with pytest.raises(StudyError, match="the file goes on after the voxels"):
        read_one(tmp_path / "bomb.nii.gz")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha", "x.nrrd"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"hello, this is text" * 40)
    with pytest.raises(StudyError, match="the content is not what the file's name says"):
        read_one(tmp_path / name)


@ITK_WARNS
@pytest.mark.parametrize("suffix", ["nrrd", "mha", "mhd"])
def test_itk_s_formats_come_out_in_ras(tmp_path, suffix):
    array, affine = make_volume(degrees=(10, -20, 30))
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    image.SetSpacing([1.0, 1.5, 2.0])
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / [1.0, 1.5, 2.0])))
    itk.imwrite(image, str(tmp_path / f"scan.{suffix}"))
    volume = read_one(tmp_path / f"scan.{suffix}")
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert (volume.case, codes(volume)) == ("scan", [])
    assert volume.array.flags.c_contiguous


@ITK_WARNS
def test_itk_s_formats_are_refused_in_a_line(tmp_path):
    (tmp_path / "cut.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nendian: little\nencoding: raw\n\n123"
    )
    with pytest.raises(StudyError, match="ITK can not read the file"):
        read_one(tmp_path / "cut.nrrd")
    (tmp_path / "big.nrrd").write_bytes(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 900 900 900\nencoding: raw\n\n1")
    with pytest.raises(StudyError, match="too short for the 729,000,000 voxels"):
        read_one(tmp_path / "big.nrrd")
    (tmp_path / "odd.nrrd").write_bytes(b"NRRD0004\nnonsense\n\n")
    with pytest.raises(StudyError, match="ITK can not read the file"):
        read_one(tmp_path / "odd.nrrd")
    itk.imwrite(itk.image_from_array(np.zeros((3, 4, 5, 3), np.uint8), is_vector=True), str(tmp_path / "rgb.mha"))
    with pytest.raises(StudyError, match="voxels of 3 components"):
        read_one(tmp_path / "rgb.mha")


def test_an_nrrd_without_space_is_told(tmp_path):
    data = np.arange(120, dtype="<i2")
    header = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nendian: little\nencoding: raw\n\n"
    (tmp_path / "x.nrrd").write_bytes(header + data.tobytes())
    volume = read_one(tmp_path / "x.nrrd")
    np.testing.assert_array_equal(volume.array[0], data.reshape(6, 5, 4).T)
    assert codes(volume) == ["no-orientation"]


def test_case_names_are_fit_for_folders(tmp_path):
    names = ["a.nii.gz", "b.1.NII", "..nii", "x:y*.mha", "plain"]
    assert [file_case(tmp_path / name) for name in names] == ["a", "b.1", "volume", "x_y_", "plain"]


@pytest.fixture
def mapped_from_100_bytes(monkeypatch):
    monkeypatch.setattr(nifti_module, "MAPPED_BYTES", 100)


@pytest.mark.parametrize("dtype", ["int16", ">i2", "float32", "uint8"])
def test_a_large_plain_file_is_mapped_in_its_own_type(tmp_path, mapped_from_100_bytes, dtype):
    array, affine = make_volume()
    image = nibabel.Nifti1Image(
        (array % 200).astype(dtype), affine, nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] == ">" else "<")
    )
    image.set_data_dtype(np.dtype(dtype))
    nibabel.save(image, tmp_path / "x.nii")
    volume = read_one(tmp_path / "x.nii")
    assert volume.is_mapped
    assert volume.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.array[0], array % 200)


def test_compressed_scaled_and_small_files_are_not_mapped(tmp_path, monkeypatch, mapped_from_100_bytes):
    array, affine = make_volume()
    zipped = write_nifti(tmp_path / "x.nii.gz", array, affine)
    scaled = write_nifti(tmp_path / "y.nii", array, affine, lambda header: header.set_slope_inter(2, 1))
    plain = write_nifti(tmp_path / "z.nii", array, affine)
    assert [read_one(path).is_mapped for path in (zipped, scaled, plain)] == [False, False, True]
    monkeypatch.undo()
    assert not read_one(plain).is_mapped


@pytest.mark.parametrize(
    ("change", "code"), [(lambda data: data[:-1], "truncated"), (lambda data: data + bytes(2**21), "excess-data")]
)
def test_a_mapped_file_is_as_long_as_its_header_says(tmp_path, mapped_from_100_bytes, change, code):
    path = write_nifti(tmp_path / "x.nii", *make_volume())
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StudyError) as caught:
        read_one(path)
    assert caught.value.code == code


def test_nan_in_a_mapped_file_is_refused(tmp_path, mapped_from_100_bytes):
    array, affine = make_volume()
    array = array.astype(np.float32)
    array[1, 2, 3] = np.nan
    with pytest.raises(StudyError, match=r"1 of .* voxels are NaN or infinite"):
        read_one(write_nifti(tmp_path / "x.nii", array, affine))

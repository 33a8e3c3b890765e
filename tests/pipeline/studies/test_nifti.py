"""NIfTI files to volumes, and what is refused of them; nibabel, which writes them, is the independent reference."""

import gzip

import nibabel
import numpy as np
import pytest
from factories import make_affine, make_volume, reorient, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError, StudyError
from scanloom.pipeline.studies import find_series, read_series, volume_file, voxel_data
from scanloom.pipeline.studies.nifti import describe_nifti
from scanloom.pipeline.studies.nifti_affine import quaternion_affine


def read_one(path):
    (series,) = find_series(path)
    return read_series(series)


def save(path, array, affine, kind=nibabel.Nifti1Image, **how):
    nibabel.save(kind(array, affine, **how), path)
    return path


def codes(volume):
    return [notice.code for notice in volume.notices]


TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(TYPES),
    order=st.sampled_from("<>"),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    suffix=st.sampled_from(["nii", "nii.gz"]),
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_whatever_nibabel_writes_reads_back_exactly(tmp_path_factory, dtype, order, kind, suffix, axes, flips, degrees):
    array, affine = reorient(*make_volume((4, 5, 6), degrees=degrees), axes, flips)
    image = kind(array.astype(dtype), affine, kind.header_class(endianness=order))
    image.set_data_dtype(np.dtype(order + dtype))
    path = tmp_path_factory.mktemp("n") / f"x.{suffix}"
    nibabel.save(image, path)
    assert nibabel.load(path).header.endianness == order
    volume = read_one(path)
    np.testing.assert_array_equal(volume.array[0], array.astype(dtype))
    np.testing.assert_allclose(volume.affine, nibabel.load(path).affine, atol=1e-6)
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.dtype.isnative
    assert volume.array[0].flags.f_contiguous  # not copied into another order


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


@pytest.mark.parametrize(
    ("dtype", "value"), [("i4", 2**24 + 1), ("i8", -(2**62) - 1), ("u8", 2**64 - 1), ("u4", 2**32 - 1)]
)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_integers_that_float32_would_round_are_kept_and_told(tmp_path, dtype, value, suffix):
    array = np.full((3, 4, 5), value, dtype)
    volume = read_one(save(tmp_path / f"x.{suffix}", array, make_affine(), nibabel.Nifti2Image, dtype=dtype))
    np.testing.assert_array_equal(volume.array[0], array)
    assert codes(volume) == ["large-integers"]
    array[:] = 2**24 if dtype[0] == "u" else -(2**24)
    assert codes(read_one(save(tmp_path / f"x.{suffix}", array, make_affine(), dtype=dtype))) == []


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


@pytest.mark.parametrize("mapped", [False, True])
def test_nan_and_infinity_are_kept_and_counted(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(voxel_data, "MAPPED_BYTES", 1 if mapped else 2**40)
    array = np.ones((6, 7, 8), np.float32)
    array[1, 2, 3], array[5, 6, 7], array[0, 0, 0] = np.nan, np.inf, -np.inf
    volume = read_one(save(tmp_path / "x.nii", array, make_affine()))
    assert volume.is_mapped == mapped
    np.testing.assert_array_equal(volume.array[0], array)
    (notice,) = volume.notices
    assert notice.code == "not-finite"
    assert "3 of 336 voxels are NaN or infinite" in notice.message


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "wanted"),
    [
        ("i2", 0.5, -1000, "f4"),
        ("i2", -2, 0, "f4"),
        ("i2", 1e-4, 1e6, "f8"),  # steps that float32 can not tell apart at 1e6
        ("i4", 1e-3, 0, "f4"),
        ("f4", 3, 0, "f8"),
    ],
)
def test_scaled_values_stay_apart(tmp_path, dtype, slope, inter, wanted):
    stored = make_volume()[0].astype(dtype)
    path = write_nifti(tmp_path / "x.nii.gz", stored, make_affine(), lambda h: h.set_slope_inter(slope, inter))
    array = read_one(path).array[0]
    assert array.dtype == wanted
    np.testing.assert_allclose(array, nibabel.load(path).get_fdata(), rtol=2**-24)
    assert len(np.unique(array)) == len(np.unique(stored))


def patched_header(path, **values):
    """A NIfTI-1 file with fields of its header set past nibabel's checks."""
    content = bytearray(write_nifti(path, *make_volume()).read_bytes())
    fields = np.frombuffer(content, nibabel.Nifti1Header.template_dtype, 1)
    for name, value in values.items():
        fields[name][0] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("slope", "inter"), [(0, 5), (np.nan, 0), (np.nan, np.nan), (1, 0), (0, np.inf)])
def test_slopes_that_mean_none_leave_the_stored_values(tmp_path, slope, inter):
    volume = read_one(patched_header(tmp_path / "x.nii", scl_slope=slope, scl_inter=inter))
    np.testing.assert_array_equal(volume.array[0], make_volume()[0])


@pytest.mark.parametrize(("slope", "inter"), [(np.inf, 0), (1, np.nan), (2, -np.inf)])
def test_a_scale_that_is_no_number_is_refused(tmp_path, slope, inter):
    with pytest.raises(StudyError, match="values are scaled by scl_slope") as caught:
        read_one(patched_header(tmp_path / "x.nii", scl_slope=slope, scl_inter=inter))
    assert caught.value.code == "bad-scale"


@pytest.mark.parametrize("offset", [-16, 1, 347, 352.5, np.nan, np.inf, -np.inf])
def test_an_offset_that_is_no_place_is_refused(tmp_path, offset):
    with pytest.raises(StudyError, match=r"vox_offset .* is no place behind the header") as caught:
        read_one(patched_header(tmp_path / "x.nii", vox_offset=offset))
    assert caught.value.code == "bad-offset"


def test_offsets_are_taken_at_their_word(tmp_path):
    path = write_nifti(tmp_path / "x.nii", *make_volume())
    header, voxels = path.read_bytes()[:348], path.read_bytes()[352:]
    for offset, between in ((0, 4), (348, 0), (352, 4), (363, 15), (100_000, 99_652)):
        changed = bytearray(header)
        changed[108:112] = np.float32(offset).tobytes()
        path.write_bytes(changed + bytes(between) + voxels)
        np.testing.assert_array_equal(read_one(path).array[0], make_volume()[0])


def test_an_offset_behind_the_end_is_refused(tmp_path):
    with pytest.raises(StudyError, match="the file is too short"):
        read_one(patched_header(tmp_path / "x.nii", vox_offset=2e9))


@pytest.mark.parametrize("axes", [0, 8, -1, 99])
def test_a_number_of_axes_out_of_range_is_refused(tmp_path, axes):
    with pytest.raises(StudyError, match="the NIfTI header can not be read"):
        read_one(patched_header(tmp_path / "x.nii", dim=[axes, 6, 7, 8, 1, 1, 1, 1]))


@pytest.mark.parametrize("sizes", [[3, 0, 7, 8], [3, -6, 7, 8], [5, 6, 7, 8, 1, 3], [2, 42, 8, 1], [3, -1, 1, 1]])
def test_sizes_that_are_no_volume_are_refused(tmp_path, sizes):
    with pytest.raises(StudyError, match="not one 3D volume") as caught:
        read_one(patched_header(tmp_path / "x.nii", dim=sizes + [1] * (8 - len(sizes))))
    assert caught.value.code == "not-3d"


def test_byte_orders_that_contradict_are_refused(tmp_path):
    swapped = np.array([3, 6, 7, 8, 1, 1, 1, 1], "<i2").byteswap()
    with pytest.raises(StudyError, match=r"the NIfTI header can not be read \(sizeof_hdr"):
        read_one(patched_header(tmp_path / "x.nii", dim=swapped))


@pytest.mark.parametrize("code", [0, 1, 255, 1536, 2048, 1792, 2304, 9999])
def test_types_that_are_no_real_numbers_are_refused(tmp_path, code):
    with pytest.raises(StudyError, match=r"not single real numbers|header can not be read"):
        read_one(patched_header(tmp_path / "x.nii", datatype=code))


@settings(max_examples=50, deadline=None)
@given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda q: 1e-3 < sum(part**2 for part in q) < 0.999),
    qfac=st.sampled_from([-1.0, 1.0]),
)
def test_a_qform_is_what_nibabel_makes_of_it(quaternion, qfac):
    header = nibabel.Nifti1Header()
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = quaternion
    header["pixdim"][:4] = [qfac, 1, 1.5, 2]
    header["qoffset_x"] = -7
    np.testing.assert_allclose(quaternion_affine(header), header.get_qform(), atol=1e-5)


def test_a_qfac_of_zero_is_one(tmp_path):
    volume = read_one(patched_header(tmp_path / "x.nii", sform_code=0, pixdim=[0, 1, 1.5, 2, 0, 0, 0, 0]))
    np.testing.assert_allclose(volume.affine, make_affine(), atol=1e-5)


def test_a_quaternion_a_little_too_long_is_normalised(tmp_path):
    volume = read_one(patched_header(tmp_path / "x.nii", sform_code=0, quatern_b=1.0001, quatern_c=0, quatern_d=0))
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([1, -1.5, -2]), atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        {"quatern_b": 0.9, "quatern_c": 0.9},
        {"quatern_d": np.nan},
        {"pixdim": [1, 1, -1.5, 2, 0, 0, 0, 0]},
        {"pixdim": [1, 1, 1.5, 0, 0, 0, 0, 0]},
        {"pixdim": [1, np.nan, 1.5, 1, 0, 0, 0, 0]},
    ],
)
def test_a_qform_without_rotation_or_voxel_size_is_refused_or_told(tmp_path, fields):
    with pytest.raises(GeometryError, match="the qform holds no rotation or no voxel size"):
        read_one(patched_header(tmp_path / "x.nii", sform_code=0, **fields))
    volume = read_one(patched_header(tmp_path / "x.nii", **fields))
    np.testing.assert_allclose(volume.affine, make_affine())
    assert codes(volume) == ["sform-qform"]


@pytest.mark.parametrize("lengths", [(0, 1, 1), (1, -1, 1), (1, 1, np.inf)])
def test_a_file_without_orientation_or_voxel_size_is_refused(tmp_path, lengths):
    pixdim = [1, *lengths, 0, 0, 0, 0]
    with pytest.raises(GeometryError, match=r"no voxel size|NaN or infinity"):
        read_one(patched_header(tmp_path / "x.nii", sform_code=0, qform_code=0, pixdim=pixdim))


@pytest.mark.parametrize(("kind", "code"), [(nibabel.Nifti1Pair, "nifti-pair"), (nibabel.AnalyzeImage, "analyze")])
def test_pairs_of_files_are_refused_by_name(tmp_path, kind, code):
    nibabel.save(kind(make_volume()[0], make_affine()), tmp_path / "x.img")
    with pytest.raises(
        StudyError, match=r"voxels in another file \(.hdr and .img\).* Convert it to one .nii file"
    ) as caught:
        read_one(tmp_path)
    assert caught.value.code == code


def test_more_voxels_than_asked_for_are_refused(tmp_path):
    path = write_nifti(tmp_path / "x.nii", *make_volume())
    assert describe_nifti(path, max_voxels=6 * 7 * 8).refused is None
    refused = describe_nifti(path, max_voxels=6 * 7 * 8 - 1, case="other").refused
    assert str(refused) == "case other: 336 voxels claimed, at most 335 are read. Crop it."


def test_voxels_that_memory_does_not_hold_are_refused(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "x.nii", *make_volume())

    def full(*_):
        raise MemoryError

    (series,) = find_series(path)
    monkeypatch.setattr(volume_file.np, "empty", full)
    with pytest.raises(StudyError, match="GiB of voxels do not fit into memory"):
        read_series(series)


def test_a_file_that_changes_between_the_two_reads_is_refused(tmp_path):
    (series,) = find_series(write_nifti(tmp_path / "x.nii", *make_volume()))
    write_nifti(tmp_path / "x.nii", *make_volume((7, 6, 8)))
    with pytest.raises(StudyError, match="the file changed while it was read"):
        read_series(series)


def test_gzip_in_several_streams_is_read_and_its_damage_refused(tmp_path):
    whole = write_nifti(tmp_path / "x.nii", *make_volume((20, 20, 20))).read_bytes()
    path, packed = tmp_path / "y.nii.gz", gzip.compress(whole)
    for good in (gzip.compress(whole[:500]) + gzip.compress(whole[500:]), packed + bytes(100)):
        path.write_bytes(good)
        np.testing.assert_array_equal(read_one(path).array[0], make_volume((20, 20, 20))[0])
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :]
    for bad in (packed[:-4], packed[:-8] + b"12345678", packed + b"garbage", flipped):
        path.write_bytes(bad)
        with pytest.raises(StudyError, match="the file is cut short or damaged"):
            read_one(path)


def test_bytes_after_the_voxels_are_told(tmp_path):
    """A header that claims a slice less than there is."""
    volume = read_one(patched_header(tmp_path / "x.nii", dim=[3, 6, 7, 7, 1, 1, 1, 1]))
    np.testing.assert_array_equal(volume.array[0], make_volume()[0][..., :7])
    assert codes(volume) == ["excess-data"]
    assert "84 bytes after the voxels were not read" in volume.notices[0].message


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


@pytest.fixture
def mapped_from_100_bytes(monkeypatch):
    monkeypatch.setattr(voxel_data, "MAPPED_BYTES", 100)


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

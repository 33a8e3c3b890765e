"""NRRD and MetaImage to volumes, and what is refused of them; ITK, which reads and writes both, is the reference."""

import bz2
import gzip
import zlib

import itk
import numpy as np
import pytest
from factories import make_affine, make_volume, reorient
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError, StudyError
from scanloom.pipeline.studies import find_series, read_series, voxel_data
from scanloom.pipeline.studies.raster import describe_raster, is_raster

pytestmark = pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # ITK's wrapping

ARRAY = make_volume()[0].astype("<i2")
VOXELS = ARRAY.tobytes(order="F")
NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": "6 7 8",
    "endian": "little",
    "encoding": "raw",
    "space": "right-anterior-superior",
    "space directions": "(1,0,0) (0,1.5,0) (0,0,2)",
    "space origin": "(-20,-30,10)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
    "Offset": "20 30 10",
    "ElementSpacing": "1 1.5 2",
    "DimSize": "6 7 8",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def write_nrrd(path, voxels=VOXELS, **fields):
    """An NRRD; a field's name has _ for blanks, and None leaves it out."""
    given = {name.replace("_", " "): value for name, value in fields.items()}
    fields = {"space dimension": None} | NRRD | given
    lines = ["NRRD0005", "# a comment: of no meaning", "key:=value"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + voxels)
    return path


def write_meta(path, voxels=VOXELS, **fields):
    fields = META | fields
    fields["ElementDataFile"] = fields.pop("ElementDataFile")
    lines = [f"{name} = {value}" for name, value in fields.items() if value is not None]
    path.write_bytes("\n".join([*lines, ""]).encode() + voxels)
    return path


def read_one(path):
    (series,) = find_series(path)
    return read_series(series)


def codes(volume):
    return [notice.code for notice in volume.notices]


def refusal(path):
    """The error of a file that `describe_raster` refuses: one line without the header's words."""
    error = describe_raster(path).refused
    assert error is not None
    assert "\n" not in str(error)
    assert "PHICANARY" not in str(error)
    return error


def by_itk(path):
    """(X, Y, Z) and the RAS affine, as ITK reads them."""
    image = itk.imread(str(path))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return itk.array_from_image(image).T, np.diag([-1, -1, 1, 1]) @ affine


def write_by_itk(path, array, affine, compressed):
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(path), compression=compressed)
    return path


@settings(max_examples=40, deadline=None)
@given(
    suffix=st.sampled_from(["nrrd", "nhdr", "mha", "mhd"]),
    dtype=st.sampled_from(["u1", "u2", "i2", "f4", "f8"]),  # those that ITK's Python writes
    compressed=st.booleans(),
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    degrees=st.tuples(*[st.floats(-180, 180)] * 3),
)
def test_whatever_itk_writes_reads_back_exactly(tmp_path_factory, suffix, dtype, compressed, axes, flips, degrees):
    array, affine = reorient(*make_volume((4, 5, 6), degrees=degrees), axes, flips)
    array = array.astype(dtype)
    folder = tmp_path_factory.mktemp("i")
    volume = read_one(write_by_itk(folder / f"scan.{suffix}", array, affine, compressed))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert (volume.case, volume.array.dtype, codes(volume)) == ("scan", np.dtype(dtype), [])
    assert volume.array[0].flags.f_contiguous  # not copied into another order


@pytest.mark.parametrize("write", [write_nrrd, write_meta])
def test_files_written_by_hand_are_what_itk_makes_of_them(tmp_path, write):
    suffix = "nrrd" if write is write_nrrd else "mha"
    volume = read_one(write(tmp_path / f"x.{suffix}"))
    array, affine = by_itk(tmp_path / f"x.{suffix}")
    for found in (volume.array[0], array):
        np.testing.assert_array_equal(found, ARRAY)
    for found in (volume.affine, affine):
        np.testing.assert_allclose(found, make_affine(), atol=1e-6)
    assert codes(volume) == []


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1)),
        ("RAS", (1, 1)),
        ("left-anterior-superior", (-1, 1)),
        ("LAS", (-1, 1)),
        ("left-posterior-superior", (-1, -1)),
        ("LPS", (-1, -1)),
    ],
)
def test_nrrd_s_spaces_come_out_in_ras(tmp_path, space, signs):
    path = write_nrrd(tmp_path / "x.nrrd", space=space, space_directions="(.6,.8,0) (-1.2,.9,0) (0,0,2)")
    wanted = np.diag([*signs, 1, 1]) @ [[0.6, -1.2, 0, -20], [0.8, 0.9, 0, -30], [0, 0, 2, 10], [0, 0, 0, 1]]
    volume = read_one(path)
    np.testing.assert_allclose(volume.affine, wanted)
    np.testing.assert_allclose(volume.affine, by_itk(path)[1], atol=1e-6)
    assert codes(volume) == []


@pytest.mark.parametrize("space", [None, "scanner-xyz", "3D-left-handed"])
def test_a_space_without_patient_is_taken_for_lps_and_told(tmp_path, space):
    changes = {"space": space} if space else {"space": None, "space_dimension": "3"}
    path = write_nrrd(tmp_path / "x.nrrd", **changes)
    volume = read_one(path)
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ make_affine())
    np.testing.assert_allclose(volume.affine, by_itk(path)[1], atol=1e-6)
    assert codes(volume) == ["no-orientation"]


def test_an_nrrd_with_spacings_alone_is_told(tmp_path):
    bare = {"space": None, "space_directions": None, "space_origin": None}
    volume = read_one(write_nrrd(tmp_path / "x.nrrd", spacings="1 1.5 2", **bare))
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1.5, 2, 1]))
    assert codes(volume) == ["no-orientation", "no-origin"]
    volume = read_one(write_nrrd(tmp_path / "x.nrrd", **bare))
    assert codes(volume) == ["no-orientation", "no-spacing", "no-origin"]


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("cm", 10), ("m", 1000), ("microns", 0.001)])
def test_units_of_both_formats_become_mm(tmp_path, unit, scale):
    wanted = np.diag([scale, scale, scale, 1]) @ make_affine()
    volume = read_one(write_nrrd(tmp_path / "x.nrrd", space_units=f'"{unit}" "{unit}" "{unit}"'))
    np.testing.assert_allclose(volume.affine, wanted)
    assert codes(volume) == ([] if unit == "mm" else ["units"])
    volume = read_one(write_meta(tmp_path / "x.mha", DistanceUnits=unit))
    np.testing.assert_allclose(volume.affine, wanted)
    assert codes(volume) == ([] if unit == "mm" else ["units"])


def test_units_that_are_unknown_are_refused(tmp_path):
    for path in (
        write_nrrd(tmp_path / "x.nrrd", space_units='"mm" "parsec" "mm"'),
        write_meta(tmp_path / "x.mha", DistanceUnits="parsec"),
    ):
        assert (type(refusal(path)), refusal(path).code) == (GeometryError, "bad-units")


@pytest.mark.parametrize("encoding", ["raw", "gzip", "gz", "bzip2"])
@pytest.mark.parametrize("detached", [False, True])
def test_nrrd_s_encodings_and_data_files_are_read(tmp_path, encoding, detached):
    packed = {"raw": bytes, "bzip2": bz2.compress}.get(encoding, gzip.compress)(VOXELS)
    if detached:
        (tmp_path / "below").mkdir()
        (tmp_path / "below" / "data").write_bytes(packed)
        path = write_nrrd(tmp_path / "x.nhdr", b"", encoding=encoding, data_file="below/data")
    else:
        path = write_nrrd(tmp_path / "x.nrrd", packed, encoding=encoding)
    np.testing.assert_array_equal(read_one(path).array[0], ARRAY)
    if encoding != "bzip2":  # which ITK's build has not
        np.testing.assert_array_equal(by_itk(path)[0], ARRAY)


@pytest.mark.parametrize(("skip", "before"), [("3", b"abc"), ("-1", b"any number of bytes")])
def test_skipped_bytes_are_skipped(tmp_path, skip, before):
    (tmp_path / "data").write_bytes(before + VOXELS)
    for path in (
        write_nrrd(tmp_path / "x.nhdr", b"", byte_skip=skip, data_file="data"),
        write_meta(tmp_path / "x.mhd", b"", HeaderSize=skip, ElementDataFile="data"),
    ):
        np.testing.assert_array_equal(read_one(path).array[0], ARRAY)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("compress", [None, zlib.compress, gzip.compress])
@pytest.mark.parametrize("big", [False, True])
def test_metaimage_s_encodings_and_byte_orders_are_read(tmp_path, detached, compress, big):
    voxels = ARRAY.astype(">i2" if big else "<i2").tobytes(order="F")
    packed = compress(voxels) if compress else voxels
    fields = {"BinaryDataByteOrderMSB": str(big), "CompressedData": str(compress is not None)}
    fields |= {"CompressedDataSize": str(len(packed))} if compress else {}
    if detached:
        (tmp_path / "data").write_bytes(packed)
        path = write_meta(tmp_path / "x.mhd", b"", ElementDataFile="data", **fields)
    else:
        path = write_meta(tmp_path / "x.mha", packed, **fields)
    np.testing.assert_array_equal(read_one(path).array[0], ARRAY)
    np.testing.assert_array_equal(by_itk(path)[0], ARRAY)


def test_big_endian_nrrd_is_read(tmp_path):
    path = write_nrrd(tmp_path / "x.nrrd", ARRAY.astype(">i2").tobytes(order="F"), endian="big")
    np.testing.assert_array_equal(read_one(path).array[0], ARRAY)


@pytest.mark.parametrize(
    ("dtype", "nrrd", "meta"),
    [
        ("i1", "int8", "MET_CHAR"),
        ("u1", "unsigned char", "MET_UCHAR"),
        ("i2", "signed short int", "MET_SHORT"),
        ("u2", "uint16_t", "MET_USHORT"),
        ("i4", "int", "MET_INT"),
        ("i4", "int32", "MET_LONG"),
        ("u4", "Unsigned  Int", "MET_UINT"),
        ("u4", "uint", "MET_ULONG"),
        ("i8", "long long", "MET_LONG_LONG"),
        ("u8", "uint64", "MET_ULONG_LONG"),
        ("f4", "float", "MET_FLOAT"),
        ("f8", "double", "MET_DOUBLE"),
    ],
)
def test_every_type_of_number_is_read_and_kept(tmp_path, dtype, nrrd, meta):
    array = ARRAY.astype(dtype)
    voxels = array.tobytes(order="F")
    for path in (
        write_nrrd(tmp_path / "x.nrrd", voxels, type=nrrd),
        write_meta(tmp_path / "x.mha", voxels, ElementType=meta),
    ):
        volume = read_one(path)
        assert volume.array.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(volume.array[0], array)


def test_rows_of_a_transform_matrix_are_directions_of_axes(tmp_path):
    path = write_meta(tmp_path / "x.mha", TransformMatrix="0 1 0 0 0 1 1 0 0", CenterOfRotation="5 6 7")
    volume = read_one(path)
    np.testing.assert_allclose(volume.affine[:3], [[0, 0, -2, -20], [-1, 0, 0, -30], [0, 1.5, 0, 10]])
    np.testing.assert_allclose(volume.affine, by_itk(path)[1], atol=1e-6)


def test_a_metaimage_without_matrix_is_told(tmp_path):
    path = write_meta(tmp_path / "x.mha", TransformMatrix=None, AnatomicalOrientation="RAI")
    volume = read_one(path)
    np.testing.assert_allclose(volume.affine, by_itk(path)[1], atol=1e-6)
    assert codes(volume) == ["no-orientation"]


def test_a_metaimage_without_spacing_or_origin_is_told(tmp_path):
    volume = read_one(write_meta(tmp_path / "x.mha", ElementSpacing=None, Offset=None))
    np.testing.assert_allclose(volume.affine, np.eye(4))
    assert codes(volume) == ["no-spacing", "no-origin"]
    volume = read_one(write_meta(tmp_path / "x.mha", ElementSpacing=None, ElementSize="1 1.5 2", Origin="20 30 10"))
    np.testing.assert_allclose(volume.affine, make_affine())
    assert codes(volume) == []


def test_a_sheared_nrrd_is_kept_and_told(tmp_path):
    volume = read_one(write_nrrd(tmp_path / "x.nrrd", space_directions="(1,0,0) (0,1.5,0) (0,0.5,2)"))
    np.testing.assert_allclose(volume.affine[:3, 2], [0, 0.5, 2])
    assert codes(volume) == ["sheared-slices"]


def test_nan_is_kept_and_counted(tmp_path):
    array = ARRAY.astype("<f4")
    array[1, 2, 3] = np.nan
    voxels = array.tobytes(order="F")
    for path in (
        write_nrrd(tmp_path / "x.nrrd", voxels, type="float"),
        write_meta(tmp_path / "x.mha", voxels, ElementType="MET_FLOAT"),
    ):
        volume = read_one(path)
        np.testing.assert_array_equal(volume.array[0], array)
        assert codes(volume) == ["not-finite"]


def test_large_raw_files_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(voxel_data, "MAPPED_BYTES", 100)
    for path in (write_nrrd(tmp_path / "x.nrrd"), write_meta(tmp_path / "x.mha")):
        volume = read_one(path)
        assert volume.is_mapped
        np.testing.assert_array_equal(volume.array[0], ARRAY)


def test_a_file_that_is_gzip_as_a_whole_is_read(tmp_path):
    for path in (write_nrrd(tmp_path / "x.nrrd"), write_meta(tmp_path / "y.mha")):
        path.write_bytes(gzip.compress(path.read_bytes()))
        np.testing.assert_array_equal(read_one(path).array[0], ARRAY)
    path = write_nrrd(tmp_path / "x.nrrd", gzip.compress(VOXELS), encoding="gzip")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "compressed twice" in str(refusal(path))


def test_axes_of_one_outside_space_are_dropped(tmp_path):
    changes = {"dimension": "4", "kinds": "vector domain domain domain"}
    directions = "none (1,0,0) (0,1.5,0) (0,0,2)"
    volume = read_one(write_nrrd(tmp_path / "x.nrrd", sizes="1 6 7 8", space_directions=directions, **changes))
    np.testing.assert_array_equal(volume.array[0], ARRAY)
    np.testing.assert_allclose(volume.affine, make_affine())
    volume = read_one(
        write_meta(
            tmp_path / "x.mha",
            NDims="4",
            DimSize="6 7 8 1",
            ElementSpacing="1 1.5 2 0",
            Offset="20 30 10 0",
            TransformMatrix=" ".join(map(str, np.diag([-1, -1, 1, 1]).ravel())),
        )
    )
    np.testing.assert_allclose(volume.affine, make_affine())


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": "3 7 16", "kinds": "vector domain domain", "space_directions": "none (1,0,0) (0,1,0)"},
        {"kinds": "domain domain time"},
        {"kinds": "domain domain list"},
        {"kinds": "RGB-color domain domain"},
        {"dimension": "4", "sizes": "6 7 4 2", "space_directions": "(1,0,0) (0,1,0) (0,0,1) none"},
        {"dimension": "4", "sizes": "6 7 4 2", "space": None, "space_directions": None},
        {"dimension": "2", "sizes": "6 56", "space_directions": "(1,0,0) (0,1,0)"},
        {"space": "right-anterior-superior-time"},
        {"sizes": "6 0 8"},
        {"sizes": "6 -7 8"},
    ],
)
def test_an_nrrd_that_is_no_volume_is_refused(tmp_path, changes):
    error = refusal(write_nrrd(tmp_path / "x.nrrd", **changes))
    assert error.code == "not-3d"
    assert "not one 3D volume" in str(error)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"type": "block"}, "not-scalar"),
        ({"type": None}, "not-scalar"),
        ({"endian": None}, "unreadable"),
        ({"dimension": None}, "unreadable"),
        ({"dimension": "PHICANARY"}, "unreadable"),
        ({"dimension": "2"}, "unreadable"),
        ({"sizes": "6 7 PHICANARY"}, "unreadable"),
        ({"sizes": "1e1 7 8"}, "unreadable"),
        ({"space_origin": "(0,0)"}, "unreadable"),
        ({"space_origin": "(0,0,PHICANARY)"}, "unreadable"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "unreadable"),
        ({"kinds": "domain domain"}, "unreadable"),
        ({"space_directions": "(1,0,0) (0,1,0) (1,1,0)"}, "singular-affine"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "bad-affine"),
        ({"space_origin": "(inf,0,0)"}, "bad-affine"),
        ({"encoding": "ascii"}, "unsupported"),
        ({"encoding": "PHICANARY"}, "unsupported"),
        ({"line_skip": "2"}, "unsupported"),
        ({"byte_skip": "-7"}, "unreadable"),
        ({"sizes": "600 700 800"}, "truncated"),
        ({"sizes": "600 700 800", "encoding": "gzip"}, "truncated"),
        ({"sizes": "1000000 1000000 1000000"}, "too-large"),
        ({"sizes": "6 7 9"}, "truncated"),
    ],
)
def test_an_nrrd_header_that_lies_or_makes_no_sense_is_refused(tmp_path, changes, code):
    assert refusal(write_nrrd(tmp_path / "x.nrrd", **changes)).code == code


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"NDims": "2", "DimSize": "6 56"}, "not-3d"),
        ({"NDims": "4", "DimSize": "6 7 4 2"}, "not-3d"),
        ({"NDims": "2"}, "unreadable"),
        ({"NDims": None}, "unreadable"),
        ({"DimSize": "6 7 PHICANARY"}, "unreadable"),
        ({"ElementNumberOfChannels": "3", "DimSize": "6 7 2"}, "not-scalar"),
        ({"ElementType": "MET_FLOAT_ARRAY"}, "not-scalar"),
        ({"ElementType": "PHICANARY"}, "not-scalar"),
        ({"ElementToIntensityFunctionSlope": "2"}, "unsupported"),
        ({"ElementSpacing": "1 -1.5 2"}, "bad-affine"),
        ({"ElementSpacing": "1 0 2"}, "bad-affine"),
        ({"ElementSpacing": "nan 1 2"}, "bad-affine"),
        ({"ElementSpacing": "1 2"}, "unreadable"),
        ({"TransformMatrix": "1 0 0 0 1 0 1 0 0"}, "singular-affine"),
        ({"TransformMatrix": "1 0 0 0 1 0 nan 0 0"}, "bad-affine"),
        ({"TransformMatrix": "1 0 0 1"}, "unreadable"),
        ({"Offset": "1 2 inf"}, "bad-affine"),
        ({"BinaryData": "False"}, "unsupported"),
        ({"HeaderSize": "17"}, "unsupported"),
        ({"DimSize": "600 700 800"}, "truncated"),
        ({"DimSize": "600 700 800", "CompressedData": "True"}, "truncated"),
        ({"CompressedData": "True", "CompressedDataSize": "99999"}, "truncated"),
        ({"DimSize": "1000000 1000000 1000000"}, "too-large"),
    ],
)
def test_a_metaimage_header_that_lies_or_makes_no_sense_is_refused(tmp_path, changes, code):
    assert refusal(write_meta(tmp_path / "x.mha", **changes)).code == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../data", "unsafe-data-file"),
        ("below/../../data", "unsafe-data-file"),
        ("/etc/passwd", "unsafe-data-file"),
        ("..\\data", "unsafe-data-file"),
        ("C:\\data", "unsafe-data-file"),
        ("\\\\server\\data", "unsafe-data-file"),
        ("PHICANARY.raw", "no-data-file"),
        ("data\0", "no-data-file"),
        (".", "no-data-file"),
        ("LIST", "unsupported"),
        ("LIST 2", "unsupported"),
        ("slice%03d.raw 1 8 1", "unsupported"),
    ],
)
def test_data_files_that_are_elsewhere_or_several_are_refused(tmp_path, name, code):
    (tmp_path / "in").mkdir()
    (tmp_path / "data").write_bytes(VOXELS)
    for path in (
        write_nrrd(tmp_path / "in/x.nhdr", b"", data_file=name),
        write_meta(tmp_path / "in/x.mhd", b"", ElementDataFile=name),
    ):
        assert refusal(path).code == code


def test_voxels_that_are_cut_short_damaged_or_too_many_are_refused(tmp_path):
    zeros = bytes(2**22)
    packed = gzip.compress(VOXELS)
    for voxels, encoding in (
        (VOXELS + zeros, "raw"),
        (packed[:-20], "gzip"),
        (packed[:-8] + b"12345678", "gzip"),
        (gzip.compress(VOXELS[:-1]), "gzip"),
        (gzip.compress(VOXELS + zeros), "gzip"),
        (bz2.compress(VOXELS)[:-9], "bzip2"),
        (bz2.compress(VOXELS + zeros), "bzip2"),
        (b"nonsense" * 100, "gzip"),
    ):
        with pytest.raises(StudyError, match=r"cut short or damaged|bytes of voxels|goes on after"):
            read_one(write_nrrd(tmp_path / "x.nrrd", voxels, encoding=encoding))
    packed = zlib.compress(VOXELS)
    for voxels in (packed[:-20], packed[:-2], packed[:-4] + b"1234", zlib.compress(VOXELS + zeros), b"nonsense" * 100):
        with pytest.raises(StudyError, match=r"cut short or damaged|bytes of voxels|goes on after"):
            read_one(write_meta(tmp_path / "x.mha", voxels, CompressedData="True"))


def test_bytes_after_the_voxels_are_told(tmp_path):
    for path in (
        write_nrrd(tmp_path / "x.nrrd", sizes="6 7 7"),
        write_meta(tmp_path / "x.mha", DimSize="6 7 7"),
        write_meta(tmp_path / "y.mha", zlib.compress(VOXELS), DimSize="6 7 7", CompressedData="True"),
    ):
        volume = read_one(path)
        np.testing.assert_array_equal(volume.array[0], ARRAY[..., :7])
        assert codes(volume) == ["excess-data"]


def test_a_header_without_end_is_refused(tmp_path):
    (tmp_path / "x.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    (tmp_path / "x.mha").write_bytes(b"ObjectType = Image\nNDims = 3\n")
    assert "it has no end" in str(refusal(tmp_path / "x.nrrd"))
    assert "no ElementDataFile" in str(refusal(tmp_path / "x.mha"))


def test_both_formats_are_told_by_content(tmp_path):
    assert is_raster(b"NRRD0004\n", tmp_path / "x")
    assert is_raster(b"ObjectType = Image\n", tmp_path / "x")
    assert is_raster(b"Comment = x\n", tmp_path / "x.mha")
    for start in (b"NRRD0006\n", b"NRRDxxxx", b"Comment = x\n", b""):
        assert not is_raster(start, tmp_path / "x")


def test_lines_may_end_as_on_windows(tmp_path):
    for path in (write_nrrd(tmp_path / "x.nrrd", b""), write_meta(tmp_path / "x.mha", b"")):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + VOXELS)
        np.testing.assert_array_equal(read_one(path).array[0], ARRAY)


@given(at=st.integers(0, 400), junk=st.binary(min_size=1, max_size=8))
def test_any_damage_to_a_header_is_refused_or_read_in_our_own_words(tmp_path_factory, at, junk):
    folder = tmp_path_factory.mktemp("h")
    for path in (write_nrrd(folder / "x.nrrd"), write_meta(folder / "x.mha")):
        content = path.read_bytes()
        path.write_bytes(content[:at] + junk + content[at + len(junk) :])
        series = describe_raster(path)
        if series.refused is None:
            try:
                read_series(series)
            except StudyError as error:
                assert "\n" not in str(error)


def test_more_voxels_than_asked_for_are_refused(tmp_path):
    for path in (write_nrrd(tmp_path / "x.nrrd"), write_meta(tmp_path / "x.mha")):
        assert describe_raster(path, max_voxels=336).refused is None
        assert "case y: 336 voxels claimed, at most 335" in str(describe_raster(path, 335, "y").refused)


def test_a_file_that_changes_between_the_two_reads_is_refused(tmp_path):
    (series,) = find_series(write_nrrd(tmp_path / "x.nrrd"))
    write_nrrd(tmp_path / "x.nrrd", sizes="7 6 8")
    with pytest.raises(StudyError, match="the file changed while it was read"):
        read_series(series)

"""Pictures to volumes, and what is refused of them; tifffile and Pillow, which write them, are the references."""

import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from factories import make_volume, write_mr_series, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from scanloom.pipeline.bundle import SeriesRule
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.studies import AmbiguousSeriesError, find_series, read_series, select_series
from scanloom.pipeline.studies.isolation import StudyProcess
from scanloom.pipeline.studies.picture import describe_picture, is_named_picture, is_picture

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
STACK = RNG.integers(0, 256, (3, 5, 7), dtype=np.uint8)


def read_one(path):
    (series,) = find_series(path)
    return read_series(series)


def refusal(path, max_voxels=2**31):
    """The error of a picture that is refused, by its header or when it is read: one line."""
    series = describe_picture(path, max_voxels)
    error = series.refused
    if error is None:
        with pytest.raises(StudyError) as caught:
            read_series(series)
        error = caught.value
    assert "\n" not in str(error)
    assert "PHICANARY" not in str(error)
    return error


def write_png(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def png_of(path, depth, colour, rows, extra=b""):
    """A PNG written by hand: rows of packed bytes, filter 0; `extra` are chunks before the pixels."""
    height, width = len(rows), len(rows[0]) * 8 // depth
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "u2"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_a_png_reads_back_exactly_with_columns_as_x_and_rows_as_y(tmp_path_factory, dtype, shape, seed):
    array = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    volume = read_one(write_png(tmp_path_factory.mktemp("p") / "x.png", array))
    assert volume.array.shape == (1, shape[1], shape[0], 1)
    np.testing.assert_array_equal(volume.array[0, :, :, 0], array.T)
    assert (volume.array.dtype, volume.case, volume.is_picture) == (np.dtype(dtype), "x", True)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "i1", "u2", "i2", "i4", "f4"]),
    order=st.sampled_from("<>"),
    compression=st.sampled_from([None, "zlib"]),
    pages=st.integers(1, 4),
    tiled=st.booleans(),
    big=st.booleans(),
)
def test_whatever_tifffile_writes_reads_back_exactly(tmp_path_factory, dtype, order, compression, pages, tiled, big):
    values = np.random.default_rng(pages).normal(0, 60, (pages, 21, 33)).astype(dtype)
    path = tmp_path_factory.mktemp("t") / "x.tif"
    tile = (16, 16) if tiled else None
    with tifffile.TiffWriter(path, byteorder=order, bigtiff=big) as writer:
        for page in values:
            writer.write(page, compression=compression, tile=tile, photometric="minisblack", metadata=None)
    if order == ">" and (
        big or (compression and dtype in ("i2", "i4", "f4"))
    ):  # which Pillow can not, or reads wrongly
        assert refusal(path).code in ("unreadable", "unsupported")
        return
    volume = read_one(path)
    np.testing.assert_array_equal(volume.array[0].T, values)
    assert volume.array.dtype == np.dtype(dtype)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", None])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_compressions_that_microscopes_write_are_read(tmp_path, compression, dtype):
    array = RNG.normal(100, 30, (40, 30)).astype(dtype)
    Image.fromarray(array).save(tmp_path / "x.tif", compression=compression)
    np.testing.assert_array_equal(read_one(tmp_path / "x.tif").array[0, :, :, 0].T, array)


def test_a_picture_stands_upright_and_says_that_its_pixels_have_no_size(tmp_path):
    volume = read_one(write_png(tmp_path / "x.png", GREY, dpi=(300, 300)))
    np.testing.assert_array_equal(volume.affine, np.diag([-1.0, -1, 1, 1]))
    (notice,) = volume.notices
    assert notice.code == "no-spacing"
    assert "mm and ml of the results count pixels" in notice.message
    assert find_series(tmp_path)[0].spacing is None


def test_the_dpi_of_a_tiff_are_a_printer_s(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", GREY, resolution=(300, 300), resolutionunit="INCH", metadata=None)
    assert [one.code for one in read_one(tmp_path / "x.tif").notices] == ["no-spacing"]


@pytest.mark.parametrize("unit", ["µm", "nm", None])
def test_the_spacing_of_an_ome_tiff_is_taken(tmp_path, unit):
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"} if unit else {}
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 3.0}
    tifffile.imwrite(tmp_path / "x.ome.tif", STACK, ome=True, metadata={"axes": "ZYX", **sizes, **units})
    volume = read_one(tmp_path / "x.ome.tif")
    scale = 1e-6 if unit == "nm" else 1e-3
    np.testing.assert_allclose(volume.spacing, np.array([0.5, 0.25, 3.0]) * scale)
    assert volume.notices == ()


@pytest.mark.parametrize(("unit", "scale"), [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("nm", 1e-6)])
def test_the_spacing_of_an_imagej_tiff_is_taken(tmp_path, unit, scale):
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": unit, "spacing": 3.0}
    )
    np.testing.assert_allclose(read_one(path).spacing, np.array([0.5, 0.25, 3.0]) * scale)


@pytest.mark.parametrize("unit", ["inch", "pixel", "cm", ""])
def test_units_of_imagej_that_are_a_printer_s_or_none_are_not_taken(tmp_path, unit):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, STACK, imagej=True, resolution=(2.0, 4.0), metadata={"axes": "ZYX", "unit": unit})
    volume = read_one(path)
    assert volume.spacing == (1, 1, 1)
    assert [one.code for one in volume.notices] == ["no-spacing"]


def test_a_stack_whose_page_distance_is_not_told_says_so(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, STACK, imagej=True, resolution=(2.0, 2.0), metadata={"axes": "ZYX", "unit": "um"})
    (notice,) = read_one(path).notices
    assert notice.code == "no-page-distance"
    assert read_one(path).has_spacing
    assert "the distance of the pages is not told" in notice.message
    np.testing.assert_allclose(read_one(path).spacing, [5e-4] * 3)


@pytest.mark.parametrize(
    ("depth", "rows", "wanted"),
    [
        (1, [b"\xa0", b"\x40"], [[1, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]),
        (2, [b"\x1b", b"\xe4"], [[0, 1, 2, 3], [3, 2, 1, 0]]),
        (4, [b"\x1f", b"\x09"], [[1, 15], [0, 9]]),
    ],
)
def test_grey_of_few_bits_keeps_the_stored_numbers(tmp_path, depth, rows, wanted):
    volume = read_one(png_of(tmp_path / "x.png", depth, 0, rows))
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, wanted)
    assert volume.array.dtype == np.uint8


def test_one_bit_of_a_tiff_is_0_and_1(tmp_path):
    mask = GREY > 100
    Image.fromarray(mask).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_one(tmp_path / "x.tif").array[0, :, :, 0].T, mask.astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_pictures_that_are_grey_are_read(tmp_path, mode, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(GREY).convert(mode).save(path)
    np.testing.assert_array_equal(read_one(path).array[0, :, :, 0].T, GREY)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_picture_is_refused(tmp_path, suffix, mode):
    path = tmp_path / f"x.{suffix}"
    colours = np.stack([GREY, GREY, GREY], -1)
    colours[2, 3, 1] ^= 1
    Image.fromarray(colours).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    if mode == "P":  # whose palette must keep the one odd pixel
        Image.fromarray(np.tile(np.uint8([[[255, 0, 0], [0, 0, 255]]]), (4, 4, 1))).convert("P").save(path)
    error = refusal(path)
    assert (error.code, str(error)) == ("colour", "case x: a colour picture: convert to grey.")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_refused(tmp_path, mode):
    image = Image.fromarray(GREY).convert(mode)
    image.putpixel((1, 2), (*[7] * (len(mode) - 1), 254))
    image.save(tmp_path / "x.png")
    assert refusal(tmp_path / "x.png").code == "transparent"


@pytest.mark.parametrize(("value", "refused"), [(int(GREY[0, 0]), True), (None, False)])
def test_a_grey_value_that_means_transparent_is_refused_where_it_occurs(tmp_path, value, refused):
    unused = next(number for number in range(256) if number not in GREY)
    path = write_png(tmp_path / "x.png", GREY, transparency=unused if value is None else value)
    if refused:
        assert refusal(path).code == "transparent"
    else:
        np.testing.assert_array_equal(read_one(path).array[0, :, :, 0].T, GREY)


def test_colours_of_16_bits_which_pillow_would_cut_are_refused(tmp_path):
    path = png_of(tmp_path / "x.png", 16, 0, [b"\0\1\0\2"])
    np.testing.assert_array_equal(read_one(path).array[0, :, 0, 0], [1, 2])
    rows = [bytes(6 * 2)]
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + rows[0])) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert refusal(path).code == "unsupported"
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 7, 3), np.uint16), photometric="rgb")
    assert refusal(tmp_path / "x.tif").code == "unsupported"


@pytest.mark.parametrize(
    ("options", "array", "message"),
    [
        ({"photometric": "miniswhite"}, GREY, "whose 0 is white"),
        ({}, GREY.astype(np.float64), "of a pixel type, or layout, that Pillow does not know"),
        ({"extrasamples": ["unspecified"], "photometric": "minisblack", "planarconfig": "contig"},
         np.stack([GREY, GREY], -1), "of several channels"),
    ],
)  # fmt: skip
def test_tiffs_of_other_kinds_are_refused(tmp_path, options, array, message):
    tifffile.imwrite(tmp_path / "x.tif", array, metadata=None, **options)
    error = refusal(tmp_path / "x.tif")
    assert error.code == "unsupported"
    assert message in str(error)


def test_a_jpeg_within_a_tiff_is_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.tif", compression="jpeg")
    assert "TIFF compression 7 is not read" in str(refusal(tmp_path / "x.tif"))


def test_a_tiff_that_looks_like_lab_colours_is_refused(tmp_path):
    Image.new("LAB", (4, 3)).save(tmp_path / "x.tif")
    assert "PhotometricInterpretation 8" in str(refusal(tmp_path / "x.tif"))


def test_an_animated_png_is_refused(tmp_path):
    frames = [Image.fromarray(page) for page in STACK]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert "several frames" in str(refusal(tmp_path / "x.png"))


def test_pages_that_differ_are_refused_and_smaller_versions_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(STACK[0], metadata=None)
        writer.write(STACK[0, ::2, ::2], subfiletype=1, metadata=None)
        writer.write(STACK[1], metadata=None)
    np.testing.assert_array_equal(read_one(tmp_path / "x.tif").array[0].T, STACK[:2])
    with tifffile.TiffWriter(tmp_path / "y.tif") as writer:
        writer.write(STACK[0], metadata=None)
        writer.write(STACK[0, ::2, ::2], metadata=None)
    assert refusal(tmp_path / "y.tif").code == "several-pictures"


def test_a_tiff_of_smaller_versions_only_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", GREY, subfiletype=1, metadata=None)
    assert "smaller versions of pictures only" in str(refusal(tmp_path / "x.tif"))


@pytest.mark.parametrize("imagej", [True, False])
def test_channels_and_times_of_times_are_refused(tmp_path, imagej):
    array = np.zeros((2, 3, 5, 7), np.uint8)
    for axes in ("ZCYX", "TZYX"):
        tifffile.imwrite(tmp_path / "x.tif", array, imagej=imagej, ome=not imagej, metadata={"axes": axes})
        assert refusal(tmp_path / "x.tif").code == "several-stacks"


def test_a_series_of_times_is_a_stack(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", STACK, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read_one(tmp_path / "x.tif").array[0].T, STACK)


def test_a_tiff_whose_description_tells_of_more_pages_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", GREY, description="ImageJ=1.53t\nimages=9\nslices=9\n", metadata=None)
    error = refusal(tmp_path / "x.tif")
    assert (error.code, "1 pages, where the description tells of 9" in str(error)) == ("missing-pages", True)


def test_a_hostile_description_says_nothing(tmp_path):
    for number, text in enumerate(
        ["<Pixels SizeZ='x' PhysicalSizeX='nan' PhysicalSizeY='-1'", "ImageJ=\nunit=\nspacing=e\n", "<Pixels" * 5000]
    ):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, GREY, description=text, metadata=None)
        assert read_one(path).spacing == (1, 1, 1)


def test_more_than_may_be_read_is_refused_before_it_is_decoded(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", b"x" * 4_000_000) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    assert refusal(tmp_path / "x.png").code == "too-large"
    tifffile.imwrite(tmp_path / "y.tif", STACK, photometric="minisblack")
    assert refusal(tmp_path / "y.tif", max_voxels=100).code == "too-large"


def test_a_small_file_can_not_claim_a_large_picture(tmp_path):
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    bomb = chunk(b"IHDR", header) + chunk(b"IDAT", b"x" * 1000) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    error = refusal(tmp_path / "x.png")
    assert error.code == "unreadable"
    assert "900,000,000 bytes of pixels claimed" in str(error)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path, compression):
    array = RNG.integers(0, 256, (3, 40, 30), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", array, compression=compression, photometric="minisblack", metadata=None)
    content = (tmp_path / "x.tif").read_bytes()
    for length in range(8, len(content), 97):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        assert refusal(tmp_path / "cut.tif").code in ("unreadable", "unsupported")


def test_a_png_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path):
    content = write_png(tmp_path / "x.png", RNG.integers(0, 256, (40, 30), dtype=np.uint8)).read_bytes()
    for length in range(8, len(content) - 30, 53):  # the last bytes are zlib's checksum and the empty end
        (tmp_path / "cut.png").write_bytes(content[:length])
        assert refusal(tmp_path / "cut.png").code == "unreadable"


def test_words_of_a_file_never_come_out(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "PHICANARY" * 10)
    content = write_png(tmp_path / "x.png", GREY, pnginfo=text).read_bytes()
    (tmp_path / "x.png").write_bytes(content[:-40])
    assert "PHICANARY" not in str(refusal(tmp_path / "x.png"))


def test_pictures_beside_a_study_do_not_change_what_is_found(tmp_path):
    write_png(tmp_path / "screenshot.png", GREY)
    (tmp_path / "empty.tif").write_bytes(b"")
    write_mr_series(tmp_path / "mr")
    shutil.copy(tmp_path / "screenshot.png", tmp_path / "mr" / "IM999")
    (series,) = find_series(tmp_path)
    assert (series.kind, series.slices) == ("dicom", 8)
    shutil.rmtree(tmp_path / "mr")
    write_nifti(tmp_path / "n" / "scan.nii.gz", *make_volume())
    assert [one.kind for one in find_series(tmp_path)] == ["nifti"]


def test_pictures_beside_damaged_dicom_do_not_hide_it(tmp_path):
    (tmp_path / "broken").write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0\xff")
    write_png(tmp_path / "screenshot.png", GREY)
    with pytest.raises(StudyError, match="1 files can not be read"):
        find_series(tmp_path)


def test_a_folder_of_pictures_holds_a_series_each(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    tifffile.imwrite(tmp_path / "b.tif", STACK[:, :4], photometric="minisblack")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    found = find_series(tmp_path)
    assert [(one.case, one.kind, one.shape) for one in found] == [
        ("a", "picture", (7, 5, 1)),
        ("b", "picture", (7, 4, 3)),
    ]
    with pytest.raises(AmbiguousSeriesError, match="Choose one with --series CASE"):
        select_series(found, SeriesRule())
    assert select_series(found, SeriesRule(), "b").case == "b"


def test_a_mask_beside_its_picture_is_passed_over(tmp_path):
    write_png(tmp_path / "cell.png", GREY)
    write_png(tmp_path / "cell_mask.png", GREY)
    assert select_series(find_series(tmp_path), SeriesRule()).case == "cell"


def test_a_picture_is_known_by_its_content(tmp_path):
    content = write_png(tmp_path / "x.png", GREY).read_bytes()
    for name in ("x.tif", "x.dat", "x"):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_one(tmp_path / name).array[0, :, :, 0].T, GREY)
    assert is_picture(content)
    assert not is_picture(b"\xff\xd8\xff\xe0")
    assert is_named_picture("a/b.TIFF") and not is_named_picture("a/._b.png")


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_only_called_a_picture_is_refused(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    (series,) = find_series(tmp_path)
    with pytest.raises(StudyError, match=r"case x: the picture can not be read \(.*Copy the file again"):
        select_series([series], SeriesRule())


def test_pictures_in_an_archive_are_read_like_those_in_a_folder(tmp_path):
    write_png(tmp_path / "x.png", GREY)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.write(tmp_path / "x.png", "a/x.png")
        archive.write(tmp_path / "x.png", "b/x.png")
    one, other = find_series(tmp_path / "z.zip")
    assert one.case != other.case and one.case.startswith("x-")
    np.testing.assert_array_equal(read_series(one).array[0, :, :, 0].T, GREY)


def test_the_process_of_its_own_reads_pictures(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", STACK, photometric="minisblack")
    (tmp_path / "y.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:60])
    with StudyProcess() as studies:
        volume = studies.read(studies.find(tmp_path / "x.tif")[0])
        assert studies.find(tmp_path / "y.tif")[0].refused is not None
    np.testing.assert_array_equal(volume.array[0].T, STACK)
    assert volume.is_picture


def test_a_file_that_changed_between_is_refused(tmp_path):
    series = describe_picture(write_png(tmp_path / "x.png", GREY))
    write_png(tmp_path / "x.png", GREY[:3])
    with pytest.raises(StudyError, match="the file changed while it was read"):
        read_series(series)


def test_the_memory_for_the_pixels_may_not_be_there(tmp_path):
    from scanloom.pipeline.studies.picture import read_picture

    def full(*_):
        raise MemoryError

    with pytest.raises(StudyError, match="its pixels do not fit into memory"):
        read_picture(describe_picture(write_png(tmp_path / "x.png", GREY)), full)


def test_a_training_reads_pictures_through_the_same_door(tmp_path):
    from scanloom.pipeline.studies.reader import StudyReader

    path = write_png(tmp_path / "label.png", (GREY > 100).astype(np.uint8) * 255)
    reader = StudyReader()
    array, meta = reader.get_data(reader.read(path))
    assert set(np.unique(array)) == {0, 255}
    np.testing.assert_array_equal(array, read_scan(Path(path)).array)
    np.testing.assert_array_equal(meta["affine"], np.diag([-1.0, -1, 1, 1]))

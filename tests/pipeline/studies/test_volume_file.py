"""What the readers of volume files share."""

import gzip
import os

import numpy as np
import pytest
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.studies.volume_file import (
    check_shape,
    check_voxels,
    file_case,
    open_volume,
    read_errors,
    value_notices,
)


def test_case_names_are_fit_for_folders(tmp_path):
    names = ["a.nii.gz", "b.1.NII", "..nii", "x:y*.mha", "plain", "a b.nrrd", "line\nbreak.nii"]
    wanted = ["a", "b.1", "volume", "x_y_", "plain", "a b", "line_break"]
    assert [file_case(tmp_path / name) for name in names] == wanted


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x"])
def test_gzip_is_inflated_whatever_the_name(tmp_path, name):
    content = os.urandom(1000)
    for stored in (content, gzip.compress(content), gzip.compress(content[:7]) + gzip.compress(content[7:])):
        (tmp_path / name).write_bytes(stored)
        with open_volume(tmp_path / name) as file:
            assert file.read() == content


def test_every_damage_of_gzip_is_one_of_the_read_errors(tmp_path):
    whole, kinds = gzip.compress(b"scan" * 1000 + os.urandom(500)), set()
    for at in range(2, len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            (tmp_path / "x").write_bytes(damaged)
            try:
                with open_volume(tmp_path / "x") as file:
                    file.read()
            except read_errors() as error:
                kinds.add(type(error).__name__)
    assert {"EOFError", "BadGzipFile", "IsalError"} <= kinds


def test_trailing_axes_of_one_are_dropped_and_other_shapes_refused():
    assert check_shape((4, 5, 6, 1, 1), "x") == (4, 5, 6)
    assert check_shape((4, 5, 1), "x") == (4, 5, 1)
    for shape in ((4, 5), (4, 5, 6, 2), (4, 5, 0), (4, -5, 6), ()):
        with pytest.raises(StudyError, match="not one 3D volume"):
            check_shape(shape, "x")


def test_voxels_are_counted_beyond_64_bits():
    assert check_voxels((4, 5, 6), 120, "x") == 120
    with pytest.raises(StudyError, match=f"{2**93:,} voxels claimed, at most 120"):
        check_voxels((2**31, 2**31, 2**31), 120, "x")


@pytest.mark.parametrize(
    ("dtype", "value", "codes"),
    [
        ("u1", 255, []),
        ("i2", -(2**15), []),
        ("i4", 2**24, []),
        ("i4", 2**24 + 1, ["large-integers"]),
        ("i4", -(2**31), ["large-integers"]),
        ("u8", 2**64 - 1, ["large-integers"]),
        (">i8", -(2**63), ["large-integers"]),
        ("f4", 3e38, []),
        ("f8", np.nan, ["not-finite"]),
        (">f4", -np.inf, ["not-finite"]),
    ],
)
def test_values_to_know_of_are_told_by_a_code(dtype, value, codes):
    array = np.zeros((3, 4, 5), dtype, order="F")
    assert value_notices(array, "x") == ()
    array[2, 3, 4] = value
    assert [notice.code for notice in value_notices(array, "x")] == codes

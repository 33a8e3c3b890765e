"""Images of one place are told apart into volumes, or refused; never mixed."""

import numpy as np
import pytest
from factories import edit_file, make_volume, write_mr_series
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.studies import find_series, read_series


def write_twice(folder, change_second, arrays=None):
    """One series that holds each place twice; `change_second` edits the second volume's images, given their index."""
    one, affine = make_volume(seed=1)
    other, _ = make_volume(seed=2)
    first = write_mr_series(folder / "1", one, affine)
    second = write_mr_series(folder / "2", other if arrays is None else arrays, affine)
    for index, file in enumerate(second):
        edit_file(file, **{"SOPInstanceUID": f"1.2.3.{index}", "InstanceNumber": index + 9} | change_second(index))
    return one, other, first, second


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda _: {"EchoTime": "7.4"}, "echo 2 of 2"),
        (lambda _: {"AcquisitionNumber": 2}, "acquisition 2 of 2"),
        (lambda _: {"TemporalPositionIdentifier": 2}, "time point 2 of 2"),
        (lambda _: {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "image type 2 of 2"),
        (lambda _: {"DiffusionBValue": 1000.0}, "b-value 2 of 2"),
        (lambda _: {"ConvolutionKernel": "B70f"}, "kernel 2 of 2"),
        (lambda index: {"EchoTime": "7.4", "InstanceNumber": 100 - index}, "echo 2 of 2"),
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path, change, part):
    one, other, _, _ = write_twice(tmp_path, change)
    series = find_series(tmp_path)
    assert part in [each.part for each in series]
    found = [read_series(each).array[0] for each in series]
    assert sorted(array.tobytes() for array in found) == sorted(
        array.tobytes() for array in (np.asarray(one, np.int16), np.asarray(other, np.int16))
    )
    assert len({each.case for each in series}) == 2


def test_time_points_without_numbers_are_told_apart_by_their_times(tmp_path):
    one, other, first, _ = write_twice(tmp_path, lambda index: {"AcquisitionTime": f"1000{20 + index}"})
    for index, file in enumerate(first):
        edit_file(file, AcquisitionTime=f"1000{index:02d}")
    series = find_series(tmp_path)
    assert [each.part for each in series] == ["time point 1 of 2", "time point 2 of 2"]
    np.testing.assert_array_equal(read_series(series[0]).array[0], one)
    np.testing.assert_array_equal(read_series(series[1]).array[0], other)


def test_interleaved_times_tell_nothing_apart(tmp_path):
    _, _, first, _ = write_twice(tmp_path, lambda index: {"AcquisitionTime": f"1000{2 * index + 1:02d}"})
    for index, file in enumerate(first):
        edit_file(file, AcquisitionTime=f"1000{2 * index:02d}")
    (series,) = find_series(tmp_path)
    with pytest.raises(StudyError, match="lie at the same place"):
        read_series(series)


def test_two_images_of_one_place_that_nothing_tells_apart_are_refused(tmp_path):
    write_twice(tmp_path, lambda _: {})
    (series,) = find_series(tmp_path)
    with pytest.raises(StudyError, match="8 such pairs in all") as caught:
        read_series(series)
    assert caught.value.code == "repeated-position"


def test_one_image_too_many_is_refused_even_if_its_acquisition_differs(tmp_path):
    _, _, _, second = write_twice(tmp_path, lambda _: {"AcquisitionNumber": 2})
    for file in second[1:]:
        file.unlink()
    (series,) = find_series(tmp_path)
    with pytest.raises(StudyError, match="lie at the same place"):
        read_series(series)


def test_images_of_equal_pixels_in_one_place_are_copies(tmp_path):
    one, _ = make_volume(seed=1)
    write_twice(tmp_path, lambda _: {}, arrays=one)
    (series,) = find_series(tmp_path)
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array[0], one)
    assert [notice.code for notice in volume.notices] == ["duplicate-images"]


def test_equal_pixels_of_two_echoes_are_no_copies(tmp_path):
    one, _ = make_volume(seed=1)
    write_twice(tmp_path, lambda _: {"EchoTime": "7.4"}, arrays=one)
    assert len(find_series(tmp_path)) == 2


def test_two_even_stacks_that_lie_in_one_another_are_volumes_of_their_own(tmp_path):
    one, affine = make_volume(seed=1)
    other, shifted = make_volume(seed=2)[0], affine.copy()
    shifted[2, 3] += 0.7
    write_mr_series(tmp_path / "1", one, affine)
    for index, file in enumerate(write_mr_series(tmp_path / "2", other, shifted)):
        edit_file(file, SOPInstanceUID=f"1.2.3.{index}", AcquisitionNumber=2)
    series = find_series(tmp_path)
    assert [each.part for each in series] == ["acquisition 1 of 2", "acquisition 2 of 2"]
    np.testing.assert_array_equal(read_series(series[0]).array[0], one)
    np.testing.assert_array_equal(read_series(series[1]).array[0], other)


def test_blocks_of_another_step_one_after_the_other_stay_one_volume(tmp_path):
    for index, file in enumerate(write_mr_series(tmp_path)):
        step = 2 * index if index < 4 else 6 + 5 * (index - 3)
        edit_file(file, ImagePositionPatient=[0, 0, step], AcquisitionNumber=1 + index // 4)
    (series,) = find_series(tmp_path)
    assert [notice.code for notice in series.notices] == ["uneven-slices"]


def test_images_of_one_place_alone_are_refused(tmp_path):
    for time, file in enumerate(write_mr_series(tmp_path)):
        edit_file(file, ImagePositionPatient=[0, 0, 0], AcquisitionNumber=time + 1)
    with pytest.raises(StudyError, match="lie at the same place"):
        read_series(find_series(tmp_path)[0])


def test_an_incomplete_time_point_is_listed_with_its_gap(tmp_path):
    one, affine = make_volume()
    for time in range(3):
        files = write_mr_series(tmp_path / str(time), one, affine)
        for index, file in enumerate(files):
            edit_file(file, SOPInstanceUID=f"1.2.3.{time}.{index}", TemporalPositionIdentifier=time + 1)
        if time == 1:
            files[3].unlink()
    series = find_series(tmp_path)
    assert [[notice.code for notice in each.notices] for each in series] == [[], ["missing-slice"], []]


def test_a_radial_scan_is_no_volume(tmp_path):
    for index, file in enumerate(write_mr_series(tmp_path, make_volume((4, 4, 40))[0])):
        angle = np.radians(4 * index)
        edit_file(file, ImageOrientationPatient=[f"{np.cos(angle):.9f}", f"{np.sin(angle):.9f}", "0", "0", "0", "-1"])
    with pytest.raises(StudyError, match="more than 32 orientations among 40 images") as caught:
        read_series(find_series(tmp_path)[0])
    assert caught.value.code == "mixed-orientations"


def test_blocks_of_another_matrix_beside_each_other_are_volumes_of_their_own(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path / "1", array, affine)
    far = affine.copy()
    far[2, 3] += 500
    for index, file in enumerate(write_mr_series(tmp_path / "2", make_volume((9, 7, 8))[0], far)):
        edit_file(file, SOPInstanceUID=f"1.2.3.{index}")
    assert [one.shape for one in find_series(tmp_path)] == [(6, 7, 8), (9, 7, 8)]

"""Frames of enhanced multi-frame files are planes like any other."""

import numpy as np
import pydicom
import pytest
from factories import edit_file, make_volume, write_enhanced_mr
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.studies import find_series, read_series


def test_an_enhanced_file_reads_as_its_volume(tmp_path):
    array, affine = make_volume()
    write_enhanced_mr(tmp_path / "e.dcm", [array], affine)
    (series,) = find_series(tmp_path)
    volume = read_series(series)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)
    assert [(source.frame, source.z) for source in volume.sources] == [(z, z) for z in range(8)]


def test_frames_are_ordered_by_their_places_not_their_numbers(tmp_path):
    array, affine = make_volume()
    write_enhanced_mr(tmp_path / "e.dcm", [array], affine)
    dataset = pydicom.dcmread(tmp_path / "e.dcm")
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = [groups[z] for z in order]
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array[order]).tobytes()
    dataset.save_as(tmp_path / "e.dcm")
    volume = read_series(find_series(tmp_path)[0])
    np.testing.assert_array_equal(volume.array[0], array)
    assert [source.frame for source in volume.sources] == [order.index(z) for z in range(8)]


def test_time_points_of_one_file_are_volumes_of_their_own(tmp_path):
    (one, affine), (other, _) = make_volume(seed=1), make_volume(seed=2)
    write_enhanced_mr(tmp_path / "e.dcm", [one, other], affine)
    series = find_series(tmp_path)
    assert [each.part for each in series] == ["time point 1 of 2", "time point 2 of 2"]
    for each, array in zip(series, (one, other), strict=True):
        np.testing.assert_array_equal(read_series(each).array[0], array)


def test_each_frame_has_its_own_scale(tmp_path):
    array, affine = make_volume()

    def scale(group, time, z):
        group.PixelValueTransformationSequence = [pydicom.Dataset()]
        group.PixelValueTransformationSequence[0].RescaleSlope = str(z + 0.5)
        group.PixelValueTransformationSequence[0].RescaleIntercept = str(-z)

    write_enhanced_mr(tmp_path / "e.dcm", [array], affine, edit_frame=scale)
    z = np.arange(8)
    np.testing.assert_array_equal(read_series(find_series(tmp_path)[0]).array[0], array * (z + 0.5) - z)


@pytest.mark.parametrize("frames", [7, 9, 100_000])
def test_a_number_of_frames_that_lies_is_refused(tmp_path, frames):
    write_enhanced_mr(tmp_path / "e.dcm", [make_volume()[0]], make_volume()[1])
    edit_file(tmp_path / "e.dcm", NumberOfFrames=frames)
    with pytest.raises(StudyError, match="without a functional group for each") as caught:
        read_series(find_series(tmp_path)[0])
    assert caught.value.code == "multi-frame"


def test_a_frame_without_a_place_is_refused(tmp_path):
    def lose(group, time, z):
        if z == 3:
            del group.PlanePositionSequence

    write_enhanced_mr(tmp_path / "e.dcm", [make_volume()[0]], make_volume()[1], edit_frame=lose)
    with pytest.raises(StudyError, match=r"1 of 8 images \(such as frame 4\) have no usable ImagePositionPatient"):
        read_series(find_series(tmp_path)[0])


def test_compressed_frames_are_decoded_one_by_one(tmp_path):
    array, affine = make_volume()
    file = write_enhanced_mr(tmp_path / "e.dcm", [array], affine)
    dataset = pydicom.dcmread(file)
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    dataset.save_as(file)
    np.testing.assert_array_equal(read_series(find_series(tmp_path)[0]).array[0], array)

"""A scan in memory, or in its file."""

import pickle
from mmap import mmap

import numpy as np
from scanloom.pipeline.volume import Notice, Volume


def test_a_volume_is_mapped_where_its_voxels_are_in_a_file_however_they_are_seen(tmp_path):
    mapped = np.memmap(tmp_path / "voxels", np.int16, "w+", shape=(2, 3, 4))
    for array in (mapped[None], np.asarray(mapped)[None], np.flip(mapped, 1).transpose(2, 0, 1)[None]):
        assert Volume(array, np.eye(4), "case").is_mapped
    shared = np.frombuffer(mmap(-1, 48), np.int16).reshape(1, 2, 3, 4)  # memory, whatever holds it
    for array in (mapped[None].astype(np.float32), np.zeros((1, 2, 3, 4)), shared):
        assert not Volume(array, np.eye(4), "case").is_mapped


def test_a_network_sees_the_lowest_measured_value_for_padding_and_for_what_is_not_finite():
    array = np.array([-2000.0, -5, 3, 7, np.nan, np.inf, -np.inf, 0]).reshape(1, 2, 2, 2)
    told = (Notice("not-finite", "3 voxels"),)
    seen = Volume(array, np.eye(4), "case", padding=-2000, notices=told).measured()
    np.testing.assert_array_equal(seen.array.ravel(), [-5, -5, 3, 7, -5, -5, -5, 0])
    assert seen.padding is None


def test_a_volume_of_measurements_alone_is_seen_as_it_is():
    volume = Volume(np.zeros((1, 2, 3, 4), np.int16), np.eye(4), "case")
    assert volume.measured() is volume


def test_a_volume_without_any_measurement_is_seen_as_zeros():
    volume = Volume(np.full((1, 2, 3, 4), 9, np.int16), np.eye(4), "case", padding=9)
    assert not volume.measured().array.any()


def test_mapped_voxels_travel_as_their_place_in_the_file(tmp_path):
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (tmp_path / "voxels").write_bytes(b"head" + values.tobytes(order="F"))
    mapped = np.memmap(tmp_path / "voxels", np.int16, "r", 4, values.shape, order="F")[np.newaxis]
    volume = Volume(mapped, np.eye(4), "case")
    packed = pickle.dumps(volume)
    copied = pickle.loads(packed)
    assert copied.is_mapped
    np.testing.assert_array_equal(copied.array[0], values)
    for part in (mapped[..., ::-1], mapped[:, 1:], mapped.transpose(0, 3, 2, 1)):
        other = pickle.loads(pickle.dumps(Volume(part, np.eye(4), "case")))
        np.testing.assert_array_equal(other.array, part)

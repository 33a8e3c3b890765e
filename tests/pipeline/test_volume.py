"""A scan in memory, or in its file."""

import numpy as np
from scanloom.pipeline.volume import Volume


def test_a_volume_is_mapped_where_its_voxels_are_in_a_file_however_they_are_seen(tmp_path):
    mapped = np.memmap(tmp_path / "voxels", np.int16, "w+", shape=(2, 3, 4))
    for array in (mapped[None], np.asarray(mapped)[None], np.flip(mapped, 1).transpose(2, 0, 1)[None]):
        assert Volume(array, np.eye(4), "case").is_mapped
    for array in (mapped[None].astype(np.float32), np.zeros((1, 2, 3, 4))):
        assert not Volume(array, np.eye(4), "case").is_mapped

"""The door that looks into datasets: the scan of one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import make_affine, write_nifti
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.scans import read_scan


def test_a_scan_is_read_with_its_values_as_they_are(tmp_path: Path) -> None:
    array = np.array([[[np.nan, 1], [2, 3]], [[4, 5], [6, 7]]], np.float32)
    volume = read_scan(write_nifti(tmp_path / "scan.nii.gz", array, make_affine()))
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, make_affine())


def test_a_file_that_is_no_scan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    with pytest.raises(StudyError, match="holds no"):
        read_scan(tmp_path / "notes.txt")

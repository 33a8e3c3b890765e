"""A label map beside its scan is not taken for a scan."""

import numpy as np
import pytest
from factories import make_affine, make_volume, write_nifti
from scanloom.pipeline.bundle import SeriesRule
from scanloom.pipeline.studies import AmbiguousSeriesError, find_series, select_series


def write_pair(folder, name, affine=None):
    array, grid = make_volume()
    write_nifti(folder / "scan.nii.gz", array, grid)
    write_nifti(folder / name, (array > 500).astype(np.uint8), grid if affine is None else affine)


@pytest.mark.parametrize("name", ["scan_seg.nii.gz", "Label.nii", "mask-1.nii.gz", "scan_dseg.nii.gz"])
def test_the_scan_is_taken_and_the_label_map_told(tmp_path, name):
    write_pair(tmp_path, name)
    chosen = select_series(find_series(tmp_path), SeriesRule())
    assert chosen.case == "scan"
    assert [notice.code for notice in chosen.notices] == ["series-passed-over"]


def test_a_name_alone_makes_no_label_map(tmp_path):
    write_nifti(tmp_path / "mask_study.nii.gz", *make_volume())
    assert select_series(find_series(tmp_path), SeriesRule()).case == "mask_study"


@pytest.mark.parametrize(("name", "affine"), [("other.nii.gz", None), ("seg.nii.gz", make_affine(origin=(0, 0, 0)))])
def test_a_file_of_another_name_or_grid_is_a_scan(tmp_path, name, affine):
    write_pair(tmp_path, name, affine)
    with pytest.raises(AmbiguousSeriesError):
        select_series(find_series(tmp_path), SeriesRule())


def test_a_label_map_can_be_asked_for(tmp_path):
    write_pair(tmp_path, "seg.nii.gz")
    assert select_series(find_series(tmp_path), SeriesRule(), "seg").labels_of == "scan"

"""Label maps as TIFF: on the picture, pixel by pixel, whatever reads them."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs.label_picture import write_label_picture
from scanloom.pipeline.studies import find_series, read_series


@pytest.mark.parametrize(("most", "kind"), [(1, np.uint8), (255, np.uint8), (256, np.uint16)])
@pytest.mark.parametrize("pages", [1, 4])
def test_rows_columns_and_pages_are_the_picture_s(tmp_path, make_volume, most, kind, pages):
    labels = np.random.default_rng(0).integers(0, most + 1, (30, 20, pages)).astype(np.uint16)
    labels[0, 0, 0] = most
    path = tmp_path / "labels.tif"
    write_label_picture(path, labels, make_volume((30, 20, pages), is_picture=True))
    with tifffile.TiffFile(path) as file:
        stack = np.stack([page.asarray() for page in file.pages])
    np.testing.assert_array_equal(stack, labels.T)
    assert stack.dtype == kind
    (series,) = find_series(path)
    np.testing.assert_array_equal(read_series(series).array[0], labels)
    with Image.open(path) as picture:
        assert picture.info["compression"] == "tiff_adobe_deflate"


def test_the_same_labels_give_the_same_bytes(tmp_path, make_volume):
    for name in ("a.tif", "b.tif"):
        write_label_picture(tmp_path / name, np.ones((9, 8, 2), np.uint8), make_volume((9, 8, 2)))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_labels_of_another_size_are_refused(tmp_path, make_volume):
    with pytest.raises(PipelineError, match=r"labels have .* voxels, the scan has"):
        write_label_picture(tmp_path / "x.tif", np.zeros((8, 9, 1), np.uint8), make_volume((9, 8, 1)))

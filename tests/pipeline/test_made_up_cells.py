"""The made-up picture of the demo."""

from __future__ import annotations

import numpy as np
from scanloom.pipeline.made_up_cells import draw_cells
from scipy.ndimage import gaussian_filter, label


def test_one_seed_draws_one_picture_and_another_another() -> None:
    assert np.array_equal(draw_cells(1, 256), draw_cells(1, 256))
    assert not np.array_equal(draw_cells(1, 256), draw_cells(2, 256))


def test_dark_membranes_part_it_into_many_bright_cells() -> None:
    picture = draw_cells(size=512)
    assert (picture.shape, picture.dtype) == ((512, 512), np.uint8)
    smooth = gaussian_filter(picture.astype(float), 1.5)
    dark = smooth < 110
    assert 0.08 < dark.mean() < 0.4
    _, cells = label(~dark)
    assert cells > 50

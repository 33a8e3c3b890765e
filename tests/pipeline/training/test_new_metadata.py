"""What a new bundle says of itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scanloom.pipeline.organ_codes import private_code
from scanloom.pipeline.training.new_metadata import distinct_colors, label_names
from skimage.color import rgb2lab


def test_names_can_be_held_by_files_and_metrics_and_differ() -> None:
    found = label_names({1: "Liver/vessel: (portal)", 2: "über", 3: "a", 4: "A", 5: "!", 6: "left_lung"})
    assert found == {1: "Liver vessel portal", 2: "ber", 3: "a", 4: "A 4", 5: "label 5", 6: "left_lung"}


def test_codes_fit_dicom_and_belong_to_the_name() -> None:
    names = ["liver", "spleen", "left lung", "a label of a very long name indeed"]
    codes = {name: private_code(name) for name in names}
    assert all(len(code) <= 16 for code in codes.values()) and len(set(codes.values())) == len(names)
    assert private_code("Liver") == codes["liver"]


@pytest.mark.parametrize(("count", "apart"), [(1, np.inf), (5, 45), (20, 22), (60, 10)])
def test_colors_can_be_told_apart(count: int, apart: float) -> None:
    colors = distinct_colors(count)
    assert len(set(colors)) == count and all(0 <= part <= 255 for color in colors for part in color)
    lab = rgb2lab(np.array(colors)[:, np.newaxis] / 255)[:, 0]
    distances = [np.linalg.norm(one - other) for one, other in combinations(lab, 2)]
    assert min(distances, default=np.inf) >= apart

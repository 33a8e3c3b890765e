"""How many labels differ in the middle of overlaps."""

import pytest
import torch
from scanloom.pipeline.inference.layout import lean_layout
from scanloom.pipeline.inference.seams import EVERY, SeamCheck
from scanloom.pipeline.inference.windows import window_grid


def check():
    return SeamCheck(lean_layout(window_grid((16, 16), 8, 0.5)))


def planes(labels, channels=3):
    """(K, 4, n): an overlap of four voxels whose middle plane has these labels, the others another."""
    scores = torch.zeros(channels, 4, len(labels))
    scores[0, [0, 1, 3]] = 5.0
    for place, label in enumerate(labels):
        scores[label, 2, place] = 1.0
    return scores


def test_without_overlap_there_is_nothing_to_say():
    assert check().disagreement is None


def test_the_share_of_differing_labels_is_counted_on_the_middle_plane():
    seams = check()
    labels = [0, 1, 2, 1] * (EVERY * 2)
    changed = [*labels]
    changed[EVERY // 2] = (labels[EVERY // 2] + 1) % 3  # the first voxel that is compared
    seams.compare(0, planes(labels), planes(changed))
    assert seams.compared == len(labels) // EVERY
    assert seams.disagreement == pytest.approx(1 / seams.compared)
    seams.compare(0, planes(labels), planes(labels))
    assert seams.disagreement == pytest.approx(1 / seams.compared)


def test_the_scale_of_the_scores_does_not_matter():
    seams = check()
    scores = torch.randn(4, 4, 40)
    seams.compare(0, scores, 7 * scores)
    seams.compare(1, scores, scores / 3)
    assert seams.disagreement == 0


def test_one_channel_differs_where_its_sign_does():
    seams = check()
    seams.compare(0, torch.full((1, 4, 40), 0.1), torch.full((1, 4, 40), 9.0))
    assert seams.disagreement == 0
    seams.compare(0, torch.full((1, 4, 40), 0.1), torch.full((1, 4, 40), -0.1))
    assert seams.disagreement == 0.5


def test_overlaps_too_small_to_be_sampled_do_not_count():
    seams = check()
    seams.compare(0, torch.zeros(2, 4, EVERY // 2), torch.ones(2, 4, EVERY // 2))
    assert seams.disagreement is None

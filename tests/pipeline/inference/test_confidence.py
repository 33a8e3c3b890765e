"""How sure a network is of what it labels, counted box by box."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from factories import make_bundle, make_volume, reorient
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference.confidence import Confidence, ConfidentLabels, winning
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.inference.reduction import Labels
from scanloom.pipeline.inference.streaming import StreamingInferer
from scanloom.pipeline.volume import Volume
from torch import Tensor, nn


class Given(nn.Module):
    """Its logits are its input's channels."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows


def of_surfaces(logits: Tensor) -> dict[int, float]:
    """Voxel by voxel, in the plainest way."""
    if len(logits) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    probability, labels = (each.numpy() for each in logits.double().softmax(dim=0).max(dim=0))
    found: dict[int, list[float]] = {}
    for place in product(*map(range, labels.shape)):
        for axis, step in product(range(labels.ndim), (-1, 1)):
            other = list(place)
            other[axis] += step
            if 0 <= other[axis] < labels.shape[axis] and labels[tuple(other)] != labels[place]:
                found.setdefault(int(labels[place]), []).append(float(probability[place]))
                break
    return {value: float(np.mean(each)) for value, each in found.items() if value}


def reduced(logits: Tensor, step: int, make_map=None) -> Confidence:
    """One box, `step` channels at a time."""
    confidence, size = Confidence(make_map), tuple(logits.shape[1:])
    reduction = ConfidentLabels(Labels(np.empty(size, np.uint8), len(logits)), confidence)
    where = tuple(map(slice, (0,) * len(size), size))
    reduction.begin(where)
    for first in range(0, len(logits), step):
        reduction.put(where, first, logits[first : first + step].clone())
    reduction.finish(where)
    return confidence


@settings(deadline=None, max_examples=30)
@given(
    classes=st.integers(1, 6),
    size=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    step=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_probability_on_surfaces_is_that_of_a_softmax(classes, size, step, seed):
    logits = torch.randn(classes, *size, generator=torch.Generator().manual_seed(seed)) * 3
    assert reduced(logits, step).of_surfaces == pytest.approx(of_surfaces(logits), abs=1e-5)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_map_is_the_winning_probability_in_255_steps(classes):
    logits, made = torch.randn(classes, 4, 5, 6) * 3, np.zeros((1, 4, 5, 6), np.uint8)
    reduced(logits, 2, lambda: made)
    np.testing.assert_allclose(made[0] / 255, winning(logits).numpy(), atol=0.5 / 255 + 1e-6)
    assert made.min() >= 127 if classes == 1 else made.min() >= 85


def test_a_scan_of_background_has_no_surfaces():
    assert reduced(torch.tensor([3.0, 0.0]).view(2, 1, 1, 1).expand(2, 4, 4, 4), 1).of_surfaces == {}


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_change_the_count_only_where_boxes_meet(overlap):
    coordinates = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    distance = (coordinates - 11.5).norm(dim=0)
    scan = torch.stack([distance - 8, 8 - distance])[None]
    whole, parts = Confidence(), Confidence()
    for confidence, roi in ((whole, 24), (parts, 12)):
        from scanloom.pipeline.inference.scan import TensorScan

        inferer = StreamingInferer(roi, overlap=overlap, mode="gaussian", output="labels")
        inferer.stream(TensorScan(scan[0]), Given(), np.empty((1, 24, 24, 24), np.uint8), confidence=confidence)
    assert parts.of_surfaces == pytest.approx(whole.of_surfaces, abs=0.01)
    assert whole.of_surfaces == pytest.approx(of_surfaces(scan[0]), abs=1e-5)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)])
def test_a_prediction_knows_how_sure_it_is_on_the_scan_s_own_grid(tmp_path, spacing):
    predictor = Predictor(make_bundle(tmp_path / "tiny", spacing=spacing), "cpu", confidence=True)
    array, affine = make_volume((14, 13, 12), spacing=(1.0, 1.25, 1.5))
    labels = predictor(Volume(array[np.newaxis].astype(np.float32), affine, "case"))
    confidence, surfaces = predictor.confidence, predictor.surface_confidence
    assert confidence is not None
    assert confidence.shape == labels.shape
    assert confidence.min() >= 85 - 1  # of three classes the winner has a third at least
    assert set(surfaces) == set(np.unique(labels)) - {0}
    turned, turned_affine = reorient(array, affine, (2, 0, 1), (True, False, True))
    predictor(Volume(turned[np.newaxis].astype(np.float32), turned_affine, "case"))
    back, _ = reorient(confidence, affine, (2, 0, 1), (True, False, True))
    np.testing.assert_array_equal(predictor.confidence, back)
    assert predictor.surface_confidence == surfaces


def test_an_inferer_of_others_is_as_sure_as_ours(tmp_path):
    found = []
    for kind in ("scanloom.pipeline.inference.StreamingInferer", "monai.inferers.SlidingWindowInfererAdapt"):
        config = {"inferer": {"_target_": kind, "roi_size": [24, 24, 24]}}
        predictor = Predictor(make_bundle(tmp_path / kind, config=config), "cpu", confidence=True)
        array, affine = make_volume((14, 13, 12))
        predictor(Volume(array[np.newaxis].astype(np.float32), affine, "case"))
        found.append((predictor.surface_confidence, predictor.confidence))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert np.abs(found[0][1].astype(int) - found[1][1]).max() <= 1


def test_no_map_is_kept_unless_one_is_asked_for(tmp_path):
    predictor = Predictor(make_bundle(tmp_path / "tiny"), "cpu")
    array, affine = make_volume((14, 13, 12))
    predictor(Volume(array[np.newaxis].astype(np.float32), affine, "case"))
    assert predictor.confidence is None
    assert predictor.surface_confidence

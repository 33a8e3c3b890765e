"""What a scan and its labels are like: made-up ones whose facts are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from factories import make_affine, reorient
from scanloom.pipeline.case_facts import LabelFacts, ScanFacts, look_at_labels, look_at_scan
from scanloom.pipeline.volume import Volume

SPACING = (1.0, 2.0, 0.5)


def noise(shape: Sequence[int] = (20, 24, 28), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def volume(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    return Volume(array[np.newaxis], make_affine(SPACING) if affine is None else affine, "case")


def scan_facts(array: np.ndarray) -> ScanFacts:
    return look_at_scan(volume(array))


def label_facts(labels: np.ndarray, array: np.ndarray | None = None) -> dict[int, LabelFacts]:
    scan = volume(noise(labels.shape) if array is None else array)
    return look_at_labels(labels, scan, look_at_scan(scan), [1, 2, 3])


def test_size_and_spacing_are_those_of_the_patient_whatever_the_file_s_order() -> None:
    array, labels = noise(), np.zeros((20, 24, 28), np.uint8)
    labels[3:9, 5:11, 7:20], labels[12:15, 20:24, 2:4] = 1, 2
    affine = make_affine(SPACING, degrees=(2, 3, 4))
    turned, turned_affine = reorient(array, affine, (2, 0, 1), (True, False, True))
    turned_labels, _ = reorient(labels, affine, (2, 0, 1), (True, False, True))
    facts = []
    for image, label, grid in ((array, labels, affine), (turned, turned_labels, turned_affine)):
        scan = look_at_scan(volume(image, grid))
        facts.append((scan, look_at_labels(label, volume(image, grid), scan, [1, 2])))
    (one, one_labels), (other, other_labels) = facts
    assert one.size_voxels == other.size_voxels == (20, 24, 28)
    assert one.spacing_mm == pytest.approx(SPACING)
    assert other.spacing_mm == pytest.approx(SPACING)
    assert one.extent_mm == pytest.approx((20, 48, 14))
    assert one.detail == pytest.approx(other.detail)
    for value in (1, 2):
        for name, fact in vars(one_labels[value]).items():
            assert getattr(other_labels[value], name) == pytest.approx(fact, abs=1e-6), name


def test_the_histogram_s_shape_forgets_the_scanner_s_scale() -> None:
    array = noise()
    assert scan_facts(array).shape == pytest.approx(scan_facts(array * 7 - 300).shape, abs=1e-4)
    assert scan_facts(array).levels[2] == pytest.approx(100, abs=1)
    assert scan_facts(-array).shape != pytest.approx(scan_facts(array).shape, abs=1e-3)


def test_noise_adds_detail_and_blur_takes_it() -> None:
    smooth = np.broadcast_to(np.linspace(0, 100, 28, dtype=np.float32), (20, 24, 28)).copy()
    rough = smooth + noise() - 100
    assert scan_facts(rough).detail[0] > 5 * scan_facts(smooth).detail[0]
    assert scan_facts(rough).detail[2] > scan_facts(smooth).detail[2] > 0


def test_a_picture_has_no_detail_through_the_plane() -> None:
    facts = scan_facts(noise((20, 24, 1)))
    assert facts.detail[2] == 0
    assert min(facts.detail[:2]) > 0


def test_what_was_filled_in_is_flat() -> None:
    array = noise()
    assert scan_facts(array).flat < 0.001
    array[:10] = 0
    assert scan_facts(array).flat == pytest.approx(0.49, abs=0.03)


def test_a_constant_scan_has_facts_too() -> None:
    facts = scan_facts(np.full((4, 5, 6), 7.0, np.float32))
    assert (facts.std, facts.flat) == (1.0, 1.0)
    assert not any(facts.shape)


def test_nan_is_not_counted() -> None:
    array = noise()
    array[::7] = np.nan
    assert np.isfinite([*scan_facts(array).levels, *scan_facts(array).detail]).all()


def test_a_box_of_a_label() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[4:8, 6:12, 10:20] = 1
    [facts] = label_facts(labels).values()
    assert facts.volume_ml == pytest.approx(240 / 1000)
    assert facts.share == pytest.approx(240 / labels.size)
    assert (facts.components, facts.largest, facts.border) == (1, 1, 0)
    assert facts.centre == pytest.approx((6 / 20, 9 / 24, 15 / 28))
    assert facts.extent_mm == pytest.approx(0.95 * np.array([4, 12, 5]))
    assert facts.skew == pytest.approx((0, 0, 0))
    assert facts.offset_mm == pytest.approx((0, 0, 0))


def test_parts_that_touch_at_a_corner_are_one() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1, 1, 1], labels[2, 2, 2], labels[4, 4, 4] = 1, 1, 1
    facts = label_facts(labels)[1]
    assert (facts.components, facts.largest) == (2, pytest.approx(2 / 3))


def test_the_thicker_end_has_a_sign_that_a_flip_changes() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[8:12, 8:10, 4:16], labels[6:14, 6:12, 4:8] = 1, 1
    skew, flipped = label_facts(labels)[1].skew[2], label_facts(labels[:, :, ::-1])[1].skew[2]
    assert skew > 0.2
    assert flipped == pytest.approx(-skew)


def test_a_stray_voxel_moves_neither_extent_nor_skew_much() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[4:12, 6:14, 10:20] = 1
    clean = label_facts(labels)[1]
    labels[8, 10, 27] = 1
    stray = label_facts(labels)[1]
    assert stray.components == 2
    assert stray.extent_mm == pytest.approx(clean.extent_mm, rel=0.01)
    assert stray.skew == pytest.approx(clean.skew, abs=0.01)


def test_labels_lie_apart_by_the_patient_s_millimetres() -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[8:10, 4:6, 8:10], labels[8:10, 14:16, 8:10] = 1, 2
    facts = label_facts(labels)
    assert facts[1].offset_mm == pytest.approx((0, -10, 0))
    assert facts[2].offset_mm == pytest.approx((0, 10, 0))


@pytest.mark.parametrize(("place", "expected"), [((0, 5, 5), 1.0), ((19, 5, 5), 1.0), ((1, 1, 1), 0.0)])
def test_the_border_is_the_outermost_voxels(place: tuple[int, int, int], expected: float) -> None:
    labels = np.zeros((20, 24, 28), np.uint8)
    labels[place] = 1
    assert label_facts(labels)[1].border == expected


def test_a_picture_s_border_are_its_edges_alone() -> None:
    labels = np.zeros((20, 24, 1), np.uint8)
    labels[5, 5], labels[0, 7] = 1, 1
    assert label_facts(labels)[1].border == 0.5


def test_a_label_s_level_is_its_contrast_to_the_scan() -> None:
    array, labels = noise(), np.zeros((20, 24, 28), np.uint8)
    labels[4:8, 6:12, 10:20] = 1
    array[labels == 1] += 30
    assert label_facts(labels, array)[1].level > 2
    assert label_facts(labels, -array)[1].level < -2


def test_labels_that_are_not_there_have_no_facts() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    assert label_facts(labels) == {}
    labels[2, 2, 2] = 3
    assert set(label_facts(labels)) == {3}

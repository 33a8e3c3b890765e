"""The fingerprint of a dataset: facts of made-up scans whose facts are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from factories import make_affine, reorient
from scanloom.pipeline.fingerprint import Fingerprint, HeldOut, Spread
from scanloom.pipeline.training.dataset_check import LabelledImage
from scanloom.pipeline.training.fingerprint import FingerprintBuilder, joined
from scanloom.pipeline.training.voxel_faults import count_labels
from scanloom.pipeline.volume import Volume

LABELS = {1: "head", 2: "body"}


def make_case(
    shape: Sequence[int] = (6, 8, 10),
    spacing: Sequence[float] = (1.0, 2.0, 5.0),
    seed: int = 0,
    axes: Sequence[int] = (0, 1, 2),
    labels: np.ndarray | None = None,
    modality: str | None = None,
) -> LabelledImage:
    """Noise about 100 with label 1 on 24 voxels and 2 on 4, its array axes in another order."""
    array = np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)
    if labels is None:
        labels = np.zeros(shape, np.uint8)
        labels[1:4, 1:3, 1:5], labels[5, 5, 5:9] = 1, 2
    affine = make_affine(spacing, degrees=(1, 2, 3))
    array, turned = reorient(array, affine, axes)
    labels, _ = reorient(labels, affine, axes)
    return LabelledImage(
        "case", Volume(array[np.newaxis], turned, "case", modality), labels, count_labels(labels).voxels
    )


def fingerprint(
    *cases: LabelledImage, labels: Mapping[int, str] = LABELS, modality: str | None = None, ignore: int | None = None
) -> Fingerprint:
    builder = FingerprintBuilder(ignore)
    for case in cases:
        builder.add(case)
    return builder.build(labels, modality)


def test_spacing_size_and_extent_are_percentiles_over_the_cases() -> None:
    found = fingerprint(*(make_case((6, 8, 10 + n), (1, 2, 5 - n)) for n in range(3)))
    assert found.cases == 3 and found.median_spacing_mm == pytest.approx((1, 2, 4))
    assert (found.size_voxels[2].least, found.size_voxels[2].median, found.size_voxels[2].most) == (10, 11, 12)
    assert (found.extent_mm[2].least, found.extent_mm[2].most) == pytest.approx((36, 50))
    assert found.spacing_mm[2].p10 == pytest.approx(3.2)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_axes_are_those_of_the_patient_whatever_the_file_s(axes: Sequence[int]) -> None:
    found = fingerprint(make_case(axes=axes))
    assert found.median_spacing_mm == pytest.approx((1, 2, 5))
    assert [spread.median for spread in found.size_voxels] == [6, 8, 10]


def test_the_median_scan_at_another_spacing() -> None:
    assert fingerprint(make_case()).median_size((2, 2, 2.5)) == pytest.approx((3, 8, 20))
    assert fingerprint(make_case(), make_case((12, 8, 10))).largest_size((1, 1, 1)) == pytest.approx((12, 16, 50))


def test_intensities_are_those_of_labelled_voxels() -> None:
    case = make_case()
    values = case.image.array[0][case.labels > 0].astype(float)
    found = fingerprint(case).foreground
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std()))
    assert (found.least, found.most) == (values.min(), values.max())
    assert (found.p00_5, found.median, found.p99_5) == pytest.approx(tuple(np.percentile(values, (0.5, 50, 99.5))))


def test_a_large_case_does_not_outvote_a_small_one() -> None:
    labels = np.ones((40, 40, 40), np.uint8)
    large, small = make_case((40, 40, 40), labels=labels), make_case((30, 30, 30), labels=labels[:30, :30, :30])
    large.image.array[:] += 1000
    assert fingerprint(large, small).foreground.mean == pytest.approx(600, abs=1)


def test_voxels_that_were_not_annotated_are_no_foreground() -> None:
    case = make_case()
    case.image.array[0][case.labels == 2] = 1e6
    assert fingerprint(case, ignore=2).foreground.most < 200


def test_volumes_are_those_of_the_cases_that_hold_the_label() -> None:
    empty = make_case(labels=np.zeros((6, 8, 10), np.uint8))
    found = fingerprint(make_case(), empty).labels
    assert (found[1].name, found[1].cases) == ("head", 1)
    assert found[1].volume_ml is not None and found[1].volume_ml.median == pytest.approx(24 * 10 / 1000)


def test_a_label_that_no_case_holds_has_no_volume() -> None:
    assert fingerprint(make_case(), labels={**LABELS, 3: "tail"}).labels[3].volume_ml is None


def test_the_box_of_what_is_not_zero() -> None:
    case = make_case((10, 10, 10), labels=np.ones((10, 10, 10), np.uint8))
    case.image.array[:, :, 5:] = 0
    case.image.array[:, :, :, :2] = 0
    assert fingerprint(case).nonzero_share.median == pytest.approx(0.4)


def test_the_levels_of_whole_scans_are_kept_for_judging_others() -> None:
    case = make_case()
    found = fingerprint(case, make_case(seed=1)).image_levels
    assert list(found) == [0.5, 25.0, 50.0, 75.0, 99.5]
    assert found[50.0].least <= np.median(case.image.array) <= found[50.0].most


def test_modality_is_the_description_s_or_that_of_all_scans() -> None:
    assert fingerprint(make_case(modality="CT")).modality == "CT"
    assert fingerprint(make_case(modality="CT"), modality="MR").modality == "MR"
    assert fingerprint(make_case(modality="CT"), make_case(modality="MR")).modality is None


def test_it_does_not_depend_on_chance() -> None:
    labels = np.ones((40, 40, 40), np.uint8)
    one, other = (fingerprint(make_case((40, 40, 40), labels=labels)) for _ in range(2))
    assert one == other


def test_it_comes_back_from_json() -> None:
    values = json.loads(json.dumps(fingerprint(make_case(), make_case(seed=1)).to_json()))
    assert Fingerprint.from_json(values).to_json() == values


@pytest.mark.parametrize("values", [{}, {"cases": 1, "spacing_mm": [1]}, {"cases": 1, "spacing_mm": [{"least": 1}]}])
def test_what_is_no_fingerprint_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no fingerprint of a dataset: .*Make it anew with"):
        Fingerprint.from_json(values)


def test_without_any_label_there_is_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="no voxel of any case is labelled"):
        fingerprint(make_case(labels=np.zeros((6, 8, 10), np.uint8)))
    with pytest.raises(ValueError, match="no voxel of any case is labelled"):
        fingerprint()


def test_facts_of_labels_and_scans_go_in_as_spreads() -> None:
    found = fingerprint(make_case(), make_case(seed=1))
    assert [len(found.scan[name]) for name in ("shape", "detail", "flat")] == [7, 3, 1]
    facts = found.labels[1].facts
    assert facts["centre"][0].median == pytest.approx((2 + 0.5) / 6)
    assert facts["components"][0].most == 1
    assert facts["extent_mm"][2].median == pytest.approx(0.95 * 20)


def test_a_fingerprint_of_before_these_facts_is_read() -> None:
    values = fingerprint(make_case()).to_json()
    for name in ("scan", "held_out"):
        del values[name]
    for label in values["labels"].values():
        del label["facts"]
    old = Fingerprint.from_json(values)
    assert old.scan == {}
    assert old.held_out is None
    assert old.labels[1].facts == {}


def test_only_the_cases_that_are_named_are_taken() -> None:
    builder = FingerprintBuilder()
    builder.add(make_case())
    builder.add(replace(make_case((12, 8, 10)), name="held out"))
    assert builder.build(LABELS, cases={"case"}).size_voxels[0].most == 6
    assert builder.build(LABELS).size_voxels[0].most == 12


def test_fingerprints_of_folds_are_joined_to_that_of_all_cases() -> None:
    cases = [make_case((6 + n, 8, 10), seed=n) for n in range(5)]
    parts = [fingerprint(*(case for number, case in enumerate(cases) if number != out)) for out in range(5)]
    found, whole = joined(parts), fingerprint(*cases)
    assert (found.size_voxels[0].least, found.size_voxels[0].most) == (6, 10)
    assert found.size_voxels[0].median == pytest.approx(whole.size_voxels[0].median, abs=0.2)
    assert found.labels[2].facts["share"][0].most == whole.labels[2].facts["share"][0].most
    assert found.foreground.least == whole.foreground.least
    assert joined(parts[:1]) is parts[0]


def test_a_label_that_one_fold_has_not_seen_is_joined_from_the_others() -> None:
    alone = np.zeros((6, 8, 10), np.uint8)
    alone[1:4, 1:3, 1:5] = 1
    found = joined([fingerprint(make_case(labels=alone)), fingerprint(make_case())])
    assert found.labels[2].volume_ml is not None
    assert found.labels[2].facts["components"][0].most == 1


def test_what_was_held_out_is_joined_label_by_label() -> None:
    def with_held_out(cases: int, confidence: float) -> Fingerprint:
        spread = (Spread.of([confidence]),)
        return replace(fingerprint(make_case()), held_out=HeldOut(cases, {1: {"surface_confidence": spread}}))

    found = joined([with_held_out(3, 0.7), with_held_out(4, 0.9)]).held_out
    assert found is not None
    assert found.cases == 7
    [spread] = found.labels[1]["surface_confidence"]
    assert (spread.least, spread.median, spread.most) == pytest.approx((0.7, 0.8, 0.9))

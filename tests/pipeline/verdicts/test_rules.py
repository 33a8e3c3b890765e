"""Each rule alone: what makes it speak, and that it is silent of cases like those of the training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import NAMES, SURE, make_case, make_fingerprint, spoilt, without_spacing
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.fingerprint import Fingerprint
from scanloom.pipeline.verdict import Verdict
from scanloom.pipeline.verdicts import Judge
from scanloom.pipeline.verdicts.judge import NO_FINGERPRINT
from scanloom.pipeline.volume import Volume


def metadata(fingerprint: Fingerprint | None, **more: object) -> dict[str, object]:
    code = {"value": "1", "scheme": "SCT", "meaning": "a part"}
    labels = [
        {"value": value, "name": name, "category": code, "type": code, "color": [1, 2, 3]}
        for value, name in NAMES.items()
    ]
    known = {"fingerprint": fingerprint.to_json()} if fingerprint else {}
    return {"name": "made_up", "label_classes": labels, **known, **more}


@pytest.fixture(scope="module")
def fingerprint() -> Fingerprint:
    return make_fingerprint()


@pytest.fixture
def judge(fingerprint: Fingerprint, tmp_path) -> Judge:
    return Judge(Bundle(tmp_path, metadata(fingerprint)))


def severities(verdict: Verdict) -> dict[str, str]:
    return {reason.code: reason.severity for reason in verdict.reasons}


def message(verdict: Verdict, code: str) -> str:
    [found] = [reason.message for reason in verdict.reasons if reason.code == code]
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_new_case_of_the_same_kind_is_ok(judge: Judge, seed: int) -> None:
    verdict = judge(*make_case(seed), SURE)
    assert (verdict.status, verdict.reasons, verdict.notes) == ("ok", (), ())


@pytest.mark.parametrize(("unit", "severity"), [(1.05, None), (1.4, "check"), (2.0, "reject"), (0.5, "reject")])
def test_spacing(judge: Judge, unit: float, severity: str | None) -> None:
    verdict = judge(*make_case(unit=unit), SURE)
    assert severities(verdict).get("spacing") == severity
    if severity:
        assert f"is {unit:g} mm, expected 0.73" in message(verdict, "spacing")


@pytest.mark.parametrize(("size", "severity"), [((30, 36, 28), None), ((30, 60, 28), "reject")])
def test_size(judge: Judge, size: tuple[int, int, int], severity: str | None) -> None:
    verdict = judge(*make_case(size=size), SURE)
    assert severities(verdict).get("size") == severity
    if severity:
        assert "the size along posterior-anterior is" in message(verdict, "size")


def test_of_pieces_of_something_larger_a_larger_one_is_no_fault(fingerprint: Fingerprint, tmp_path) -> None:
    from scanloom.pipeline.fingerprint import Spread

    facts = {**fingerprint.labels[1].facts, "border": (Spread(0.01, 0.02, 0.05, 0.1, 0.2),)}
    pieces = {**fingerprint.labels, 1: replace(fingerprint.labels[1], facts=facts)}
    judge = Judge(Bundle(tmp_path, metadata(replace(fingerprint, labels=pieces))))
    assert "size" not in severities(judge(*make_case(size=(30, 60, 28)), SURE))
    assert severities(judge(*make_case(size=(14, 36, 28)), SURE))["size"] == "check"


def test_modality(judge: Judge) -> None:
    volume, labels = make_case()
    assert severities(judge(replace(volume, modality="CT"), labels, SURE)) == {"modality": "reject"}
    assert severities(judge(replace(volume, modality=None), labels, SURE)) == {}


def test_a_scan_that_does_not_say_its_spacing_is_worth_a_look(judge: Judge) -> None:
    volume, labels = make_case()
    assert severities(judge(without_spacing(volume), labels, SURE)) == {"spacing": "check"}


def test_without_spacing_in_training_lengths_are_in_voxels(fingerprint: Fingerprint, tmp_path) -> None:
    judge = Judge(Bundle(tmp_path, metadata(replace(fingerprint, has_spacing=False))))
    volume, labels = make_case(unit=0.004)
    assert judge(volume, labels, SURE).status == "ok"
    assert "voxels" in message(judge(*make_case(size=(30, 60, 28)), SURE), "size")


@pytest.mark.parametrize(("scale", "shift", "found"), [(1, 0, False), (1.2, 0, False), (30, 0, True), (1, -900, True)])
def test_intensities(judge: Judge, scale: float, shift: float, found: bool) -> None:
    volume, labels = make_case()
    verdict = judge(spoilt(volume, volume.array[0] * scale + shift), labels, SURE)
    assert severities(verdict) == ({"intensities": "check"} if found else {})


def test_the_histogram_s_shape(judge: Judge) -> None:
    volume, labels = make_case()
    noise = 300 * np.random.default_rng(0).random(labels.shape)
    dark = np.where(np.indices(labels.shape)[0] < 8, noise, volume.array[0])
    assert severities(judge(spoilt(volume, dark), labels, SURE))["histogram"] == "check"


def test_detail_is_lost_by_blur_and_made_by_noise(judge: Judge) -> None:
    from scipy.ndimage import gaussian_filter

    volume, labels = make_case()
    for sigma in (1.5, 3):
        verdict = judge(spoilt(volume, gaussian_filter(volume.array[0], sigma)), labels, SURE)
        assert severities(verdict)["detail"] == "check"
    assert "detail" not in severities(judge(volume, labels, SURE))


def test_flat_parts(judge: Judge) -> None:
    volume, labels = make_case()
    array = volume.array[0].copy()
    array[:6] = array[0, 0, 0]
    assert severities(judge(spoilt(volume, array), labels, SURE))["flat"] == "check"


def test_a_label_that_is_missing(judge: Judge, fingerprint: Fingerprint, tmp_path) -> None:
    volume, labels = make_case()
    verdict = judge(volume, np.where(labels == 1, 0, labels), SURE)
    assert severities(verdict)["missing"] == "reject"
    assert message(verdict, "missing") == "head: not found, and 40 of 40 training cases have it"
    both = judge(volume, np.zeros_like(labels), {})
    assert message(both, "missing").endswith("; likewise 1 other label")


@pytest.mark.parametrize(("cases", "severity"), [(40, "reject"), (36, "check"), (20, None)])
def test_a_label_that_not_all_training_cases_have_may_be_missing(
    fingerprint: Fingerprint, tmp_path, cases: int, severity: str | None
) -> None:
    rare = {**fingerprint.labels, 1: replace(fingerprint.labels[1], cases=cases)}
    volume, labels = make_case()
    judge = Judge(Bundle(tmp_path, metadata(replace(fingerprint, labels=rare))))
    assert severities(judge(volume, np.where(labels == 1, 0, labels), SURE)).get("missing") == severity


def test_volume_and_extent(judge: Judge) -> None:
    from scipy.ndimage import binary_erosion

    volume, labels = make_case()
    small = binary_erosion(labels == 1, iterations=2)
    thin = np.where(small, 1, np.where(labels == 2, 2, 0)).astype(np.uint8)
    found = severities(judge(volume, thin, SURE))
    assert found["volume"] == "reject"
    assert "extent" in found


def test_position(judge: Judge) -> None:
    volume, labels = make_case()
    moved = judge(spoilt(volume, np.roll(volume.array[0], -6, 0)), np.roll(labels, -6, 0), SURE)
    assert severities(moved)["position"] in ("check", "reject")
    assert "head: its centre, along left-right of the scan is" in message(moved, "position")


def test_a_label_cut_off_by_the_field_of_view(judge: Judge) -> None:
    volume, labels = make_case()
    cut = judge(replace(volume, array=volume.array[:, :, 20:]), labels[:, 20:], SURE)
    assert severities(cut)["cut"] == "reject"


def test_many_parts(judge: Judge) -> None:
    volume, labels = make_case()
    speckled = labels.copy()
    speckled[2:28:4, 2:34:4, 2:26:4] = 1
    found = severities(judge(volume, speckled, SURE))
    assert found["parts"] == "reject"


def test_parts_that_the_network_makes_of_good_cases_are_no_fault(fingerprint: Fingerprint, tmp_path) -> None:
    from scanloom.pipeline.fingerprint import HeldOut, Spread

    volume, labels = make_case()
    labels = labels.copy()
    for place in range(2, 24, 2):
        labels[2, 2, place] = 1
    tolerant = HeldOut(10, {1: {"components": (Spread(1, 1, 2, 6, 12),), "largest": (Spread(0.9, 0.9, 1, 1, 1),)}})
    found = [
        severities(Judge(Bundle(tmp_path, metadata(replace(fingerprint, held_out=each))))(volume, labels, {}))
        for each in (None, tolerant)
    ]
    assert [each.get("parts") is not None for each in found] == [True, False]


def test_labels_that_lie_the_other_way_round(judge: Judge) -> None:
    volume, labels = make_case()
    swapped = np.array([0, 2, 1], np.uint8)[labels]
    found = severities(judge(volume, swapped, SURE))
    assert found["layout"] == "reject"


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_that_was_flipped(judge: Judge, axis: int) -> None:
    volume, labels = make_case()
    verdict = judge(spoilt(volume, np.flip(volume.array[0], axis)), np.flip(labels, axis), SURE)
    assert severities(verdict)["mirrored"] == "check"
    assert ("left-right", "posterior-anterior")[axis] in message(verdict, "mirrored")


def test_where_the_training_is_the_same_mirrored_a_flip_is_none(judge: Judge) -> None:
    volume, labels = make_case()
    assert "mirrored" not in severities(judge(spoilt(volume, np.flip(volume.array[0], 2)), np.flip(labels, 2), SURE))


def test_contrast(judge: Judge) -> None:
    volume, labels = make_case()
    array = volume.array[0] - 160 * (labels > 0)
    assert "contrast" in severities(judge(spoilt(volume, array), labels, SURE))


@pytest.mark.parametrize(("sure", "severity"), [(0.86, None), (0.95, None), (0.75, "check"), (0.5, "reject")])
def test_a_network_less_sure_than_of_held_out_cases(judge: Judge, sure: float, severity: str | None) -> None:
    verdict = judge(*make_case(), {1: sure, 2: 0.86})
    assert severities(verdict).get("confidence") == severity
    if severity:
        what = f"head: the network's mean probability on its surface is {100 * sure:g} %"
        assert message(verdict, "confidence").startswith(what)


def test_without_held_out_cases_the_network_may_be_unsure_to_a_degree(tmp_path) -> None:
    judge = Judge(Bundle(tmp_path, metadata(make_fingerprint(held_out=False))))
    sure, unsure = (judge(*make_case(), {1: each, 2: 0.86}) for each in (0.6, 0.5))
    assert severities(sure) == {}
    assert severities(unsure) == {"confidence": "check"}
    assert sure.notes[0].startswith("no case was held out in training")


def test_a_bundle_may_leave_rules_out(fingerprint: Fingerprint, tmp_path) -> None:
    judge = Judge(Bundle(tmp_path, metadata(fingerprint, verdict={"ignore": ["modality"]})))
    volume, labels = make_case()
    assert judge(replace(volume, modality="CT"), labels, SURE).status == "ok"


def test_rejections_come_first(judge: Judge) -> None:
    volume, labels = make_case()
    verdict = judge(spoilt(volume, volume.array[0] - 900), np.where(labels == 1, 0, labels), SURE)
    order = [reason.severity for reason in verdict.reasons]
    assert order == sorted(order, reverse=True)
    assert verdict.status == "reject"


def test_without_a_fingerprint_only_the_result_is_judged(tmp_path) -> None:
    judge = Judge(Bundle(tmp_path, metadata(None)))
    volume, labels = make_case(unit=7)
    fine = judge(volume, labels, SURE)
    assert (fine.status, fine.notes) == ("ok", (NO_FINGERPRINT,))
    assert severities(judge(volume, labels, {1: 0.4, 2: 0.9})) == {"confidence": "check"}
    assert severities(judge(volume, np.zeros_like(labels), {})) == {"missing": "check"}


def test_a_fingerprint_of_before_these_facts_is_compared_as_far_as_it_goes(fingerprint: Fingerprint, tmp_path) -> None:
    values = fingerprint.to_json()
    for name in ("scan", "held_out", "has_spacing"):
        del values[name]
    for label in values["labels"].values():
        del label["facts"]
    judge = Judge(Bundle(tmp_path, {**metadata(None), "fingerprint": values}))
    assert judge(*make_case(), SURE).status == "ok"
    assert severities(judge(*make_case(unit=2), SURE))["spacing"] == "reject"


def test_what_is_no_fingerprint_is_refused(tmp_path) -> None:
    with pytest.raises(BundleError, match=r"bundle made_up: fingerprint in configs/metadata.json is no fingerprint of"):
        Judge(Bundle(tmp_path, {**metadata(None), "fingerprint": {"cases": 3}}))


def test_a_stack_is_judged_plane_by_plane_where_the_training_has_single_planes(tmp_path) -> None:
    from scanloom.pipeline.training.dataset_check import LabelledImage
    from scanloom.pipeline.training.fingerprint import FingerprintBuilder
    from scanloom.pipeline.training.voxel_faults import count_labels

    def picture(seed: int, planes: int = 1) -> tuple[Volume, np.ndarray]:
        random = np.random.default_rng(seed)
        x, y = np.indices((48, 48))
        labels = np.repeat((((x + seed) % 8 < 2) | ((y + 2 * seed) % 8 < 2))[..., np.newaxis], planes, axis=2)
        array = 200 - 120 * labels + random.normal(0, 10, labels.shape)
        return Volume(array.astype(np.float32)[np.newaxis], np.eye(4), "picture"), labels.astype(np.uint8)

    builder = FingerprintBuilder()
    for seed in range(20):
        volume, labels = picture(seed)
        builder.add(LabelledImage(f"{seed}", volume, labels, count_labels(labels).voxels))
    judge = Judge(Bundle(tmp_path, metadata(builder.build(NAMES))))
    one, stack = judge(*picture(30), {1: 0.9}), judge(*picture(31, planes=12), {1: 0.9})
    assert (one.status, stack.status) == ("ok", "ok")  # labels at the border in training are no fault
    assert stack.notes[0].startswith("trained on single planes: the facts are medians over 8 planes")
    volume, labels = picture(32, planes=12)
    assert "missing" in severities(judge(volume, np.zeros_like(labels), {}))

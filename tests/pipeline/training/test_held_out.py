"""Which cases a bundle is judged by, and what is said where they are not known to be new to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.training.dataset import Case, split_cases
from scanloom.pipeline.training.held_out import NO, UNKNOWN, YES, choose_across_folds, choose_cases, origin_of

CASES = [Case(f"case_{number:02d}", Path("image"), Path("label")) for number in range(11)]
DIGEST = "d" * 64


def bundle(tmp_path: Path, weights: str = "weights", **training: Any) -> Bundle:
    folder = tmp_path / f"bundle-{weights}"
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models" / "model.pt").write_text(weights)
    made = Bundle(folder, {"name": "made_up"})
    if not training:
        return made
    facts = {"fold": 1, "folds": 5, "dataset_sha256": DIGEST, "weights_sha256": made.weights_sha256} | training
    return Bundle(folder, {"name": "made_up", "training": facts})


def test_unasked_the_cases_are_those_that_the_training_held_out(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=1), CASES, DIGEST)
    assert list(chosen.cases) == split_cases(CASES, 1)[1]
    assert {chosen.seen[case.name] for case in chosen.cases} == {NO}
    assert (chosen.fold, chosen.notices) == (1, ())


def test_the_trainings_number_of_folds_is_taken(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=0, folds=3), CASES, DIGEST)
    assert list(chosen.cases) == split_cases(CASES, 0, 3)[1]


def test_another_fold_is_taken_with_a_word_on_the_cases_that_were_trained_on(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=1), CASES, DIGEST, fold=0)
    assert list(chosen.cases) == split_cases(CASES, 0)[1]
    assert {chosen.seen[case.name] for case in chosen.cases} == {YES}
    assert "was trained on 3 of these 3 cases" in chosen.notices[0]
    assert "Leave out --fold" in chosen.notices[0]


def test_all_cases_are_those_seen_and_those_not(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=1), CASES, DIGEST, fold="all")
    assert list(chosen.cases) == CASES
    assert sum(chosen.seen[case.name] == NO for case in CASES) == 2
    assert (chosen.fold, len(chosen.notices)) == (None, 1)


def test_a_bundle_trained_on_all_cases_is_shown_on_them_and_told_to_say_nothing(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=None), CASES, DIGEST)
    assert list(chosen.cases) == CASES
    assert {*chosen.seen.values()} == {YES}
    assert chosen.notices[0].endswith("trained on 11 of these 11 cases: their figures say nothing of new scans.")


@pytest.mark.parametrize("digest", ["e" * 64, None])
def test_of_another_dataset_all_cases_are_taken_with_a_word_that_they_may_be_known(
    tmp_path: Path, digest: str | None
) -> None:
    chosen = choose_cases(bundle(tmp_path, fold=1), CASES, digest)
    assert list(chosen.cases) == CASES
    assert {*chosen.seen.values()} == {UNKNOWN}
    assert "not the dataset that it was trained on" in chosen.notices[0]


def test_a_bundle_that_says_nothing_of_its_training_is_judged_by_all_with_a_word(tmp_path: Path) -> None:
    chosen = choose_cases(bundle(tmp_path), CASES, DIGEST)
    assert list(chosen.cases) == CASES
    assert "do not say what its weights were trained on" in chosen.notices[0]


@pytest.mark.parametrize(
    "wrong", [{"weights_sha256": "0"}, {"fold": "1"}, {"folds": None}, {"dataset_sha256": None}], ids=str
)
def test_metadata_of_other_weights_or_half_told_are_no_origin(tmp_path: Path, wrong: dict[str, Any]) -> None:
    assert origin_of(bundle(tmp_path, fold=1)) is not None
    assert origin_of(bundle(tmp_path, **wrong)) is None


def test_there_is_no_sixth_fold_of_five(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are folds 0 to 4"):
        choose_cases(bundle(tmp_path), CASES, DIGEST, fold=5)


def test_the_folds_of_a_training_share_all_cases_among_them(tmp_path: Path) -> None:
    bundles = [bundle(tmp_path, str(fold), fold=fold, folds=3) for fold in range(3)]
    chosen = choose_across_folds(bundles, CASES, DIGEST)
    assert sorted(case.name for each in chosen for case in each.cases) == [case.name for case in CASES]
    assert all(each.seen[case.name] == NO for each in chosen for case in each.cases)
    assert [each.fold for each in chosen] == [0, 1, 2]


def test_bundles_that_are_not_all_folds_of_one_training_are_not_pooled(tmp_path: Path) -> None:
    two_of_three = [bundle(tmp_path, str(fold), fold=fold, folds=3) for fold in range(2)]
    with pytest.raises(UsageError, match=r"not all folds of one training.*folds 0 of 3, 1 of 3"):
        choose_across_folds(two_of_three, CASES, DIGEST)
    whole = [bundle(tmp_path, str(fold), fold=fold, folds=2) for fold in range(2)]
    with pytest.raises(UsageError, match="trained on another dataset"):
        choose_across_folds(whole, CASES, "e" * 64)
    with pytest.raises(UsageError, match="unknown"):
        choose_across_folds([*whole[:1], bundle(tmp_path)], CASES, DIGEST)

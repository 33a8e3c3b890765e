"""What a trained bundle carries of its training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from factories import SMALL_TRAINING
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.calibration import held_out_facts
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.fingerprint import Fingerprint
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.all_folds import train_all_folds
from scanloom.pipeline.training.dataset import read_dataset, split_cases
from scanloom.pipeline.training.ensemble_bundle import find_folds, make_ensemble
from scanloom.pipeline.training.options import TrainOptions
from scanloom.pipeline.training.train import train


@pytest.fixture
def options(crops: Path, own_store: Path) -> TrainOptions:
    return TrainOptions(crops, own_store / "RUN", folds=3, epochs=1, device="cpu", overrides=SMALL_TRAINING)


def silent(line: str | None, done: float | None = None) -> None:
    pass


def fingerprint_of(bundle) -> Fingerprint:
    return Fingerprint.from_json(bundle.metadata["fingerprint"])


def test_a_trained_bundle_has_the_fingerprint_of_the_cases_it_was_trained_on(options: TrainOptions) -> None:
    reads: list[Path] = []

    def read(path: Path):
        reads.append(path)
        return read_scan(path)

    trained = train(find_bundle("hippocampus_mr_unet"), options, silent, read, held_out_facts)
    training, held_out = split_cases(read_dataset(options.dataset), 0, 3)
    found = fingerprint_of(trained)
    assert found.cases == len(training)
    sizes = [max(read_scan(case.image).spatial_shape[0] for case in training)]
    assert found.size_voxels[0].most == max(sizes)
    assert found.held_out is not None
    assert 0 < found.held_out.cases <= len(held_out)
    assert len(reads) == len(set(reads)) == 2 * (len(training) + len(held_out))  # each file once


def test_a_training_on_all_cases_holds_none_out(options: TrainOptions) -> None:
    trained = train(find_bundle("hippocampus_mr_unet"), replace(options, fold=None), silent, read_scan, held_out_facts)
    found = fingerprint_of(trained)
    assert found.cases == len(read_dataset(options.dataset))
    assert found.held_out is None


def test_without_a_reader_a_bundle_says_nothing_of_data_that_it_was_not_trained_on(options: TrainOptions) -> None:
    source = find_bundle("hippocampus_mr_unet")
    assert "fingerprint" in source.metadata
    assert "fingerprint" not in train(source, options, silent).metadata


def test_a_bundle_that_can_not_predict_is_kept_all_the_same(options: TrainOptions) -> None:
    lines: list[str] = []

    def fail(*_: object) -> None:
        raise BundleError("no inferer")

    trained = train(
        find_bundle("hippocampus_mr_unet"),
        options,
        lambda line, done=None: lines.append(line) if line else None,
        read_scan,
        fail,  # type: ignore[arg-type]
    )
    assert fingerprint_of(trained).held_out is None
    assert "how sure the network is of held-out cases is not known: no inferer" in lines


@pytest.mark.slow
def test_an_ensemble_has_seen_what_its_folds_have_and_teaches_how_sure_to_be(options: TrainOptions) -> None:
    trained = train_all_folds(find_bundle("hippocampus_mr_unet"), options, silent, read_scan, held_out_facts)
    each = [fingerprint_of(bundle) for bundle in trained]
    made = make_ensemble(find_folds(options.run_folder), options.run_folder.parent / "ensemble")
    found = fingerprint_of(made)
    assert found.size_voxels[0].least == min(one.size_voxels[0].least for one in each)
    assert found.size_voxels[0].most == max(one.size_voxels[0].most for one in each)
    assert found.held_out is not None
    student = replace(options, fold=None, teacher=made, run_folder=options.run_folder.parent / "student")
    taught = train(find_bundle("hippocampus_mr_unet"), student, silent, read_scan, held_out_facts)
    assert fingerprint_of(taught).held_out == Fingerprint.from_json(made.metadata["fingerprint"]).held_out

"""What stands in the folder of a training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from factories import make_bundle
from scanloom.pipeline.training.run_folder import finish_bundle, pool_metrics


def write_metrics(folder: Path, rows: list[tuple[int, str, float]]) -> None:
    folder.mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "metric", "value"))
        writer.writerows(rows)


def test_the_pooled_metrics_are_those_of_each_folds_best_epoch_by_its_key_metric(tmp_path: Path) -> None:
    write_metrics(
        tmp_path / "fold0",
        [
            *((1, "train/loss", 9), (1, "val/v_rand", 0.8), (1, "val/dice/a", 0.9)),
            *((2, "val/v_rand", 0.9), (2, "val/dice/a", 0.7)),
        ],
    )
    write_metrics(tmp_path / "fold1", [(1, "val/v_rand", 0.7), (1, "val/dice/a", 0.5)])
    pooled = pool_metrics(tmp_path, 2, "val/v_rand")
    assert pooled["val/v_rand"] == pytest.approx((0.8, 0.1414), abs=1e-4)
    assert pooled["val/dice/a"] == pytest.approx((0.6, 0.1414), abs=1e-4)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        means = {row["metric"]: float(row["value"]) for row in csv.DictReader(file) if row["fold"] == "mean"}
    assert means == pytest.approx({"val/v_rand": 0.8, "val/dice/a": 0.6})


def test_a_trained_bundle_keeps_no_figure_of_the_weights_that_it_began_with(tmp_path: Path) -> None:
    old = {"training": {"fold": 1}, "measured_dice": {"fp32": 0.9}, "eval_metrics": {"dice": 0.9}, "fingerprint": {}}
    made = finish_bundle(make_bundle(tmp_path / "bundle", task="kept", **old), {"fold": 0})
    assert made.metadata["training"] == {"fold": 0, "weights_sha256": made.weights_sha256}
    assert made.metadata["task"] == "kept"
    assert not {"measured_dice", "eval_metrics", "fingerprint"} & made.metadata.keys()

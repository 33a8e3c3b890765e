"""What `scanloom bundle info` tells, and that nothing of the bundle runs for it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.bundling.facts import bundle_facts, score_of
from scanloom.pipeline.cli import app
from scanloom.pipeline.trust import record_trust
from typer.testing import CliRunner
from zoo import make_zoo_bundle

HEAVY = ("torch", "monai", "numpy", "mlflow", "pydicom", "nibabel", "matplotlib")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def info(*words: str) -> Any:
    return CliRunner().invoke(app, ["bundle", "info", *words])


def test_the_facts_of_the_shipped_bundle() -> None:
    facts = bundle_facts(find_bundle("hippocampus_mr_unet"))
    bundle = find_bundle("hippocampus_mr_unet")
    assert (facts["name"], facts["version"]) == (bundle.name, bundle.version)
    assert [label["name"] for label in facts["labels"]] == ["anterior", "posterior"]
    assert facts["labels"][0]["type"] == {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"}
    assert facts["series"]["modality"] == "MR" and facts["spacing_mm"] == [1.0, 1.0, 1.0]
    assert facts["windows_voxels"] == [144, 144, 144]
    assert facts["network"]["target"] == "scanloom.networks.UNet"
    assert facts["network"]["format"]["outputs"]["pred"]["num_channels"] == 3
    weights = bundle.weights.read_bytes()
    assert facts["weights"] == {
        "file": "models/model.pt",
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    assert facts["training"]["mlflow_run_id"] == bundle.metadata["training"]["mlflow_run_id"]
    assert facts["score"] == {"value": 0.8901, "what": "mean Dice in cross-validation"}
    assert facts["license"] == "Apache-2.0"
    assert facts["intended_use"].startswith("Research only")
    assert (facts["trust"]["state"], facts["trust"]["runs"]) == ("shipped", True)
    json.dumps(facts)


def test_the_facts_of_a_zoo_bundle(tmp_path: Path) -> None:
    facts = bundle_facts(make_zoo_bundle(tmp_path / "bundle"))
    assert [(each["name"], each["type"]["meaning"]) for each in facts["labels"]] == [
        ("spleen", "Spleen"),
        ("left kidney", "Kidney"),
    ]
    assert facts["spacing_mm"] == [1.5, 1.5, 2.0] and facts["windows_voxels"] == [16, 16, 16]
    assert facts["series"]["modality"] == "MR"
    assert facts["training"] is None and facts["score"] is None and facts["fingerprint"] is None
    assert facts["trust"]["state"] == "untrusted" and not facts["trust"]["runs"]


def test_a_fingerprint_is_told_in_medians(tmp_path: Path) -> None:
    spread = {"least": 0.5, "p10": 0.7, "median": 0.8, "p90": 0.9, "most": 1.0}
    fingerprint = {"cases": 9, "modality": "CT", "spacing_mm": [spread, spread, spread], "labels": {}}
    facts = bundle_facts(make_bundle(tmp_path / "bundle", fingerprint=fingerprint))
    assert facts["fingerprint"] == {"cases": 9, "modality": "CT", "median_spacing_mm": [0.8, 0.8, 0.8]}


@pytest.mark.parametrize("broken", ["labels", "weights", "config", "series", "network_def"])
def test_a_broken_bundle_is_told_as_far_as_it_goes(tmp_path: Path, broken: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", fingerprint="none", **{"label_classes": 3} if broken == "labels" else {})
    if broken == "weights":
        bundle.weights.unlink()
    if broken == "config":
        bundle.config("inference").write_text("[")
    metadata = dict(bundle.metadata)
    if broken == "series":
        metadata["series_selection"] = 5
    if broken == "network_def":
        bundle.config("inference").write_text('{"network_def": "$1"}')
    (bundle.folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    facts = bundle_facts(find_bundle(bundle.folder))
    assert facts["name"] == "tiny"
    assert (facts["labels"] == []) == (broken == "labels")
    assert (facts["weights"] is None) == (broken == "weights")
    assert (facts["series"] is None) == (broken == "series")
    assert (facts["network"]["target"] is None) == (broken in ("config", "network_def"))


@pytest.mark.parametrize(
    ("metadata", "score"),
    [
        ({}, None),
        ({"training": {"cross_validation": {"mean": 0.9}}, "eval_metrics": {"mean_dice": 0.8}}, 0.9),
        ({"eval_metrics": {"note": "good", "mean_dice": 0.8}}, 0.8),
        ({"measured_dice": {"fp32": 0.7}}, 0.7),
        ({"training": [], "eval_metrics": "good"}, None),
    ],
)
def test_the_score_is_the_cross_validations_or_the_metadatas(tmp_path: Path, metadata: Any, score: Any) -> None:
    found = score_of(make_bundle(tmp_path, **metadata))
    assert (found and found["value"]) == score


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("                Apache License\n           Version 2.0", "Apache-2.0"),
        ("MIT License\n\nCopyright", "MIT"),
        ("Creative Commons\nAttribution-ShareAlike 4.0 International", "CC-BY-SA-4.0"),
        ("\n\nMine alone\nmore", "Mine alone"),
        ("", None),
    ],
)
def test_a_licence_is_known_by_its_first_lines(tmp_path: Path, text: str, known: str | None) -> None:
    bundle = make_bundle(tmp_path)
    (tmp_path / "LICENSE").write_text(text)
    assert bundle_facts(bundle)["license"] == known


def test_the_command_prints_words_or_json(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    record_trust(bundle)
    assert "1 part1: Anatomical Structure (SCT 91723000), Hippocampus (SCT 5366008)" in info(str(bundle.folder)).output
    assert json.loads(info(str(bundle.folder), "--json").stdout)["trust"]["state"] == "trained"
    bundle.config("inference").write_text("{}")
    changed = json.loads(info(str(bundle.folder), "--json").stdout)["trust"]
    assert (changed["state"], changed["changes"]) == ("changed", ["configs/inference.yaml was changed"])
    missing = info("nothing")
    assert missing.exit_code == 1 and "no bundle 'nothing'" in missing.output


@pytest.mark.parametrize(
    "words", [["info", "hippocampus_mr_unet"], ["info", "hippocampus_mr_unet", "--json"], ["list"], ["list", "--json"],
              ["trust", "--list"]]
)  # fmt: skip
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    code = (
        "import sys; from scanloom.pipeline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        f"finally: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, "bundle", *words], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert result.stdout

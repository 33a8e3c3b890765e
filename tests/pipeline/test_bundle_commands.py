"""The command line's `bundle` group."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from factories import make_affine, make_bundle, write_nifti
from scanloom.pipeline import cli
from scanloom.pipeline.bundle import SHIPPED, bundle_digest, find_bundle
from scanloom.pipeline.trust import record_trust, require_trust
from typer.testing import CliRunner

LIKE = "hippocampus_mr_unet"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two cases of noise with a labelled box."""
    folder, listed = tmp_path / "dataset", []
    for number in range(2):
        entry = {kind: f"{kind}s/{number}.nii.gz" for kind in ("image", "label")}
        image = np.random.default_rng(number).normal(size=(20, 22, 24)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[5:9, 5:9, 5:9] = 1
        write_nifti(folder / entry["image"], image, make_affine())
        write_nifti(folder / entry["label"], label, make_affine())
        listed.append(entry)
    description = {"labels": {"0": "background", "1": "box"}, "modality": "MR", "training": listed, "numTraining": 3}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def init(*words: str | Path):
    return CliRunner().invoke(cli.app, ["bundle", "init", *map(str, words)])


def test_a_new_bundle_is_written_told_and_trusted(dataset: Path, tmp_path: Path) -> None:
    result = init("boxes", "--like", LIKE, "-d", dataset, "-o", tmp_path / "new", "--budget", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "new")
    assert "boxes, like hippocampus_mr_unet" in result.stdout and "1 x 1.5 x 2 mm" in result.stdout
    assert result.stderr == "scanloom: dataset.json: numTraining is 3, but 2 cases are listed.\n"
    require_trust(find_bundle(tmp_path / "new"))


def test_the_folder_is_called_like_the_bundle_where_none_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init("boxes", "--like", LIKE, "-d", dataset).exit_code == 0
    assert find_bundle(tmp_path / "boxes").name == "boxes"


def test_faults_of_the_data_are_told_with_status_3(dataset: Path, tmp_path: Path) -> None:
    for number in range(2):
        (dataset / f"labels/{number}.nii.gz").unlink()
    result = init("boxes", "--like", LIKE, "-d", dataset, "-o", tmp_path / "new")
    assert result.exit_code == 3
    assert "2 faults in 2 files" in result.stderr and "labels/1.nii.gz: is missing" in result.stderr


def test_a_strangers_template_is_not_made_trusted(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / LIKE, tmp_path / "like", ignore=shutil.ignore_patterns("models"))
    words = ("boxes", "--like", tmp_path / "like", "-d", dataset, "-o", tmp_path / "new")
    result = init(*words)
    assert result.exit_code == 1 and "can run any code" in result.stderr and not (tmp_path / "new").exists()
    assert init(*words, "--trust-bundle").exit_code == 0


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--like", LIKE, "-d", "missing"], 2), (["--like", "no such", "-d", "."], 1), (["--like", LIKE], 2)],
)
def test_wrong_arguments_are_answered(words: list[str], status: int) -> None:
    assert init("boxes", *words).exit_code == status


def bundle_command(*words: str | Path):
    return CliRunner().invoke(cli.app, ["bundle", *map(str, words)])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("own_cache")
def test_a_packed_bundle_is_told_with_its_digests_and_is_a_bundle_itself(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle.folder / ".hidden").touch()
    record_trust(bundle)
    result = bundle_command("pack", tmp_path / "b", "-o", tmp_path / "p.zip")
    assert result.exit_code == 0, result.output
    content = (tmp_path / "p.zip").read_bytes()
    found = find_bundle(tmp_path / "p.zip")
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'p.zip'}: {len(content):,} bytes",
        f"SHA-256 of the bundle: {bundle_digest(found)}",
        f"SHA-256 of the zip: {hashlib.sha256(content).hexdigest()}",
        "left out: .hidden",
    ]
    require_trust(found)
    again = bundle_command("pack", tmp_path / "p.zip", "-o", tmp_path / "again.zip")
    assert again.exit_code == 0 and (tmp_path / "again.zip").read_bytes() == content


@pytest.mark.parametrize("words", [["pack", "no such"], ["export", "no such", "--to", "pt2", "-o", "n.pt2"]])
def test_what_is_no_bundle_is_neither_packed_nor_exported(words: list[str]) -> None:
    result = bundle_command(*words)
    assert result.exit_code == 1 and result.stderr.startswith("scanloom: no bundle 'no such'")
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("own_cache")
def test_an_exported_network_is_told_with_its_checks_where_the_bundle_is_trusted(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b")
    assert bundle_command("pack", tmp_path / "b", "-o", tmp_path / "p.zip").exit_code == 0
    words = ("export", tmp_path / "p.zip", "--to", "torchscript", "-o", tmp_path / "n.ts")
    refused = bundle_command(*words)
    assert refused.exit_code == 1 and "--trust-bundle" in refused.stderr and not (tmp_path / "n.ts").exists()
    result = bundle_command(*words, "--trust-bundle")
    assert result.exit_code == 0, result.output
    first, second, *checks = result.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'n.ts'}: {(tmp_path / 'n.ts').stat().st_size:,} bytes, SHA-256 ")
    assert second == "takes any batch, x, y, z; torch.jit.load reads it"
    assert len(checks) == 2 and all("labels agree in 100.0000%" in check for check in checks)

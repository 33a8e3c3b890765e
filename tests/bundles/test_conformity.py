"""The shipped bundles as MONAI's own programs take them, from a folder that is not theirs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from monai.data import load_net_with_metadata
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle, shipped_bundles
from scanloom.pipeline.bundle_network import load_network
from scanloom.pipeline.bundling.made_up import make_up_scan

CASES = 4
SMALL = {"epochs": 1, "folds": 2, "fold": 1, "batch_size": 2, "crops_a_slice": 1}
"""What makes a run small, where a config has such an id."""
TRAINED = [name for name in shipped_bundles() if (SHIPPED / name / "models" / "model.pt").is_file()]

every_bundle = pytest.mark.parametrize("name", shipped_bundles())
every_trained_bundle = pytest.mark.parametrize("name", TRAINED)


def content(bundle: Bundle, config: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(bundle.config(config).read_text(encoding="utf-8"))
    return found


def small(bundle: Bundle, config: str) -> dict[str, int]:
    return {key: value for key, value in SMALL.items() if key in content(bundle, config)}


def tensors(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    formats = bundle.metadata["network_data_format"]
    return formats["inputs"]["image"], formats["outputs"]["pred"]


def write_dataset(bundle: Bundle, folder: Path) -> Path:
    """Four made-up scans with labels, as a Medical Decathlon folder."""
    image, pred = tensors(bundle)
    listed = []
    for case in range(CASES):
        here = folder / f"{case}"
        here.mkdir(parents=True)
        scan = make_up_scan(
            here,
            bundle.series_rule,
            channels=image["num_channels"],
            labels=pred["num_channels"] - 1,
            planes=len(image["spatial_shape"]) == 2,
            seed=case,
        )
        entry = {}
        for kind, path in (("image", scan.images[0]), ("label", scan.label)):
            entry[kind] = f"{kind}s/case_{case}{''.join(path.suffixes)}"
            (folder / f"{kind}s").mkdir(exist_ok=True)
            shutil.move(path, folder / entry[kind])
        listed.append(entry)
        shutil.rmtree(here)
    labels = {"0": "background"} | {str(label.value): label.name for label in bundle.labels}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": listed}), encoding="utf-8")
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The folder that everything runs in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def monai(elsewhere: Path, *words: object, **options: object) -> str:
    """What `python -m monai.bundle` says; it has to succeed, and to leave nothing where it ran."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *map(str, words)]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    assert [*elsewhere.iterdir()] == []
    return result.stdout + result.stderr


def files_of(bundle: Bundle) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in bundle.folder.rglob("*") if path.is_file()}


@every_bundle
@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
def test_every_property_that_monai_requires_resolves(
    name: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = find_bundle(name)
    monkeypatch.chdir(tmp_path)
    path, dataset = str(bundle.config(config)), write_dataset(bundle, tmp_path / "dataset")
    workflow = ConfigWorkflow(
        path,
        str(bundle.folder / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train" if config == "train" else "infer",
        dataset_dir=str(dataset / "images" if config == "inference" else dataset),
        output_dir=str(tmp_path / "out"),
        bundle_root=str(bundle.folder),
        device="$torch.device('cpu')",
        **small(bundle, config),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.version == bundle.version
    assert workflow.network_def.training is True
    assert len(workflow.train_dataset if config == "train" else workflow.dataset) >= CASES // 2


@pytest.mark.slow
@every_bundle
@pytest.mark.parametrize("config", ["train", "inference", "evaluate"])
def test_the_network_takes_and_makes_what_the_metadata_say(name: str, config: str, elsewhere: Path) -> None:
    bundle = find_bundle(name)
    options = {"meta_file": bundle.folder / "configs" / "metadata.json", "config_file": bundle.config(config)}
    sizes = [{}, {"n": 33, "p": 3}] if config == "inference" else [{}]  # the networks are the same
    for size in sizes:
        assert "verified with no error" in monai(elsewhere, "verify_net_in_out", "network_def", **options, **size)


@pytest.mark.slow
@every_trained_bundle
def test_inference_labels_every_image_on_its_own_grid(name: str, tmp_path: Path, elsewhere: Path) -> None:
    bundle = find_bundle(name)
    dataset = write_dataset(bundle, tmp_path / "dataset")
    given = dataset / "images"
    monai(elsewhere, "run", config_file=bundle.config("inference"), dataset_dir=given, output_dir=tmp_path / "out")
    written = sorted((tmp_path / "out").rglob("*_labels.*"))
    assert [path.name.partition("_labels")[0] for path in written] == [f"case_{case}" for case in range(CASES)]
    size = [length for length in nibabel.load(written[0]).shape if length > 1]
    image, pred = tensors(bundle)
    assert len(size) == len(image["spatial_shape"])
    for path in written:
        labels = np.asarray(nibabel.load(path).dataobj)
        assert set(np.unique(labels)) <= set(range(pred["num_channels"]))


@pytest.mark.slow
@every_trained_bundle
def test_evaluation_scores_the_held_out_fold_without_naming_folders(name: str, tmp_path: Path, elsewhere: Path) -> None:
    bundle = find_bundle(name)
    options = {"dataset_dir": write_dataset(bundle, tmp_path / "dataset"), "output_dir": tmp_path / "out"}
    monai(elsewhere, "run", config_file=bundle.config("evaluate"), **options, **small(bundle, "evaluate"))
    with (tmp_path / "out" / "val_dice_raw.csv").open(newline="") as file:
        rows = [*csv.reader(file, delimiter="\t")]
    assert len(rows) == 1 + CASES // 2, rows
    assert all(0 <= float(value) <= 1 for row in rows[1:] for value in row[1:])
    assert not [row for row in rows for word in row if str(tmp_path) in word]


@pytest.mark.slow
@every_bundle
def test_training_writes_weights_that_fit_and_leaves_the_bundle_alone(
    name: str, tmp_path: Path, elsewhere: Path
) -> None:
    bundle = find_bundle(name)
    before = files_of(bundle)
    options = {"dataset_dir": write_dataset(bundle, tmp_path / "dataset"), "output_dir": tmp_path / "out"}
    monai(elsewhere, "run", config_file=bundle.config("train"), **options, **small(bundle, "train"))
    state = torch.load(tmp_path / "out" / "model.pt", map_location="cpu", weights_only=True)
    parser = ConfigWorkflow(str(bundle.config("inference")), logging_file=False).parser
    parser.get_parsed_content("network_def").load_state_dict(state.get("model", state))
    assert files_of(bundle) == before


def export_options(bundle: Bundle, path: Path) -> dict[str, object]:
    return {
        "filepath": path,
        "ckpt_file": bundle.weights,
        "meta_file": bundle.folder / "configs" / "metadata.json",
        "config_file": bundle.config("inference"),
    }


def example(bundle: Bundle, *lengths: int) -> torch.Tensor:
    image, _ = tensors(bundle)
    size = lengths[: len(image["spatial_shape"])]
    return torch.randn(1, image["num_channels"], *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, that TorchScript is
@every_trained_bundle
def test_torchscript_of_a_bundle_has_its_logits_and_metadata(name: str, tmp_path: Path, elsewhere: Path) -> None:
    bundle = find_bundle(name)
    monai(elsewhere, "ckpt_export", "network_def", **export_options(bundle, tmp_path / "model.ts"))
    scripted, metadata, extra = load_net_with_metadata(str(tmp_path / "model.ts"), more_extra_files=["inference.json"])
    assert {**bundle.metadata} == {key: metadata[key] for key in bundle.metadata}
    assert json.loads(extra["inference.json"])["network_def"] == content(bundle, "inference")["network_def"]
    network = load_network(bundle).eval()
    for lengths in ((40, 33, 21), (64, 32, 32)):
        image = example(bundle, *lengths)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), network(image))


@pytest.mark.slow
@every_trained_bundle
def test_onnx_of_a_bundle_has_its_logits(name: str, tmp_path: Path, elsewhere: Path) -> None:
    bundle = find_bundle(name)
    image = example(bundle, 32, 48, 32)
    options = export_options(bundle, tmp_path / "model.onnx") | {"input_shape": str(list(image.shape))}
    monai(elsewhere, "onnx_export", "network_def", **options)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        expected = load_network(bundle).eval()(image).numpy()
    # onnxruntime folds batch norms into convolutions and sums in another order
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(expected).max()))

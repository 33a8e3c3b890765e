"""The shipped bundle: complete, of one mind in all its configs, running from any folder, right on real data."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from factories import make_affine, write_nifti
from monai.bundle import ConfigParser
from pydicom.sr.codedict import codes
from scanloom.pipeline.bundle import SHIPPED, find_bundle
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.inference.prepare import canonical
from scanloom.pipeline.inference.tiling import plan_tiles
from scanloom.pipeline.studies import find_series, read_series

FOLDER = SHIPPED / "hippocampus_mr_unet"
CONFIGS = ("train", "inference", "evaluate")
MODEL_BYTES = 25e6
ANTERIOR, POSTERIOR = 1, 2


def config(name):
    return yaml.safe_load((FOLDER / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))


def of_image(step):
    """What a step of the preprocessing does to the image, whatever it does to the label."""
    keys = [step["keys"]] if isinstance(step["keys"], str) else step["keys"]
    place = keys.index("image")
    mode = step.get("mode")
    return {**step, "keys": "image"} | ({"mode": mode[place]} if isinstance(mode, list) else {})


@pytest.mark.parametrize(
    "file",
    [
        "configs/metadata.json",
        "configs/train.yaml",
        "configs/inference.yaml",
        "configs/evaluate.yaml",
        "configs/logging.conf",
        "docs/README.md",
        "LICENSE",
        "models/model.pt",
    ],
)
def test_the_bundle_is_complete(file):
    assert (FOLDER / file).stat().st_size > 0


def test_the_weights_are_small_and_fit_the_network_without_running_code():
    path = FOLDER / "models" / "model.pt"
    assert path.stat().st_size <= MODEL_BYTES
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert all(isinstance(value, torch.Tensor) and value.isfinite().all() for value in state.values())
    network = ConfigParser(config("inference")).get_parsed_content("network_def")
    network.load_state_dict(state)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 1, 9, 12, 10)).shape == (1, 3, 9, 12, 10)


def test_the_network_is_the_same_in_all_configs():
    train, inference, evaluate = (config(name)["network_def"] for name in CONFIGS)
    assert train == inference == evaluate


def test_the_image_is_prepared_alike_in_all_configs():
    steps = [
        config("train")["preprocessing_steps"],
        *(config(name)["preprocessing"]["transforms"] for name in ("inference", "evaluate")),
    ]
    train, inference, evaluate = ([of_image(step) for step in each] for each in steps)
    assert train == inference == evaluate


def test_training_augments_by_our_transforms_alone():
    steps = config("train")["train"]["augmentation"]
    named = [step["transform"]["_target_"] for step in steps]
    assert named == ["scanloom.transforms.RandSpatialDeformationd", "scanloom.transforms.RandIntensityd"]
    parsed = ConfigParser({"steps": steps}).get_parsed_content("steps")
    batch = {"image": torch.randn(2, 1, 8, 9, 7), "label": torch.randint(0, 3, (2, 1, 8, 9, 7)).float()}
    for step in parsed:
        batch = step(batch)
    assert batch["image"].shape == (2, 1, 8, 9, 7)
    assert set(batch["label"].unique().tolist()) <= {0, 1, 2}


def test_windows_and_averaging_are_those_that_were_evaluated():
    inference, evaluate = (config(name)["inferer"] for name in ("inference", "evaluate"))
    assert inference == evaluate
    inferer = ConfigParser(inference).get_parsed_content("")
    assert isinstance(inferer, StreamingInferer)
    network = ConfigParser(config("inference")).get_parsed_content("network_def")
    assert (
        plan_tiles(network.eval(), (256, 256, 256), inferer.roi_size).windows > 1
    )  # large enough for its receptive field


def test_bf16_costs_the_bundle_next_to_nothing():
    assert 0 <= abs(find_bundle(FOLDER.name).bf16_dice_cost) < 0.001


def test_the_metadata_names_what_the_network_gives():
    metadata = json.loads((FOLDER / "configs" / "metadata.json").read_text(encoding="utf-8"))
    output = metadata["network_data_format"]["outputs"]["pred"]
    network = config("inference")["network_def"]
    assert metadata["name"] == FOLDER.name
    assert output["num_channels"] == network["out_channels"] == 3
    assert output["channel_def"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == network["in_channels"]
    assert config("train")["label_names"] == [label.name for label in find_bundle(FOLDER.name).labels]


def test_labels_are_coded_as_snomed_codes_them():
    anterior, posterior = find_bundle(FOLDER.name).labels
    assert (anterior.value, anterior.name, posterior.value, posterior.name) == (1, "anterior", 2, "posterior")
    for label, modifier in ((anterior, codes.SCT.Anterior), (posterior, codes.SCT.Posterior)):
        assert (label.type.value, label.type.scheme) == (codes.SCT.Hippocampus.value, "SCT")
        assert (label.modifier.value, label.modifier.meaning) == (modifier.value, modifier.meaning)
        category = codes.CID7150.AnatomicalStructure
        assert (label.category.value, label.category.scheme) == (category.value, category.scheme_designator)
    assert anterior.color != posterior.color


def test_the_model_card_has_figures_the_command_behind_them_and_the_licence():
    card = (FOLDER / "docs" / "README.md").read_text(encoding="utf-8")
    for words in ("Dice", "fold 0", "configs/evaluate.yaml", "CC-BY-SA 4.0", "arXiv:1902.09063"):
        assert words in card, words
    assert "@" not in card, "a figure is still to be filled in"
    assert "Apache License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Four scans of two bright blocks, labelled, as a Medical Decathlon folder; oblique, for a real scan is."""
    folder, affine = tmp_path / "dataset", make_affine((1.0, 1.0, 1.0), (6, 0, 0))
    listed = []
    for case in range(4):
        labels = np.zeros((24, 30, 22), np.uint8)
        labels[6:16, 16 - case : 24, 6:14] = ANTERIOR
        labels[6:16, 4 + case : 16 - case, 6:14] = POSTERIOR
        noise = np.random.default_rng(case).normal(0, 10, labels.shape)
        image = (100 + 60 * labels + noise).astype(np.float32)
        name = f"case_{case}.nii.gz"
        write_nifti(folder / "images" / name, image, affine)
        write_nifti(folder / "labels" / name, labels, affine)
        listed.append({"image": f"images/{name}", "label": f"labels/{name}"})
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "training": listed}))
    return folder


def run_config(name: str, cwd: Path, **options: object) -> str:
    """`python -m monai.bundle run` on the shipped config, from a folder that is not the bundle's."""
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(FOLDER / "configs" / f"{name}.yaml"), *words]
    elsewhere = cwd / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not [*elsewhere.rglob("*.pt")]
    return result.stdout + result.stderr


@pytest.mark.slow
def test_inference_runs_from_any_folder(dataset, tmp_path):
    run_config("inference", tmp_path, dataset_dir=dataset, output_dir=tmp_path / "out")
    written = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert [path.name for path in written] == [f"case_{case}_labels.nii.gz" for case in range(4)]
    predictor = Predictor(find_bundle(FOLDER.name), "cpu")
    for path in written:
        labels = nibabel.load(path)
        source = nibabel.load(dataset / "images" / path.name.replace("_labels", ""))
        assert labels.get_data_dtype() == np.uint8
        np.testing.assert_allclose(labels.affine, source.affine, atol=1e-5)
        (series,) = find_series(dataset / "images" / path.name.replace("_labels", ""))
        assert (np.asarray(labels.dataobj) != predictor(read_series(series))).mean() < 1e-3  # ties of float32


@pytest.mark.slow
def test_evaluation_runs_from_any_folder(dataset, tmp_path):
    run_config("evaluate", tmp_path, dataset_dir=dataset, output_dir=tmp_path / "out", fold=1, folds=2)
    with (tmp_path / "out" / "val_dice_raw.csv").open(newline="") as file:
        rows = [*csv.reader(file, delimiter="\t")]
    assert len(rows) == 1 + 2, rows
    assert all(0 <= float(value) <= 1 for row in rows[1:] for value in row[1:])
    assert not [row for row in rows for word in row if str(tmp_path) in word]


@pytest.mark.slow
def test_training_runs_from_any_folder(dataset, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in FOLDER.rglob("*") if path.is_file())
    options = {"epochs": 1, "folds": 2, "batch_size": 2, "output_dir": tmp_path / "out"}
    run_config("train", tmp_path, dataset_dir=dataset, **options)
    state = torch.load(tmp_path / "out" / "model.pt", map_location="cpu", weights_only=True)
    ConfigParser(config("inference")).get_parsed_content("network_def").load_state_dict(state.get("model", state))
    assert sorted((path, path.stat().st_mtime_ns) for path in FOLDER.rglob("*") if path.is_file()) == before


@pytest.mark.slow
@pytest.mark.data
def test_both_acquisitions_of_the_study_get_the_labels_of_the_case_that_they_hold(data_folder):
    """Sagittal, oblique; reversed coronal, oblique; and the Decathlon's own file, straight."""
    predictor = Predictor(find_bundle(FOLDER.name), "cpu")
    (case,) = find_series(data_folder / "msd_hippocampus" / "images" / "hippocampus_003.nii.gz")
    scan = read_series(case)
    scan = replace(scan, array=np.rint(scan.array))
    expected = in_ras(predictor(scan), scan)
    assert {*np.unique(expected)} == {0, ANTERIOR, POSTERIOR}
    study = find_series(data_folder / "dicom" / "hippocampus_study")
    acquisitions = [series for series in study if series.slices >= 8]
    assert len(acquisitions) == 2
    for series in acquisitions:
        volume = read_series(series)
        labels = predictor(volume)
        assert labels.shape == volume.spatial_shape
        np.testing.assert_array_equal(in_ras(labels, volume), expected)
        front, back = (centroid_y(labels == value, volume.affine) for value in (ANTERIOR, POSTERIOR))
        assert front > back + 5


def in_ras(labels, volume):
    return canonical(replace(volume, array=labels[None])).array[0].astype(np.uint8)


def centroid_y(mask, affine):
    """Millimetres towards the front of the patient."""
    return float((affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3])[1])

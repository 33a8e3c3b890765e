"""The shipped bundle for membranes: complete, of one mind in all its configs, right on real pictures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from scanloom.pipeline.bundle import SHIPPED, find_bundle
from scanloom.pipeline.bundle_network import read_weights
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.made_up_cells import draw_cells
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.dataset import split_dataset
from scanloom.pipeline.training.dataset_check import check_dataset
from scanloom.pipeline.training.partitions import membrane_scores
from skimage.io import imread, imsave

FOLDER = SHIPPED / "membrane_em_resnetunet"
MODEL_BYTES = 25e6
MEMBRANE = 1


def config(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "configs" / f"{name}.yaml").read_text(encoding="utf-8")))


def card() -> str:
    return (FOLDER / "docs" / "README.md").read_text(encoding="utf-8")


def test_the_weights_are_small_and_fit_the_network() -> None:
    bundle = find_bundle(FOLDER.name)
    assert bundle.weights.stat().st_size <= MODEL_BYTES
    state = read_weights(bundle)
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    network = ConfigParser(config("inference")).get_parsed_content("network_def")
    network.load_state_dict(state)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 1, 40, 33)).shape == (1, 2, 40, 33)


def test_network_and_preprocessing_are_the_same_in_all_configs() -> None:
    train, inference, evaluate = (config(name) for name in ("train", "inference", "evaluate"))
    assert train["network_def"] == inference["network_def"] == evaluate["network_def"]
    assert inference["inferer"] == evaluate["inferer"]
    steps = [step["_target_"] for step in train["preprocessing_steps"]]
    steps.remove("SqueezeDimd")  # a slice is trained on as an image; the inferer takes the planes of a volume
    assert steps == [step["_target_"] for step in inference["preprocessing"]["transforms"]]


def test_elastic_deformation_is_central_as_in_the_paper() -> None:
    deformation = config("train")["train"]["augmentation"][0]["transform"]
    assert deformation["_target_"] == "scanloom.transforms.RandSpatialDeformationd"
    assert deformation["displacement"][1] == 10
    assert deformation["prob_elastic"] >= 0.5


def test_the_metadata_name_the_weights_and_the_training() -> None:
    bundle = find_bundle(FOLDER.name)
    training = bundle.metadata["training"]
    assert training["weights_sha256"] == bundle.weights_sha256
    assert training["fold"] is None
    assert re.fullmatch(r"[0-9a-f]{32}", training["mlflow_run_id"])


@pytest.mark.data
def test_the_cards_recipe_makes_a_dataset_without_faults(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = re.search(r"```python\n(.*?)```", card(), re.DOTALL)
    assert recipe
    for folder in ("images", "labels"):
        (tmp_path / "isbi2012" / folder).mkdir(parents=True)
        for name in range(8):
            source = data_folder / "isbi2012_membrane" / folder / f"{name:02d}.png"
            shutil.copy(source, tmp_path / "isbi2012" / folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(recipe[1], "card", "exec"), {})
    labels = {label.value: label.name for label in find_bundle(FOLDER.name).labels}
    found = check_dataset(tmp_path / "DATASET", labels, read_scan, slices=True)
    assert found.faults == ()
    assert len(found.cases) == 8
    split = split_dataset(tmp_path / "DATASET", 3, folds=4)
    assert [case["case"] for case in split.validation] == ["slice_06", "slice_07"]


@pytest.mark.data
def test_it_parts_cells_on_a_real_slice(data_folder: Path) -> None:
    """One that it was trained on: what it can do with others is in the card."""
    predictor = Predictor(find_bundle(FOLDER.name), "cpu")
    volume = read_scan(data_folder / "isbi2012_membrane" / "images" / "21.png")
    found = predictor(volume)[:, :, 0] == MEMBRANE
    truth = imread(data_folder / "isbi2012_membrane" / "labels" / "21.png").T == 0
    scores = membrane_scores([truth], [found.astype(float)], (0.5,))
    assert scores["v_rand"] > 0.94
    assert scores["pixel_error"] < 0.08


def test_a_stack_is_labelled_plane_by_plane(tmp_path: Path) -> None:
    picture = draw_cells()
    pages = np.stack([picture[:96, :96], picture[-96:, -96:]])
    imsave(tmp_path / "stack.tif", pages, check_contrast=False)
    volume = read_scan(tmp_path / "stack.tif")
    assert volume.spatial_shape == (96, 96, 2)
    labels = Predictor(find_bundle(FOLDER.name), "cpu", precision="fp32")(volume)
    assert labels.shape == (96, 96, 2)
    assert 0.03 < (labels == MEMBRANE).mean() < 0.6
    assert not np.array_equal(labels[..., 0], labels[..., 1])


def test_the_cards_figures_are_those_of_the_metadata() -> None:
    measured = json.loads((FOLDER / "configs" / "metadata.json").read_text())["training"]["held_out_block"]
    for name in ("v_rand", "v_info", "pixel_error", "rand_error"):
        assert f"{measured[name]:.4f}" in card()

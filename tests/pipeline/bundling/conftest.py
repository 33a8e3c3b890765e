"""Whole, small bundles to plant faults in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from planting import change_config, change_metadata, save_weights
from scanloom.networks import UNet
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle

NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features": [2, 4], "padding": "same"}


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with a tiny network; not to be changed."""
    folder = tmp_path_factory.mktemp("good") / "tiny"
    shutil.copytree(SHIPPED / "hippocampus_mr_unet", folder, ignore=shutil.ignore_patterns("models"))
    (folder / "models").mkdir()
    for name in ("train", "inference", "evaluate"):
        change_config(folder, name, "network_def", {"_target_": "scanloom.networks.UNet", **NETWORK})
        text = (folder / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        (folder / "configs" / f"{name}.yaml").write_text(text.replace("144", "64"), encoding="utf-8")
    save_weights(folder, UNet(**NETWORK).state_dict())  # type: ignore[arg-type]
    change_metadata(folder, "name", "tiny")
    return folder


@pytest.fixture
def good_bundle(good_folder: Path, tmp_path: Path) -> Bundle:
    """A copy of it, to plant a fault in."""
    shutil.copytree(good_folder, tmp_path / "tiny")
    return find_bundle(tmp_path / "tiny")


@pytest.fixture
def flat_bundle(good_folder: Path, tmp_path: Path) -> Bundle:
    """The same for pictures: a 2D network that reads PNG as MONAI does, without labels' own configs to train."""
    folder = tmp_path / "flat"
    shutil.copytree(good_folder, folder, ignore=shutil.ignore_patterns("train.yaml", "evaluate.yaml"))
    network = NETWORK | {"spatial_dims": 2}
    change_config(folder, "inference", "network_def", {"_target_": "scanloom.networks.UNet", **network})
    change_config(folder, "inference", "inferer", {"_target_": "SlidingWindowInferer", "roi_size": [64, 64]})
    steps = [
        {"_target_": "LoadImaged", "keys": "image", "reader": "PILReader", "ensure_channel_first": True},
        {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [500, 500]},
        {"_target_": "ScaleIntensityd", "keys": "image"},
    ]
    change_config(folder, "inference", "preprocessing#transforms", steps)
    save_weights(folder, UNet(**network).state_dict())  # type: ignore[arg-type]
    for kind, name in (("inputs", "image"), ("outputs", "pred")):
        change_metadata(folder, f"network_data_format#{kind}#{name}#spatial_shape", ["n", "n"])
    change_metadata(folder, "series_selection", {})
    return find_bundle(folder)

"""A bundle in the layout of MONAI's Model Zoo: JSON configs for lists of NIfTI files, MONAI's own network, no codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scanloom.pipeline.bundle import Bundle, find_bundle

SOFTMAX_FIRST = (
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": False,
        "to_tensor": True,
    },
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
)
"""What most of the zoo's bundles do to the logits."""
CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": False}
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}


def make_zoo_bundle(
    folder: Path,
    *,
    spacing: Sequence[float] = (1.5, 1.5, 2.0),
    crop: bool = False,
    postprocessing: Sequence[Mapping[str, Any]] = SOFTMAX_FIRST,
    network: Mapping[str, Any] = NETWORK,
    channels: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Bundle:
    """Writes the bundle.

    Args:
        folder: of the bundle.
        spacing: that the preprocessing resamples to, in mm.
        crop: crop to the foreground before the windows.
        postprocessing: steps before the writer.
        network: its component.
        channels: names of the output's channels.
        config: ids of inference.json that replace those made here.
        seed: of the weights.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = channels or {"0": "background", "1": "spleen", "2": "left kidney"}
    described = {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json",
        "name": "Tiny CT segmentation",
        "version": "0.5.3",
        "changelog": {"0.5.3": "made for a test"},
        "task": "made up",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "modality": "MR", "num_channels": 1, "channel_def": {"0": "image"}}},
            "outputs": {"pred": {"type": "image", "num_channels": network["out_channels"], "channel_def": names}},
        },
    }
    settings = _inference(spacing, crop, postprocessing, network) | dict(config or {})
    (folder / "configs" / "metadata.json").write_text(json.dumps(described, indent=4))
    (folder / "configs" / "inference.json").write_text(json.dumps(settings, indent=4))
    _write_weights(folder / "models" / "model.pt", network, seed)
    return find_bundle(folder)


def _inference(
    spacing: Sequence[float],
    crop: bool,
    postprocessing: Sequence[Mapping[str, Any]],
    network: Mapping[str, Any],
) -> dict[str, Any]:
    steps = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(spacing), "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1000, "b_min": 0, "b_max": 1,
         "clip": True},
        *([CROP] if crop else []),
        {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
    ]  # fmt: skip
    writer = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "resample": False,
              "separate_folder": False, "output_postfix": "labels"}  # fmt: skip
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/Task09_Spleen",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 2, "overlap": 0.5},
        "postprocessing": {"_target_": "Compose", "transforms": [*map(dict, postprocessing), writer]},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }


def _write_weights(path: Path, network: Mapping[str, Any], seed: int) -> None:
    """Random weights whose biases give every channel its share of a noisy image."""
    import monai.networks.nets as nets
    import torch

    words = {key: value for key, value in network.items() if key != "_target_"}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        made = getattr(nets, str(network["_target_"]).rpartition(".")[2])(**words).eval()
        logits = made(torch.rand(1, 1, 16, 16, 16))
        last = [each for each in made.modules() if hasattr(each, "bias") and isinstance(each.bias, torch.Tensor)
                and len(each.bias) == logits.shape[1]][-1]  # fmt: skip
        last.bias -= logits.mean(dim=(0, 2, 3, 4))
    torch.save(made.state_dict(), path)

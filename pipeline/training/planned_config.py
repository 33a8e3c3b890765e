"""The configs of a bundle, set to a plan: which ids change, and to what.

docs/planning.md lists what a template must have. Components are found by their class, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yaml.nodes import MappingNode

from ..bundle import NETWORK, Bundle
from ..errors import BundleError
from .config_text import ConfigText
from .plan import Normalisation, Plan

NETWORK_CLASS = "scanloom.networks.UNet"
FREE_OF_THE_WINDOW = ("none", "batch", "batchrenorm")
"""Norms with which the network can be tiled without seams."""
NORMALISERS = ("NormalizeIntensityd", "ScaleIntensityRanged")
INFERERS = ("StreamingInferer", "SlidingWindowInferer")
INDICES = "_classes"
MOST_INDICES = 20_000
"""Places of a label that a case keeps for its crops."""
BACKGROUND_SHARE = 2 / 3
"""Of the crops that are centred on no label. Source: nnU-Net's 33 % of foreground."""

Windows = tuple[str, tuple[int, ...]]


def require_template(bundle: Bundle, configs: Mapping[str, ConfigText]) -> None:
    """Return where the configs have what a plan sets.

    Args:
        bundle: the template.
        configs: "train", "inference" and others.
    Raises:
        BundleError: they lack something; names the config and the id or component.
    """
    for name, config in configs.items():
        if name in ("train", "inference") or NETWORK in config:
            _require_network(bundle, name, config)
    for key in ("patch_size", "batch_size", "epochs"):
        if key not in configs["train"]:
            raise BundleError(f"bundle {bundle.name}: its train config has no {key} at its top. Take another template.")
    for name in ("train", "inference"):
        for classes in (("Spacingd",), NORMALISERS, INFERERS):
            if not any(configs[name].components(*classes)):
                raise BundleError(
                    f"bundle {bundle.name}: its {name} config has no {' or '.join(classes)}. Take another template."
                )


def set_network(config: ConfigText, plan: Plan, classes: int) -> None:
    """Depth, widths, strides and kernels of `network_def`, and its outputs.

    Args:
        config: has a `network_def` of ours.
        plan: the settings.
        classes: with the background.
    """
    network = config.at(NETWORK)
    assert isinstance(network, MappingNode)
    old = config.value(network)
    poolings = len(plan.strides)
    new = {
        "in_channels": 1,
        "out_channels": classes,
        "features": list(plan.features),
        "strides": [list(stride) for stride in plan.strides],
        "kernel_sizes": [list(kernel) for kernel in plan.kernel_sizes],
    }
    if "depth" in old:
        new["depth"] = poolings
    if "deep_supervision" in old:
        new["deep_supervision"] = min(int(old["deep_supervision"]), max(poolings - 1, 0))
    for key, value in new.items():
        config.set(network, key, value)


def set_training(config: ConfigText, plan: Plan, names: Sequence[str]) -> None:
    """The experiment's numbers, cropping and augmentation.

    Args:
        config: the train config.
        plan: the settings.
        names: of the labels.
    """
    numbers = {
        "patch_size": list(plan.patch_size),
        "roi_size": list(plan.patch_size),
        "batch_size": plan.batch_size,
        "epochs": plan.epochs,
        "val_interval": plan.validate_every,
        "label_names": list(names),
    }
    for key, value in numbers.items():
        if key in config:
            config.set(config.root, key, value)
    for cache in config.components("CacheDataset"):
        if plan.cache_rate < 1:
            config.set(cache, "cache_rate", plan.cache_rate)
    if plan.oversampled:
        for crop in config.components("RandSpatialCropd"):
            config.replace(crop, *_foreground_crop(config.value(crop), len(names) + 1))
    for deformation in config.components("RandSpatialDeformationd"):
        _set_deformation(config, deformation, plan)


def set_images(config: ConfigText, plan: Plan, classes: int, windows: Windows) -> None:
    """What happens to images in every config: spacing, intensities, windows, labels.

    Args:
        config: any of the bundle's.
        plan: the settings.
        classes: with the background.
        windows: mode and size, for inference.
    """
    for spacing in config.components("Spacingd"):
        config.set(spacing, "pixdim", list(plan.spacing_mm))
    for normaliser in config.components(*NORMALISERS):
        config.replace(normaliser, _normaliser(config.value(normaliser)["keys"], plan.normalisation))
    for discrete in config.components("AsDiscreted"):
        if isinstance(config.value(discrete).get("to_onehot"), int):
            config.set(discrete, "to_onehot", classes)
    mode, size = windows
    for inferer in config.components("StreamingInferer"):
        config.set(inferer, "roi_size", list(size))
        config.set(inferer, "mode", mode)
        config.set(inferer, "mirror_axes", list(plan.mirror_axes))
        if mode == "gaussian":
            config.set(inferer, "overlap", 0.5)
    for inferer in config.components("SlidingWindowInferer"):
        if isinstance(config.value(inferer).get("roi_size"), int | list):  # and no reference
            config.set(inferer, "roi_size", list(plan.patch_size))


def _require_network(bundle: Bundle, name: str, config: ConfigText) -> None:
    node = config.at(NETWORK)
    network: Any = config.value(node) if node is not None else None
    where = f"bundle {bundle.name}: {NETWORK} in its {name} config"
    if not isinstance(network, Mapping) or network.get("_target_") != NETWORK_CLASS:
        raise BundleError(f"{where} is no {NETWORK_CLASS}, which is what can be planned. Take another template.")
    if network.get("spatial_dims") != 3 or network.get("padding") != "same":
        raise BundleError(f'{where} is not 3D with padding "same", which is planned for. Take another template.')
    if network.get("out_channels", 2) < 2:
        raise BundleError(f"{where} has one output channel; one a label and the background is planned for.")


def _normaliser(keys: Any, how: Normalisation) -> dict[str, Any]:
    if how.kind != "clip":
        return {"_target_": "NormalizeIntensityd", "keys": keys} | ({"nonzero": True} if how.nonzero else {})
    low, high = ((value - how.mean) / how.std for value in (how.low, how.high))
    ends = {"a_min": how.low, "a_max": how.high, "b_min": low, "b_max": high}
    rounded = {key: float(f"{value:.6g}") for key, value in ends.items()}
    return {"_target_": "ScaleIntensityRanged", "keys": keys, **rounded, "clip": True}


def _foreground_crop(crop: Mapping[str, Any], classes: int) -> list[dict[str, Any]]:
    """Crops of which a third is centred on a label, each label alike, in place of crops anywhere."""
    label = next((key for key in crop["keys"] if key.startswith(("label", "seg", "mask"))), "label")
    each = (1 - BACKGROUND_SHARE) / (classes - 1)
    return [
        {
            "_target_": "ClassesToIndicesd",
            "keys": label,
            "indices_postfix": INDICES,
            "num_classes": classes,
            "max_samples_per_class": MOST_INDICES,
        },
        {
            "_target_": "RandCropByLabelClassesd",
            "keys": crop["keys"],
            "label_key": label,
            "spatial_size": crop["roi_size"],
            "ratios": [round(BACKGROUND_SHARE, 6), *[round(each, 6)] * (classes - 1)],
            "num_classes": classes,
            "num_samples": 1,
            "indices_key": f"{label}{INDICES}",
            "warn": False,
        },
    ]


def _set_deformation(config: ConfigText, node: MappingNode, plan: Plan) -> None:
    """Mirrored axes; along a thick axis nothing is rotated or displaced, as between slices there is little to see.

    Source: nnU-Net's augmentation in 2D for anisotropic patches.
    """
    config.set(node, "flip_axes", list(plan.mirror_axes))
    if plan.thick_axis is None:
        return
    settings = config.value(node)
    if not isinstance(settings.get("rotation"), str):  # a reference stays one
        rotation = settings.get("rotation", 30.0)
        config.set(node, "rotation", [rotation if axis == plan.thick_axis else 0 for axis in range(3)])
    if "displacement" in settings and not isinstance(settings["displacement"], str):
        displaced = settings["displacement"]
        config.set(node, "displacement", [0 if axis == plan.thick_axis else displaced for axis in range(3)])

"""A bundle made ready for inference: preprocessing, network with weights, inferer; volume in, labels out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch import nn

from ..bundle import Bundle
from ..device import describe_device, find_device
from ..errors import BundleError
from ..volume import Volume
from .prepare import canonical, labels_on_grid, prepare, to_source_order

NEEDED = ("network_def", "preprocessing", "inferer")


class Predictor:
    """Labels for volumes by one bundle.

    Args:
        bundle: its `inference` config names `network_def`, `preprocessing` and `inferer`.
        device: "auto", "cpu", "cuda", "cuda:1", "mps"; auto takes a GPU where there is one.
    Raises:
        BundleError: the config or the weights are missing or do not fit each other.
        UsageError: there is no such device.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = find_device(device)
        config = bundle.config("inference")
        parser = _parser(bundle, config)
        parser.update({"bundle_root": str(bundle.folder), "device": self.device})
        missing = [name for name in NEEDED if name not in parser]
        if missing:
            raise BundleError(f"bundle {bundle.name}: {config.name} has no {', '.join(missing)}. Add what is missing.")
        try:
            self.preprocessing = parser.get_parsed_content("preprocessing")
            self.inferer = parser.get_parsed_content("inferer")
            network = parser.get_parsed_content("network_def")
        except Exception as error:
            raise BundleError(
                f"bundle {bundle.name}: {config.name} can not be built: {_last_line(error)}. Mend the config."
            ) from error
        for name, built, kind in (("preprocessing", self.preprocessing, Compose), ("network_def", network, nn.Module)):
            if not isinstance(built, kind):
                raise BundleError(
                    f"bundle {bundle.name}: {config.name}: {name} is a {type(built).__name__}. "
                    f"Make it a {kind.__name__}."
                )
        self.network = _with_weights(network, bundle).to(self.device).eval()

    @property
    def device_name(self) -> str:
        """The device in words, for reports."""
        return describe_device(self.device)

    @torch.inference_mode()
    def __call__(self, volume: Volume) -> np.ndarray:
        """(X, Y, Z) integers on the volume's own grid."""
        turned = canonical(volume)
        prepared = prepare(turned, self.preprocessing)
        image = prepared["image"].as_tensor().unsqueeze(0).to(self.device)
        logits = _tensor(self.inferer(image, self.network))[0]
        return to_source_order(labels_on_grid(logits, prepared, self.preprocessing, turned), volume)


def _parser(bundle: Bundle, config: Path) -> ConfigParser:
    parser = ConfigParser()
    try:
        parser.read_config(str(config))
        parser.read_meta(str(config.parent / "metadata.json"))
    except Exception as error:
        raise BundleError(
            f"bundle {bundle.name}: {config.name} can not be read: {_last_line(error)}. It must be a mapping of ids."
        ) from error
    return parser


def _with_weights(network: nn.Module, bundle: Bundle) -> nn.Module:
    digest = bundle.weights_sha256
    try:
        state = torch.load(bundle.weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    except Exception as error:
        raise BundleError(
            f"bundle {bundle.name}: models/{bundle.weights.name} (SHA-256 {digest[:8]}…) does not fit network_def: "
            f"{_last_line(error)}. Train the bundle again, or restore its files."
        ) from error
    return network


def _tensor(output: Any) -> torch.Tensor:
    """The logits, where an inferer returns several outputs the first."""
    return output if isinstance(output, torch.Tensor) else next(iter(output))


def _last_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[-1].split())[:300]

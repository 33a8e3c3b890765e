"""A bundle's network: built from its inference config, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from .bundle import NETWORK, Bundle
from .errors import BundleError


def inference_config(bundle: Bundle) -> ConfigParser:
    """The inference config, with the bundle's folder and metadata in it, nothing of it built.

    Raises:
        BundleError: there is none, or it can not be read.
    """
    config = bundle.config("inference")
    parser = ConfigParser()
    try:
        parser.read_config(str(config))
        parser.read_meta(str(config.parent / "metadata.json"))
    except Exception as error:
        raise BundleError(
            f"bundle {bundle.name}: {config.name} can not be read: {last_line(error)}. It must be a mapping of ids."
        ) from error
    parser.update({"bundle_root": str(bundle.folder)})
    return parser


def load_network(bundle: Bundle) -> nn.Module:
    """The network that the bundle's inference config describes, with the bundle's weights, on the processor.

    Raises:
        BundleError: the config has no network, it can not be built, or the weights do not fit it.
    """
    parser = inference_config(bundle)
    parser.update({"device": torch.device("cpu")})
    where = f"bundle {bundle.name}: {bundle.config('inference').name}"
    if NETWORK not in parser:
        raise BundleError(f"{where} has no {NETWORK}. Add what is missing.")
    try:
        network = parser.get_parsed_content(NETWORK)
    except Exception as error:
        raise BundleError(f"{where} can not be built: {last_line(error)}. Mend the config.") from error
    if not isinstance(network, nn.Module):
        raise BundleError(f"{where}: {NETWORK} is a {type(network).__name__}. Make it a Module.")
    return with_weights(network, bundle)


def with_weights(network: nn.Module, bundle: Bundle) -> nn.Module:
    """The network itself, the bundle's weights loaded into it.

    Raises:
        BundleError: there are none, or they do not fit.
    """
    digest = bundle.weights_sha256
    try:
        network.load_state_dict(read_weights(bundle))
    except Exception as error:
        raise BundleError(
            f"bundle {bundle.name}: models/{bundle.weights.name} (SHA-256 {digest[:8]}…) does not fit network_def: "
            f"{last_line(error)}. Train the bundle again, or restore its files."
        ) from error
    return network


def read_weights(bundle: Bundle) -> Mapping[str, Any]:
    """The state dict in the bundle's weights file, on the processor."""
    state = torch.load(bundle.weights, map_location="cpu", weights_only=True)
    return state.get("model", state)


def last_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[-1].split())[:300]

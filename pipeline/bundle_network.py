"""A bundle's network: built from its inference config, with its weights."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from .bundle import NETWORK, Bundle
from .bundle_modules import make_importable
from .errors import BundleError

WRAPPERS = ("model", "state_dict")
"""Names under which training programs keep a state dict in their checkpoints."""


def inference_config(bundle: Bundle) -> ConfigParser:
    """The inference config, with the bundle's folder and metadata in it, nothing of it built.

    Raises:
        BundleError: there is none, or it can not be read.
    """
    config = bundle.config("inference")
    make_importable(bundle)
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
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(
            f"bundle {bundle.name}: models/{bundle.weights.name} (SHA-256 {digest[:8]}…) does not fit network_def: "
            f"{last_line(error)}. Train the bundle again, or restore its files."
        ) from error
    return network


def read_weights(bundle: Bundle) -> Mapping[str, Any]:
    """The state dict in the bundle's weights file, on the processor.

    Tensors alone are read, whatever the bundle or its user says; nothing in a pickle runs. A TorchScript file is a
    program, which is loaded for its tensors only where the bundle is trusted.

    Raises:
        BundleError: the file holds other things, or is a program of a bundle that is not trusted.
    """
    path, where = bundle.weights, f"bundle {bundle.name}: models/{bundle.weights.name}"
    if _is_torchscript(path):
        if not bundle.trusted:
            raise BundleError(
                f"{where} is TorchScript, a program. Trust the bundle with `scanloom bundle trust`, or put its state "
                "dict into models/model.pt."
            )
        return torch.jit.load(path, map_location="cpu").state_dict()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before the refusal
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise BundleError(
            f"{where} holds more than tensors{f' ({named[1]})' if named else ''}, which could run anything, and is not "
            "loaded. Have it saved anew: torch.save(network.state_dict(), 'model.pt')."
        ) from error
    if not isinstance(state, Mapping):
        raise BundleError(f"{where} holds a {type(state).__name__}. It must be a state dict.")
    return next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), state)


def _is_torchscript(path: Path) -> bool:
    """Whether it is an archive with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] in (["code"], ["constants.pkl"]) for name in archive.namelist())


def last_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[-1].split())[:300]

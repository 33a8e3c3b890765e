"""The weights: tensors alone, finite, and those of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..bundle import NETWORK, Bundle
from ..errors import BundleError
from .finding import MISSING, Finding

if TYPE_CHECKING:
    from torch import nn

MOST = 3
"""Findings of one kind; what goes on is summed up."""
TRAIN = "Train the bundle again, restore its weights, or mend network_def."


def weights_findings(bundle: Bundle) -> Iterator[Finding]:
    """A fault for weights that can not be read as tensors, and for each that holds infinities or NaN. Runs nothing."""
    if bundle.weights.is_file():
        file = _file(bundle)
        state = _state(bundle)
        if isinstance(state, Finding):
            yield state
            return
        broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
        for name in broken[:MOST]:
            yield Finding(file, name, "(NaN or infinite)", "the network would give nothing", TRAIN)
        yield from _more(file, broken)


def fit_findings(bundle: Bundle, network: nn.Module, config: str) -> Iterator[Finding]:
    """A fault for each weight that the network has not, or has in another shape, and each that is missing.

    Args:
        bundle: whose weights they are.
        network: as its inference config builds it.
        config: the file of that config.
    """
    state = _state(bundle) if bundle.weights.is_file() else {}
    if isinstance(state, Finding) or not state:
        return
    file, wanted = _file(bundle), network.state_dict()
    missing = [name for name in wanted if name not in state]
    strange = [name for name in state if name not in wanted]
    shapes = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    for name in missing[:MOST]:
        yield Finding(file, name, MISSING, f"{NETWORK} in {config} has this weight", TRAIN)
    for name in strange[:MOST]:
        yield Finding(file, name, _shape(state[name]), f"{NETWORK} in {config} has no such weight", TRAIN)
    for name in shapes[:MOST]:
        problem = f"{NETWORK} in {config} has {_shape(wanted[name])}"
        yield Finding(file, name, _shape(state[name]), problem, TRAIN)
    for names in (missing, strange, shapes):
        yield from _more(file, names)


def _state(bundle: Bundle) -> Mapping[str, Any] | Finding:
    import torch

    from ..bundle_network import read_weights

    try:
        state = read_weights(bundle)
    except BundleError as error:
        what, _, remedy = str(error).partition(": ")[2].partition(". ")
        return Finding(_file(bundle), "", "", what.partition(" ")[2] or what, remedy or TRAIN)
    except Exception as error:  # whatever unpickling makes of a broken file
        return Finding(_file(bundle), "", "", f"it can not be read as weights ({type(error).__name__})", TRAIN)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        remedy = 'Save it anew: torch.save(network.state_dict(), "model.pt").'
        return Finding(_file(bundle), "", "", "it holds no state dict of tensors", remedy)
    return state


def _more(file: str, names: list[str]) -> Iterator[Finding]:
    if len(names) > MOST:
        yield Finding(file, names[MOST], f"(and {len(names) - MOST} more)", "they have the same fault", TRAIN)


def _shape(value: Any) -> str:
    return " x ".join(map(str, value.shape)) or "a number"


def _file(bundle: Bundle) -> str:
    return f"models/{bundle.weights.name}"

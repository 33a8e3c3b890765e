"""The network as the configs describe it: the same in all, and as the metadata say. Nothing is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..bundle import NETWORK, Bundle
from .configs import BundleConfig, entry, written
from .finding import MISSING, Finding, shown
from .schema import METADATA

FREE = ("pretrained", "freeze", "dropout", "_desc_")
"""Arguments that say how a network begins and learns, not what it is: they may differ between the configs."""
FORMAT = "network_data_format"
ARGUMENTS = {
    "in_channels": f"{FORMAT}#inputs#image#num_channels",
    "out_channels": f"{FORMAT}#outputs#pred#num_channels",
    "num_classes": f"{FORMAT}#outputs#pred#num_channels",
}
"""Arguments of networks, and what the metadata call them."""
DEEPEST = 20


def network_findings(bundle: Bundle, configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """A fault where two configs have another network, or one has another than the metadata."""
    described = [
        (config, _expanded(config.get(NETWORK), config.whole)) for config in configs if config.get(NETWORK) is not None
    ]
    described.sort(key=lambda pair: pair[0].name != "inference")
    if not described:
        return
    first, network = described[0]
    yield from _against_metadata(bundle.metadata, first, network)
    for config, other in described[1:]:
        if not config.bases:
            yield from _differences(first, network, config, other)


def _differences(first: BundleConfig, network: Any, config: BundleConfig, other: Any) -> Iterator[Finding]:
    ours, theirs = _flat(network), _flat(other)
    for id in sorted({*ours, *theirs}):
        if ours.get(id, MISSING) != theirs.get(id, MISSING):
            value, expected = (shown(each[id]) if id in each else MISSING for each in (theirs, ours))
            problem = f"{first.file} has {expected} there"
            remedy = "Let all configs have the network that the weights are of."
            yield Finding(config.file, written(f"{NETWORK}::{id}" if id else NETWORK), value, problem, remedy)


def _against_metadata(metadata: Mapping[str, Any], config: BundleConfig, network: Any) -> Iterator[Finding]:
    if not isinstance(network, Mapping):
        return
    for argument, key in ARGUMENTS.items():
        given, wanted = network.get(argument), entry(metadata, key)
        if type(given) is int and isinstance(wanted, int) and given != wanted:
            problem = f"{NETWORK}#{argument} in {config.file} is {given}"
            yield Finding(METADATA, key, shown(wanted), problem, "Write the network's number of channels.")
    dims = network.get("spatial_dims")
    for key in (f"{FORMAT}#inputs#image#spatial_shape", f"{FORMAT}#outputs#pred#spatial_shape"):
        shape = entry(metadata, key)
        if type(dims) is int and isinstance(shape, list) and len(shape) != dims:
            problem = f"{NETWORK}#spatial_dims in {config.file} is {dims}"
            yield Finding(METADATA, key, shown(shape), problem, f"Give {dims} lengths, one an axis.")


def _expanded(value: Any, whole: Mapping[str, Any], depth: int = 0) -> Any:
    """The value with what it refers to (`@id`, `%id`) in the places of the references."""
    if depth > DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {str(key): _expanded(each, whole, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, whole, depth + 1) for each in value]
    if isinstance(value, str) and value[:1] in ("@", "%") and entry(whole, value[1:]) is not None:
        return _expanded(entry(whole, value[1:]), whole, depth + 1)
    return value


def _flat(network: Any) -> dict[str, Any]:
    """Ids within the network and what they hold, lists whole."""
    flat: dict[str, Any] = {}
    if not isinstance(network, Mapping):
        return {"": network}
    for key, value in network.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}::{id}" if id else str(key): each for id, each in _flat(value).items()}
        elif key not in FREE:
            flat[str(key)] = value
    return flat

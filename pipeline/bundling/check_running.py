"""The steps of the check that run what the bundle says: its network and its transforms are built and used."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ..bundle import NETWORK, Bundle
from ..errors import BundleError
from .check_forward import forward_findings
from .check_processing import processing_findings
from .check_weights import fit_findings
from .configs import BundleConfig, entry
from .finding import Finding, shown

if TYPE_CHECKING:
    from torch import nn

BUILD, FIT, FORWARD = "network is built", "network against the weights", "network against network_data_format"
PROCESSING = "pre- and post-processing on a made-up scan"
STEPS = (BUILD, FIT, FORWARD, PROCESSING)


class RunningSteps:
    """What can be said of a bundle only by running it.

    Args:
        bundle: trusted.
        configs: of it.
    """

    def __init__(self, bundle: Bundle, configs: Sequence[BundleConfig]) -> None:
        self.bundle, self.configs = bundle, configs

    def steps(self) -> list[tuple[str, Callable[[], Iterable[Finding]]]]:
        """Names and what does them, in order: those of `STEPS` that can be done."""
        file = f"configs/{self.bundle.config('inference').name}"
        network = self._network
        if isinstance(network, Finding):
            return [(BUILD, lambda: [network])]
        found: list[tuple[str, Callable[[], Iterable[Finding]]]] = [(BUILD, tuple)]
        found.append((FIT, _quiet(partial(fit_findings, self.bundle, network, file))))
        if _is_described(self.bundle.metadata):
            forward = partial(forward_findings, self.bundle.metadata, network)
            chains = partial(processing_findings, self.bundle, self.configs, network)
            found += [(FORWARD, _quiet(forward)), (PROCESSING, _quiet(chains))]
        return found

    @property
    def obstacle(self) -> str:
        """Why steps are not among them."""
        if isinstance(self._network, Finding):
            return "the network can not be built"
        return "network_data_format in configs/metadata.json does not say what the network takes and makes"

    @cached_property
    def _network(self) -> nn.Module | Finding:
        from torch import device, nn

        from ..bundle_network import inference_config, last_line

        file = f"configs/{self.bundle.config('inference').name}"
        try:
            with _quietly():
                parser = inference_config(self.bundle)
                parser["device"] = device("cpu")
                network = parser.get_parsed_content(NETWORK)
        except BundleError as error:
            return Finding(file, NETWORK, "", str(error).rstrip("."), "Mend the config.")
        except Exception as error:  # whatever the bundle's code raises
            value = shown(next((config.get(NETWORK) for config in self.configs if config.name == "inference"), None))
            return Finding(file, NETWORK, value, f"it can not be built: {last_line(error).rstrip('.')}", "Mend it.")
        if isinstance(network, nn.Module):
            return network.eval()
        return Finding(file, NETWORK, shown(type(network).__name__), "it is no network", "Make it a torch Module.")


def _is_described(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata say of image and pred how many channels and which sizes they have."""
    tensors = [entry(metadata, f"network_data_format#{place}") for place in ("inputs#image", "outputs#pred")]
    return all(
        isinstance(tensor, Mapping)
        and isinstance(tensor.get("num_channels"), int)
        and isinstance(tensor.get("spatial_shape"), list)
        for tensor in tensors
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """What the bundle prints goes to standard error, and what libraries warn and tell of nowhere."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _quiet(step: Callable[[], Iterable[Finding]]) -> Callable[[], list[Finding]]:
    def run() -> list[Finding]:
        with _quietly():
            return list(step())

    return run

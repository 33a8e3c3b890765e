"""The objects that a bundle's inference config describes: preprocessing, inferer, network, postprocessing; no more.

Readers, loaders, handlers, engines, `initialize` and `run` of a config are never made. Everything else of it, and so of
a bundle in the layout of MONAI's Model Zoo, is taken as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.transforms import Compose, Orientationd
from torch import nn

from ..bundle import Bundle
from ..bundle_network import inference_config, last_line
from ..errors import BundleError
from .postprocessing import Postprocessing, read_postprocessing, without_writers
from .streaming import StreamingInferer

NEEDED = ("network_def", "preprocessing", "inferer")
POSTPROCESSING = "postprocessing"


@dataclass(frozen=True)
class BuiltBundle:
    """What predicting needs.

    Attributes:
        preprocessing: on the key "image".
        inferer: MONAI's sliding windows have become ours.
        network: without the bundle's weights.
        postprocessing: what becomes of the logits.
        channels: of the network's input as the metadata have it; None where they do not say.
    """

    preprocessing: Compose
    inferer: Inferer
    network: nn.Module
    postprocessing: Postprocessing
    channels: int | None

    @property
    def orients(self) -> bool:
        """Whether the preprocessing brings every scan into one order of axes."""
        return any(isinstance(step, Orientationd) for step in self.preprocessing.flatten().transforms)


def build_bundle(bundle: Bundle, device: torch.device) -> BuiltBundle:
    """The objects of the bundle's inference config.

    Args:
        bundle: trusted, for this runs its config.
        device: what the id `device` of the config is.
    Raises:
        BundleError: the config lacks one, it can not be made, or what it makes is no label a voxel.
    """
    config = bundle.config("inference")
    where = f"bundle {bundle.name}: {config.name}"
    parser = inference_config(bundle)
    parser.update({"device": device})
    missing = [name for name in NEEDED if name not in parser]
    if missing:
        raise BundleError(f"{where} has no {', '.join(missing)}. Add what is missing.")
    has_post = POSTPROCESSING in parser and parser[POSTPROCESSING] is not None
    if has_post:
        parser[POSTPROCESSING] = without_writers(parser[POSTPROCESSING])
    try:
        preprocessing, inferer, network = (
            parser.get_parsed_content(name) for name in ("preprocessing", "inferer", "network_def")
        )
        post = parser.get_parsed_content(POSTPROCESSING) if has_post else None
    except Exception as error:
        raise BundleError(f"{where} can not be built: {last_line(error)}. Mend the config.") from error
    for name, built, kind in (("preprocessing", preprocessing, Compose), ("network_def", network, nn.Module)):
        if not isinstance(built, kind):
            raise BundleError(f"{where}: {name} is a {type(built).__name__}. Make it a {kind.__name__}.")
    postprocessing = read_postprocessing(post, preprocessing) if post is not None else Postprocessing()
    if postprocessing.thresholds and (_channels(bundle, "outputs", "pred") or 1) > 1:
        raise BundleError(
            f"{where}: postprocessing compares each channel with a threshold, so that its labels may overlap, where a "
            "voxel can have one label here. Take a bundle that takes the largest (AsDiscreted with argmax)."
        )
    if type(inferer) is SlidingWindowInferer:
        inferer = StreamingInferer.like(inferer)
    if isinstance(inferer, StreamingInferer):
        inferer.output = "labels"
    return BuiltBundle(preprocessing, inferer, network, postprocessing, _channels(bundle, "inputs", "image"))


def _channels(bundle: Bundle, side: str, name: str) -> int | None:
    """`num_channels` of network_data_format; None where the metadata do not say."""
    try:
        return int(bundle.metadata["network_data_format"][side][name]["num_channels"])
    except (KeyError, TypeError, ValueError):
        return None

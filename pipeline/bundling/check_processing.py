"""Pre- and post-processing of the configs, run on a made-up scan: there, through the network, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from .configs import BundleConfig, entry, holds, written
from .finding import Finding, shown
from .made_up import MadeUpScan, make_up_scan, read_voxels

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from torch import nn

FORMAT = "network_data_format"
ALIKE = 0.5
"""Correlation below which a scan that was prepared and led back is another; resampling leaves far more."""


@dataclass(frozen=True)
class Chain:
    """Ids of a config whose transforms belong together: into the network, and out of it.

    Attributes:
        before, inferer, after: the ids; those without an inferer end before the network.
        labelled: whether its data have labels.
    """

    before: str
    inferer: str | None = None
    after: str | None = None
    labelled: bool = True


CHAINS = {
    "inference": (Chain("preprocessing", "inferer", "postprocessing", labelled=False),),
    "evaluate": (Chain("preprocessing", "inferer", "postprocessing"),),
    "train": (
        Chain("train::preprocessing"),
        Chain("validate::preprocessing", "validate::inferer", "validate::postprocessing"),
    ),
}


def processing_findings(bundle: Bundle, configs: Sequence[BundleConfig], network: nn.Module) -> Iterator[Finding]:
    """A fault for each chain of transforms that fails, or does not lead back to the scan's own grid.

    Args:
        bundle: may run.
        configs: of it; its metadata say channels and sizes of image and pred.
        network: of the inference config, in evaluation.
    """
    channels, shape = (
        entry(bundle.metadata, f"{FORMAT}#inputs#image#{key}") for key in ("num_channels", "spatial_shape")
    )
    outputs = entry(bundle.metadata, f"{FORMAT}#outputs#pred#num_channels")
    with TemporaryDirectory() as name:
        labels = max(outputs - 1, 1)
        scan = make_up_scan(Path(name), bundle.series_rule, channels=channels, labels=labels, planes=len(shape) == 2)
        for config in configs:
            for chain in () if config.bases else CHAINS.get(config.name, ()):
                if holds(config.whole, chain.before):
                    yield from _Run(bundle, config, chain, scan, Path(name), channels, outputs).findings(network)


@dataclass(frozen=True)
class _Run:
    """One chain of one config on the scan."""

    bundle: Bundle
    config: BundleConfig
    chain: Chain
    scan: MadeUpScan
    folder: Path
    channels: int
    outputs: int

    def findings(self, network: nn.Module) -> Iterator[Finding]:
        """Of the first step that fails."""
        chain, state = self.chain, dict[str, Any]()
        parser = self._parser()
        try:
            step = chain.before
            before = parser.get_parsed_content(step)
            state = before(self._sample())
            yield from self._image(state)
            if chain.inferer is None or not holds(self.config.whole, chain.inferer):
                return
            step = chain.inferer
            state["pred"] = self._logits(parser.get_parsed_content(step), state["image"], network)
            yield from self._channels(state["pred"])
            step = chain.before
            if not chain.labelled:
                yield from self._inverse(before, state)
            if chain.after is not None and holds(self.config.whole, chain.after):
                step = chain.after
                state = parser.get_parsed_content(step)(state)
                yield from self._result(state)
        except Exception as error:  # whatever the bundle's transforms raise
            yield self._failure(step, error)

    def _parser(self) -> ConfigParser:
        import torch
        from monai.bundle import ConfigParser

        parser = ConfigParser(deepcopy(dict(self.config.whole)))
        parser["bundle_root"] = str(self.bundle.folder)
        parser["dataset_dir"], parser["output_dir"] = str(self.folder), str(self.folder / "out")
        parser["device"] = torch.device("cpu")
        return parser

    def _sample(self) -> dict[str, Any]:
        images = [str(path) for path in self.scan.images]
        sample: dict[str, Any] = {"image": images if len(images) > 1 else images[0]}
        return sample | ({"label": str(self.scan.label), "case": "made-up"} if self.chain.labelled else {})

    def _image(self, state: Any) -> Iterator[Finding]:
        """The image has the network's channels, and numbers in it."""
        image = state["image"] if isinstance(state, Mapping) else state[0]["image"]
        if image.shape[0] != self.channels:
            problem = f"it makes an image of {image.shape[0]} channels, and the network takes {self.channels}"
            yield self._finding(self.chain.before, problem, "Let it end with the channels of the network, first.")
        if not bool(image.isfinite().all()):
            problem = "it makes NaN or infinite values of a scan without any"
            yield self._finding(self.chain.before, problem, "Mend the step that divides or takes a logarithm.")

    def _logits(self, inferer: Any, image: Any, network: nn.Module) -> Any:
        import torch

        with torch.inference_mode():
            return inferer(image[None], network)[0]

    def _channels(self, logits: Any) -> Iterator[Finding]:
        if logits.shape[0] != self.outputs:
            problem = f"it makes {logits.shape[0]} channels, and the metadata say {self.outputs}"
            yield self._finding(str(self.chain.inferer), problem, "Let it give the network's logits.")

    def _inverse(self, before: Any, state: Mapping[str, Any]) -> Iterator[Finding]:
        """The preprocessing leads back to the scan's grid, as scanloom predict needs it."""
        from monai.data import MetaTensor

        image = state["image"]
        if not isinstance(image, MetaTensor):
            problem = "it makes a tensor that does not know how it was made"
            yield self._finding(self.chain.before, problem, "Leave out what turns MetaTensors into tensors.")
            return
        carrier = MetaTensor(
            state["pred"].float(), meta=image.meta, applied_operations=deepcopy(image.applied_operations)
        )
        size = tuple(before.inverse({"image": carrier})["image"].shape[1:])
        remedy = "Use only spatial transforms that can be inverted."
        if not _same(size, self.scan.size):
            problem = f"it leads from {_by(self.scan.size)} voxels back to {_by(size)}"
            yield self._finding(self.chain.before, problem, remedy)
        elif (likeness := self._likeness(before, image)) < ALIKE:
            problem = f"it does not lead back to where things were: the scan correlates to {likeness:.2f} with itself"
            yield self._finding(self.chain.before, problem, remedy)

    def _likeness(self, before: Any, image: Any) -> float:
        """Correlation of the scan with itself prepared and inverted, whatever its intensities became."""
        import numpy as np

        carrier = image.clone()
        carrier.applied_operations = deepcopy(image.applied_operations)
        back = np.asarray(before.inverse({"image": carrier})["image"][0]).ravel()
        scan = read_voxels(self.scan.images[0]).ravel()
        return abs(float(np.corrcoef(scan, back)[0, 1])) if back.std() > 0 else 0.0

    def _result(self, state: Any) -> Iterator[Finding]:
        """What comes out is labels on the scan's own grid, where the chain is that of the inference."""
        if self.chain.labelled or not isinstance(state, Mapping) or "pred" not in state:
            return
        size = tuple(state["pred"].shape[1:])
        if not _same(size, self.scan.size):
            problem = f"it makes {_by(size)} voxels of a scan of {_by(self.scan.size)}"
            remedy = "Begin it with Invertd, whose transform is @preprocessing."
            yield self._finding(str(self.chain.after), problem, remedy)

    def _failure(self, step: str, error: Exception) -> Finding:
        from ..bundle_network import last_line

        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        strange = isinstance(cause, KeyError) and self.chain.labelled  # its dataset may have entries that this has not
        remedy = f"Mend {written(step)}."
        problem = f"it fails on a made-up scan of {_by(self.scan.size)} voxels: {last_line(error)}"
        return self._finding(step, problem, remedy, warning=strange)

    def _finding(self, step: str, problem: str, remedy: str, *, warning: bool = False) -> Finding:
        value = _summary(self.config.get(step))
        kind: Any = "warning" if warning else "fault"
        return Finding(self.config.file, written(step), value, problem.rstrip("."), remedy, kind)


def _summary(value: Any) -> str:
    """What a chain consists of, in short."""
    steps = value.get("transforms") if isinstance(value, Mapping) else None
    if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
        return shown([str(step.get("_target_")).rpartition(".")[2] for step in steps])
    return shown(value.get("_target_") if isinstance(value, Mapping) else value)


def _same(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the sizes are the same, but for axes of one voxel: a picture may be a volume of one slice."""
    return [length for length in size if length != 1] == [length for length in other if length != 1]


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))

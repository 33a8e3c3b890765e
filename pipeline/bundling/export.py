"""A bundle's network in a file that runs without MONAI and scanloom, checked against the network on the spot.

What belongs to it travels inside as texts: the metadata, the inference config (which steps come before and after the
network), and what was exported. The steps themselves are not part of the program.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from ..atomic import atomic
from ..bundle import Bundle, bundle_digest, file_sha256
from ..bundle_network import last_line, load_network
from ..errors import BundleError, PipelineError, UsageError
from ..progress import Report, silent
from .export_formats import AXES, FORMATS, INPUT, OUTPUT, Format
from .export_sizes import Windows, windows_for

TOLERANCE = 1e-4
"""Of the largest logit, or of 1 where all are smaller, between the file and the network: sums in another order."""
AGREEMENT = 0.999
"""Share of voxels, at least, that both label alike; noise has ties that tissue has not."""
TEXTS = ("metadata.json", "inference.json", "export.json")


@dataclass(frozen=True)
class Check:
    """How the file compares with the network.

    Attributes:
        shape: (B, C, *spatial) of the windows.
        difference: largest of the logits.
        largest: logit of the network.
        agreement: share of voxels that get the same label.
    """

    shape: tuple[int, ...]
    difference: float
    largest: float
    agreement: float

    @property
    def passed(self) -> bool:
        """Whether the file may be used in the network's place; NaN is no pass."""
        return self.difference <= TOLERANCE * max(1.0, self.largest) and self.agreement >= AGREEMENT

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return (
            f"{shape}: logits differ by {self.difference:.1e} at most (the largest is {self.largest:.3g}), "
            f"labels agree in {self.agreement:.4%}"
        )


@dataclass(frozen=True)
class Exported:
    """A bundle that was exported.

    Attributes:
        path: the file.
        size: its bytes.
        sha256: of the file.
        free_axes: names of the axes of the image that may have any length.
        reader: what loads it.
        checks: two of them.
    """

    path: Path
    size: int
    sha256: str
    free_axes: tuple[str, ...]
    reader: str
    checks: tuple[Check, ...]

    def lines(self) -> list[str]:
        """What to tell a user."""
        return [
            f"{self.path}: {self.size:,} bytes, SHA-256 {self.sha256}",
            f"takes {_words(self.free_axes)}; {self.reader} reads it",
            *(f"checked with {check}" for check in self.checks),
        ]


class _UnlikeError(Exception):
    """The file does not compute what the network does."""


def export_bundle(bundle: Bundle, path: Path, to: str, report: Report = silent) -> Exported:
    """Write the bundle's network to a file, with batch and spatial axes free wherever that works.

    Args:
        bundle: trusted, as its config is run.
        path: of the file; nothing is left there where it fails, and what stood there stays.
        to: "onnx", "torchscript" or "pt2".
        report: told what is tried.
    Raises:
        UsageError: there is no such format, the file has another suffix, or a package is missing.
        BundleError: the network can not be built or exported, or the file computes something else.
        PipelineError: the file can not be written.
    """
    kind = _format(path, to)
    kind.require()
    network = load_network(bundle).eval().requires_grad_(False)
    fault: Exception | None = None
    for windows in windows_for(network, bundle):
        free = tuple(AXES[axis] for axis in windows.free_axes)
        report(f"{bundle.name}: to {to}, {_words(free)}", 0.1)
        try:
            with atomic(path) as temporary:
                kind.write(temporary, network, windows.first, windows.free_axes, _texts(bundle, kind, windows, free))
                report(f"{bundle.name}: comparing with the network", 0.7)
                checks = _compare(network, kind.load(temporary), windows)
        except PipelineError:
            raise
        except Exception as error:
            fault = error
            continue
        return Exported(path, path.stat().st_size, file_sha256(path).hex(), free, kind.reader, checks)
    assert fault is not None
    if isinstance(fault, _UnlikeError):
        reason = f"the file does not compute what the network does: {fault}"
    else:
        reason = f"it can not become {to}: {last_line(fault)}"
    raise BundleError(f"bundle {bundle.name}: {type(network).__name__}: {reason}. Export to another format.") from fault


def _format(path: Path, to: str) -> Format:
    if to not in FORMATS:
        raise UsageError(f"--to {to}: there is no such format. Use one of {', '.join(FORMATS)}.")
    kind = FORMATS[to]
    if path.suffix.lower() not in kind.suffixes:
        raise UsageError(f"-o {path}: {to} is a {' or '.join(kind.suffixes)} file. Give it that suffix.")
    if path.is_dir():
        raise UsageError(f"-o {path}: is a folder. Name the file to write.")
    return kind


def _texts(bundle: Bundle, kind: Format, windows: Windows, free: Sequence[str]) -> dict[str, str]:
    """What travels inside; nothing in it tells of this machine."""
    config: Any = ConfigParser.load_config_file(str(bundle.config("inference")))
    dims = windows.first.dim()
    facts = {
        "bundle": bundle.name,
        "version": str(bundle.metadata.get("version", "")),
        "bundle_sha256": bundle_digest(bundle),
        "weights_sha256": bundle.weights_sha256,
        "format": kind.name,
        "input": {
            "name": INPUT,
            "axes": AXES[:dims],
            "free_axes": list(free),
            "shape": [None if axis in windows.free_axes else n for axis, n in enumerate(windows.first.shape)],
            "dtype": "float32",
        },
        "output": {"name": OUTPUT, "values": "logits", "dtype": "float32"},
        "preprocessing": "inference.json: preprocessing",
        "postprocessing": "inference.json: postprocessing; labels are the largest logit, for one channel those above 0",
        "made_with": {"scanloom": version("scanloom"), "torch": torch.__version__},
    }
    contents = (dict(bundle.metadata), config, facts)
    return {name: json.dumps(content, indent=1, default=str) for name, content in zip(TEXTS, contents, strict=True)}


def _compare(network: nn.Module, loaded: Callable[[Tensor], Tensor], windows: Windows) -> tuple[Check, ...]:
    checks = []
    for each in (windows.first, windows.second):
        with torch.no_grad():
            expected, found = network(each), loaded(each)
        if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
            raise TypeError("the network returns something else than one tensor of logits")
        if expected.shape != found.shape:
            raise _UnlikeError(f"{tuple(found.shape)} for {tuple(expected.shape)}")
        same = (_labels(expected) == _labels(found)).double().mean()
        difference = (expected.double() - found.double()).abs().max()
        check = Check(tuple(each.shape), float(difference), float(expected.abs().max()), float(same))
        if not check.passed:
            raise _UnlikeError(str(check))
        checks.append(check)
    return tuple(checks)


def _labels(logits: Tensor) -> Tensor:
    return logits > 0 if logits.shape[1] == 1 else logits.argmax(1)


def _words(free: Sequence[str]) -> str:
    return f"any {', '.join(free)}" if free else "one size"

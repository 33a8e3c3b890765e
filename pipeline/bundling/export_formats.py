"""Files that hold a network and run without its code: ONNX, TorchScript, and programs of `torch.export`."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..network_export import export_program, require_onnx, to_onnx

if TYPE_CHECKING:
    from torch.export import ExportedProgram

INPUT, OUTPUT = "image", "pred"
"""Names of the input and the output, as MONAI's `network_data_format` has them."""
AXES = ("batch", "channel", "x", "y", "z")
STAMP = (1980, 1, 1, 0, 0, 0)

Texts = Mapping[str, str]
"""File name -> text, for what travels inside."""


class Format(ABC):
    """A kind of file.

    Attributes:
        name: as the command line has it.
        suffixes: of its files.
        reader: what loads it, in words.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str

    def require(self) -> None:
        """Return where it can be written.

        Raises:
            UsageError: a package is missing.
        """
        return None

    @abstractmethod
    def write(self, path: Path, network: nn.Module, example: Tensor, free_axes: Sequence[int], texts: Texts) -> None:
        """Write the network, for windows like the example but for the free axes, with the texts inside."""

    @abstractmethod
    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """The network in the file: windows -> logits."""

    @abstractmethod
    def texts(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """The texts in the file."""


class Onnx(Format):
    """ONNX; the texts are its metadata_props."""

    name, suffixes, reader = "onnx", (".onnx",), "ONNX Runtime"

    def require(self) -> None:
        """As `Format`."""
        require_onnx(f"--to {self.name}")

    def write(self, path: Path, network: nn.Module, example: Tensor, free_axes: Sequence[int], texts: Texts) -> None:
        """As `Format`."""
        import onnx

        program = export_program(network, example, free_axes)
        model = to_onnx(program, INPUT, [OUTPUT], {axis: AXES[axis] for axis in free_axes})
        onnx.helper.set_model_props(model, dict(texts))
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """As `Format`; by ONNX Runtime, on the processor."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda windows: torch.from_numpy(session.run([OUTPUT], {INPUT: windows.numpy()})[0])

    def texts(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """As `Format`."""
        import onnx

        found = {each.key: each.value for each in onnx.load(path).metadata_props}
        return {name: found[name] for name in names}


class TorchScript(Format):
    """TorchScript, traced; the texts are its extra files."""

    name, suffixes, reader = "torchscript", (".ts", ".pt"), "torch.jit.load"

    def write(self, path: Path, network: nn.Module, example: Tensor, free_axes: Sequence[int], texts: Texts) -> None:
        """As `Format`; the trace follows sizes where the network computes with them, so no axis is named."""
        whole = path.with_name(f"{path.name}.whole")
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                traced = torch.jit.trace(network, example, check_trace=False)
                torch.jit.save(traced, str(whole), _extra_files=dict(texts))
            _without_sources(whole, path)
        finally:
            whole.unlink(missing_ok=True)

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """As `Format`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location="cpu")

    def texts(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """As `Format`."""
        found = dict.fromkeys(names, "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.load(str(path), map_location="cpu", _extra_files=found)
        return {name: text.decode() if isinstance(text, bytes) else text for name, text in found.items()}


class Program(Format):
    """What `torch.export` makes; the texts are its extra files."""

    name, suffixes, reader = "pt2", (".pt2",), "torch.export.load"

    def write(self, path: Path, network: nn.Module, example: Tensor, free_axes: Sequence[int], texts: Texts) -> None:
        """As `Format`."""
        program = export_program(network, example, free_axes)
        _forget_traces(program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, path, extra_files=dict(texts))

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """As `Format`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path).module()

    def texts(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """As `Format`."""
        found = dict.fromkeys(names, "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.load(path, extra_files=found)
        return found


FORMATS: dict[str, Format] = {each.name: each for each in (Onnx(), TorchScript(), Program())}


def _without_sources(whole: Path, path: Path) -> None:
    """Copy a TorchScript file without the records of where in which source file each line was."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if entry.filename.endswith(".debug_pkl"):
                continue
            made = zipfile.ZipInfo(entry.filename, STAMP)
            made.file_size = entry.file_size
            with source.open(entry) as reading, target.open(made, "w") as writing:
                shutil.copyfileobj(reading, writing)


def _forget_traces(program: ExportedProgram) -> None:
    """Remove the paths and lines of code that each node came from."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)

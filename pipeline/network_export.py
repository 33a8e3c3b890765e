"""A network as a program of its own: traced by `torch.export`, and from there to ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_program(network: nn.Module, example: Tensor, free_axes: Sequence[int] = ()) -> ExportedProgram:
    """The network's program for windows like the example.

    Args:
        network: in evaluation mode.
        example: (B, C, *spatial); an axis that is to be free must be 2 or more long.
        free_axes: those whose lengths may change later.
    Raises:
        Exception: of many kinds; the network asks for values, or an axis can not be free.
    """
    shapes = (dict.fromkeys(free_axes, torch.export.Dim.DYNAMIC),) if free_axes else None
    with _quiet(), torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)


def to_onnx(program: ExportedProgram, input_name: str, output_names: Sequence[str], axes: Mapping[int, str]) -> Any:
    """The program as an `onnx.ModelProto`, without the traces of the machine that made it.

    Args:
        program: as `export_program` gives it.
        input_name: of the windows.
        output_names: of the outputs, in their order.
        axes: what the free axes of the windows are called.
    Raises:
        ImportError: a package is missing; see `require_onnx`.
        Exception: of many kinds; the program has operations that ONNX has not.
    """
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=[input_name], output_names=[*output_names], verbose=False
        )
    assert made is not None
    model = made.model_proto
    _rename_axes(model, axes)
    _forget_traces(model)
    return model


def require_onnx(what: str) -> None:
    """Return where ONNX can be written and run.

    Args:
        what: the option that asks for it.
    Raises:
        UsageError: a package is missing.
    """
    for name in ONNX_PACKAGES:
        try:
            import_module(name)
        except ImportError:
            raise UsageError(f"{what}: {name} is not installed. pip install 'scanloom[onnx]'") from None


def _rename_axes(model: Any, axes: Mapping[int, str]) -> None:
    """The names that `torch.export` gave the free axes (s77) become ours, wherever they stand alone."""
    names = {}
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if dim.dim_param and axis in axes:
            names[dim.dim_param] = axes[axis]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _forget_traces(model: Any) -> None:
    """Remove the paths and lines of code that each part came from."""
    graph = model.graph
    parts = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, *model.functions]
    parts += [node for function in model.functions for node in function.node]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says to its developers while it exports."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)

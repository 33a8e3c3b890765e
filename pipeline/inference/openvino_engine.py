"""A network run by OpenVINO on the processor.

OpenVINO is optional. On being imported and in every conversion it sends statistics of its use to its makers where the
package `openvino_telemetry` is there; this module keeps that package out of its sight.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from ..errors import UsageError
from .engine import Engine
from .lean_import import hidden

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TELEMETRY = ("openvino_telemetry",)
HINT = {"fp32": "f32", "bf16": "bf16"}  # left unset, OpenVINO takes bf16 wherever the processor has it
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # of the largest value of an output, between OpenVINO and PyTorch on noise


class OpenVinoEngine(Engine):
    """OpenVINO; the network and its windows are on the processor.

    Args:
        network: as for `Engine`.
        precision: "fp32" or "bf16".
    Raises:
        UsageError: OpenVINO is not installed, or it has no such precision.
    """

    name = "openvino"

    def __init__(self, network: nn.Module, precision: str = "fp32") -> None:
        if precision not in HINT:
            raise UsageError(f"--precision {precision}: the engine openvino has {' and '.join(HINT)} only. Use one.")
        super().__init__(network, TOLERANCE[precision])
        self._openvino = _import_openvino()
        self._core = self._openvino.Core()
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINT[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Its version."""
        return {"engine_version": version("openvino")}

    def _model(self, program: ExportedProgram, shape: Sequence[int]) -> _CompiledModel:
        with warnings.catch_warnings(), hidden(TELEMETRY), _root_logger_kept(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = self._openvino.convert_model(program)
        model.reshape(list(shape))
        compiled = self._core.compile_model(model, "CPU", self._options)
        structure = program.call_spec.out_spec
        if structure is None or len(compiled.outputs) != structure.num_leaves:
            raise self._no_structure()
        return _CompiledModel(self._openvino, compiled, structure)


class _CompiledModel:
    """One compiled model: windows of its shape, shared with OpenVINO rather than copied; outputs made new each call."""

    def __init__(self, openvino: Any, compiled: Any, structure: TreeSpec) -> None:
        self._tensor = openvino.Tensor
        self._request = compiled.create_infer_request()
        self._outputs = [(tuple(each.shape), each.get_element_type().to_dtype()) for each in compiled.outputs]
        self._structure = structure

    def __call__(self, windows: Tensor) -> Any:
        shared = windows.detach().contiguous().numpy()
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        self._request.set_input_tensor(self._tensor(shared, shared_memory=True))
        for index, output in enumerate(outputs):
            self._request.set_output_tensor(index, self._tensor(output, shared_memory=True))
        self._request.infer()
        return tree_unflatten([torch.from_numpy(output) for output in outputs], self._structure)


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Whatever OpenVINO does to the logger of all loggers where a conversion fails is undone."""
    root = logging.getLogger()
    level, handlers, filters = root.level, [*root.handlers], [*root.filters]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


def _import_openvino() -> Any:
    try:
        with hidden(TELEMETRY):
            return import_module("openvino")
    except ImportError:
        raise UsageError(
            '--engine openvino: OpenVINO is not installed. pip install "scanloom[openvino]", or use --engine torch.'
        ) from None

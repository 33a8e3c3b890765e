"""A network run by OpenVINO on the processor: torch tensors in and out, one compiled model a shape of windows.

OpenVINO is optional. On being imported and in every conversion it sends statistics of its use to its makers where the
package `openvino_telemetry` is there; this module keeps that package out of its sight.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from ..errors import UsageError
from .lean_import import hidden

TELEMETRY = ("openvino_telemetry",)
HINT = {"fp32": "f32", "bf16": "bf16"}  # left unset, OpenVINO takes bf16 wherever the processor has it
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}  # of the largest value of an output, between OpenVINO and PyTorch on noise
SHAPES_KEPT = 4


class OpenVinoEngine:
    """A callable: float32 windows (B, C, *spatial) -> what the network returns for them, as torch tensors.

    Each new shape is exported and compiled, about a second for a small U-Net, and kept until four others came: give
    windows of few shapes. The first is compared with PyTorch. The result belongs to the caller: no later call writes
    into it. One call at a time; no deep copies.

    Args:
        network: in evaluation mode, float32, on the processor; kept, for shapes to come.
        precision: "fp32" or "bf16".
    Raises:
        UsageError: OpenVINO is not installed, or it has no such precision.
    """

    def __init__(self, network: nn.Module, precision: str = "fp32") -> None:
        if precision not in HINT:
            raise UsageError(f"--precision {precision}: the engine openvino has {' and '.join(HINT)} only. Use one.")
        self._openvino = _import_openvino()
        self._core = self._openvino.Core()
        self._network = network
        self._precision = precision
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINT[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._models: OrderedDict[tuple[int, ...], _CompiledModel] = OrderedDict()
        self._compared = False

    def __call__(self, windows: Tensor) -> Any:
        """(B, C, *spatial) float32 on the processor -> the network's outputs, in its own structure.

        Raises:
            UsageError: OpenVINO can not run the network, or computes something else than PyTorch.
        """
        shape = tuple(windows.shape)
        if shape not in self._models:
            self._models[shape] = self._compile(shape)
            if len(self._models) > SHAPES_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(shape)
        return self._models[shape](windows)

    def _compile(self, shape: Sequence[int]) -> _CompiledModel:
        """The model of windows of that shape; its network's control flow is settled for this shape alone."""
        noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
        try:
            with warnings.catch_warnings(), hidden(TELEMETRY), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.export.export(self._network, (noise,), strict=False)
                model = self._openvino.convert_model(program)
            model.reshape(list(shape))
            compiled = self._core.compile_model(model, "CPU", self._options)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--engine openvino: it can not take {type(self._network).__name__} on windows {tuple(shape)}: "
                f"{reason}. Use --engine torch."
            ) from error
        result = _CompiledModel(self._openvino, compiled, program.call_spec.out_spec)
        if not self._compared:
            self._compare(result, noise)
            self._compared = True
        return result

    def _compare(self, model: _CompiledModel, noise: Tensor) -> None:
        with torch.no_grad():
            expected = tree_leaves(self._network(noise))
        tolerance = TOLERANCE[self._precision]
        for one, other in zip(tree_leaves(model(noise)), expected, strict=True):
            difference = float((one.double() - other.double()).abs().max() / other.abs().max().clamp(min=1e-12))
            if not difference <= tolerance:
                raise UsageError(
                    f"--engine openvino: {type(self._network).__name__} differs by {difference:.1e} of its largest "
                    f"output from PyTorch, {tolerance:.0e} is allowed. Use --engine torch."
                )


class _CompiledModel:
    """One compiled model: windows of its shape, shared with OpenVINO rather than copied; outputs made new each call."""

    def __init__(self, openvino: Any, compiled: Any, structure: TreeSpec | None) -> None:
        if structure is None or len(compiled.outputs) != structure.num_leaves:
            raise UsageError(
                "--engine openvino: the network returns something else than tensors, or tuples, lists and "
                "dictionaries of them. Use --engine torch."
            )
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


def _import_openvino() -> Any:
    try:
        with hidden(TELEMETRY):
            return import_module("openvino")
    except ImportError:
        raise UsageError(
            '--engine openvino: OpenVINO is not installed. pip install "scanloom[openvino]", or use --engine torch.'
        ) from None

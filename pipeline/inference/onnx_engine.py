"""A network run by ONNX Runtime, on the processor or by its CUDA provider.

ONNX Runtime is optional. On Windows its official builds send statistics of use to their makers; they are told not to.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from ..errors import UsageError
from ..network_export import require_onnx, to_onnx
from .engine import Engine

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TOLERANCE = 1e-3
"""Of the largest value of an output, between ONNX Runtime and PyTorch on noise."""
PROVIDER = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
INPUT = "image"


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime, in fp32; windows on a GPU go over the host, and so do the outputs.

    Args:
        network: as for `Engine`, on the device.
        device: "cpu" or one CUDA device.
        precision: "fp32", there is no other.
    Raises:
        UsageError: ONNX Runtime is not installed or not built for the device, or it has no such precision.
    """

    name = "onnxruntime"

    def __init__(self, network: nn.Module, device: torch.device, precision: str = "fp32") -> None:
        if precision != "fp32":
            raise UsageError(f"--precision {precision}: the engine onnxruntime has fp32 only. Use that, or auto.")
        super().__init__(network, TOLERANCE)
        require_onnx("--engine onnxruntime")
        self._runtime = import_module("onnxruntime")
        self._runtime.disable_telemetry_events()
        self._provider = PROVIDER[device.type]
        if self._provider not in self._runtime.get_available_providers():
            raise UsageError(
                f"--engine onnxruntime: the one that is installed does not run on {device}. Install "
                "onnxruntime-gpu in its place, use --device cpu, or --engine torch."
            )
        index = {"device_id": device.index or 0, "use_tf32": 0} if device.type == "cuda" else {}
        self._providers = [(self._provider, index)]
        self._options = self._runtime.SessionOptions()
        self._options.intra_op_num_threads = torch.get_num_threads()
        self._options.inter_op_num_threads = 1
        self._options.log_severity_level = 3
        # threads that wait actively take time from PyTorch, which blends between two windows
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")

    @property
    def facts(self) -> dict[str, Any]:
        """Its version, and what it runs on."""
        return {"engine_version": _version(), "engine_provider": self._provider}

    def _model(self, program: ExportedProgram, shape: Sequence[int]) -> _Session:
        structure = program.call_spec.out_spec
        if structure is None:
            raise self._no_structure()
        names = [f"output{index}" for index in range(structure.num_leaves)]
        model = to_onnx(program, INPUT, names, {})
        session = self._runtime.InferenceSession(model.SerializeToString(), self._options, providers=self._providers)
        return _Session(session, names, structure)


class _Session:
    """One compiled model."""

    def __init__(self, session: Any, names: Sequence[str], structure: TreeSpec) -> None:
        self._session, self._names, self._structure = session, list(names), structure

    def __call__(self, windows: Tensor) -> Any:
        image = windows.detach().cpu().contiguous().numpy()
        outputs = self._session.run(self._names, {INPUT: image})
        return tree_unflatten([torch.from_numpy(each).to(windows.device) for each in outputs], self._structure)


def _version() -> str:
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"

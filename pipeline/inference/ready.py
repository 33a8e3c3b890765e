"""A network made ready for inference: batch norms folded, memory format, precision, and the engine that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..errors import UsageError
from .engine import Engine
from .folding import fold_batch_norm
from .onednn import prefer_onednn
from .onnx_engine import OnnxRuntimeEngine
from .openvino_engine import OpenVinoEngine
from .precision import choose_precision

ENGINES = ("torch", "openvino", "onnxruntime")
DEVICES = {"openvino": ("cpu",), "onnxruntime": ("cpu", "cuda")}
"""What the engines other than torch run on."""
DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions of a batch of windows


class ReadyNetwork(nn.Module):
    """float32 windows (B, C, *spatial) -> what the network returns for them: a tensor, or a structure of float32 ones.

    Whatever else is read off it (`size_divisor`, `receptive_field_voxels`, `padding`, `output_size`) is the network's.
    With the engine torch it can be moved and deep-copied as any module; a copy of a compiled one compiles by itself.

    Args:
        network: in evaluation mode; its weights already are in `weights_dtype` and `memory_format`.
        precision: "fp32", "bf16" or "fp16"; autocast does it, unless the weights are of that type.
        weights_dtype: of the weights.
        memory_format: what the windows are brought to.
        engine: what runs the network in PyTorch's stead.
        description: what was done to the network, for reports.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        precision: str = "fp32",
        weights_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        engine: Engine | None = None,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self._dtype = weights_dtype
        self._autocast = DTYPE.get(precision) if weights_dtype == torch.float32 else None
        self._memory_format = memory_format
        self._engine = engine
        self._compile()

    def forward(self, windows: Tensor) -> Any:
        """(B, C, *spatial) float32 -> the network's outputs, float32."""
        if self._engine is not None:
            outputs = self._engine(windows)
        else:
            windows = windows.to(self._dtype).contiguous(memory_format=self._memory_format)
            autocast = torch.autocast(windows.device.type, self._autocast) if self._autocast else nullcontext()
            with autocast:
                outputs = self.network(windows)
        return tree_map(_float32, outputs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compile()  # which a copied module has lost

    def _compile(self) -> None:
        if self.description["compiled"]:
            self.network.compile(dynamic=False)


def make_ready(
    network: nn.Module,
    device: torch.device,
    precision: str,
    *,
    compile: bool = False,
    engine: str = "torch",
    example_shape: Sequence[int],
) -> ReadyNetwork:
    """The network as inference calls it: a copy in evaluation mode that takes no gradients.

    Args:
        network: with its weights, float32; moved to the device, else left as it is.
        device: what it runs on.
        precision: "fp32", "bf16" or "fp16", as `choose_precision` gives it.
        compile: by `torch.compile`, anew for each shape of windows.
        engine: "torch"; "openvino", on a processor; or "onnxruntime", in fp32.
        example_shape: (B, C, *spatial) of the windows.
    Raises:
        UsageError: the arguments do not fit together, or the engine is not installed.
    """
    precision = choose_precision(precision, device, None)
    check_engine(engine, [device], compile, precision)
    folded, count = fold_batch_norm(network.to(device), _example(network, example_shape, device))
    folded.requires_grad_(False)
    description = {
        "precision": precision,
        "engine": engine,
        "folded_norms": count,
        "memory_format": "contiguous",
        "compiled": compile,
    }
    if engine != "torch":
        other: Engine = (
            OpenVinoEngine(folded, precision) if engine == "openvino" else OnnxRuntimeEngine(folded, device, precision)
        )
        return ReadyNetwork(folded, engine=other, description=description | other.facts).eval()
    memory_format = _memory_format(folded, len(example_shape), device, precision)
    dtype = DTYPE.get(precision, torch.float32) if device.type == "cpu" else torch.float32
    if device.type == "cpu" and not compile:
        folded = prefer_onednn(folded)
    folded = _in_format(folded.to(dtype=dtype), len(example_shape), memory_format)
    description["memory_format"] = str(memory_format).removeprefix("torch.").removesuffix("_format")
    ready = ReadyNetwork(
        folded, precision=precision, weights_dtype=dtype, memory_format=memory_format, description=description
    )
    return ready.eval()


def check_engine(engine: str, devices: Sequence[torch.device], compile: bool, precision: str = "fp32") -> None:
    """Return where the engine runs on the devices.

    Raises:
        UsageError: there is no such engine, or it does not run there, compiled, or in that precision.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: there is no such engine. Use one of {', '.join(ENGINES)}.")
    if engine == "torch":
        return
    runs_on = DEVICES[engine]
    if devices[0].type not in runs_on:
        raise UsageError(f"--engine {engine}: it does not run on {devices[0]}. Use --device cpu, or --engine torch.")
    if len(devices) > 1:
        raise UsageError(f"--engine {engine}: it runs on one device. Name one with --device, or use --engine torch.")
    if compile:
        raise UsageError(f"--engine {engine}: it compiles by itself. Leave --compile out, or use --engine torch.")
    if engine == "onnxruntime" and precision != "fp32":
        raise UsageError(f"--precision {precision}: the engine onnxruntime has fp32 only. Use that, or auto.")


def _example(network: nn.Module, shape: Sequence[int], device: torch.device) -> Tensor:
    """One window; where the network takes any size, one of two cells of its lowest level an axis, to be quick."""
    spatial = tuple(shape[2:])
    divisor = getattr(network, "size_divisor", None)
    if divisor is not None and getattr(network, "padding", "same") == "same":
        spatial = tuple(min(n, 2 * d) for n, d in zip(spatial, divisor, strict=True))
    return torch.zeros((1, shape[1], *spatial), device=device)


def _memory_format(network: nn.Module, dimensions: int, device: torch.device, precision: str) -> torch.memory_format:
    """Channels last on a processor, where U-Nets take 5 to 35 % less time, and for a GPU's half-precision units.

    Not with instance norm, which copies to the plain format and back: a fifth more time.
    """
    helps = device.type == "cpu" or (device.type == "cuda" and precision != "fp32")
    if not helps or any("InstanceNorm" in type(module).__name__ for module in network.modules()):
        return torch.contiguous_format
    return CHANNELS_LAST.get(dimensions, torch.contiguous_format)


def _in_format(network: nn.Module, dimensions: int, memory_format: torch.memory_format) -> nn.Module:
    """The network itself, the weights of its convolutions, which have as many dimensions as a batch, in that format."""
    for parameter in network.parameters():
        if parameter.dim() == dimensions:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    return network


def _float32(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) and output.is_floating_point() else output

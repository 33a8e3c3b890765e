"""What runs a network in PyTorch's stead: one compiled model a shape of windows, the first compared with PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import UsageError
from ..network_export import export_program

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SHAPES_KEPT = 4


class Engine(ABC):
    """A callable: float32 windows (B, C, *spatial) -> what the network returns for them, as torch tensors.

    Each new shape is exported and compiled, seconds for a small U-Net, and kept until four others came: give windows of
    few shapes. The first is compared with PyTorch on noise. The result belongs to the caller: no later call writes into
    it. One call at a time; no deep copies.

    Args:
        network: in evaluation mode, float32; kept, for shapes to come.
        tolerance: of the largest value of an output, between the engine and PyTorch.

    Attributes:
        name: as the command line has it.
    """

    name: ClassVar[str]

    def __init__(self, network: nn.Module, tolerance: float) -> None:
        self._network = network
        self._tolerance = tolerance
        self._models: OrderedDict[tuple[int, ...], Callable[[Tensor], Any]] = OrderedDict()
        self._compared = False

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a report says of the engine."""

    def __call__(self, windows: Tensor) -> Any:
        """(B, C, *spatial) float32 -> the network's outputs, in its own structure.

        Raises:
            UsageError: the engine can not run the network, or computes something else than PyTorch.
        """
        shape = tuple(windows.shape)
        if shape not in self._models:
            self._models[shape] = self._compile(shape, windows.device)
            if len(self._models) > SHAPES_KEPT:
                self._models.popitem(last=False)
        self._models.move_to_end(shape)
        return self._models[shape](windows)

    @abstractmethod
    def _model(self, program: ExportedProgram, shape: Sequence[int]) -> Callable[[Tensor], Any]:
        """The compiled program, for windows of that shape."""

    def _compile(self, shape: Sequence[int], device: torch.device) -> Callable[[Tensor], Any]:
        """The model of windows of that shape; its network's control flow is settled for this shape alone."""
        noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(device)
        try:
            model = self._model(export_program(self._network, noise), shape)
        except UsageError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--engine {self.name}: it can not take {type(self._network).__name__} on windows {tuple(shape)}: "
                f"{reason}. Use --engine torch."
            ) from error
        if not self._compared:
            self._compare(model, noise)
            self._compared = True
        return model

    def _compare(self, model: Callable[[Tensor], Any], noise: Tensor) -> None:
        with torch.no_grad():
            expected = tree_leaves(self._network(noise))
        for one, other in zip(tree_leaves(model(noise)), expected, strict=True):
            difference = float((one.double() - other.double()).abs().max() / other.abs().max().clamp(min=1e-12))
            if not difference <= self._tolerance:
                raise UsageError(
                    f"--engine {self.name}: {type(self._network).__name__} differs by {difference:.1e} of its largest "
                    f"output from PyTorch, {self._tolerance:.0e} is allowed. Use --engine torch."
                )

    def _no_structure(self) -> UsageError:
        return UsageError(
            f"--engine {self.name}: the network returns something else than tensors, or tuples, lists and dictionaries "
            "of them. Use --engine torch."
        )

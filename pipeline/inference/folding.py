"""Batch norms folded into the convolutions that feed them, wherever that is exact.

A batch norm in evaluation is a scale and a shift a channel, which the weights and the bias of the convolution before
it can take. Which convolution feeds which norm no attribute says: it is seen while the network runs on an example.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

TOLERANCE = 1e-4  # of the largest value of an output, between the network and its folded copy
TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
METADATA = ("size", "dim")  # methods that read no voxel

log = logging.getLogger(__name__)


def fold_batch_norm(network: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
    """A copy of the network, in evaluation mode, without the batch norms that fold, and their number.

    A norm folds where it has running statistics, its input is the very output of a convolution, nothing else uses
    that output, and each of the two runs once. The copy must then agree with the network on noise of the example's
    shape; folds that break this are undone. A folded norm becomes `nn.Identity`; module names stay.

    Args:
        network: on the example's device, in float32 or float64; left as it is.
        example: (B, C, *spatial), a shape that the network takes; its values do not matter.
    """
    network = copy.deepcopy(network).eval()
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 rounds by 1e-3
        pairs, output = _watch(network, noise)
        expected = [each.clone() for each in _tensors(output)]

        def agrees() -> bool:
            return _close(_tensors(network(noise)), expected)

        folds = [_Fold.of(network, convolution, norm) for convolution, norm in pairs]
        count = _fold_what_agrees(folds, agrees) if folds else 0
    log.debug("%d batch norms folded of %d that a convolution feeds", count, len(folds))
    return network, count


@dataclass(frozen=True)
class _Fold:
    """A norm, where it hangs, the convolution that can take it, and that one's parameters before and after."""

    convolution: nn.Module
    norm: nn.Module
    places: Sequence[tuple[nn.Module, str]]
    before: Mapping[str, nn.Parameter | None]
    after: Mapping[str, nn.Parameter | None]

    @classmethod
    def of(cls, network: nn.Module, convolution: Any, norm: Any) -> _Fold:
        places = [(each, name) for each in network.modules() for name, child in each._modules.items() if child is norm]
        fused = fuse_conv_bn_eval(convolution, norm, transpose=isinstance(convolution, TRANSPOSED))
        before, after = ({"weight": each.weight, "bias": each.bias} for each in (convolution, fused))
        return cls(convolution, norm, places, before, after)

    def apply(self) -> None:
        self._set(self.after, nn.Identity())

    def undo(self) -> None:
        self._set(self.before, self.norm)

    def _set(self, parameters: Mapping[str, nn.Parameter | None], norm: nn.Module) -> None:
        for name, parameter in parameters.items():
            setattr(self.convolution, name, parameter)
        for parent, name in self.places:
            setattr(parent, name, norm)


def _fold_what_agrees(folds: Sequence[_Fold], agrees: Callable[[], bool]) -> int:
    """Apply the folds under which the network still agrees, searching by halves; their number."""
    for fold in folds:
        fold.apply()
    if agrees():
        return len(folds)
    for fold in folds:
        fold.undo()
    if len(folds) == 1:
        return 0
    middle = len(folds) // 2
    return _fold_what_agrees(folds[:middle], agrees) + _fold_what_agrees(folds[middle:], agrees)


def _watch(network: nn.Module, example: Tensor) -> tuple[list[tuple[nn.Module, nn.Module]], Any]:
    """The (convolution, norm) pairs that fold, in the order that they run, and the network's output."""
    watched = [each for each in network.modules() if _may_fold(each)]
    calls: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.Module, nn.Module]] = []
    with _Uses() as uses:

        def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[module] += 1
            maker = uses.makers.get(inputs[0]) if isinstance(module, NORMS) and inputs else None
            if maker is not None:
                pairs.append((maker, module))

        def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if isinstance(module, CONVOLUTIONS):
                uses.makers[output] = module

        handles = [each.register_forward_pre_hook(before) for each in watched]
        handles += [each.register_forward_hook(after) for each in watched]
        try:
            output = network(example)
        finally:
            for handle in handles:
                handle.remove()
    once = [(maker, norm) for maker, norm in pairs if calls[maker] == calls[norm] == uses.count[maker] == 1]
    return once, output


class _Uses(TorchFunctionMode):
    """Counts, while it is entered, the functions that read the output of each convolution.

    Attributes:
        makers: the convolution of each output that is alive.
        count: functions that took the output, a convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.makers = WeakTensorKeyDictionary()
        self.count: Counter[nn.Module] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        makers = [self.makers.get(each) for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in METADATA and (name != "__get__" or isinstance(result, Tensor)):
            self.count.update(maker for maker in makers if maker is not None)
        return result


def _may_fold(module: nn.Module) -> bool:
    """Whether it is a plain convolution or a batch norm with statistics, and no hook changes what it does."""
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if isinstance(module, NORMS):
        return module.running_mean is not None and module.running_var is not None
    return type(module) in CONVOLUTIONS  # a subclass may compute its weight, as under weight norm


def _tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]


def _close(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether each differs by at most `TOLERANCE` of the largest value; not where one has a value that is no number."""
    return len(outputs) == len(expected) and all(
        one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
        for one, other in zip(outputs, expected, strict=True)
    )

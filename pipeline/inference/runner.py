"""The network over a stream of windows: in batches, on one device or several, skipping and retreating where it must."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PipelineError

log = logging.getLogger("scanloom.inference")

Network = Callable[..., Any]
Outputs = tuple[Tensor, ...]

CONDITION = "condition"
"""The network's argument of this name is an image too, as for MONAI's inferers, and is cut into windows like it."""


@dataclass
class Window:
    """One window on its way through the network.

    Attributes:
        data: (C, *roi); None where it is to be skipped.
        condition: (C', *roi), a second image that the network takes; None for none.
        coordinates: what a network is told that asks for its window's place; None for one that does not.
    """

    data: Tensor | None
    condition: Tensor | None = None
    coordinates: Any = None


class WindowRunner:
    """Runs windows through a network, in their order.

    Out of memory, it halves the batch, and at a single window asks `relieve` to free what it can; both are said.

    Args:
        network: (B, C, *roi) -> a tensor (B, K, *roi'), or a tuple or dictionary of them.
        devices: where it runs; with several each has a copy, and they take turns.
        batch: most windows in one pass.
        relieve: frees memory of the device; False where there is nothing left to free.
        say: told what was given up for want of memory.
        arguments: passed to the network after the windows.
        options: passed to it by name.

    Attributes:
        keys: how the outputs were put together, for `restored`; None until one has come.
    """

    def __init__(
        self,
        network: Network,
        devices: Sequence[torch.device],
        batch: int,
        relieve: Callable[[], bool],
        say: Callable[[str], None],
        arguments: Sequence[Any] = (),
        options: dict[str, Any] | None = None,
    ) -> None:
        self.devices, self.batch, self.relieve, self.say = tuple(devices), batch, relieve, say
        self.arguments, self.options = tuple(arguments), dict(options or {})
        self.networks = _copies(network, self.devices)
        self.keys: list[Any] | None = None
        self._lost: Tensor | None = None

    def run(self, windows: Iterable[Window]) -> Iterator[Outputs | None]:
        """The outputs, (K, *roi') each, of every window, in their order; None for those that are skipped."""
        flying: deque[tuple[list[Window], Callable[[], Iterator[Outputs]]]] = deque()
        depth = 0 if self.devices[0].type == "cpu" else len(self.devices)
        for group, number in self._loaded(_batches(windows, self.batch)):
            flying.append((group, self._launch(group, number)))
            if len(flying) > depth:
                yield from self._landed(*flying.popleft())
        while flying:
            yield from self._landed(*flying.popleft())

    def once(self, window: Window) -> Outputs:
        """The outputs of one window, before the others; (K, *roi') each. It does not count for `not_numbers`."""
        lost = self._lost
        (outputs,) = self.run([replace(window)])
        self._lost = lost
        assert outputs is not None
        return outputs

    def not_numbers(self) -> int:
        """How many windows so far have NaN among their outputs; waits for the device, so ask when all are done."""
        return 0 if self._lost is None else int(self._lost)

    def _landed(self, group: list[Window], outputs: Callable[[], Iterator[Outputs]]) -> Iterator[Outputs | None]:
        results = outputs()
        for window in group:
            yield None if window.data is None else next(results)

    def _launch(self, group: list[Window], number: int) -> Callable[[], Iterator[Outputs]]:
        """Start the pass; what is returned waits for it."""
        real = [window for window in group if window.data is not None]
        if not real:
            return lambda: iter(())
        parts = list(self._passes(real, number))
        return lambda: (tuple(each[index] for each in part) for part in parts for index in range(len(part[0])))

    def _passes(self, real: list[Window], number: int) -> Iterator[Outputs]:
        """The outputs of the windows, as many at a time as memory allows."""
        done = 0
        while done < len(real):
            some = real[done : done + self.batch]
            try:
                outputs = self._forward(some, number)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._retreat(some)
                continue
            yield outputs
            done += len(some)

    def _forward(self, some: list[Window], number: int) -> Outputs:
        data = _stack([window.data for window in some if window.data is not None])
        conditions = [window.condition for window in some if window.condition is not None]
        options = {**self.options, CONDITION: _stack(conditions).to(data.device)} if conditions else self.options
        coordinates = [] if some[0].coordinates is None else [[window.coordinates for window in some]]
        with torch.no_grad():
            output = self.networks[number](data, *coordinates, *self.arguments, **options)
        self.keys, outputs = flatten(output)
        outputs = tuple(each.detach().to(self.devices[0]) for each in outputs)
        self._count_not_numbers(outputs)
        return outputs

    def _count_not_numbers(self, outputs: Outputs) -> None:
        """NaN wins in a minimum, which takes 3 ms for 9 million values; `isnan().any()` takes 15 times as long."""
        floating = [each for each in outputs if each.is_floating_point() and each.dim() > 1]
        if not floating:
            return
        lowest = torch.stack([each.amin(dim=tuple(range(1, each.dim()))).float() for each in floating])
        lost = lowest.isnan().any(0).sum()
        self._lost = lost if self._lost is None else self._lost + lost

    def _retreat(self, some: list[Window]) -> None:
        if self.devices[0].type == "cuda":
            torch.cuda.empty_cache()
        if len(some) > 1:
            self.batch = len(some) // 2
            self.say(f"out of memory: {self.batch} windows at a time instead of {len(some)}")
        elif self.relieve():
            self.say("out of memory: the blended windows are held by the host from here on")
        else:
            size = " x ".join(str(n) for n in (some[0].data.shape[1:] if some[0].data is not None else ()))
            raise PipelineError(
                f"out of memory on {self.devices[0]} with one window of {size} voxels. Choose smaller windows "
                "(roi_size in the bundle's inferer), a device with more memory, or --device cpu."
            )

    def _loaded(self, groups: Iterable[list[Window]]) -> Iterator[tuple[list[Window], int]]:
        """The batches on the devices in turn; on CUDA the next one is copied while this one is computed."""
        streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for device in self.devices]
        ahead: deque[tuple[list[Window], int, Any]] = deque()
        for count, group in enumerate(groups):
            number = count % len(self.devices)
            ahead.append((group, number, _move(group, self.devices[number], streams[number])))
            if len(ahead) > (0 if streams[0] is None else len(self.devices)):
                yield _arrived(*ahead.popleft(), self.devices)
        while ahead:
            yield _arrived(*ahead.popleft(), self.devices)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the error, of whichever device, says that memory could not be had."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def flatten(output: Any) -> tuple[list[Any] | None, Outputs]:
    """A network's output as a tuple of tensors, and for `restored` its keys: none for a single tensor.

    A tuple of one counts as that one, as for MONAI.
    """
    if isinstance(output, Tensor):
        return None, (output,)
    if isinstance(output, Mapping):
        keys = sorted(output)
        return keys, tuple(output[key] for key in keys)
    parts = tuple(output)
    return None if len(parts) == 1 else [], parts


def restored(keys: list[Any] | None, parts: Sequence[Any]) -> Any:
    """What `flatten` took apart: one thing, a dictionary, or a tuple."""
    if keys is None:
        return parts[0]
    return dict(zip(keys, parts, strict=True)) if keys else tuple(parts)


def _copies(network: Network, devices: Sequence[torch.device]) -> list[Network]:
    if len(devices) == 1:
        return [network]
    if not isinstance(network, nn.Module):
        raise ValueError("several devices need a network that is a torch.nn.Module, which each gets a copy of.")
    return [network if index == 0 else deepcopy(network).to(device) for index, device in enumerate(devices)]


def _batches(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Windows in their order, `size` to compute at a time, with those to skip between them."""
    group: list[Window] = []
    count = 0
    for window in windows:
        group.append(window)
        count += window.data is not None
        if count == size:
            yield group
            group, count = [], 0
    if group:
        yield group


def _move(group: list[Window], device: torch.device, stream: Any) -> Any:
    """Begin copying the windows to the device; an event that says when they are there, where that is later."""
    with torch.cuda.stream(stream) if stream is not None else nullcontext():
        for window in group:
            if window.data is not None and window.data.device != device:
                source = window.data.contiguous().pin_memory() if stream is not None else window.data
                window.data = source.to(device, non_blocking=stream is not None)
    return stream.record_event() if stream is not None else None


def _arrived(group: list[Window], number: int, event: Any, devices: Sequence[torch.device]) -> tuple[list[Window], int]:
    if event is not None:
        current = torch.cuda.current_stream(devices[number])
        current.wait_event(event)
        for window in group:
            if window.data is not None:
                window.data.record_stream(current)
    return group, number


def _stack(parts: Sequence[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(list(parts))

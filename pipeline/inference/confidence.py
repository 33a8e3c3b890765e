"""How sure a network is: the probability of the winning class, on each label's surface and as a map.

It is taken while logits pass by, box by box: nothing is held but the box in work and two sums a label, and the map
where one is wanted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .reduction import Labels, Output, Where, store

FULL = 255
"""What probability 1 is in a map."""


class Confidence:
    """Counts, over all boxes of a scan, what probability the network gives to the labels that win.

    A label's surface are its voxels with another label at one of their six faces. Faces between two boxes are not
    looked at: they are few, and looking would mean holding what lies before them.

    Args:
        make_map: makes what the map is written to, (1, *spatial) of uint8: the probability times 255. None makes none.
    """

    def __init__(self, make_map: Callable[[], Output] | None = None) -> None:
        self.make_map = make_map
        self._map: Output | None = None
        self._sums, self._counts = np.zeros(0), np.zeros(0)

    @property
    def of_surfaces(self) -> dict[int, float]:
        """Label, without the background -> mean probability of the winning class on its surface."""
        found = np.flatnonzero(self._counts)
        return {int(value): float(self._sums[value] / self._counts[value]) for value in found if value}

    def add(self, where: Where, labels: Tensor, probability: Tensor) -> None:
        """A box more.

        Args:
            where: of the image.
            labels: (*box), whole numbers of any type.
            probability: (*box), of the class that won.
        """
        if self.make_map is not None:
            if self._map is None:
                self._map = self.make_map()
            store(self._map, (slice(0, 1), *where), (probability * FULL).round_().to(torch.uint8)[None])
        part = _around(labels)
        if part is None:
            return
        labels, probability = labels[part], probability[part]
        on_surface = _surface(labels)
        values = labels[on_surface].to(torch.int64).cpu().numpy()
        self._add(values, probability[on_surface].double().cpu().numpy())

    def _add(self, values: np.ndarray, probability: np.ndarray) -> None:
        size = max(int(values.max(initial=0)) + 1, len(self._sums))
        room = (0, size - len(self._sums))
        self._sums = np.pad(self._sums, room) + np.bincount(values, probability, size)
        self._counts = np.pad(self._counts, room) + np.bincount(values, minlength=size)


class ConfidentLabels:
    """A `Reduction` to labels that counts confidence too.

    Args:
        labels: what writes the labels.
        confidence: what counts.
    """

    needs_mean = True

    def __init__(self, labels: Labels, confidence: Confidence) -> None:
        self.labels, self.confidence = labels, confidence
        self._begun = False
        self._room: dict[str, Tensor] = {}

    def begin(self, where: Where) -> None:
        """A box begins."""
        self._begun = False
        self.labels.begin(where)

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Take the channels in, and let the labels have them."""
        for values in block:
            self._take(values)
        self.labels.put(where, first, block)

    def finish(self, where: Where) -> None:
        """Write the labels, count."""
        self.labels.finish(where)
        labels = self.labels.of_box(where)
        top, others = (self._buffer(name, labels) for name in ("top", "others"))
        alone = self.labels.channels == 1  # the logit of the only class against its absence
        self.confidence.add(where, labels, top.abs_().sigmoid_() if alone else others.add_(1).reciprocal_())

    def _take(self, values: Tensor) -> None:
        """The largest logit so far, and the sum of exp(logit - largest) over all others: 1 / (1 + sum) is its softmax.

        In memory that is used again: fresh memory costs page faults.
        """
        top, others = (self._buffer(name, values) for name in ("top", "others"))
        if not self._begun:
            self._begun = True
            top.copy_(values)
            others.zero_()
            return
        step = torch.sub(values, top, out=self._buffer("step", values))
        before = torch.gt(step, 0, out=self._buffer("before", values)).mul_(others)  # where this one is the largest now
        share = step.abs_().neg_().exp_()
        others.add_(share).addcmul_(before, share.sub_(1))
        torch.maximum(top, values, out=top)

    def _buffer(self, name: str, values: Tensor) -> Tensor:
        room, count = self._room.get(name), values.numel()
        if room is None or room.numel() < count or room.device != values.device or room.dtype != values.dtype:
            room = self._room[name] = values.new_empty(count)
        return room[:count].view(values.shape)


def winning(logits: Tensor) -> Tensor:
    """(K, *spatial) logits -> (*spatial): the probability of the class that wins."""
    return logits[0].abs().sigmoid() if len(logits) == 1 else (logits.amax(dim=0) - logits.logsumexp(dim=0)).exp()


def _around(labels: Tensor) -> tuple[slice, ...] | None:
    """The box around all labels, and one voxel more; None where there is background alone."""
    part = []
    for axis, size in enumerate(labels.shape):
        others = [dim for dim in range(labels.dim()) if dim != axis]
        places = (labels.amax(dim=others) if others else labels).nonzero()
        if not len(places):
            return None
        part.append(slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, size)))
    return tuple(part)


def _surface(labels: Tensor) -> Tensor:
    """(*box) bool: voxels with another value at a face."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for axis, size in enumerate(labels.shape):
        low, high = (labels.narrow(axis, start, size - 1) for start in (0, 1))
        differs = low != high
        for start in (0, 1):
            found.narrow(axis, start, size - 1).logical_or_(differs)
    return found

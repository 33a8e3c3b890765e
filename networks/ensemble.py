"""Several networks as one, whose probabilities are the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, log

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from .blocks import check_choice
from .scriptable import ScriptableEnsemble, standing_for

ACTIVATIONS = ("auto", "softmax", "sigmoid")


class Ensemble(nn.Module):
    """Images (B, C, *spatial) to logits (B, K, *spatial) of the mean probabilities of several networks.

    What comes out are logits again: with softmax the logarithms of the mean probabilities, with sigmoid the logarithms
    of their odds. So the largest channel is that of the mean, and whatever takes a member takes the ensemble. The
    members run one after the other and one result is held, in float32 or better; no probability is formed, so that
    none rounds to 0 or 1.

    It predicts and does not learn: its members stay in evaluation, whatever `train` says. Trained weights of a member
    load under `members.0.`, `members.1.`, …

    Args:
        members: networks with outputs of one shape; in a config, one `network_def` after the other.
        activation: that of the members' logits: "softmax" over the channels, "sigmoid" of each channel, or "auto",
            which is sigmoid for one channel and softmax for more.

    Attributes:
        size_divisor, receptive_field_voxels: the least common multiple and the largest of the members', an axis, where
            all have them; tiles that are right for these are right for each.
        padding, output_size: the members' own, where all have them.

    Raises:
        ValueError: there is no member, or members pad differently.
    """

    def __init__(self, members: Sequence[nn.Module], activation: str = "auto") -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        if not members:
            raise ValueError("members is empty; an ensemble needs at least one network.")
        self.members = nn.ModuleList(members)
        self.activation = activation
        divisors, fields, paddings = (
            [getattr(member, name) for member in members if isinstance(getattr(member, name, None), kind)]
            for name, kind in (("size_divisor", tuple), ("receptive_field_voxels", tuple), ("padding", str))
        )
        if len(divisors) == len(members):
            self.size_divisor = tuple(lcm(*axis) for axis in zip(*divisors, strict=True))
        if len(fields) == len(members):
            self.receptive_field_voxels = tuple(max(axis) for axis in zip(*fields, strict=True))
        if len({*paddings}) > 1:
            raise ValueError(f"the members' padding is {paddings}; an ensemble needs outputs of one size.")
        if len(paddings) == len(members):
            self.padding = paddings[0]
        if all(hasattr(member, "output_size") for member in members):
            self.output_size = members[0].output_size
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *spatial) -> logits of the mean probabilities, float32, or float64 where the members' are.

        Raises:
            ValueError: a member's output has another shape than the first's.
        """
        sums: list[Tensor] = []
        for index, member in enumerate(self.members):
            logits = member(image)
            logs = self._logarithms(logits.to(torch.promote_types(logits.dtype, torch.float32)))
            if sums and logs[0].shape != sums[0].shape:
                raise ValueError(
                    f"member {index} makes {tuple(logits.shape)} of {tuple(image.shape)}, the first one "
                    f"{tuple(sums[0].shape)}; an ensemble needs outputs of one shape."
                )
            sums = [torch.logaddexp(one, other) for one, other in zip(sums, logs, strict=True)] if sums else logs
        return sums[0] - log(len(self.members)) if len(sums) == 1 else sums[0] - sums[1]

    def train(self, mode: bool = True) -> Ensemble:
        """As `Module.train`, except that the members stay in evaluation."""
        super().train(mode)
        self.members.eval()
        return self

    def __prepare_scriptable__(self) -> ScriptableEnsemble:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, ScriptableEnsemble(self))

    def _logarithms(self, logits: Tensor) -> list[Tensor]:
        """Of the probabilities; with sigmoid, of these and of what is left to 1."""
        if self.activation == "sigmoid" or (self.activation == "auto" and logits.shape[1] == 1):
            return [logsigmoid(logits), logsigmoid(-logits)]
        return [log_softmax(logits, dim=1)]

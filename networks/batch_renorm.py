"""Batch renormalisation: batch norm whose training nears its evaluation, for batches of few or of like images.

Batch norm trains with the statistics of the batch and evaluates with running ones; where a batch is small the two
differ. Batch renormalisation corrects the normalised batch by r and d, which carry no gradient, to what the running
statistics would have made of it, within limits that widen in the course of the training.
Source: Ioffe 2017, arXiv:1702.03275; algorithm 1, and section 4 for the schedule of the limits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .scriptable import plain_batch_norm, standing_for


class _BatchRenorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm in all but training: parameters, running statistics, their names, evaluation.

    The limits widen linearly from those of batch norm, r = 1 and d = 0, with the batches that `num_batches_tracked`
    counts; so a resumed training goes on where it was. The paper has `r_steps=(5_000, 40_000)` and
    `d_steps=(5_000, 25_000)`, in trainings of over a hundred thousand steps; a training of some thousand would be one
    with batch norm. The defaults are a twenty-fifth of the paper's: for about 5,000 steps what those are for 125,000.
    Take longer ones where the loss jumps while the limits widen, shorter ones for trainings of some hundred steps; in
    a network, set these attributes of its modules.

    Args:
        num_features: channels.
        eps: added to the variances.
        momentum: weight of the batch in the running statistics; None for their average over all batches. Batch norm's
            default; the paper has 0.01, at which they lag 100 steps behind, many in a short training.
        affine: whether there are a weight and a bias.
        r_max: the limit of the scale r at last: 1 / r_max <= r <= r_max.
        d_max: the limit of the shift d at last: -d_max <= d <= d_max, in running standard deviations.
        r_steps: the batches after which r's limit begins to widen, and after which it is r_max.
        d_steps: the same of d's.

    Raises:
        ValueError: a limit is below batch norm's, or steps do not ascend from 0 or more.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        r_steps: tuple[int, int] = (200, 1_600),
        d_steps: tuple[int, int] = (200, 1_000),
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        if not r_max >= 1:
            raise ValueError(f"r_max is {r_max}; it must be at least 1, with which r is that of batch norm.")
        if not d_max >= 0:
            raise ValueError(f"d_max is {d_max}; it must be at least 0, with which d is that of batch norm.")
        for name, (begin, end) in {"r_steps": r_steps, "d_steps": d_steps}.items():
            if not 0 <= begin < end:
                raise ValueError(f"{name} is {(begin, end)}; it must be two numbers of batches, 0 <= begin < end.")
        self.r_max = r_max
        self.d_max = d_max
        self.r_steps = r_steps
        self.d_steps = d_steps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape.

        Raises:
            ValueError: in training, a single value a channel, as of batch norm.
        """
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        r, d = self._correction(x)
        self.num_batches_tracked.add_(1)
        # scaled and shifted by weight and bias, x_hat * r + d is batch norm's x_hat under another weight and bias
        weight, bias = r, d
        if self.weight is not None and self.bias is not None:
            weight, bias = self.weight * r, self.weight * d + self.bias
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return functional.batch_norm(x, self.running_mean, self.running_var, weight, bias, True, factor, self.eps)

    @torch.no_grad()
    def _correction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scale r and the shift d of each channel, within the limits of now."""
        # by the kernel of batch norm, which keeps statistics in their own precision under autocast; `var_mean` takes
        # three times as long on a processor, and would need a copy in float32
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        functional.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=self.eps)
        values = x.numel() // self.num_features
        deviation = (variance * (values - 1) / values + self.eps).sqrt()
        running_deviation = (self.running_var + self.eps).sqrt()
        r_limit = 1 + (self.r_max - 1) * self._progress(self.r_steps)
        d_limit = self.d_max * self._progress(self.d_steps)
        r = (deviation / running_deviation).clamp(1 / r_limit, r_limit)
        d = ((mean - self.running_mean) / running_deviation).clamp(-d_limit, d_limit)
        return r, d

    def _progress(self, steps: tuple[int, int]) -> Tensor:
        """From 0 at the first of the steps to 1 at the second; a tensor, so that a GPU need not be waited for."""
        begin, end = steps
        return ((self.num_batches_tracked - begin) / (end - begin)).clamp(0, 1)


class BatchRenorm2d(_BatchRenorm, nn.BatchNorm2d):
    """Batch renormalisation of (B, C, H, W); the arguments are those of `_BatchRenorm`."""

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, plain_batch_norm(self, nn.BatchNorm2d))


class BatchRenorm3d(_BatchRenorm, nn.BatchNorm3d):
    """Batch renormalisation of (B, C, D, H, W); the arguments are those of `_BatchRenorm`."""

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles in its place."""
        return standing_for(self, plain_batch_norm(self, nn.BatchNorm3d))

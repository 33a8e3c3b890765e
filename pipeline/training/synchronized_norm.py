"""Batch norm over the parts of a batch that several processes have; torch has it for GPUs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Put synchronized norms with the same parameters and buffers in the place of the network's batch norms."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and type(child) in PLAIN:
                setattr(module, name, _synchronized(child, device))


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the whole batch; the parts must be of equal size.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, over the union of the parts.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (B, C, *spatial) is taken."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, *spatial), normalised a channel; in evaluation by the running statistics."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        values = input.float()
        mean = _MeanOfAll.apply(values.mean(axes))
        centered = values - mean.view(shape)
        variance = _MeanOfAll.apply(centered.square().mean(axes))
        self._remember(mean.detach(), variance.detach(), input.numel() // input.shape[1] * distributed.get_world_size())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = centered * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards these, the variance made unbiased, as torch's batch norm does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var.dtype), share)


class _MeanOfAll(torch.autograd.Function):
    """The mean of a tensor over the processes; its gradient is the mean of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _mean_of_all(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _mean_of_all(gradients[0])


def _mean_of_all(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _synchronized(norm: _BatchNorm, device: torch.device) -> _BatchNorm:
    kind = nn.SyncBatchNorm if device.type == "cuda" else SynchronizedBatchNorm
    other = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    other.weight, other.bias = norm.weight, norm.bias  # the very parameters that the optimizer has
    other.running_mean, other.running_var = norm.running_mean, norm.running_var
    other.num_batches_tracked = norm.num_batches_tracked
    return other.train(norm.training)

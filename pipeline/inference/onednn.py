"""3D convolutions of one window through oneDNN, where PyTorch would take its slow kernel on a processor.

For a batch of one in fp32 PyTorch calls oneDNN only if the channels times the first two spatial axes exceed 20,480:
the third axis is left out, a rule made for 2D. Below it runs a kernel that takes twice the time for the whole of a
small U-Net on 40 x 56 x 40 windows.
Source: `ConvParams::use_mkldnn`, aten/src/ATen/native/Convolution.cpp.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnConv3d(nn.Conv3d):
    """A `Conv3d` that takes oneDNN for a batch of one, too; elsewhere the plain one."""

    def forward(self, x: Tensor) -> Tensor:
        """(1, C, X, Y, Z) -> (1, C', X', Y', Z')."""
        if x.dim() != 5 or len(x) != 1 or not x.is_cpu or x.dtype != torch.float32:
            return super().forward(x)
        assert not isinstance(self.padding, str)  # `prefer_onednn` leaves those out
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def prefer_onednn(network: nn.Module) -> nn.Module:
    """The network itself, its plain 3D convolutions become `OneDnnConv3d`; nothing where PyTorch has no oneDNN."""
    if torch.backends.mkldnn.is_available():
        for module in network.modules():
            if type(module) is nn.Conv3d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                module.__class__ = OneDnnConv3d
    return network

"""3D convolutions through oneDNN, against PyTorch's own choice."""

import copy

import pytest
import torch
from scanloom.pipeline.inference.onednn import OneDnnConv3d, prefer_onednn
from torch import nn

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [{"padding": 1}, {"stride": 2, "bias": False}, {"padding": (1, 0, 2), "dilation": 2}, {"groups": 2}],
)
def test_it_computes_what_the_plain_convolution_does(settings, batch, memory_format):
    plain = nn.Conv3d(4, 6, 3, **settings).to(memory_format=memory_format)
    image = torch.randn(batch, 4, 7, 6, 8).to(memory_format=memory_format)
    fast = prefer_onednn(copy.deepcopy(plain))
    assert type(fast) is OneDnnConv3d
    with torch.inference_mode():
        # Sums of at most 108 products of order one, in another order.
        torch.testing.assert_close(fast(image), plain(image), rtol=0, atol=1e-5)
        unbatched = image[0].contiguous()
        torch.testing.assert_close(fast(unbatched), plain(unbatched), rtol=0, atol=1e-5)
        torch.testing.assert_close(fast.double()(image.double()), plain.double()(image.double()))


@needs_onednn
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(2, 2, 3, padding="same"),
        nn.Conv3d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.utils.parametrizations.weight_norm(nn.Conv3d(2, 2, 3)),
        nn.Conv2d(2, 2, 3),
        nn.ConvTranspose3d(2, 2, 2),
    ],
    ids=["same", "circular", "weight norm", "2D", "transposed"],
)
def test_other_layers_stay(layer):
    kind = type(layer)
    assert type(prefer_onednn(layer)) is kind


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert type(prefer_onednn(nn.Conv3d(1, 1, 1))) is nn.Conv3d

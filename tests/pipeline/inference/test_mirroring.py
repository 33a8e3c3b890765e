"""The mean over mirror images: with networks whose answer is known."""

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from scanloom.pipeline.inference.mirroring import MirroredInferer
from torch import nn


class Counting(nn.Module):
    """Calls of another network, each with what it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return self.network(x)


def convolution(symmetric_along=()):
    layer = nn.Conv3d(2, 3, 3, padding=1)
    weight = torch.randn_like(layer.weight)
    for axis in symmetric_along:
        weight = weight + weight.flip(axis + 2)
    layer.weight = nn.Parameter(weight)
    return layer.eval().requires_grad_(False)


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2), (0, 1, 2)])
def test_a_network_that_returns_its_input_gives_the_input_back(axes):
    image = torch.randn(1, 2, 6, 5, 4)
    before = image.clone()
    torch.testing.assert_close(MirroredInferer(SimpleInferer(), axes)(image, nn.Identity()), before)
    assert torch.equal(image, before)


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
def test_an_equivariant_network_gives_the_plain_pass(axes):
    image, network = torch.randn(1, 2, 6, 5, 4), convolution(symmetric_along=axes)
    plain = SimpleInferer()(image, network)
    torch.testing.assert_close(MirroredInferer(SimpleInferer(), axes)(image, network), plain, rtol=1e-5, atol=1e-4)


def test_the_mean_is_over_each_mirror_image_once():
    image, network = torch.randn(1, 2, 6, 5, 4), Counting(convolution())
    mean = MirroredInferer(SimpleInferer(), (0, 2))(image, network)
    passes = [[], [2], [4], [2, 4]]
    assert len(network.seen) == 4
    for dims in passes:
        assert sum(torch.equal(seen, image.flip(dims)) for seen in network.seen) == 1
    expected = sum(network.network(image.flip(dims)).flip(dims) for dims in passes) / 4
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)


def test_the_mean_of_mirror_images_is_symmetric_for_a_symmetric_image():
    image = torch.randn(1, 2, 6, 5, 4)
    image = image + image.flip(2)
    mean = MirroredInferer(SimpleInferer(), (0,))(image, convolution())
    torch.testing.assert_close(mean, mean.flip(2), rtol=0, atol=1e-5)


def test_a_plane_has_axes_too():
    image = torch.randn(1, 2, 6, 5)
    torch.testing.assert_close(MirroredInferer(SimpleInferer(), (0, 1))(image, nn.Identity()), image)


def test_sliding_windows_see_the_whole_image_mirrored():
    """Not each window: their places differ between an image of odd size and its mirror image."""
    image, network = torch.randn(1, 2, 11, 9, 7), convolution()
    windows = SlidingWindowInferer(roi_size=(6, 6, 6), overlap=0.5, mode="gaussian")
    expected = (windows(image, network) + windows(image.flip(2), network).flip(2)) / 2
    torch.testing.assert_close(MirroredInferer(windows, (0,))(image, network), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, 0), (-1,), (1, -2)])
def test_axes_named_twice_or_negative_are_refused(axes):
    with pytest.raises(ValueError, match=r"axes is \(.*\); name each spatial axis once, from 0"):
        MirroredInferer(SimpleInferer(), axes)


def test_an_axis_that_the_image_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"axes is \(0, 2\) but the image has 2 spatial axes"):
        MirroredInferer(SimpleInferer(), (0, 2))(torch.rand(1, 1, 6, 5), nn.Identity())

"""The mean over mirror images: of probabilities, window by window, with networks whose answer is known."""

import pytest
import torch
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.mirroring import Mirrored, check_axes
from torch import nn

IMAGE = (1, 2, 6, 5, 4)


def convolution(channels=3, symmetric_along=()):
    layer = nn.Conv3d(2, channels, 3, padding=1)
    weight = torch.randn_like(layer.weight)
    for axis in symmetric_along:
        weight = weight + weight.flip(axis + 2)
    layer.weight = nn.Parameter(weight)
    return layer.eval().requires_grad_(False)


def dims_of(axes):
    """Every subset of the axes, as dimensions of a batch."""
    return [[axis + 2 for n, axis in enumerate(axes) if chosen >> n & 1] for chosen in range(2 ** len(axes))]


def probabilities(logits):
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def averaged(network, image, axes):
    """The reference: probabilities of the mirror images, mirrored back, in double precision."""
    passes = [probabilities(network(image.flip(dims)).double()).flip(dims) for dims in dims_of(axes)]
    return sum(passes) / len(passes)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 2), (0, 1, 2)])
def test_probabilities_are_averaged(axes, channels):
    image, network = torch.randn(IMAGE), convolution(channels)
    result = probabilities(Mirrored(network, axes)(image).double())
    torch.testing.assert_close(result, averaged(network, image, axes), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inferer_averages_them_too(channels):
    image, network = torch.randn(2, *IMAGE[1:]), convolution(channels)
    inferer = StreamingInferer(roi_size=(-1, -1, -1), mirror_axes=(0, 2), output="probabilities")
    expected = averaged(network, image, (0, 2)).float()
    torch.testing.assert_close(inferer(image, network), expected, rtol=0, atol=1e-6)


def test_each_window_is_mirrored():
    image, network = torch.randn(1, 2, 12, 10, 8), convolution()
    inferer = StreamingInferer(roi_size=(6, 5, 4), overlap=0, mirror_axes=(1,), output="probabilities")
    result = inferer(image, network)
    window = image[:, :, 6:, :5, 4:]
    torch.testing.assert_close(result[:, :, 6:, :5, 4:], averaged(network, window, (1,)).float(), rtol=0, atol=1e-6)


def test_without_axes_the_probabilities_are_the_networks_own():
    image, network = torch.randn(IMAGE), convolution()
    torch.testing.assert_close(Mirrored(network, ())(image).softmax(1), network(image).softmax(1))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
def test_an_equivariant_network_gives_the_plain_pass(axes):
    image, network = torch.randn(IMAGE), convolution(symmetric_along=axes)
    torch.testing.assert_close(Mirrored(network, axes)(image).softmax(1), network(image).softmax(1))


def test_each_mirror_image_is_seen_once_and_the_image_is_not_changed():
    image, seen = torch.randn(IMAGE), []
    before = image.clone()

    def network(windows):
        seen.append(windows.clone())
        return windows

    Mirrored(network, (0, 2))(image)
    assert len(seen) == 4
    for dims in dims_of((0, 2)):
        assert sum(torch.equal(each, image.flip(dims)) for each in seen) == 1
    assert torch.equal(image, before)


def test_small_probabilities_are_not_lost():
    """exp(-200) is no float32 number: a mean of probabilities as they are would be log(0)."""

    def network(windows):
        return torch.tensor([0.0, -200.0, -300.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)

    result = Mirrored(network, (0, 1))(torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(result - result[:, :1], network(None), rtol=1e-6, atol=1e-4)


def test_one_channel_keeps_its_log_odds_where_they_are_large():
    result = Mirrored(lambda windows: torch.full((1, 1, 4, 4), 60.0), (0,))(torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(result, torch.full((1, 1, 4, 4), 60.0))


@pytest.mark.parametrize("structure", [tuple, list, dict])
def test_every_output_of_the_network_is_averaged(structure):
    image, first, second = torch.randn(IMAGE), convolution(3), convolution(1)

    def network(windows):
        half = nn.functional.avg_pool3d(second(windows), 2)
        parts = [first(windows), half]
        return dict(zip("ab", parts, strict=True)) if structure is dict else structure(parts)

    result = Mirrored(network, (0,))(image[..., :4, :])
    one, other = (result["a"], result["b"]) if structure is dict else result
    assert isinstance(result, dict if structure is dict else tuple)
    torch.testing.assert_close(one.softmax(1).double(), averaged(first, image[..., :4, :], (0,)), rtol=0, atol=1e-6)

    def halved(windows):
        return nn.functional.avg_pool3d(second(windows), 2)

    torch.testing.assert_close(other.sigmoid().double(), averaged(halved, image[..., :4, :], (0,)), rtol=0, atol=1e-6)


def test_a_condition_is_mirrored_like_the_windows():
    image, condition = torch.randn(IMAGE), torch.randn(IMAGE)
    layer = convolution()

    def network(windows, scale, *, condition, shift=0.0):
        return layer(windows) * scale * condition[:, :1] + shift

    def together(both):
        return network(both[:, :2], 2.0, condition=both[:, 2:], shift=1.0)

    result = Mirrored(network, (0, 1))(image, 2.0, condition=condition, shift=1.0)
    expected = averaged(together, torch.cat([image, condition], dim=1), (0, 1))
    torch.testing.assert_close(result.softmax(1).double(), expected, rtol=0, atol=1e-5)
    inferer = StreamingInferer((-1, -1, -1), mirror_axes=(0, 1), output="probabilities")
    result = inferer(image, network, 2.0, condition=condition, shift=1.0)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5)


def test_a_plane_has_axes_too():
    image = torch.randn(1, 2, 6, 5)
    torch.testing.assert_close(Mirrored(nn.Identity(), (0, 1))(image).softmax(1), image.softmax(1))


def test_axes_in_their_order_are_taken():
    assert check_axes([2, 0]) == (2, 0)
    assert check_axes(()) == ()


@pytest.mark.parametrize("axes", [(0, 0), (-1,), (1, -2)])
def test_axes_named_twice_or_negative_are_refused(axes):
    with pytest.raises(ValueError, match=r"mirror_axes is \(.*\); name each spatial axis once, from 0"):
        check_axes(axes)
    with pytest.raises(ValueError, match=r"mirror_axes is"):
        StreamingInferer(4, mirror_axes=axes)


def test_an_axis_that_the_image_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"mirror_axes is \(0, 2\) but the windows have 2 spatial axes"):
        StreamingInferer(4, mirror_axes=(0, 2))(torch.rand(1, 1, 6, 5), nn.Identity())


def of_the_square(image, network):
    """The reference: probabilities of the eight symmetries by turning and mirroring, in double precision."""
    results = []
    for turns in range(4):
        for mirror in (False, True):
            seen = torch.rot90(image, turns, (2, 3))
            seen = seen.flip(2) if mirror else seen
            found = probabilities(network(seen).double())
            results.append(torch.rot90(found.flip(2) if mirror else found, -turns, (2, 3)))
    return sum(results) / 8


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mirrored_and_exchanged_are_the_eight_symmetries_of_the_square(channels):
    image, network = torch.randn(2, 2, 7, 7), nn.Conv2d(2, channels, 3, padding=1).requires_grad_(False)
    result = probabilities(Mirrored(network, (0, 1), (0, 1))(image).double())
    torch.testing.assert_close(result, of_the_square(image, network), rtol=0, atol=1e-6)


def test_the_inferer_exchanges_axes_window_by_window():
    image, network = torch.randn(1, 2, 12, 12), nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False)
    inferer = StreamingInferer(6, overlap=0, mirror_axes=(0, 1), transpose_axes=(0, 1), output="probabilities")
    window = image[:, :, 6:, :6]
    expected = of_the_square(window, network).float()
    torch.testing.assert_close(inferer(image, network)[:, :, 6:, :6], expected, rtol=0, atol=1e-6)


def test_windows_that_are_not_square_may_be_exchanged_too():
    image, network = torch.randn(1, 2, 8, 5), nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False)
    inferer = StreamingInferer((8, 5), transpose_axes=(0, 1), output="probabilities")
    other = probabilities(network(image.transpose(2, 3)).double()).transpose(2, 3)
    expected = (probabilities(network(image).double()) + other) / 2
    torch.testing.assert_close(inferer(image, network), expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("axes", [(0,), (0, 1, 2), (1, 1), (0, -1)])
def test_axes_to_exchange_are_two(axes):
    with pytest.raises(ValueError, match=r"transpose_axes is \(.*\); name two spatial axes, from 0, or none"):
        StreamingInferer(8, transpose_axes=axes)

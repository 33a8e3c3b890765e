"""Tiles without seams: equal to the pass over the whole image, every voxel once, or refused with the reason."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.networks import ResNetUNet, UNet
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.memory import FLOAT_BYTES
from scanloom.pipeline.inference.regrid import GridMap
from scanloom.pipeline.inference.scan import Background, TensorScan
from scanloom.pipeline.inference.tiling import SeamlessPass, check_seamless, plan_tiles
from scipy.ndimage import map_coordinates
from torch import nn

TOLERANCE = 1e-5
"""In shares of the largest logit: convolutions of other sizes sum float32 in another order."""


def ready(network):
    """In evaluation, with running statistics and weights that leave no channel as it was."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return network.requires_grad_(False).eval()


def unet(**settings):
    return ready(UNet(**{"features": 3, "depth": 1, "padding": "same"} | settings))


def close(result, expected):
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))


def seamless(image, network, roi_size, **settings):
    inferer = StreamingInferer(roi_size, mode="seamless", **settings)
    with torch.inference_mode():
        return inferer(image, network), inferer.facts


def whole(image, network):
    with torch.inference_mode():
        return network(image)


def valid_length(network, axis, output):
    """The shortest input along the axis that leaves so many voxels of output."""
    length = output
    while (network._valid_output(axis, length) or 0) < output:
        length += 1
    return length


def whole_of_mirrored(image, network):
    """The reference without padding: the image mirrored farther than any of its voxels sees."""
    shape, divisor = image.shape[2:], network.size_divisor
    beyond = [2 * d for d in divisor]  # where linear interpolation has no second value, at the end of the whole
    sizes = [
        valid_length(network, axis, n + 2 * more) for axis, (n, more) in enumerate(zip(shape, beyond, strict=True))
    ]
    before = [(n - m) // 2 + more for n, m, more in zip(sizes, network.output_size(sizes), beyond, strict=True)]
    pads = [(front, n - size - front) for front, n, size in zip(before, sizes, shape, strict=True)]
    mirrored = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *pads], mode="reflect"))
    inside = [slice(more, more + n) for n, more in zip(shape, beyond, strict=True)]
    return whole(mirrored, network)[(slice(None), slice(None), *inside)]


@pytest.mark.parametrize("upsample", ["transposed", "interpolation"])
@pytest.mark.parametrize("norm", ["none", "batch", "batchrenorm"])
@pytest.mark.parametrize(
    ("size", "roi_size", "settings"),
    [
        ((70, 53), (40, 40), {}),
        ((90, 61), 60, {"depth": 2, "features": 2}),
        ((41, 30, 35), (28, 24, 32), {"spatial_dims": 3, "features": 2, "out_channels": 3}),
        ((50, 44, 9), (30, 30, -1), {"spatial_dims": 3, "features": 2, "strides": [(2, 2, 1)]}),
        ((61, 50), (48, 45), {"strides": 3}),
    ],
    ids=["2D", "2D, two levels", "3D", "3D, a thick axis", "2D, threes"],
)
def test_a_padded_network_gives_the_pass_over_the_whole_image(size, roi_size, settings, norm, upsample):
    network = unet(**{"spatial_dims": 2, "norm": norm, "upsample": upsample} | settings)
    image = torch.randn(2, 1, *size)
    result, facts = seamless(image, network, roi_size)
    assert facts.windows >= 2 * 4
    assert (facts.skipped, facts.tile_disagreement) == (0, None)
    close(result, whole(image, network))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_it_does_so_for_any_size_and_window(data):
    network = unet(
        upsample=data.draw(st.sampled_from(["transposed", "interpolation"])),
        strides=data.draw(st.sampled_from([1, 2, 3, [(1, 2)], [(2, 3)]])),
        kernel_sizes=data.draw(st.sampled_from([3, [(3, 1), (1, 3)], [5, 3]])),
    )
    size = tuple(data.draw(st.integers(1, 90)) for _ in range(2))
    smallest = [
        2 * (-(-(field // 2) // divisor) * divisor) + divisor
        for field, divisor in zip(network.receptive_field_voxels, network.size_divisor, strict=True)
    ]
    roi_size = tuple(data.draw(st.integers(n, n + 20)) for n in smallest)
    image = torch.randn(1, 1, *size)
    close(seamless(image, network, roi_size)[0], whole(image, network))


@pytest.mark.parametrize("upsample", ["transposed", "interpolation"])
@pytest.mark.parametrize(
    ("size", "outputs", "settings"),
    [
        ((33, 50), (20, 16), {}),
        ((60, 7), (22, 24), {"depth": 2, "norm": "batch"}),
        ((17, 22, 13), (12, 12, 9), {"spatial_dims": 3, "features": 2, "norm": "batchrenorm"}),
        ((40, 33), (24, 20), {"strides": 3}),
    ],
    ids=["2D", "2D, two levels", "3D", "2D, threes"],
)
def test_a_network_without_padding_gives_the_pass_over_the_whole_mirrored_image(size, outputs, settings, upsample):
    network = unet(**{"spatial_dims": 2, "padding": "valid", "upsample": upsample} | settings)
    roi_size = tuple(valid_length(network, axis, n) for axis, n in enumerate(outputs))
    image = torch.randn(2, 1, *size)
    result, facts = seamless(image, network, roi_size)
    assert facts.windows > 2
    close(result, whole_of_mirrored(image, network))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_it_does_so_without_padding_for_any_size_and_window(data):
    network = unet(
        padding="valid",
        depth=data.draw(st.integers(0, 2)),
        features=2,
        upsample=data.draw(st.sampled_from(["transposed", "interpolation"])),
        strides=data.draw(st.sampled_from([1, 2, 3, 4])),
        kernel_sizes=data.draw(st.sampled_from([3, 5, 1])),
    )
    size = tuple(data.draw(st.integers(1, 60)) for _ in range(2))
    outputs = [data.draw(st.integers(3 * divisor, 3 * divisor + 20)) for divisor in network.size_divisor]
    roi_size = tuple(valid_length(network, axis, n) for axis, n in enumerate(outputs))
    image = torch.randn(1, 1, *size)
    close(seamless(image, network, roi_size)[0], whole_of_mirrored(image, network))


def test_tiles_of_up_convolutions_have_nothing_to_spare():
    """Ronneberger's own: 572 voxels to 388, of which 384 are the next multiple of 16."""
    plan = plan_tiles(UNet(features=1), (1000, 1000), (572, 572))
    assert [(each.low, each.high, each.start, each.stop) for each in plan.axes[0]] == [
        (-92, 480, 0, 384), (292, 864, 384, 768), (676, 1248, 768, 1000),
    ]  # fmt: skip


def test_a_residual_network_gives_the_pass_over_the_whole_image():
    """Its receptive field is 621 voxels: tiles of one long axis, the other as small as the divisor."""
    torch.manual_seed(1)
    network = ready(ResNetUNet(2, pretrained=False, depth=18, in_channels=1, decoder_features=(4,) * 5))
    image = torch.randn(1, 1, 800, 20)
    roi_size = (2 * 320 + 64, 32)
    result, facts = seamless(image, network, roi_size)
    assert facts.windows > 1
    close(result, whole(image, network))


class Written:
    """An output that counts how often each voxel is written."""

    def __init__(self, channels, size):
        self.values, self.count = np.full((channels, *size), np.nan, np.float32), np.zeros((channels, *size), int)
        self.shape = self.values.shape

    def __getitem__(self, index):
        raise AssertionError("nothing is read back")

    def __setitem__(self, where, block):
        self.values[where] = block
        self.count[where] += 1


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(70, 53), (41, 90), (5, 100)])
def test_each_voxel_is_written_once(size, padding):
    network = unet(spatial_dims=2, padding=padding)
    out = Written(2, size)
    image = torch.randn(1, *size)
    StreamingInferer(40, mode="seamless").stream(TensorScan(image), network, out)
    assert (out.count == 1).all()
    expected = (whole if padding == "same" else whole_of_mirrored)(image[None], network)
    close(torch.from_numpy(out.values)[None], expected)


@settings(deadline=None)
@given(st.tuples(st.integers(1, 200), st.integers(1, 200)), st.integers(40, 90), st.sampled_from([1, 2, 3]))
def test_tiles_cover_the_image_once_and_are_no_larger_than_allowed(size, roi, stride):
    network = unet(spatial_dims=2, features=1, strides=stride)
    plan = plan_tiles(network, size, (roi, roi))
    halo = [field // 2 for field in network.receptive_field_voxels]
    for stretches, n, reach, divisor, tile in zip(plan.axes, size, halo, network.size_divisor, plan.tile, strict=True):
        whole_length = -(-n // divisor) * divisor
        assert [each.start for each in stretches] == [0, *[each.stop for each in stretches[:-1]]]
        assert stretches[-1].stop == n
        for each in stretches:
            assert each.high - each.low == tile <= max(roi, 1)
            assert each.low % divisor == each.high % divisor == 0
            assert each.low <= max(each.start - reach, 0)
            assert each.high >= min(each.stop + reach, whole_length)
    assert plan.windows == len(list(plan.tiles()))


def test_tiles_are_as_small_as_their_number_allows():
    plan = plan_tiles(unet(spatial_dims=2, features=1), (100, 20), (90, 90))
    assert plan.windows == 2
    assert plan.tile[0] < 90
    assert plan.tile[1] == 20


def test_labels_and_probabilities_are_those_of_the_whole_image():
    network, image = unet(spatial_dims=2, out_channels=3), torch.randn(1, 1, 70, 53)
    logits = whole(image, network)
    labels, _ = seamless(image, network, 40, output="labels")
    assert (labels != logits.argmax(1, keepdim=True)).float().mean() < 1e-3  # ties
    close(seamless(image, network, 40, output="probabilities")[0], logits.softmax(1))


def test_several_windows_at_a_time_and_several_outputs_are_no_different():
    network, image = unet(spatial_dims=2), torch.randn(1, 1, 90, 75)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network
            self.size_divisor, self.receptive_field_voxels = network.size_divisor, network.receptive_field_voxels

        def forward(self, x):
            return {"logits": self.network(x), "image": x}

    result, _ = seamless(image, Two(), 40, sw_batch_size=4, sw_device=["cpu", "cpu"])
    close(result["logits"], whole(image, network))
    assert torch.equal(result["image"], image)


def test_mirrored_tiles_are_those_of_the_mirrored_whole():
    """Of an even image: the zeros that an odd one is padded with lie on the other side of a mirrored tile."""
    network, image = unet(spatial_dims=2), torch.randn(1, 1, 80, 54)
    result, _ = seamless(image, network, 40, mirror_axes=(0, 1), output="probabilities")
    with torch.inference_mode():
        passes = [network(image.flip(dims)).softmax(1).flip(dims) for dims in ([], [2], [3], [2, 3])]
    close(result, sum(passes) / 4)


def test_the_network_is_told_where_its_tile_lies():
    network, image, told = unet(spatial_dims=2), torch.arange(70.0 * 53).view(1, 1, 70, 53), []

    class Placed(nn.Module):
        size_divisor, receptive_field_voxels = network.size_divisor, network.receptive_field_voxels

        def forward(self, x, places):
            for window, (_, _, *place) in zip(x, places, strict=True):
                told.append(tuple(place))
                inside = image[0][(slice(None), *place)]
                assert torch.equal(window[:, : inside.shape[1], : inside.shape[2]], inside)
                assert window.shape[1:] == tuple(part.stop - part.start for part in place)
            return network(x)

    result, facts = seamless(image, Placed(), 40, with_coord=True)
    assert len(told) == facts.windows
    close(result, whole(image, network))


def test_a_condition_is_tiled_likewise():
    network, image, condition = unet(in_channels=2), torch.randn(1, 1, 70, 53), torch.randn(1, 1, 70, 53)

    class Conditioned(nn.Module):
        size_divisor, receptive_field_voxels = network.size_divisor, network.receptive_field_voxels

        def forward(self, x, condition):
            return network(torch.cat([x, condition], dim=1))

    result = StreamingInferer(40, mode="seamless")(image, Conditioned(), condition=condition)
    close(result, whole(torch.cat([image, condition], dim=1), network))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_tiles_are_interpolated_onto_another_grid(padding):
    network, image = unet(spatial_dims=2, padding=padding), torch.randn(1, 1, 70, 53)
    grid_map = GridMap((100, 40), (0.7, 1.3), (-0.4, 0.6))
    out = torch.empty(2, *grid_map.size)
    StreamingInferer(40, mode="seamless").stream(TensorScan(image[0]), network, out, grid_map=grid_map)
    logits = (whole if padding == "same" else whole_of_mirrored)(image, network)[0].numpy()
    places = [np.clip(0.7 * np.arange(100) - 0.4, 0, 69), np.clip(1.3 * np.arange(40) + 0.6, 0, 52)]
    mesh = np.meshgrid(*places, indexing="ij")
    expected = np.stack([map_coordinates(each, mesh, order=1, mode="nearest") for each in logits])
    close(out, torch.from_numpy(expected))


def test_what_is_held_does_not_grow_with_the_image():
    network = unet(spatial_dims=3, features=1)

    def held(length, regridded):
        plan = plan_tiles(network, (length, 60, 60), (32, 32, 32))
        one = SeamlessPass(
            TensorScan(torch.zeros(1, 1, 1, 1).expand(1, length, 60, 60)), plan, None, background=Background()
        )
        assert one.held_bytes(3) == 3 * 2 * prod(plan.tile) * FLOAT_BYTES
        return one.held_bytes(3, regridded)

    assert held(100, False) == held(1000, False)
    assert held(100, False) < held(100, True) == held(1000, True)


def test_memory_can_not_be_relieved():
    plan = plan_tiles(unet(), (40, 40), (40, 40))
    assert SeamlessPass(TensorScan(torch.zeros(1, 40, 40)), plan, None, background=Background()).relieve() is False


@pytest.mark.parametrize(
    ("norm", "name"),
    [("instance", "InstanceNorm"), ("group", "GroupNorm")],
)
def test_norms_that_measure_the_window_are_refused_by_name(norm, name):
    network = unet(spatial_dims=2, norm=norm, features=8)
    message = rf'mode "seamless" can not be had with this network: encoder\.0\.\S+ \({name}\) takes its figures from'
    with pytest.raises(ValueError, match=message) as caught:
        seamless(torch.zeros(1, 1, 70, 53), network, 40)
    assert 'Use mode "gaussian", or train with norm "batch", "batchrenorm" or "none".' in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm2d(1).train(), r"BatchNorm2d\) is in training mode and measures the window that it sees"),
        (nn.BatchNorm2d(1, track_running_stats=False).eval(), r"BatchNorm2d\) keeps no running statistics"),
        (nn.LayerNorm(4), r"LayerNorm\) takes its figures from the window that it sees"),
        (nn.AdaptiveAvgPool2d(1), r"AdaptiveAvgPool2d\) takes its figures"),
        (nn.MultiheadAttention(4, 1), r"MultiheadAttention\) takes its figures"),
    ],
    ids=["training", "no statistics", "layer", "pool", "attention"],
)
def test_layers_that_see_the_window_are_refused_with_the_reason(layer, reason):
    with pytest.raises(ValueError, match=rf"this network: 1 \({reason}"):
        check_seamless(nn.Sequential(nn.Conv2d(1, 1, 1), layer))
    with pytest.raises(ValueError, match=rf"this network: it \({reason}"):
        check_seamless(layer)


@pytest.mark.parametrize("norm", ["batch", "batchrenorm"])
def test_batch_norms_in_training_are_refused(norm):
    network = unet(spatial_dims=2, norm=norm).train()
    with pytest.raises(ValueError, match="is in training mode and measures the window that it sees"):
        seamless(torch.zeros(1, 1, 70, 53), network, 40)


def test_a_network_that_does_not_say_what_it_sees_is_refused():
    message = "needs to know size_divisor and receptive_field_voxels of the network, which a Conv2d does not say"
    with pytest.raises(ValueError, match=message):
        seamless(torch.zeros(1, 1, 70, 53), nn.Conv2d(1, 2, 3), 40)
    layer = nn.Conv2d(1, 2, 3)
    layer.size_divisor = (1, 1)
    with pytest.raises(ValueError, match="needs to know receptive_field_voxels of the network"):
        check_seamless(layer)
    with pytest.raises(ValueError, match="which a function does not say"):
        check_seamless(lambda x: x)


def test_windows_too_small_for_the_surroundings_are_refused():
    network = unet(spatial_dims=2)
    message = (
        r"roi_size 16 is too small to tile without seams: the network needs (\d+) voxels around a tile, that is at"
    )
    with pytest.raises(ValueError, match=message):
        seamless(torch.zeros(1, 1, 70, 53), network, 16)
    close(seamless(torch.ones(1, 1, 16, 15), network, 16)[0], whole(torch.ones(1, 1, 16, 15), network))


def test_windows_that_a_network_without_padding_can_not_take_are_refused():
    with pytest.raises(ValueError, match="the nearest sizes that work are 40 and 42"):
        seamless(torch.zeros(1, 1, 70, 53), unet(spatial_dims=2, padding="valid"), 41)


def test_windows_that_leave_too_little_output_are_refused():
    class Shrinking(nn.Module):
        padding, size_divisor, receptive_field_voxels = "valid", (4,), (9,)

        def output_size(self, size):
            return [n - 8 for n in size]

    with pytest.raises(
        ValueError, match=r"roi_size 11 leaves 3 voxels of output without seams, less than the network's size_divisor 4"
    ):
        plan_tiles(Shrinking(), (50,), (11,))


def test_a_network_that_breaks_its_promise_is_refused():
    class Cropping(nn.Module):
        size_divisor, receptive_field_voxels = (1, 1), (3, 3)

        def forward(self, x):
            return x[..., 1:-1, 1:-1]

    with pytest.raises(
        ValueError, match=r"makes \(18, 18\) voxels of tiles of \(20, 20\); its attributes promise \(20, 20\)"
    ):
        seamless(torch.zeros(1, 1, 38, 38), Cropping(), 20)


@pytest.mark.parametrize("output", ["logits", "labels"])
@pytest.mark.parametrize("corner", [(0, 0), (90, 90)], ids=["the first tile not", "the first tile too"])
def test_tiles_of_background_with_their_surroundings_are_filled(output, corner):
    network = UNet(out_channels=3, features=[4, 8], padding="same", norm="none").eval().requires_grad_(False)
    image = torch.zeros(1, 1, 120, 120)
    image[..., corner[0] : corner[0] + 20, corner[1] : corner[1] + 20] = torch.randn(20, 20)
    inferer = StreamingInferer(40, mode="seamless", output=output, background_value=0.0)
    result = inferer(image, network)
    assert 0 < inferer.facts.skipped < inferer.facts.windows
    whole = network(image)
    seen = torch.zeros(120, 120, dtype=bool)
    for tile in plan_tiles(network, (120, 120), (40, 40)).tiles():
        if image[0, 0][tuple(slice(each.low, each.high) for each in tile)].any():
            seen[tuple(slice(each.start, each.stop) for each in tile)] = True
    expected = whole if output == "logits" else whole.argmax(1, keepdim=True).to(torch.uint8)
    torch.testing.assert_close(result[..., seen], expected[..., seen])
    empty = result[..., ~seen] if output == "labels" else result.argmax(1)[..., ~seen]
    assert not empty.any()


def mirrored_by(image, network, widths):
    """The reference: the whole image with so many voxels of its mirror image around it."""
    pads = [(width, width) for width in widths]
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *pads], mode="reflect"))
    inside = [slice(width, width + n) for width, n in zip(widths, image.shape[2:], strict=True)]
    return whole(padded, network)[(slice(None), slice(None), *inside)]


@pytest.mark.parametrize("size", [(33, 40), (64, 21), (7, 5)])
@pytest.mark.parametrize(("border", "width"), [("mirror", 99), (4, 4), (3, 4), (99, 99), (0, 0), ("zeros", 0)])
@pytest.mark.parametrize("roi", [(24, 24), (64, 32)])
def test_networks_with_padding_can_see_the_mirrored_image_beyond_the_border(size, border, width, roi):
    torch.manual_seed(1)
    network = unet(depth=1, norm="batch", strides=2, in_channels=2)
    halo = -(-(network.receptive_field_voxels[0] // 2) // 2) * 2
    image = torch.randn(1, 2, *size)
    result, facts = seamless(image, network, roi, border=border)
    close(result, mirrored_by(image, network, [min(width, halo)] * 2))
    assert facts.windows >= 1


def test_the_mirrored_border_is_that_of_planes_too():
    network, image = unet(depth=1, norm="batch"), torch.randn(1, 1, 20, 26, 3)
    result, _ = seamless(image, network, [32, 32], border="mirror")
    expected = torch.stack([seamless(image[..., z], network, [32, 32], border="mirror")[0] for z in range(3)], -1)
    assert torch.equal(result, expected)
    assert not torch.allclose(result, seamless(image, network, [32, 32])[0])


def test_symmetries_and_mirrored_borders_go_together():
    network, image = unet(depth=1, norm="batch"), torch.randn(1, 1, 32, 32)
    given = {"border": "mirror", "output": "probabilities"}
    result, _ = seamless(image, network, 64, mirror_axes=(0, 1), transpose_axes=(0, 1), **given)
    views = []
    for turns in range(4):
        for dims in ((), (2,)):
            seen = torch.rot90(image, turns, (2, 3)).flip(dims)
            views.append(torch.rot90(seamless(seen, network, 64, **given)[0].flip(dims), -turns, (2, 3)))
    torch.testing.assert_close(result, sum(views) / 8, rtol=0, atol=1e-5)


@pytest.mark.parametrize("border", ["reflect", -1, 0.5])
def test_a_border_of_another_kind_is_refused(border):
    with pytest.raises(ValueError, match=r'border is .*; it must be "zeros", "mirror" or a number of voxels'):
        StreamingInferer(8, mode="seamless", border=border)


def test_a_mirrored_border_needs_seamless_windows():
    with pytest.raises(ValueError, match=r'border is \'mirror\', which windows of mode "gaussian" do not have'):
        StreamingInferer(8, mode="gaussian", border="mirror")

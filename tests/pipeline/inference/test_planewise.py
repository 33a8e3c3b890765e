"""2D networks over volumes: equal to the network on each plane by hand, in every mode of windows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer
from scanloom.networks import ResNetUNet, UNet
from scanloom.pipeline.inference import StreamingInferer
from scanloom.pipeline.inference.planewise import Planewise, is_planewise, planewise, with_one_plane
from scanloom.pipeline.inference.ready import make_ready
from scanloom.pipeline.inference.scan import TensorScan
from torch import nn


def ready(network):
    """In evaluation, with statistics of batch norms that leave no channel as it was."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    return network.requires_grad_(False).eval()


def unet(**given):
    torch.manual_seed(0)
    return ready(UNet(**{"features": 3, "depth": 1, "padding": "same", "norm": "batch"} | given))


def resnet(**given):
    torch.manual_seed(0)
    options = {
        "num_classes": 2,
        "pretrained": False,
        "depth": 18,
        "in_channels": 1,
        "decoder_features": (8, 8, 8, 4, 4),
    }
    return ready(ResNetUNet(**options | given))


def plane_by_plane(image, network, inferer):
    """The reference: each plane by itself as a 4D image."""
    with torch.inference_mode():
        return torch.stack([inferer(image[..., z], network) for z in range(image.shape[-1])], dim=-1)


def run(image, network, **given):
    with torch.inference_mode():
        return StreamingInferer(**given)(image, network)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(9, 30), st.integers(9, 30), st.integers(1, 5)),
    batch=st.integers(1, 2),
    mode=st.sampled_from(["constant", "gaussian", "seamless"]),
    padding=st.sampled_from(["same", "valid"]),
    seed=st.integers(0, 99),
)
def test_a_volume_is_its_planes_one_by_one_to_the_last_bit(size, batch, mode, padding, seed):
    network = unet(padding=padding, norm="batch")
    image = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed))
    if padding == "valid" and mode != "seamless":
        mode = "seamless"  # windows that come out smaller than they went in do not join up
    inferer = StreamingInferer(roi_size=[24, 24], mode=mode, overlap=0.5)
    expected = plane_by_plane(image, network, inferer)
    with torch.inference_mode():
        result = inferer(image, network)
    assert torch.equal(result, expected)


def test_several_planes_at_a_time_are_the_same_planes():
    image, network = torch.randn(1, 1, 40, 30, 7), unet()
    one = run(image, network, roi_size=[16, 16])
    several = run(image, network, roi_size=[16, 16], sw_batch_size=5)
    torch.testing.assert_close(several, one, rtol=0, atol=1e-5)  # sums in another order


def test_monais_own_inferer_becomes_one_of_planes():
    image, network = torch.randn(1, 1, 20, 24, 3), unet()
    inferer = StreamingInferer.like(SlidingWindowInferer([16, 16], overlap=[0.5, 0.25], mode="gaussian"))
    flat = SlidingWindowInferer([16, 16], overlap=[0.5, 0.25], mode="gaussian")
    with torch.inference_mode():
        torch.testing.assert_close(inferer(image, network), plane_by_plane(image, network, flat), rtol=0, atol=1e-6)


def test_4d_images_are_taken_as_ever():
    image, network = torch.randn(2, 1, 20, 24), unet()
    assert torch.equal(
        run(image[..., None], network, roi_size=[16, 16])[..., 0], run(image, network, roi_size=[16, 16])
    )


@pytest.mark.slow
def test_a_large_picture_in_tiles_is_the_pass_over_all_of_it():
    image, network = torch.randn(1, 1, 700, 900, 1), resnet()
    inferer = StreamingInferer(roi_size=[704, 704], mode="seamless")
    with torch.inference_mode():
        result, expected = inferer(image, network)[..., 0], network(image[..., 0])
    assert inferer.facts.windows > 1
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_large_picture_through_a_valid_network_is_the_pass_over_its_mirrored_self():
    network = ready(UNet(features=4, depth=4))
    image = torch.randn(1, 1, 700, 900, 1)
    result = run(image, network, roi_size=[572, 572], mode="seamless")[..., 0]
    margin = (572 - network.output_size((572, 572))[0]) // 2
    outer = [n + 2 * margin for n in (700, 900)]
    extra = [next(more for more in range(64) if network._valid_output(axis, n + more)) for axis, n in enumerate(outer)]
    pads = [(margin, margin + more) for more in extra]
    mirrored = torch.from_numpy(np.pad(image[0, 0, ..., 0].numpy(), pads, mode="reflect"))
    with torch.inference_mode():
        expected = network(mirrored[None, None])[..., :700, :900]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("mode", ["gaussian", "seamless"])
def test_a_stack_that_no_memory_would_hold_is_streamed(mode):
    """2^34 planes' voxels, 64 GiB as float32, that are one in truth; what is held is that of a few planes."""
    written, network = [], unet(features=2)

    class Disk:
        shape = (1, 2**10, 2**10, 2**14)

        def __getitem__(self, index):
            return self

        def __setitem__(self, where, block):
            written.append(block.shape)
            if len(written) == 10:
                raise InterruptedError

    def scan(planes):
        return TensorScan(torch.ones(1, 1, 1, 1).expand(1, 2**10, 2**10, planes))

    inferer = StreamingInferer([256, 256], mode=mode, output="labels")
    held = [
        inferer._pass(scan(n), Planewise(network), lambda *_: None, [torch.device("cpu")]).held_bytes(2)
        for n in (3, 2**14)
    ]
    assert held[0] == held[1]
    with pytest.raises(InterruptedError), torch.inference_mode():
        inferer.stream(scan(2**14), network, Disk())
    assert {shape[-1] for shape in written} == {1}


def test_the_estimate_knows_the_planes():
    scan, network = TensorScan(torch.zeros(1, 64, 48, 9)), unet()
    estimate = StreamingInferer(roi_size=[32, 32], output="labels", overlap=0).estimate(scan, network, 0)
    assert estimate.windows == 2 * 2 * 9
    flat = StreamingInferer(roi_size=[32, 32], overlap=0).estimate(TensorScan(torch.zeros(1, 64, 48)), network, 0)
    assert estimate.host_bytes == pytest.approx(flat.host_bytes, rel=0.2)


def test_windows_as_the_network_sees_them_have_two_axes():
    assert StreamingInferer([32, -1]).window_size((64, 48, 9)) == (32, 48)
    assert StreamingInferer([32, 32, 4]).window_size((64, 48, 9)) == (32, 32, 4)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_network_made_ready_is_told_of_planes_only(engine):
    image, network = torch.randn(1, 1, 48, 40, 3), unet()
    inferer = StreamingInferer([32, 32], mode="seamless")
    expected = plane_by_plane(image, network, inferer)
    shape = (1, 1, *inferer.window_size(image.shape[2:]))
    prepared = make_ready(network, torch.device("cpu"), "fp32", compile=False, engine=engine, example_shape=shape)
    with torch.inference_mode():
        torch.testing.assert_close(inferer(image, prepared), expected, rtol=0, atol=1e-4)


def test_structures_and_conditions_pass_through():
    def network(windows, condition):
        assert windows.shape == condition.shape == (2, 1, 8, 8)
        return {"sum": windows + condition, "twice": (windows * 2).repeat(1, 3, 1, 1)}

    image = torch.randn(1, 1, 8, 8, 2)
    result = StreamingInferer([8, 8], sw_batch_size=2)(image, network, condition=image + 1)
    torch.testing.assert_close(result["sum"], image * 2 + 1)
    torch.testing.assert_close(result["twice"], (image * 2).repeat(1, 3, 1, 1, 1))


def test_mirrored_and_transposed_planes_are_those_of_images():
    image, network = torch.randn(1, 1, 16, 16, 2), unet(depth=1)
    given = {"roi_size": [16, 16], "mirror_axes": [0, 1], "transpose_axes": [0, 1], "output": "probabilities"}
    expected = plane_by_plane(image, network, StreamingInferer(**given))
    torch.testing.assert_close(run(image, network, **given), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [{"mirror_axes": [2]}, {"transpose_axes": [0, 2]}])
def test_planes_are_not_mirrored_across(given):
    with pytest.raises(ValueError, match=r"but the windows have 2 spatial axes"):
        run(torch.zeros(1, 1, 8, 8, 2), unet(), roi_size=[8, 8], **given)


def test_what_the_network_says_of_itself_gets_one_voxel_along_the_last_axis():
    network = Planewise(unet(padding="valid"))
    assert network.size_divisor == (2, 2, 1)
    assert network.receptive_field_voxels[2] == 1
    assert network.padding == "valid"
    assert network.output_size((20, 24, 7)) == (*network.network.output_size((20, 24)), 7)
    silent = Planewise(nn.Conv2d(1, 1, 1))
    assert not hasattr(silent, "size_divisor")


def test_a_network_of_volumes_is_not_given_planes():
    with pytest.raises(
        ValueError, match=r"roi_size \[8, 8\] has 2 axes, .* the network takes volumes \(.* is a Conv3d\)"
    ):
        run(torch.zeros(1, 1, 8, 8, 8), UNet(spatial_dims=3, depth=1, features=2, padding="same"), roi_size=[8, 8])


def test_when_windows_are_planes():
    assert is_planewise([8, 8], 3)
    assert not any(is_planewise(roi, axes) for roi, axes in ((8, 3), ([8, 8], 2), ([8, 8, 8], 3), ([8], 2)))
    network = SimpleNamespace()
    assert planewise(network, [8, 8], 2) is network
    assert with_one_plane((0.5, 0.25), [8, 8], 3, 0.0) == (0.5, 0.25, 0.0)
    assert with_one_plane(0.5, [8, 8], 3, 0.0) == 0.5

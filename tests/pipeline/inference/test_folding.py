"""Batch norms fold where that is exact, and stay where it is not."""

import pytest
import torch
from monai.networks import nets
from scanloom.networks import ResNetUNet, UNet
from scanloom.pipeline.inference import folding
from scanloom.pipeline.inference.folding import fold_batch_norm
from torch import nn
from torch.nn import functional

IMAGE = (1, 4, 6, 6)


def with_statistics(network):
    """The network in evaluation mode, its norms with statistics, scales and shifts as after a training."""
    for module in network.modules():
        if isinstance(module, folding.NORMS) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def norms(network):
    return [module for module in network.modules() if isinstance(module, folding.NORMS)]


def assert_same(one, other, shape):
    image = torch.randn(shape)
    with torch.no_grad():
        expected, actual = one(image), other(image)
    if isinstance(expected, torch.Tensor):
        expected, actual = [expected], [actual]
    for here, there in zip(actual, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-4 * float(there.abs().max()))


class Wired(nn.Module):
    """A convolution, a norm, and a way of its own through them."""

    def __init__(self, forward, norm=None, convolution=None):
        super().__init__()
        self.convolution = convolution or nn.Conv2d(4, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def chained(network, x):
    return network.norm(network.convolution(x))


def unet_2d():
    return UNet(features=4, depth=2, padding="same", norm="batch"), (1, 1, 10, 11)


def unet_3d():
    network = UNet(
        features=4, depth=2, spatial_dims=3, norm="batch", padding="same", upsample="interpolation", deep_supervision=1
    )
    return network, (1, 1, 8, 9, 7)


def unet_batch_renorm():
    return UNet(features=4, depth=2, padding="same", norm="batchrenorm"), (1, 1, 10, 11)


def unet_batch_renorm_3d():
    return UNet(features=4, depth=1, spatial_dims=3, padding="same", norm="batchrenorm"), (1, 1, 6, 5, 4)


def unet_valid():
    return UNet(features=4, depth=1, norm="batch"), (1, 1, 28, 28)


def resnet_unet():
    return ResNetUNet(2, pretrained=False, depth=18, norm="batch", decoder_features=(8,) * 5), (1, 3, 64, 64)


def bottleneck_resnet_unet():
    network = ResNetUNet(2, pretrained=False, depth=50, norm="batch", decoder_features=(8,) * 5)
    return network, (1, 3, 32, 32)


def monai_unet():
    network = nets.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch")
    return network, (1, 1, 16, 16)


def monai_basic_unet():
    return nets.BasicUNet(2, norm=("batch", {}), features=(4, 4, 8, 8, 8, 4)), (1, 1, 32, 32)


def monai_dynunet():
    network = nets.DynUNet(
        3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], norm_name="batch", filters=[4, 8, 8], deep_supervision=True
    )
    return network, (1, 1, 16, 16, 16)


@pytest.mark.parametrize(
    "make",
    [
        unet_2d,
        unet_3d,
        unet_batch_renorm,
        unet_batch_renorm_3d,
        unet_valid,
        resnet_unet,
        bottleneck_resnet_unet,
        monai_unet,
        monai_basic_unet,
        monai_dynunet,
    ],
)
def test_every_batch_norm_after_a_convolution_folds(make):
    network, shape = make()
    with_statistics(network)
    before = len(norms(network))
    folded, count = fold_batch_norm(network, torch.zeros(shape))
    assert count == before > 0
    assert norms(folded) == []
    assert len(norms(network)) == before  # the network itself is left as it is
    assert_same(network, folded, shape)


def test_of_segresnet_the_norms_between_two_convolutions_fold():
    network, shape = nets.SegResNet(2, init_filters=8, norm="batch"), (1, 1, 16, 16)
    with_statistics(network)
    folded, count = fold_batch_norm(network, torch.zeros(shape))
    assert 0 < count == len(norms(network)) - len(norms(folded)) < len(norms(network))
    assert_same(network, folded, shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda bias: nn.Conv2d(4, 6, 3, stride=2, bias=bias),
        lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2, bias=bias),
        lambda bias: nn.ConvTranspose2d(4, 6, 2, stride=2, bias=bias),
    ],
)
def test_every_kind_of_convolution_takes_a_norm(convolution, bias, affine):
    network = nn.Sequential(convolution(bias), nn.BatchNorm2d(6, affine=affine))
    network[1].running_mean.normal_()
    folded, count = fold_batch_norm(network.eval(), torch.zeros(IMAGE))
    assert count == 1
    assert isinstance(folded[1], nn.Identity)
    assert_same(network, folded, IMAGE)


def test_a_norm_that_hangs_in_two_places_folds_in_both():
    network = Wired(chained)
    network.alias = network.norm
    folded, count = fold_batch_norm(with_statistics(network), torch.zeros(IMAGE))
    assert count == 1
    assert folded.alias is folded.norm
    assert_same(network, folded, IMAGE)


@pytest.mark.parametrize(
    "network",
    [
        Wired(chained, nn.InstanceNorm2d(4, affine=True)),
        Wired(chained, nn.GroupNorm(2, 4)),
        Wired(chained, nn.BatchNorm2d(4, track_running_stats=False)),
        Wired(chained, convolution=nn.Linear(6, 6)),
        Wired(chained, convolution=nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))),
        Wired(lambda self, x: self.convolution(self.norm(x))),
        Wired(lambda self, x: self.norm(functional.relu(self.convolution(x)))),
        Wired(lambda self, x: self.norm(self.convolution(self.convolution(x)))),
        Wired(lambda self, x: self.norm(self.norm(self.convolution(x)))),
    ],
    ids=["instance", "group", "no statistics", "linear", "weight norm", "before", "activation", "conv twice", "twice"],
)
def test_a_norm_stays_where_it_is_no_part_of_a_convolution(network):
    folded, count = fold_batch_norm(with_statistics(network), torch.zeros(IMAGE))
    assert count == 0
    assert type(folded.norm) is type(network.norm)
    assert_same(network, folded, IMAGE)


def used_in_a_sum(network, x):
    y = network.convolution(x)
    return network.norm(y) + y


def used_in_a_list(network, x):
    y = network.convolution(x)
    return torch.cat([network.norm(y), y], dim=1)


def returned_too(network, x):
    y = network.convolution(x)
    return network.norm(y), y


def changed_in_place(network, x):
    y = network.convolution(x)
    y.relu_()
    return network.norm(y)


def used_without_effect_here(network, x):
    y = network.convolution(x)
    return network.norm(y) + 0 * y.mean()


@pytest.mark.parametrize(
    "way", [used_in_a_sum, used_in_a_list, returned_too, changed_in_place, used_without_effect_here]
)
def test_a_norm_stays_where_its_convolution_is_used_elsewhere_too(way):
    network = with_statistics(Wired(way))
    folded, count = fold_batch_norm(network, torch.zeros(IMAGE))
    assert count == 0
    assert_same(network, folded, IMAGE)


def test_reading_the_shape_of_a_convolutions_output_is_no_use_of_it():
    def way(network, x):
        y = network.convolution(x)
        return network.norm(y)[..., : y.shape[-1], : y.size(2)]

    assert fold_batch_norm(with_statistics(Wired(way)), torch.zeros(IMAGE))[1] == 1


def test_a_module_with_a_hook_of_its_own_stays():
    network = with_statistics(Wired(chained))
    network.convolution.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert fold_batch_norm(network, torch.zeros(IMAGE))[1] == 0


def test_folds_that_change_the_output_are_undone_and_the_others_kept():
    class Rectified(nn.BatchNorm2d):
        def forward(self, x):
            return functional.relu(super().forward(x))

    layers = [nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), Rectified(4), nn.Conv2d(4, 4, 1)]
    network = with_statistics(nn.Sequential(*layers, nn.BatchNorm2d(4)))
    folded, count = fold_batch_norm(network, torch.zeros(IMAGE))
    assert count == 2
    assert [type(folded[index]) for index in (1, 3, 5)] == [nn.Identity, Rectified, nn.Identity]
    assert_same(network, folded, IMAGE)


def test_the_global_random_state_and_the_mode_of_the_network_are_left_alone():
    network = Wired(chained).train()
    state = torch.get_rng_state()
    folded, _ = fold_batch_norm(network, torch.zeros(IMAGE))
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training and not folded.training
    assert not folded.convolution._forward_hooks

"""Batch renorm: batch norm in evaluation, and in training what an independent implementation of the paper gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scanloom.networks import UNet
from scanloom.networks.batch_renorm import BatchRenorm2d, BatchRenorm3d
from torch import Tensor, nn

RENORM = {2: BatchRenorm2d, 3: BatchRenorm3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SHAPE = {2: (3, 4, 5, 6), 3: (2, 4, 3, 5, 4)}
NO_LIMITS = {"r_max": 1e6, "d_max": 1e6}
WIDENED = 10_000  # batches after which the default limits have widened


def make_norm(dims: int = 2, batches: int = WIDENED, **options) -> BatchRenorm2d | BatchRenorm3d:
    """One of four channels in training, with random scales, shifts and statistics, that has seen `batches`."""
    norm = RENORM[dims](4, **options)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(batches)
    return norm


def make_image(dims: int = 2) -> Tensor:
    """Its channels have scales and shifts far apart, so that r and d meet both limits, or neither."""
    channels = (1, 4, *[1] * dims)
    scale = torch.tensor([0.02, 0.9, 1.5, 40]).reshape(channels)
    shift = torch.tensor([-20, 1.2, 0.3, 20]).reshape(channels)
    return torch.randn(SHAPE[dims]) * scale + shift


def as_batch_norm(norm: nn.Module, dims: int = 2) -> nn.Module:
    """Torch's batch norm with the same state and options."""
    twin = BATCH_NORM[dims](4, norm.eps, norm.momentum, norm.affine)
    twin.load_state_dict(norm.state_dict())
    return twin.train(norm.training)


def plain_batch_renorm(x: Tensor, norm: nn.Module, r_limit: float, d_limit: float, *, constants: bool = True) -> Tensor:
    """Algorithm 1 of the paper, channel by channel; r and d are constants, or else the gradient runs through them."""
    channels = []
    for channel, values in enumerate(x.unbind(1)):
        mean = values.sum() / values.numel()
        deviation = ((values - mean).pow(2).sum() / values.numel() + norm.eps).sqrt()
        running_mean = float(norm.running_mean[channel])
        running_deviation = (float(norm.running_var[channel]) + norm.eps) ** 0.5
        r = (deviation / running_deviation).clamp(1 / r_limit, r_limit)
        d = ((mean - running_mean) / running_deviation).clamp(-d_limit, d_limit)
        if constants:
            r, d = r.detach(), d.detach()
        normed = (values - mean) / deviation * r + d
        channels.append(norm.weight[channel] * normed + norm.bias[channel] if norm.affine else normed)
    return torch.stack(channels, 1)


def gradients(output: Tensor, weights: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((output * weights).sum(), leaves)


@pytest.mark.parametrize("dims", [2, 3])
def test_evaluation_is_batch_norms_with_the_same_state(dims: int) -> None:
    norm, image = make_norm(dims).eval(), make_image(dims)
    twin = as_batch_norm(norm, dims)
    assert list(norm.state_dict()) == list(twin.state_dict())
    before = copy.deepcopy(norm.state_dict())
    assert torch.equal(norm(image), twin(image))
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batches", [0, 200, 300, 999, 1300, 5000])
def test_training_equals_an_independent_implementation_with_its_gradients(
    dims: int, batches: int, affine: bool
) -> None:
    norm = make_norm(dims, batches, affine=affine).double()
    image = make_image(dims).double().requires_grad_()
    expected = plain_batch_renorm(
        image,
        norm,
        r_limit=np.interp(batches, [200, 1600], [1, 3]),
        d_limit=np.interp(batches, [200, 1000], [0, 5]),
    )
    output = norm(image)
    # the schedule of the limits is in float32
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    leaves, weights = [image, *norm.parameters()], torch.randn_like(image)
    for found, other in zip(gradients(output, weights, *leaves), gradients(expected, weights, *leaves), strict=True):
        torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


@pytest.mark.parametrize(
    "options", [{"r_max": 1.0, "d_max": 0.0}, {"r_steps": (WIDENED, 20_000), "d_steps": (WIDENED, 20_000)}]
)
def test_at_the_narrowest_limits_it_is_batch_norm_in_training_too(options: dict) -> None:
    norm = make_norm(**options)
    twin = as_batch_norm(norm)
    image = make_image().requires_grad_()
    weights = torch.randn_like(image)
    output, expected = norm(image), twin(image)
    assert torch.equal(output, expected)
    found = gradients(output, weights, image, norm.weight, norm.bias)
    for each, other in zip(found, gradients(expected, weights, image, twin.weight, twin.bias), strict=True):
        assert torch.equal(each, other)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_limits_training_normalises_by_the_running_statistics(dims: int) -> None:
    norm, image = make_norm(dims, **NO_LIMITS), make_image(dims)
    expected = copy.deepcopy(norm).eval()(image)
    # float32, and a channel whose shift is a thousand of its deviations
    torch.testing.assert_close(norm(image), expected, rtol=1e-4, atol=1e-4)


def test_without_limits_its_gradient_is_still_not_that_of_running_statistics() -> None:
    norm = make_norm(**NO_LIMITS).double()
    frozen = copy.deepcopy(norm).eval()
    image = make_image().double().requires_grad_()
    weights = torch.randn_like(image)
    (through,) = gradients(plain_batch_renorm(image, norm, 1e6, 1e6, constants=False), weights, image)
    (running,) = gradients(frozen(image), weights, image)
    torch.testing.assert_close(through, running)  # with a gradient through r and d it would be
    (found,) = gradients(norm(image), weights, image)
    # the batch's mean takes part, so that a shift of the whole channel changes nothing
    torch.testing.assert_close(found.sum((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-6)
    assert float(running.sum((0, 2, 3)).abs().min()) > 0.1


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_are_updated_as_batch_norms(momentum: float | None) -> None:
    norm = make_norm(momentum=momentum, batches=900)
    twin = as_batch_norm(norm)
    for _ in range(3):
        image = make_image()
        norm(image), twin(image)
    for name, tensor in twin.state_dict().items():
        assert torch.equal(norm.state_dict()[name], tensor), name


def test_the_limits_widen_on_in_a_resumed_training() -> None:
    norm, image = make_norm(batches=777), make_image()
    resumed, fresh = BatchRenorm2d(4), BatchRenorm2d(4)
    resumed.load_state_dict(norm.state_dict())
    fresh.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    output = norm(image)
    assert torch.equal(resumed(image), output)
    assert not torch.allclose(fresh(image), output, atol=0.1)


@pytest.mark.parametrize("dims", [2, 3])
def test_under_autocast_its_statistics_are_those_in_float32(dims: int) -> None:
    norm, image = make_norm(dims), make_image(dims).bfloat16()
    twin = copy.deepcopy(norm)
    expected = twin(image.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = norm(image)
    assert output.dtype == torch.bfloat16
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], tensor, msg=name)
    torch.testing.assert_close(output.float(), expected, rtol=2**-7, atol=2**-7)
    # rounded once, at the end; a few lie between two numbers
    assert float((output == expected.bfloat16()).float().mean()) > 0.98


def test_a_network_trains_with_it_and_a_frozen_norm_keeps_its_statistics() -> None:
    network = UNet(features=4, depth=1, padding="same", norm="batchrenorm")
    norms = [module for module in network.modules() if isinstance(module, BatchRenorm2d)]
    assert len(norms) == 6
    assert [name for name, _ in network.named_parameters() if name.endswith("convolution.bias")] == []
    for norm in norms:
        norm.num_batches_tracked.fill_(WIDENED)
    norms[0].eval()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network(torch.randn(2, 1, 8, 8)).square().mean().backward()
    optimizer.step()
    for name, tensor in network.state_dict().items():
        kept = name.startswith("encoder.0.0.norm.") and not name.endswith(("weight", "bias"))
        assert torch.equal(tensor, before[name]) == kept, name


def test_a_copy_keeps_its_limits_and_statistics() -> None:
    norm, image = make_norm(r_max=1.7, d_max=0.4, r_steps=(5, 20_000), d_steps=(6, 30_000)), make_image()
    twin = copy.deepcopy(norm)
    assert torch.equal(twin(image), norm(image))


@pytest.mark.parametrize("norm", [BatchRenorm2d, BatchRenorm3d])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 0.5}, r"r_max is 0\.5; it must be at least 1"),
        ({"r_max": float("nan")}, r"r_max is nan; it must be at least 1"),
        ({"d_max": -1.0}, r"d_max is -1\.0; it must be at least 0"),
        ({"r_steps": (5, 5)}, r"r_steps is \(5, 5\); it must be two numbers of batches, 0 <= begin < end"),
        ({"d_steps": (-1, 5)}, r"d_steps is \(-1, 5\); it must be two numbers of batches, 0 <= begin < end"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(norm: type[nn.Module], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        norm(4, **options)


def test_a_single_value_a_channel_is_refused_in_training_as_by_batch_norm() -> None:
    norm = make_norm()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        norm(torch.zeros(1, 4, 1, 1))
    assert norm.eval()(torch.zeros(1, 4, 1, 1)).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_an_image_of_other_dimensions_is_refused(training: bool) -> None:
    with pytest.raises(ValueError, match="expected 5D input"):
        make_norm(3).train(training)(make_image(2))

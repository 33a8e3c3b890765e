"""Channels: statistics against numpy in float64 at sizes around their pieces; steps done once, in order, when asked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms.channel import PIECE, Channel, pieces

SIZES = [2, 17, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]


def mean_and_std(given_values):
    moments = Channel(given_values).moments()
    return moments.mean, moments.std


def values(count, mean=0.0, std=1.0, dtype=torch.float32):
    return (mean + std * torch.randn(count, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e5, 1.0), (-1024.0, 300.0), (3e-6, 1e-6)])
def test_mean_and_deviation_are_numpys_in_double_precision(count, mean, std):
    given_values = values(count, mean, std)
    exact = given_values.double().numpy()
    found = mean_and_std(given_values)
    # float32 sums of 65,536 numbers: 1e-6 of the values' size. A mean of 1e5 is known to three of its last places,
    # 0.02; a deviation of 1 about it is off by half of 0.02 squared
    assert found[0] == pytest.approx(exact.mean(), rel=1e-6, abs=1e-6 * std)
    assert found[1] == pytest.approx(exact.std(), rel=2e-4)


def test_a_large_mean_takes_no_digits_from_a_small_deviation():
    given_values = values(3 * PIECE, 1e5, 1.0)
    # E[x^2] - E[x]^2 in float32 would be off by 1e10 * 1e-7 = 1000
    assert mean_and_std(given_values)[1] == pytest.approx(given_values.double().std(correction=0).item(), rel=1e-4)


def test_one_value_is_its_mean_and_does_not_deviate():
    assert mean_and_std(torch.tensor([[7.5]])) == (7.5, 0.0)


@pytest.mark.parametrize("count", SIZES)
def test_double_precision_is_kept(count):
    given_values = values(count, 1e5, 1.0, torch.float64)
    exact = given_values.numpy()
    assert mean_and_std(given_values) == pytest.approx((exact.mean(), exact.std()), rel=1e-10, abs=1e-10)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 5000),
    mean=st.floats(-1e6, 1e6),
    std=st.floats(1e-3, 1e4),
)
def test_the_deviation_is_off_by_no_more_than_the_last_places_of_the_mean(seed, count, mean, std):
    torch.manual_seed(seed)
    given_values = values(count, mean, std)
    exact = given_values.double().numpy()
    last_place = float(np.spacing(np.abs(exact).max().astype(np.float32)))
    assert mean_and_std(given_values) == pytest.approx((exact.mean(), exact.std()), rel=1e-5, abs=4 * last_place)


def test_jumps_between_pieces_are_counted():
    given_values = torch.arange(3, dtype=torch.float32).repeat_interleave(PIECE)
    assert mean_and_std(given_values) == pytest.approx((1.0, (2 / 3) ** 0.5), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1e5])
def test_a_constant_has_next_to_no_deviation(value):
    mean, std = mean_and_std(torch.full((40, 41, 42), value))
    assert mean == pytest.approx(value, rel=1e-6)
    assert std <= abs(value) * 2e-7


@pytest.mark.parametrize("shape", [(1,), (5, 7), (3, PIECE // 2 + 1), (50, 40, 70)])
def test_pieces_are_all_voxels_once_and_share_their_memory(shape):
    image = torch.zeros(shape)
    for number, piece in enumerate(pieces(image)):
        assert piece.numel() <= PIECE
        piece += number + 1
    assert image.min() == 1
    assert torch.equal(image.flatten().sort().values, image.flatten())


@pytest.mark.parametrize("count", SIZES)
def test_bounds_are_the_lowest_and_the_highest_value(count):
    given_values = values(count)
    assert Channel(given_values).bounds() == (given_values.min().item(), given_values.max().item())


def test_steps_wait_until_something_is_asked_and_are_done_once_and_in_order():
    image = torch.ones(PIECE + 3)
    channel = Channel(image)
    channel.then(lambda piece: piece.mul_(3))
    channel.then(lambda piece: piece.add_(1))
    assert image.max() == 1
    assert channel.moments().mean == 4
    assert channel.bounds() == (4, 4)
    channel.finish()
    assert torch.equal(image, torch.full((PIECE + 3,), 4.0))


def test_statistics_follow_every_step():
    channel = Channel(torch.tensor([1.0, 3.0]))
    assert (channel.moments().mean, channel.bounds()) == (2, (1, 3))
    channel.then(lambda piece: piece.mul_(-2))
    assert (channel.moments().mean, channel.moments().std, channel.bounds()) == (-4, 2, (-6, -2))


def test_bounds_that_a_step_knows_cost_no_pass():
    image = torch.tensor([1.0, 3.0])
    channel = Channel(image)
    channel.then(lambda piece: piece.clamp_(1, 2), bounds=(1.0, 2.0))
    assert channel.bounds() == (1, 2)
    assert image.max() == 3


def test_moments_in_passing_are_those_between_two_steps_of_one_pass():
    passes = []
    channel = Channel(torch.tensor([1.0, 3.0]))
    channel.then(lambda piece: passes.append("first") or piece.add_(1))
    before = channel.moments_in_passing()
    channel.then(lambda piece: passes.append("second") or piece.mul_(10))
    after = channel.moments()
    assert (before.mean, after.mean) == (3, 30)
    assert passes == ["first", "second"]


def test_moments_in_passing_that_are_known_are_not_gathered_again():
    channel = Channel(torch.tensor([1.0, 3.0]))
    assert channel.moments_in_passing() is not channel.moments()
    assert channel.moments_in_passing() is channel.moments()

"""Statistics of channels: against numpy in float64, at sizes around the pieces they are summed in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms.moments import PIECE, extremes, mean_and_std, pieces

SIZES = [2, 17, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]


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


def test_extremes_are_the_lowest_and_the_highest_value():
    assert extremes(torch.tensor([[3.0, -7.5], [0.0, 2.0]])) == (-7.5, 3.0)
    assert extremes(torch.tensor([4.0])) == (4.0, 4.0)

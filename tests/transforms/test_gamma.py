"""Gamma curves: against numpy, and what they keep: mean, standard deviation, order."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import Gamma, RandGamma, change_intensity
from scipy.stats import skew

EXPONENTS = [0.3, 0.7, 1.0, 1.5, 3.0]


def make_image(size=(16, 14, 12), mean=0.0, std=1.0, channels=1):
    """Skewed values, as of images: much background, a long tail."""
    return mean + std * (torch.randn(channels, *size) ** 2 - 1) / math.sqrt(2)


def curved(image, exponent, inverted):
    """The definition, in float64."""
    values = -image.astype(np.float64) if inverted else image.astype(np.float64)
    unit = (values - values.min()) / (values.max() - values.min())
    power = unit**exponent
    restored = (power - power.mean()) / power.std() * values.std() + values.mean()
    return -restored if inverted else restored


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-500.0, 400.0)])
def test_values_follow_the_power_law_and_are_scaled_back(exponent, inverted, mean, std):
    image = make_image(mean=mean, std=std)
    changed = change_intensity(image, [[Gamma(exponent, inverted)]])
    # float32 in a dozen steps; at exponents below 1 the curve is steepest, and rounding grows most, near 0
    np.testing.assert_allclose(changed[0].numpy(), curved(image[0].numpy(), exponent, inverted), atol=2e-4 * std)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    exponent=st.floats(0.3, 3),
    inverted=st.booleans(),
    mean=st.floats(-1e4, 1e4),
    std=st.floats(0.5, 1e3),
    size=st.sampled_from([(40, 30), (16, 14, 12)]),
)
def test_mean_deviation_and_order_stay(seed, exponent, inverted, mean, std, size):
    torch.manual_seed(seed)
    image = make_image(size, mean, std)
    changed = change_intensity(image, [[Gamma(exponent, inverted)]])
    # the last place of the values, which may be 1e4 times their deviation, and sums of it
    last_place = float(np.spacing(image.abs().max().numpy()))
    assert changed.mean().item() == pytest.approx(image.mean().item(), rel=1e-5, abs=1e-4 * std)
    assert changed.std().item() == pytest.approx(image.std().item(), rel=1e-3)
    steps = changed.flatten()[image.flatten().argsort()].diff()
    assert steps.min() >= -4 * last_place - 1e-5 * std


@pytest.mark.parametrize("inverted", [False, True])
def test_an_exponent_of_one_changes_nothing(inverted):
    image = make_image(mean=300, std=50)
    torch.testing.assert_close(change_intensity(image, [[Gamma(1.0, inverted)]]), image, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("inverted", "sign"), [(False, 1), (True, -1)])
def test_exponents_below_one_brighten_the_middle_and_those_above_darken_it(inverted, sign):
    image = torch.rand(1, 30, 30)
    skews = [skew(change_intensity(image, [[Gamma(each, inverted)]]).flatten()) for each in (0.5, 1.0, 2.0)]
    assert (np.diff(skews) * sign > 0.3).all()


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("inverted", [False, True])
def test_the_unit_of_the_values_does_not_matter(exponent, inverted):
    # in float64: roots are infinitely steep at 0, and 40 x + 250 is rounded otherwise than x
    image, change = make_image().double(), [[Gamma(exponent, inverted)]]
    torch.testing.assert_close(
        change_intensity(40 * image + 250, change), 40 * change_intensity(image, change) + 250, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    "values",
    [
        [5.0, 5.0, 5.0, 5.0],
        [1e5, 1e5, 1e5, float(np.nextafter(np.float32(1e5), np.float32(2e5)))],
        [0.0, 0.0, 0.0, 1e-40],
        [0.0, 0.0, 0.0, 1e-25],
        [-1e5, 3.0, 3.0, 1e5],
    ],
)
@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("inverted", [False, True])
def test_values_that_hardly_differ_stay_finite(values, exponent, inverted):
    image = torch.tensor(values).reshape(1, 2, 2)
    changed = change_intensity(image, [[Gamma(exponent, inverted)]])
    assert changed.isfinite().all()
    if image.max() - image.min() < 1e-2:
        torch.testing.assert_close(changed, image, rtol=1e-6, atol=1e-30)


def test_the_background_has_no_part_in_the_statistics():
    image = make_image(mean=300, std=50)
    masked = image.clone()
    masked[:, :5] = 0
    changed = change_intensity(masked, [[Gamma(0.5)]], background=0.0)
    torch.testing.assert_close(changed[:, 5:], change_intensity(image[:, 5:], [[Gamma(0.5)]]))
    assert (changed[:, :5] == 0).all()


def test_draws_lie_in_their_ranges():
    transform = RandGamma(gamma=(0.5, 2.0), prob_inverted=0.25).set_random_state(0)
    drawn = [change for _ in range(1000) for change in transform.draw(3)]
    exponents = np.array([change.exponent for change in drawn])
    assert 0.5 <= exponents.min() < 0.51
    assert 1.98 < exponents.max() <= 2.0
    # shares of 1000 draws: standard deviations 1.6 and 1.4 %
    assert (exponents < 1).mean() == pytest.approx(0.5, abs=0.06)
    assert np.mean([change.inverted for change in drawn]) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": (0.0, 1.0)}, r"gamma is \(0.0, 1.0\); factors must be positive"),
        ({"gamma": (1.5, 0.7)}, r"gamma is \(1.5, 0.7\); it must be two finite numbers, the smaller first"),
        ({"prob_inverted": 1.5}, "prob_inverted is 1.5; it must lie in 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandGamma(**options)


@pytest.mark.parametrize("exponent", [0.0, -1.0, float("nan")])
def test_an_exponent_that_is_not_positive_is_refused(exponent):
    with pytest.raises(ValueError, match=r"exponent is .*; it must be positive"):
        Gamma(exponent)

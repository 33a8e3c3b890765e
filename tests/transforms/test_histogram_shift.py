"""Histogram shifts: against `numpy.interp`; ends and order of values stay."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import HistogramShift, RandHistogramShift, change_intensity


def make_image(size=(16, 14, 12), mean=0.0, std=1.0, channels=1):
    return mean + std * torch.randn(channels, *size)


def drawn(seed=0, **options):
    return RandHistogramShift(**options).set_random_state(seed).draw(3)[0]


def interpolated(image, heights):
    values = image.double().numpy()
    low, high = values.min(), values.max()
    return low + (high - low) * np.interp((values - low) / (high - low), np.linspace(0, 1, len(heights)), heights)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    points=st.integers(1, 12),
    strength=st.floats(0, 0.99),
    mean=st.sampled_from([0.0, 100.0, -1000.0]),
    std=st.sampled_from([1.0, 500.0]),
)
def test_values_follow_the_piecewise_linear_curve_and_keep_their_ends_and_order(seed, points, strength, mean, std):
    torch.manual_seed(seed)
    image = make_image(mean=mean, std=std)
    change = drawn(seed, control_points=points, strength=strength)
    changed = change_intensity(image, [[change]])
    # sums of a dozen ramps in float32
    tolerance = 1e-5 * (image.max() - image.min()).item() + 1e-6 * abs(mean)
    np.testing.assert_allclose(changed[0].numpy(), interpolated(image[0], change.heights), atol=tolerance)
    assert changed.min().item() == pytest.approx(image.min().item(), abs=tolerance)
    assert changed.max().item() == pytest.approx(image.max().item(), abs=tolerance)
    assert changed.flatten()[image.flatten().argsort()].diff().min() >= -tolerance


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), points=st.integers(1, 20), strength=st.floats(0, 0.99))
def test_curves_rise_from_0_to_1(seed, points, strength):
    heights = drawn(seed, control_points=points, strength=strength).heights
    assert len(heights) == points + 2
    assert (heights[0], heights[-1]) == (0, 1)
    assert (np.diff(heights) > 0).all()


def test_strength_is_the_reach_of_the_bends():
    even = np.linspace(0, 1, 7)
    moves = np.array([drawn(seed, control_points=5, strength=0.5).heights for seed in range(300)]) - even
    # half of the way to the middle between two bends, 1/12 away
    assert 0.98 / 24 < abs(moves).max() <= 1 / 24


@pytest.mark.parametrize("points", [2, 5])
def test_an_even_curve_changes_nothing(points):
    image = make_image(mean=300, std=50)
    even = tuple(np.linspace(0, 1, points + 2))
    torch.testing.assert_close(change_intensity(image, [[HistogramShift(even)]]), image, rtol=1e-5, atol=0)


def test_the_unit_of_the_values_does_not_matter():
    image, change = make_image(), [[drawn()]]
    torch.testing.assert_close(
        change_intensity(40 * image + 250, change), 40 * change_intensity(image, change) + 250, rtol=0, atol=0.002
    )


def test_the_background_has_no_part_in_the_range():
    image = make_image(mean=300, std=50)
    image[:, :5] = -1024
    change = [[drawn()]]
    changed = change_intensity(image, change, background=-1024)
    torch.testing.assert_close(changed[:, 5:], change_intensity(image[:, 5:], change))
    assert (changed[:, :5] == -1024).all()


def test_the_number_of_bends_is_drawn():
    assert {len(drawn(seed, control_points=(2, 4)).heights) - 2 for seed in range(50)} == {2, 3, 4}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"control_points": 0}, "control_points is 0; a curve needs at least one bend"),
        ({"control_points": (5, 2)}, r"control_points is \(5, 2\); it must be two finite numbers, the smaller first"),
        ({"control_points": -1}, "control_points is -1; it must not be negative"),
        ({"strength": 1}, "strength is 1; it must lie in 0 to below 1, or the order of values is lost"),
        ({"strength": -0.1}, "strength is -0.1; it must lie in 0 to below 1"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandHistogramShift(**options)

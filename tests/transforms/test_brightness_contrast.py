"""Brightness and contrast: against the three steps done one after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import BrightnessContrast, RandBrightnessContrast, change_intensity


def make_image(mean=100.0, std=25.0, size=(16, 14, 12), channels=1):
    return mean + std * torch.randn(channels, *size)


def step_by_step(image, brightness, shift, contrast, preserve_range):
    """The definition, in float64."""
    values = image.astype(np.float64)
    values = values * brightness + shift * values.std()
    spread = (values - values.mean()) * contrast + values.mean()
    return np.clip(spread, values.min(), values.max()) if preserve_range else spread


@settings(max_examples=40, deadline=None)
@given(
    brightness=st.floats(0.3, 3),
    shift=st.floats(-2, 2),
    contrast=st.floats(0.3, 3),
    preserve_range=st.booleans(),
    mean=st.sampled_from([0.0, 100.0, -1000.0]),
)
def test_the_single_pass_is_the_three_steps(brightness, shift, contrast, preserve_range, mean):
    image = make_image(mean)
    settings_drawn = brightness, shift, contrast, preserve_range
    changed = change_intensity(image, [[BrightnessContrast(*settings_drawn)]])
    # float32: the last place of 9000, the largest value there is on the way, is 0.001
    np.testing.assert_allclose(changed[0].numpy(), step_by_step(image[0].numpy(), *settings_drawn), atol=0.01)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_brightness_is_a_factor_of_all_values(mean):
    image = make_image(mean)
    torch.testing.assert_close(change_intensity(image, [[BrightnessContrast(brightness=1.25)]]), 1.25 * image)


def test_a_shift_is_in_units_of_each_channels_deviation():
    image = make_image(channels=2) * torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)
    moved = change_intensity(image, [[BrightnessContrast(shift=0.5)]]) - image
    for before, difference in zip(image, moved, strict=True):
        torch.testing.assert_close(difference, (0.5 * before.std()).expand_as(before), rtol=1e-3, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), contrast=st.floats(0.2, 5))
def test_contrast_stays_within_the_range_of_values(seed, contrast):
    torch.manual_seed(seed)
    image = make_image()
    changed = change_intensity(image, [[BrightnessContrast(contrast=contrast)]])
    assert image.min() <= changed.min()
    assert changed.max() <= image.max()


@pytest.mark.parametrize("contrast", [0.5, 2.0])
def test_contrast_without_bounds_keeps_the_mean_and_scales_the_deviation(contrast):
    image = make_image()
    changed = change_intensity(image, [[BrightnessContrast(contrast=contrast, preserve_range=False)]])
    torch.testing.assert_close(changed.mean(), image.mean())
    torch.testing.assert_close(changed.std(), contrast * image.std())


@pytest.mark.parametrize("preserve_range", [True, False])
@pytest.mark.parametrize("contrast", [0.5, 2.0])
def test_the_unit_of_the_values_does_not_matter_to_contrast_and_shift(contrast, preserve_range):
    image = make_image(0, 1)
    change = [[BrightnessContrast(shift=0.3, contrast=contrast, preserve_range=preserve_range)]]
    torch.testing.assert_close(
        change_intensity(40 * image + 250, change), 40 * change_intensity(image, change) + 250, rtol=0, atol=0.002
    )


@pytest.mark.parametrize("contrast", [0.5, 2.0])
def test_the_background_has_no_part_in_the_statistics(contrast):
    image = make_image()
    image[:, :5] = -1024
    change = [[BrightnessContrast(shift=0.3, contrast=contrast)]]
    changed = change_intensity(image, change, background=-1024)
    torch.testing.assert_close(changed[:, 5:], change_intensity(image[:, 5:], change))
    assert (changed[:, :5] == -1024).all()


def test_draws_lie_in_their_ranges():
    transform = RandBrightnessContrast(brightness=(0.7, 1.1), contrast=2, shift=0.1).set_random_state(0)
    drawn = [change for _ in range(1000) for change in transform.draw(3)]
    brightness, contrast, shift = (
        np.array([getattr(change, name) for change in drawn]) for name in ("brightness", "contrast", "shift")
    )
    assert 0.7 <= brightness.min() < 0.71 < 1.09 < brightness.max() <= 1.1
    assert 0.5 <= contrast.min() < 0.51 < 1.98 < contrast.max() <= 2.0
    # of 1000 draws: standard deviations of 0.003 and 2 %
    assert shift.mean() == pytest.approx(0, abs=0.01)
    assert shift.std() == pytest.approx(0.1, rel=0.07)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.1


def test_each_part_has_a_probability_of_its_own():
    transform = RandBrightnessContrast(prob_brightness=0.2, prob_contrast=0.6).set_random_state(0)
    drawn = [transform.draw(3) for _ in range(1000)]
    changes = [change for each in drawn for change in each]
    # shares of 1000 draws: standard deviations of up to 1.6 %
    assert sum(change.brightness != 1 for change in changes) / 1000 == pytest.approx(0.2, abs=0.05)
    assert sum(change.contrast != 1 for change in changes) / 1000 == pytest.approx(0.6, abs=0.05)
    assert sum(not each for each in drawn) / 1000 == pytest.approx(0.8 * 0.4, abs=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"brightness": (0.0, 1.0)}, r"brightness is \(0.0, 1.0\); factors must be positive"),
        ({"contrast": (1.5, 0.7)}, r"contrast is \(1.5, 0.7\); it must be two finite numbers, the smaller first"),
        ({"shift": -1}, "shift is -1; it must not be negative"),
        ({"prob_brightness": 2}, "prob_brightness is 2; it must lie in 0 to 1"),
        ({"prob_contrast": -1}, "prob_contrast is -1; it must lie in 0 to 1"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandBrightnessContrast(**options)

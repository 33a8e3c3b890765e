"""Low resolution: against averages and `numpy.interp`, axis by axis."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scanloom.transforms import LowResolution, RandSimulateLowResolution, change_intensity


def make_image(size, channels=1):
    return torch.randn(channels, *size)


def degraded_line(line, kept):
    """Means of `kept` equal stretches of a line, then straight lines between the stretches' middles."""
    length = len(line)
    edges = np.linspace(0, length, kept + 1)
    integral = np.interp(edges, np.arange(length + 1), np.concatenate([[0], np.cumsum(line)]))
    middles = (edges[1:] + edges[:-1]) / 2
    return np.interp(np.arange(length) + 0.5, middles, np.diff(integral) * kept / length)


def degraded(image, factors):
    values = image.double().numpy()
    for axis, factor in enumerate(factors, start=1):
        kept = max(1, round(values.shape[axis] * factor))
        values = np.apply_along_axis(degraded_line, axis, values, kept)
    return values


@settings(max_examples=40, deadline=None)
@given(
    size=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    factors=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_it_is_averaging_and_linear_interpolation(size, factors, seed):
    torch.manual_seed(seed)
    image, factors = make_image(size), tuple(factors[: len(size)])
    changed = change_intensity(image, [[LowResolution(factors)]])
    # weighted means of values of size 1 in float32, three passes
    np.testing.assert_allclose(changed.numpy(), degraded(image, factors), atol=2e-6)


def test_images_of_usual_size_are_averaged_and_interpolated_too():
    image, factors = make_image((70, 65, 33), channels=2), (0.5, 0.73, 0.9)
    changed = change_intensity(image, [[LowResolution(factors)]])
    np.testing.assert_allclose(changed.numpy(), degraded(image, factors), atol=2e-6)


@pytest.mark.parametrize("size", [(9, 8), (9, 8, 7), (6, 1, 1)])
def test_full_resolution_changes_nothing(size):
    image = make_image(size)
    assert torch.equal(change_intensity(image, [[LowResolution((1.0,) * len(size))]]), image)


def test_an_axis_of_which_one_voxel_is_left_is_its_mean():
    image = make_image((9, 8))
    changed = change_intensity(image, [[LowResolution((0.01, 1.0))]])
    torch.testing.assert_close(changed, image.mean(1, keepdim=True).expand_as(image))


@pytest.mark.parametrize("factor", [1 / 2, 1 / 3, 1 / 4, 1 / 12])
def test_the_mean_stays_where_whole_voxels_are_joined(factor):
    image = make_image((24, 12, 36))
    changed = change_intensity(image, [[LowResolution((factor,) * 3)]])
    assert changed.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), factor=st.floats(0.3, 1), level=st.floats(-1000, 1000))
def test_the_mean_stays_nearly_and_the_range_always(seed, factor, level):
    torch.manual_seed(seed)
    image = make_image((20, 21, 22)) + level
    changed = change_intensity(image, [[LowResolution((factor,) * 3)]])
    # voxels have slightly different parts in the result; noise of 9240 of them averages to 0.01
    assert changed.mean().item() == pytest.approx(image.mean().item(), abs=0.02)
    last_place = float(np.spacing(image.abs().max().numpy()))
    assert image.min() - 4 * last_place <= changed.min()
    assert changed.max() <= image.max() + 4 * last_place


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.77])
def test_a_ramp_stays_a_ramp_away_from_the_border(factor):
    """The place of what is seen does not move."""
    image = torch.arange(60.0).expand(1, 3, 60)
    changed = change_intensity(image, [[LowResolution((1.0, factor))]])
    # a mean of whole and part voxels of a ramp is off its middle's value by up to 1/8 of a voxel
    torch.testing.assert_close(changed[..., 5:-5], image[..., 5:-5], rtol=0, atol=0.13)


@pytest.mark.parametrize(
    ("spacing", "kept_axes"),
    [((1, 1, 4), [2]), ((1, 1, 3), [2]), ((1, 1, 2.9), []), ((4, 1, 4), [0, 2]), ((2, 2, 2), [])],
)
def test_axes_that_are_thick_already_stay(spacing, kept_axes):
    image = make_image((12, 13, 14))
    affine = torch.diag(torch.tensor([*spacing, 1.0]))
    factors = [1.0 if axis in kept_axes else 0.5 for axis in range(3)]
    changed = change_intensity(MetaTensor(image, affine=affine), [[LowResolution((0.5, 0.5, 0.5))]])
    np.testing.assert_allclose(changed.numpy(), degraded(image, factors), atol=2e-6)


def test_thick_axes_can_be_made_thicker():
    image = make_image((12, 13, 14))
    changed = RandSimulateLowResolution(prob=1, factor=0.5, keep_thick_axis=False, spacing=(1, 1, 4))(image)
    np.testing.assert_allclose(changed.numpy(), degraded(image, (0.5, 0.5, 0.5)), atol=2e-6)


def test_the_background_keeps_its_value():
    image = make_image((20, 21)) + 50
    image[:, :10] = 0
    changed = change_intensity(image, [[LowResolution((0.5, 0.5))]], background=0)
    assert (changed[:, :10] == 0).all()
    torch.testing.assert_close(changed[:, 10:], change_intensity(image, [[LowResolution((0.5, 0.5))]])[:, 10:])


def test_one_setting_is_one_draw_for_all_axes_and_several_are_drawn_each_for_itself():
    one = RandSimulateLowResolution(factor=(0.5, 1.0)).set_random_state(0).draw(3)[0].factors
    assert len(one) == 3
    assert len(set(one)) == 1
    several = RandSimulateLowResolution(factor=[(0.5, 1), (0.5, 1), 1]).set_random_state(0).draw(3)[0].factors
    assert len(set(several)) == 3
    assert several[2] == 1
    drawn = [
        RandSimulateLowResolution(factor=(0.5, 1)).set_random_state(seed).draw(2)[0].factors[0] for seed in range(300)
    ]
    assert 0.5 <= min(drawn) < 0.52 < 0.98 < max(drawn) <= 1.0


def test_settings_that_are_not_one_an_axis_are_refused():
    with pytest.raises(ValueError, match="factor has 3 settings, the image 2 axes"):
        RandSimulateLowResolution(prob=1, factor=(0.5, 0.6, 0.7))(make_image((5, 5)))


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0, "factor is 0; it must lie above 0 and not above 1"),
        (2, "factor is 2; it must lie above 0 and not above 1"),
        ((0.9, 0.5), r"factor is \(0.9, 0.5\); it must be two finite numbers, the smaller first"),
        ([0.5, 0.5, 1.5], r"factor\[2\] is 1.5; it must lie above 0 and not above 1"),
    ],
)
def test_impossible_settings_are_refused(factor, words):
    with pytest.raises(ValueError, match=words):
        RandSimulateLowResolution(factor=factor)

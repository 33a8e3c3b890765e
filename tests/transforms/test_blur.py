"""Blur: against scipy's Gaussian filter, in mm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scanloom.transforms import Blur, RandBlur, change_intensity
from scipy.ndimage import gaussian_filter

CASES = [
    ((41, 37), (1.0, 1.0), (0.7, 0.7)),
    ((40, 33), (0.5, 2.0), (1.0, 1.5)),
    ((33, 20, 71), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ((31, 24, 9), (0.8, 0.8, 5.0), (1.5, 0.5, 2.0)),
    ((64, 65, 66), (1.0, 1.0, 1.0), (0.5, 0.0, 2.5)),
    ((5, 4, 1), (1.0, 1.0, 1.0), (3.0, 8.0, 2.0)),  # a kernel many times as long as the axis
    ((3, 1), (1.0, 1.0), (0.1, 0.124)),
]


def make_image(size, channels=1, mean=0.0, std=1.0):
    return mean + std * torch.randn(channels, *size)


def scipys(image, sigma, spacing):
    sigmas = [width / step for width, step in zip(sigma, spacing, strict=True)]
    return gaussian_filter(image.double().numpy(), [0, *sigmas], mode="reflect", truncate=4)


@pytest.mark.parametrize(("size", "spacing", "sigma"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_it_is_scipys_gaussian_filter(size, spacing, sigma, dtype, tolerance):
    image = make_image(size, channels=2).to(dtype)
    changed = change_intensity(image, [[Blur(sigma)]], spacing=spacing)
    # averages of values of size 1: the last place of float32 is 1e-7, in three passes
    np.testing.assert_allclose(changed.numpy(), scipys(image, sigma, spacing), atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(
    size=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    sigma=st.lists(st.floats(0, 4), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_any_size_and_width_is_scipys_and_keeps_the_mean(size, sigma, seed):
    torch.manual_seed(seed)
    image, sigma = make_image(size), tuple(sigma[: len(size)])
    changed = change_intensity(image, [[Blur(sigma)]])
    np.testing.assert_allclose(changed.numpy(), scipys(image, sigma, (1, 1, 1)[: len(size)]), atol=2e-6)
    assert changed.mean().item() == pytest.approx(image.mean().item(), abs=1e-6)  # what mirrors do


def test_the_spacing_comes_from_the_affine_even_if_it_is_oblique():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array([0.5, 1.0, 3.0])
    affine[:3, 3] = -100
    image = make_image((20, 21, 12))
    changed = change_intensity(MetaTensor(image, affine=affine), [[Blur((1.0, 1.0, 1.0))]])
    np.testing.assert_allclose(changed.numpy(), scipys(image, (1, 1, 1), (0.5, 1.0, 3.0)), atol=2e-6)


@pytest.mark.parametrize("dims", [3, 4])
def test_a_flat_image_takes_the_first_two_axes_of_its_affine(dims):
    image, affine = make_image((20, 21)), torch.diag(torch.tensor([0.5, 2.0, 7.0, 1.0])[[*range(dims - 1), 3]])
    changed = RandBlur(prob=1, sigma=1.0)(MetaTensor(image, affine=affine))
    np.testing.assert_allclose(changed.numpy(), scipys(image, (1, 1), (0.5, 2.0)), atol=2e-6)


def test_a_spacing_that_is_given_comes_before_the_affines():
    image = make_image((20, 21))
    changed = RandBlur(prob=1, sigma=1.0, spacing=(1, 2))(MetaTensor(image, affine=5 * torch.eye(4)))
    np.testing.assert_allclose(changed.numpy(), scipys(image, (1, 1), (1, 2)), atol=2e-6)


def test_a_spacing_that_is_not_one_an_axis_is_refused():
    with pytest.raises(ValueError, match=r"spacing is \(1, 2\), the image has 3 spatial axes; give one length an axis"):
        RandBlur(prob=1, spacing=(1, 2))(make_image((5, 5, 5)))


def test_no_width_changes_nothing():
    image = make_image((9, 8, 7))
    assert torch.equal(change_intensity(image, [[Blur((0.0, 0.0, 0.0))]]), image)


def test_the_background_keeps_its_value():
    image = make_image((20, 21), mean=50)
    image[:, :10] = -1024
    changed = change_intensity(image, [[Blur((2.0, 2.0))]], background=-1024)
    assert (changed[:, :10] == -1024).all()
    torch.testing.assert_close(changed[:, 10:], change_intensity(image, [[Blur((2.0, 2.0))]])[:, 10:])


def test_one_setting_is_one_draw_for_all_axes_and_several_are_drawn_each_for_itself():
    one = RandBlur(sigma=(0.5, 1.0)).set_random_state(0).draw(3)[0].sigma
    assert len(one) == 3
    assert len(set(one)) == 1
    several = RandBlur(sigma=[(0.5, 1.0), (0.5, 1.0), 0]).set_random_state(0).draw(3)[0].sigma
    assert len(set(several)) == 3
    assert several[2] == 0
    drawn = [RandBlur(sigma=(0.5, 1.0)).set_random_state(seed).draw(2)[0].sigma[0] for seed in range(300)]
    assert 0.5 <= min(drawn) < 0.52 < 0.98 < max(drawn) <= 1.0


def test_settings_that_are_not_one_an_axis_are_refused():
    with pytest.raises(ValueError, match="sigma has 3 settings, the image 2 axes"):
        RandBlur(prob=1, sigma=(1, 2, 3))(make_image((5, 5)))


@pytest.mark.parametrize(
    ("sigma", "words"),
    [
        (-1, "sigma is -1; it must not be negative"),
        ((1.0, 0.5), r"sigma is \(1.0, 0.5\); it must be two finite numbers, the smaller first"),
        ([1, -1, 1], r"sigma\[1\] is -1; it must not be negative"),
    ],
)
def test_impossible_settings_are_refused(sigma, words):
    with pytest.raises(ValueError, match=words):
        RandBlur(sigma=sigma)

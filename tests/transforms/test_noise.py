"""Noise: its law, its strength, and that no two voxels share it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import Noise, RandNoise, change_intensity
from scanloom.transforms.channel import PIECE
from scipy import stats

SIZE = (64, 64, 65)  # more than two pieces
KINDS = ["gaussian", "rician"]


def make_image(size=SIZE, channels=1):
    return torch.randn(channels, *size)


def noise_in(image, *args, **options):
    return change_intensity(image, [[Noise(*args)]], **options) - image


def test_gaussian_noise_has_the_deviation_it_claims_in_units_of_each_channels():
    image = make_image(channels=3) * torch.tensor([1.0, 100.0, 0.01]).reshape(3, 1, 1, 1) - 5
    for before, noise in zip(image, noise_in(image, 0.2, 1), strict=True):
        # 135,168 draws: the estimates' own standard deviations are 0.2 % and 0.3 % of the noise's
        assert (noise.std() / before.std()).item() == pytest.approx(0.2, rel=0.01)
        assert (noise.mean() / before.std()).item() == pytest.approx(0, abs=0.002)


def test_gaussian_noise_is_gaussian():
    noise = noise_in(make_image().double(), 0.5, 3).flatten().numpy()
    assert stats.kstest(noise / noise.std(), "norm").pvalue > 0.01
    # their standard deviations at 135,168 draws: 0.013 and 0.007
    assert stats.kurtosis(noise) == pytest.approx(0, abs=0.05)
    assert stats.skew(noise) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_no_voxel_piece_channel_or_seed_repeats_anothers_noise(kind):
    image = torch.randn(1, *SIZE).repeat(2, 1, 1, 1) + 100
    rician = kind == "rician"
    first, second = noise_in(image, 0.2, 1, rician)
    other_seed = noise_in(image, 0.2, 2**20, rician)[0]
    other_stream = noise_in(image, 0.2, 1, rician, stream=5)[0]
    flat = first.flatten()
    pairs = [(first, second), (first, other_seed), (first, other_stream), (flat[1:], flat[:-1])]
    pairs += [(flat[PIECE : 2 * PIECE], flat[:PIECE])]
    for one, another in pairs:
        # of 65,536 pairs or more: its standard deviation is 0.004 at most
        assert abs(np.corrcoef(one.flatten(), another.flatten())[0, 1]) < 0.02


@pytest.mark.parametrize("zero", [0.0, -3.0, 1000.0])
def test_rician_noise_has_the_law_of_magnitude_images_above_the_lowest_value(zero):
    signal, std = 8.0, 0.25
    image = torch.full((1, 2, *SIZE), zero, dtype=torch.float64)
    image[:, 1] += signal
    changed = change_intensity(image, [[Noise(std, 5, rician=True)]])[0].flatten(1).numpy()
    sigma = std * signal / 2  # half the voxels at 0 and half at the signal deviate by half the signal
    for values, law in [
        (changed[0], stats.rayleigh(loc=zero, scale=sigma)),
        (changed[1], stats.rice(signal / sigma, loc=zero, scale=sigma)),
    ]:
        # 135,168 draws: standard deviations of 0.003 sigma and 0.5 %
        assert values.mean() == pytest.approx(law.mean(), abs=0.01 * sigma)
        assert values.var() == pytest.approx(law.var(), rel=0.02)
        assert stats.kstest(values, law.cdf).pvalue > 0.01


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), std=st.floats(0, 3), low=st.floats(-1e3, 1e3))
def test_rician_noise_never_leads_below_the_lowest_value(seed, std, low):
    image = make_image((20, 20)).abs() * 50 + low
    changed = change_intensity(image, [[Noise(std, seed, rician=True)]])
    assert changed.min() >= image.min()


@pytest.mark.parametrize("kind", KINDS)
def test_the_unit_of_the_values_does_not_matter(kind):
    image, change = make_image((20, 20, 20)), [[Noise(0.3, 7, kind == "rician")]]
    torch.testing.assert_close(
        change_intensity(40 * image + 250, change), 40 * change_intensity(image, change) + 250, rtol=0, atol=0.002
    )


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_no_strength_changes_nothing(kind):
    image = make_image((9, 8, 7))
    # a magnitude is a root of a square: exact to the last place
    torch.testing.assert_close(
        change_intensity(image, [[Noise(0.0, 7, kind == "rician")]]), image, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_background_has_no_part_in_the_strength(kind):
    image = make_image() + 50
    image[:, :32] = 0
    noise = noise_in(image, 0.2, 1, kind == "rician", background=0.0)
    assert (noise[:, :32] == 0).all()
    assert noise[:, 32:].std().item() == pytest.approx(0.2, rel=0.03)


def test_draws_lie_in_their_ranges_and_have_seeds_of_their_own():
    transform = RandNoise(std=(0.05, 0.1), kind="rician").set_random_state(0)
    drawn = [change for _ in range(500) for change in transform.draw(3)]
    strengths = [change.std for change in drawn]
    assert 0.05 <= min(strengths) < 0.051
    assert 0.099 < max(strengths) <= 0.1
    assert len({change.seed for change in drawn}) == 500
    assert all(change.rician for change in drawn)
    assert not RandNoise().set_random_state(0).draw(3)[0].rician


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "poisson"}, "kind is 'poisson'; it must be 'gaussian' or 'rician'"),
        ({"std": -0.1}, "std is -0.1; it must not be negative"),
        ({"std": (0.2, 0.1)}, r"std is \(0.2, 0.1\); it must be two finite numbers, the smaller first"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandNoise(**options)

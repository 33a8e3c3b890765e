"""nnU-Net's set of intensity changes: its order, its probabilities, and that it is the sum of its parts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scanloom.transforms import (
    Blur,
    BrightnessContrast,
    Gamma,
    LowResolution,
    Noise,
    RandBlur,
    RandBrightnessContrast,
    RandGamma,
    RandIntensity,
    RandIntensityd,
    RandNoise,
    RandSimulateLowResolution,
    change_intensity,
)

PARTS = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
SINGLE = {
    "noise": RandNoise(prob=1),
    "blur": RandBlur(prob=1),
    "brightness": RandBrightnessContrast(prob=1, prob_contrast=0),
    "contrast": RandBrightnessContrast(prob=1, prob_brightness=0),
    "low_resolution": RandSimulateLowResolution(prob=1),
    "inverted_gamma": RandGamma(prob=1, prob_inverted=1),
    "gamma": RandGamma(prob=1, prob_inverted=0),
}


def only(*parts, seed=0, **options):
    chances = {f"prob_{name}": float(name in parts) for name in PARTS}
    return RandIntensity(**(chances | options)).set_random_state(seed)


def make_image(size=(12, 11, 10), channels=1):
    return 100 + 25 * torch.randn(channels, *size)


def part_of(change):
    """The name of the part that a change belongs to; brightness and contrast are one."""
    if isinstance(change, Gamma):
        return "inverted_gamma" if change.inverted else "gamma"
    names = {Noise: "noise", Blur: "blur", BrightnessContrast: "brightness", LowResolution: "low_resolution"}
    return names[type(change)]


@pytest.mark.parametrize("size", [(17, 12), (9, 8, 7)])
def test_without_any_part_every_voxel_stays(size):
    image = make_image(size, channels=2)
    assert torch.equal(only()(image), image)


def test_the_order_is_nnunets_with_brightness_and_contrast_as_one():
    changes = only(*PARTS).draw(3)
    assert [part_of(change) for change in changes] == [
        "noise",
        "blur",
        "brightness",
        "low_resolution",
        "inverted_gamma",
        "gamma",
    ]


def test_all_parts_are_their_changes_one_after_the_other():
    image, transform = make_image(), only(*PARTS)
    expected = image
    changed = transform(image)
    for change in transform.changes[0]:
        expected = change_intensity(expected, [[change]])
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_alone_is_the_single_transform_with_the_same_draw(part):
    image, transform = make_image(), only(part)
    changed = transform(image)
    [[drawn]] = transform.changes
    single = SINGLE[part]
    single.draw = lambda _: [drawn]
    assert type(drawn) is type(type(single)().set_random_state(0).draw(3)[0])
    assert torch.equal(changed, single(image))


@pytest.mark.parametrize(("part", "other"), [("brightness", "contrast"), ("contrast", "brightness")])
def test_brightness_and_contrast_come_without_each_other(part, other):
    changes = [change for seed in range(20) for change in only(part, seed=seed).draw(3)]
    assert all(getattr(change, part) != 1 and getattr(change, other) == 1 for change in changes)
    assert len(changes) == 20


def test_settings_reach_their_parts():
    transform = only(
        *PARTS,
        noise_std=0.3,
        noise_kind="rician",
        blur_sigma=[1, 2, 3],
        brightness=(1.5, 1.5),
        shift=(0.2, 0.2),
        contrast=(0.5, 0.5),
        low_resolution=0.25,
        gamma=(2.0, 2.0),
    )
    noise, blur, brightness, low_resolution, inverted, gamma = transform.draw(3)
    assert (noise.std, noise.rician) == (0.3, True)
    assert blur.sigma == (1, 2, 3)
    assert (brightness.brightness, brightness.contrast) == pytest.approx((1.5, 0.5))
    assert brightness.shift != 0
    assert low_resolution.factors == (0.25,) * 3
    assert (inverted.exponent, gamma.exponent) == pytest.approx((2.0, 2.0))


def test_parts_come_as_often_as_nnunets_and_independently():
    transform = RandIntensity().set_random_state(0)
    drawn = [{part_of(change) for change in transform.draw(3)} for _ in range(4000)]
    shares = {part: np.mean([part in each for each in drawn]) for part in PARTS if part != "contrast"}
    # 4000 draws: standard deviations of up to 0.8 %; of brightness and contrast one comes at 1 - 0.85 squared
    assert shares == pytest.approx(
        {
            "noise": 0.1,
            "blur": 0.1,
            "brightness": 0.2775,
            "low_resolution": 0.125,
            "inverted_gamma": 0.1,
            "gamma": 0.3,
        },
        abs=0.03,
    )
    for one, other in pairwise(shares):
        both = np.mean([{one, other} <= each for each in drawn])
        assert both == pytest.approx(shares[one] * shares[other], abs=0.02)


def test_draws_of_the_parts_differ():
    inverted, gamma = only("gamma", "inverted_gamma").draw(3)
    assert inverted.exponent != gamma.exponent


def test_channels_have_draws_of_their_own_unless_told_otherwise():
    first, second = only("blur")(make_image().expand(2, -1, -1, -1))
    assert not torch.equal(first, second)
    first, second = only("blur", channel_wise=False)(make_image().expand(2, -1, -1, -1))
    assert torch.equal(first, second)


def test_the_dictionarys_defaults_are_the_arrays():
    """An image is changed by chance of the parts alone: `prob` is 1."""
    for seed in range(5):
        image = make_image(channels=2)
        changed = RandIntensityd("image").set_random_state(seed)({"image": image})["image"]
        assert torch.equal(changed, RandIntensity().set_random_state(seed)(image))


def test_the_outer_probability_holds_for_all_parts():
    image, transform = make_image((4, 4)), only(*PARTS, prob=0.5)
    # 300 draws: standard deviation 3 %
    assert np.mean([torch.equal(transform(image), image) for _ in range(300)]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prob": 2}, "prob is 2; it must lie in 0 to 1"),
        ({"prob_noise": 2}, "probability of RandNoise is 2; it must lie in 0 to 1"),
        ({"prob_gamma": -1}, "probability of RandGamma is -1; it must lie in 0 to 1"),
        ({"prob_contrast": 2}, "prob_contrast is 2; it must lie in 0 to 1"),
        ({"noise_std": -1}, "std is -1; it must not be negative"),
        ({"noise_kind": "salt"}, "kind is 'salt'"),
        ({"blur_sigma": -1}, "sigma is -1; it must not be negative"),
        ({"low_resolution": 0}, "factor is 0; it must lie above 0 and not above 1"),
        ({"gamma": (2, 1)}, r"gamma is \(2, 1\)"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandIntensity(**options)

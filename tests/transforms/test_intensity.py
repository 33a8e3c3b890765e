"""Random intensity changes of batches: each part against what it claims."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import BatchRandIntensity

PARTS = ("noise", "brightness", "contrast", "gamma")
SIZES = [(40, 30), (16, 14, 12)]


def only(*parts, seed=0, **options):
    chances = {f"prob_{name}": float(name in parts) for name in PARTS}
    return BatchRandIntensity(**(chances | options)).set_random_state(seed=seed)


def images(size=(16, 14, 12), count=2, channels=1):
    return 100 + 25 * torch.randn(count, channels, *size)


@pytest.mark.parametrize("size", SIZES)
def test_without_any_part_every_voxel_stays(size):
    image = images(size)
    assert torch.equal(only()({"image": image})["image"], image)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from(SIZES))
def test_gamma_keeps_mean_and_standard_deviation(seed, size):
    image = images(size)
    changed = only("gamma", seed=seed)({"image": image})["image"]
    assert not torch.allclose(changed, image, atol=1e-2)
    dims = tuple(range(1, image.ndim))
    torch.testing.assert_close(changed.mean(dims), image.mean(dims), rtol=1e-4, atol=0)
    torch.testing.assert_close(changed.std(dims), image.std(dims), rtol=1e-3, atol=0)


def test_gamma_keeps_the_order_of_values():
    image = images(count=4)
    changed = only("gamma")({"image": image})["image"]
    for before, after in zip(image, changed, strict=True):
        assert (after.flatten()[before.flatten().argsort()].diff() >= -1e-3).all()


def test_a_constant_image_survives_every_part():
    image = torch.full((2, 1, 8, 8), 3.0)
    changed = only(*PARTS)({"image": image})["image"]
    torch.testing.assert_close(changed, image)


def test_noise_has_the_standard_deviation_it_claims(drawing_the_largest):
    image = images((64, 64, 16), count=3) * torch.tensor([1.0, 10.0, 0.1]).reshape(3, 1, 1, 1, 1)
    changed = drawing_the_largest(only("noise", noise_std=0.2, prob_brightness=-1, prob_contrast=-1, prob_gamma=-1))(
        {"image": image}
    )["image"]
    for before, after in zip(image, changed, strict=True):
        # 65,536 draws: the estimate's own standard deviation is 0.3 %
        assert ((after - before).std() / before.std()).item() == pytest.approx(0.2, rel=0.02)
        assert ((after - before).mean() / before.std()).item() == pytest.approx(0, abs=0.005)


def test_brightness_moves_all_values_alike(drawing_the_largest):
    image = images()
    transform = only("brightness", brightness_std=0.5, prob_noise=-1, prob_contrast=-1, prob_gamma=-1)
    changed = drawing_the_largest(transform)({"image": image})["image"]
    for before, after in zip(image, changed, strict=True):
        torch.testing.assert_close(after - before, (0.5 * before.std()).expand_as(before), rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_contrast_stays_within_the_range_of_values(seed):
    image = images()
    changed = only("contrast", seed=seed, contrast=(0.5, 2.0))({"image": image})["image"]
    for before, after in zip(image, changed, strict=True):
        assert before.min() <= after.min()
        assert after.max() <= before.max()


def test_contrast_scales_about_the_mean(drawing_the_largest):
    image = images()
    transform = only("contrast", contrast=(0.5, 0.75), prob_noise=-1, prob_brightness=-1, prob_gamma=-1)
    changed = drawing_the_largest(transform)({"image": image})["image"]
    for before, after in zip(image, changed, strict=True):
        torch.testing.assert_close(after - before.mean(), 0.75 * (before - before.mean()), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("part", PARTS)
def test_each_sample_has_a_draw_of_its_own(part):
    image = images(count=1).repeat(3, 1, 1, 1, 1)
    first, second, third = only(part)({"image": image})["image"]
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(second, third, atol=1e-3)


def test_same_seed_same_result_and_another_seed_another():
    image = images()
    one, same, other = (only(*PARTS, seed=seed)({"image": image})["image"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_another_key_and_what_is_not_named_stay():
    data = {"t1": images(), "image": images(), "case": ["a", "b"]}
    before = data["t1"].clone()
    changed = only(*PARTS, key="t1")(data)
    assert torch.equal(data["t1"], before)
    assert not torch.equal(changed["t1"], before)
    assert changed["image"] is data["image"]
    assert changed["case"] is data["case"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_and_shape_stay_and_large_half_precision_images_do_not_overflow(dtype):
    image = images((48, 48, 48), channels=2).to(dtype)
    changed = only(*PARTS)({"image": image})["image"]
    assert changed.dtype == dtype
    assert changed.shape == image.shape
    assert changed.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"contrast": (0.0, 1.0)}, r"contrast is \(0.0, 1.0\); it must be two positive numbers, the smaller first"),
        ({"gamma": (1.5, 0.7)}, r"gamma is \(1.5, 0.7\); it must be two positive numbers, the smaller first"),
        ({"noise_std": -0.1}, "noise_std is -0.1; it must not be negative"),
        ({"brightness_std": -1}, "brightness_std is -1; it must not be negative"),
    ],
)
def test_impossible_ranges_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BatchRandIntensity(**options)

"""Sampling at a deformation's coordinates: against grid_sample and scipy, block by block, for every type of image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import Deformation, resample
from scanloom.transforms.affine import homogeneous
from scanloom.transforms.deformation import interpolating_coefficients
from scanloom.transforms.sampling import Sampling
from scipy.ndimage import map_coordinates
from torch.nn import functional

SIZES = [(14, 9), (9, 8, 7), (40, 3, 2)]
PADDING = {"border": "border", "reflection": "reflection", "constant": "zeros"}


def drawn(size, seed=0, strength=0.15, output_size=None):
    """An affine and elastic deformation that reaches outside the image."""
    rng, n = np.random.default_rng(seed), len(size)
    half = (np.array(size) - 1) / 2
    linear = np.eye(n) + strength * rng.standard_normal((n, n))
    matrix = homogeneous(linear, half - linear @ half + rng.standard_normal(n))
    values = rng.standard_normal((*(4,) * n, n)) * half * strength
    return Deformation(tuple(size), tuple(output_size or size), matrix, interpolating_coefficients(values))


def torchs(image, deformation, mode, padding_mode):
    """torch's own sampling of the same coordinates."""
    coordinates = deformation.coordinates()
    last = torch.tensor(deformation.size).sub(1).reshape(-1, *[1] * len(deformation.size))
    grid = (2 * coordinates / last - 1).flip(0).movedim(0, -1)[None]
    return functional.grid_sample(image[None], grid, mode, padding_mode, align_corners=True)[0]


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_linear_is_torchs_grid_sample(size, padding_mode):
    image, deformation = torch.rand(2, *size), drawn(size)
    found = resample.resample([image], [Sampling("linear", padding_mode)], deformation)[0]
    expected = torchs(image, deformation, "bilinear", PADDING[padding_mode])
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_torchs_grid_sample_but_for_ties(size, padding_mode):
    label, deformation = torch.randint(1, 5, (1, *size)).float(), drawn(size)
    found = resample.resample([label], [Sampling("nearest", padding_mode)], deformation)[0]
    expected = torchs(label, deformation, "nearest", PADDING[padding_mode])
    assert (found != expected).float().mean() < 0.01


@pytest.mark.parametrize("size", SIZES)
def test_cubic_is_scipys_third_order_spline(size):
    image, deformation = torch.rand(1, *size), drawn(size)
    found = resample.resample([image], [Sampling("cubic")], deformation)[0]
    last = np.array(size).reshape(-1, *[1] * len(size)) - 1
    inside = np.clip(deformation.coordinates().numpy(), 0, last)
    expected = map_coordinates(image[0].double().numpy(), inside, order=3, mode="mirror")
    np.testing.assert_allclose(found[0], expected, atol=5e-5)


@pytest.mark.parametrize("padding_mode", PADDING)
@pytest.mark.parametrize("size", [(14, 9), (9, 8, 7)])
def test_the_accelerators_way_gives_what_the_processors_gives(size, padding_mode, monkeypatch):
    pair, deformation = [torch.rand(2, *size), torch.rand(1, *size)], drawn(size)
    samplings = [Sampling("linear", padding_mode), Sampling("nearest", padding_mode)]
    found = []
    for suits in (True, False):
        monkeypatch.setattr(resample, "_suits_grid_sample", lambda image, sampling, suits=suits: suits)
        found.append(resample.resample(pair, samplings, deformation))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=2e-5)
    assert (found[0][1] != found[1][1]).float().mean() < 0.01  # ties


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(30, 17), (13, 16, 11)])
def test_blocks_do_not_show(size, mode, monkeypatch):
    image, deformation = torch.rand(2, *size).double(), drawn(size)
    whole = resample.resample([image], [Sampling(mode)], deformation)[0]
    monkeypatch.setattr(resample, "BLOCK", 50)
    parts = resample.resample([image], [Sampling(mode)], deformation)[0]
    # float32 coordinates from products of other shapes differ in the last digit
    assert ((parts - whole).abs() > 1e-4).double().mean() < (0.01 if mode == "nearest" else 1e-9)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(12, 9), (9, 8, 7), (1, 9), (5, 1, 4)])
def test_no_deformation_is_identity(size, mode):
    n = len(size)
    image = torch.rand(2, *size)
    zero = Deformation(size, size, np.eye(n + 1), np.zeros((*(5,) * n, n)))
    found = resample.resample([image], [Sampling(mode)], zero)[0]
    torch.testing.assert_close(found, image, rtol=0, atol=0 if mode == "nearest" else 1e-5)


@settings(max_examples=30, deadline=None)
@given(
    size=st.sampled_from([(12, 9), (7, 8, 9)]),
    shift=st.tuples(*[st.integers(-5, 5)] * 3),
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
)
def test_a_translation_by_whole_voxels_is_a_roll_inside_the_border(size, shift, mode):
    n = len(size)
    image = torch.rand(1, *size)
    moved = Deformation(size, size, homogeneous(np.eye(n), -np.array(shift[:n], float)))
    found = resample.resample([image], [Sampling(mode)], moved)[0]
    inside = (slice(None), *(slice(max(s, 0), length + min(s, 0)) for s, length in zip(shift[:n], size, strict=True)))
    expected = image.roll(shift[:n], dims=tuple(range(1, n + 1)))
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(12, 9), (9, 8, 7)]),
    classes=st.sets(st.integers(0, 200), min_size=1, max_size=4),
    padding_mode=st.sampled_from(["border", "reflection"]),
)
def test_no_class_appears_that_was_not_there(seed, size, classes, padding_mode):
    values = torch.tensor(sorted(classes), dtype=torch.uint8)
    label = values[torch.randint(len(values), (1, *size), generator=torch.Generator().manual_seed(seed))]
    found = resample.resample([label], [Sampling("nearest", padding_mode)], drawn(size, seed, 0.5))[0]
    assert set(found.unique().tolist()) <= classes


def test_labels_beyond_what_floats_can_count_stay_exact():
    label = torch.full((1, 6, 6, 6), 2**53 + 1, dtype=torch.int64)
    assert (resample.resample([label], [Sampling("nearest")], drawn((6, 6, 6)))[0] == 2**53 + 1).all()


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.float16, torch.float32, torch.float64])
def test_types_stay_and_half_precision_is_sampled_in_single(dtype, mode):
    image = (torch.rand(1, 9, 8, 7) * 2).to(dtype)
    deformation = drawn((9, 8, 7))
    found = resample.resample([image], [Sampling(mode)], deformation)[0]
    assert found.dtype == dtype
    single = resample.resample([image.float()], [Sampling(mode)], deformation)[0]
    if dtype.is_floating_point:
        torch.testing.assert_close(found.float(), single.to(dtype).float(), rtol=0, atol=1e-5)


def test_integers_sampled_between_values_are_rounded_and_stay_in_their_range():
    image = torch.tensor([0, 0, 255, 255, 255, 0], dtype=torch.uint8).repeat(1, 6, 2)
    found = resample.resample([image], [Sampling("cubic")], drawn((6, 12)))[0]
    single = resample.resample([image.float()], [Sampling("cubic")], drawn((6, 12)))[0]
    assert single.min() < 0  # a spline overshoots
    torch.testing.assert_close(found.float(), single.round().clamp(0, 255))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(12, 9), (9, 8, 7)])
def test_a_constant_fills_what_comes_from_outside(size, mode):
    n = len(size)
    away = Deformation(size, size, homogeneous(np.eye(n), np.array([4.0] + [0.0] * (n - 1)) + 1e-3))
    image = torch.rand(1, *size)
    found = resample.resample([image], [Sampling(mode, "constant", -1000.0)], away)[0]
    inside = (slice(None), slice(size[0] - 5), *[slice(1, -1)] * (n - 1))
    assert (found[:, -3:] == -1000).all()
    torch.testing.assert_close(found[inside], image[:, 4:][inside], rtol=0, atol=0.02)


def test_the_output_may_have_another_size():
    image, deformation = torch.rand(1, 20, 18), drawn((20, 18), output_size=(7, 31))
    found = resample.resample([image], [Sampling()], deformation)[0]
    assert found.shape == (1, 7, 31)
    torch.testing.assert_close(found, torchs(image, deformation, "bilinear", "border"), rtol=0, atol=2e-5)


def test_images_that_are_not_contiguous_are_sampled_alike():
    image, deformation = torch.rand(9, 8, 7, 2).movedim(-1, 0), drawn((9, 8, 7))
    found = resample.resample([image], [Sampling()], deformation)[0]
    assert torch.equal(found, resample.resample([image.contiguous()], [Sampling()], deformation)[0])


def test_a_gradient_is_not_followed():
    image = torch.rand(1, 9, 8, 7, requires_grad=True)
    assert not resample.resample([image], [Sampling()], drawn((9, 8, 7)))[0].requires_grad


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "lanczos"}, "mode is 'lanczos'; it must be one of nearest, linear, bilinear, cubic, bicubic"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap'; it must be one of border, reflection, constant, zeros"),
        ({"padding_mode": "zeros", "padding_value": 1.0}, "'zeros' with padding_value 1.0; say 'constant'"),
    ],
)
def test_unknown_modes_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)


def test_monais_names_of_modes_mean_the_same():
    assert (Sampling("bilinear"), Sampling("bicubic")) == (Sampling("linear"), Sampling("cubic"))
    assert Sampling(padding_mode="zeros") == Sampling(padding_mode="constant")


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"the image has size \(9, 8\), the deformation is for \(8, 9\)"):
        resample.resample([torch.rand(1, 9, 8)], [Sampling()], drawn((8, 9)))

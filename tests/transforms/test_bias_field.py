"""Bias fields: against numpy's Legendre series, and their degree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre
from scanloom.transforms import BiasField, RandBiasField, change_intensity

SIZES = [(30, 21), (1, 40), (17, 14, 11), (9, 1, 8), (2, 300, 301), (1, 1)]


def make_image(size, mean=0.0, channels=1):
    return mean + torch.randn(channels, *size)


def drawn(dims, seed=0, **options):
    return RandBiasField(**options).set_random_state(seed).draw(dims)[0]


def field(size, coefficients):
    """exp of the series, evaluated point by point."""
    places = [np.linspace(-1, 1, length) if length > 1 else np.zeros(1) for length in size]
    evaluate = {2: legendre.legval2d, 3: legendre.legval3d}[len(size)]
    return np.exp(evaluate(*np.meshgrid(*places, indexing="ij"), coefficients))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degree", [1, 3, 4])
@pytest.mark.parametrize("low", [0.0, -3.0, 1000.0])
def test_the_signal_above_the_lowest_value_is_multiplied_by_the_field(size, degree, low):
    image = make_image(size, channels=2).abs()
    image = image - image.amin(tuple(range(1, image.ndim)), keepdim=True) + low
    change = drawn(len(size), degree=degree)
    changed = change_intensity(image, [[change]])
    expected = (image.double().numpy() - low) * field(size, change.coefficients) + low
    # float32: 1e-6 of products of up to some 30; a value of 1000 has 6e-5 for its last place
    np.testing.assert_allclose(changed.numpy(), expected, rtol=1e-5, atol=1e-4 if low == 1000 else 1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), low=st.floats(-1000, 1000), size=st.sampled_from([(12, 9), (9, 8, 7)]))
def test_the_lowest_value_stays_the_lowest(seed, low, size):
    image = make_image(size).abs() + low
    changed = change_intensity(image, [[drawn(len(size), seed)]])
    # subtracting and adding a value is exact to its last place
    assert changed.min().item() == pytest.approx(image.min().item(), rel=2e-7)
    assert changed.flatten()[image.argmin()].item() == pytest.approx(image.min().item(), rel=2e-7)


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_coefficients_go_up_to_the_degree_and_leave_out_the_constant(degree, dims):
    coefficients = drawn(dims, degree=degree, coefficient=(0.1, 0.3)).coefficients
    total = np.indices(coefficients.shape).sum(0)
    assert ((coefficients != 0) == ((total >= 1) & (total <= degree))).all()
    used = coefficients[coefficients != 0]
    assert used.min() >= 0.1
    assert used.max() <= 0.3


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_logarithm_of_the_field_is_a_polynomial_of_the_degree(degree):
    image = torch.ones(1, 20, 21, dtype=torch.float64)
    image[:, 0, 0] = 0  # the lowest value: elsewhere the result is the field
    change = drawn(2, degree=degree, coefficient=(0.1, 0.3))
    logarithm = change_intensity(image, [[change]])[0, 1:].log()
    # differences of one more than the degree vanish, those of the degree do not
    for axis in (0, 1):
        assert logarithm.diff(n=degree + 1, dim=axis).abs().max() < 1e-12
        assert logarithm.diff(n=degree, dim=axis).abs().max() > 1e-5


def test_a_field_without_coefficients_changes_nothing():
    image = make_image((9, 8, 7))
    torch.testing.assert_close(change_intensity(image, [[BiasField(np.zeros((4, 4, 4)))]]), image, rtol=0, atol=1e-6)


def test_the_unit_of_the_values_does_not_matter():
    image, change = make_image((12, 13, 14)), [[drawn(3)]]
    torch.testing.assert_close(
        change_intensity(40 * image + 250, change), 40 * change_intensity(image, change) + 250, rtol=1e-5, atol=0.002
    )


def test_the_same_draw_is_the_same_field_at_any_size():
    change = drawn(2)
    coarse, fine = (change_intensity(with_zero(size), [[change]])[0] for size in [(11, 11), (21, 21)])
    torch.testing.assert_close(fine[::2, ::2][1:, 1:], coarse[1:, 1:], rtol=1e-5, atol=0)


def with_zero(size):
    """Ones, and a zero in the corner: the lowest value, above which the field works."""
    image = torch.ones(1, *size)
    image[:, 0, 0] = 0
    return image


def test_the_background_keeps_its_value():
    image = make_image((20, 21), mean=50)
    image[:, :10] = 0
    changed = change_intensity(image, [[drawn(2)]], background=0)
    assert (changed[:, :10] == 0).all()
    assert not torch.allclose(changed[:, 10:], image[:, 10:], atol=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degree": 0}, "degree is 0; a field needs at least degree 1"),
        ({"coefficient": (1, -1)}, r"coefficient is \(1, -1\); it must be two finite numbers, the smaller first"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RandBiasField(**options)

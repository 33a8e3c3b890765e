"""Products along the axes: against numpy's dense product, at sizes that fit no block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import separable
from scanloom.transforms.separable import ROWS, TILE, multiply_along, multiply_banded_

SIZES = [
    (33, 65),
    (1, 1),
    (1, 40, 1),
    (ROWS, 2 * ROWS, 1),
    (70, 31, 45),
    (130, 65, 40),  # more than a tile
    (3, TILE // 64 + 3, 70),  # so is a line of planes along the first axis
]


def banded(n, width, seed=0):
    """(n, n): random within `width` of the diagonal, else zero."""
    random = np.random.RandomState(seed)
    rows, columns = np.indices((n, n))
    return np.where(abs(rows - columns) <= width, random.standard_normal((n, n)), 0.0)


def dense_product(image, matrices):
    values = image.double().numpy()
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            values = np.moveaxis(np.tensordot(values, matrix, axes=([axis], [1])), -1, axis)
    return values


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [0, 5, 1000])
def test_the_banded_product_is_the_dense_one_along_every_axis(size, width):
    given_image = torch.randn(size)
    for axis, length in enumerate(size):
        if length > 300:
            continue  # a dense matrix of this size is all that the test would be about
        matrices = [banded(length, width) if each == axis else None for each in range(len(size))]
        image = given_image.clone()
        multiply_banded_(image, matrices)
        # float32 sums of up to 130 products of numbers of size 1: values of up to 50, some of whose last places go
        np.testing.assert_allclose(image.numpy(), dense_product(given_image, matrices), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    size=st.lists(st.integers(1, 23), min_size=2, max_size=3),
    left_alone=st.lists(st.booleans(), min_size=3, max_size=3),
    rows=st.integers(1, 9),
    tile=st.integers(1, 200),
    width=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_blocks_of_any_size_give_the_product_along_the_axes_that_have_a_matrix(
    size, left_alone, rows, tile, width, seed
):
    image = torch.randn(size, dtype=torch.float64)
    before = image.clone()
    matrices = [None if left else banded(n, width, seed) for n, left in zip(size, left_alone, strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separable, "ROWS", rows)
        patch.setattr(separable, "TILE", tile)
        multiply_banded_(image, matrices)
    # sums of up to 19 products, up to three times: values of up to 1e3
    np.testing.assert_allclose(image.numpy(), dense_product(before, matrices), atol=1e-10)


def test_the_band_may_lie_beside_the_diagonal():
    image, shift = torch.randn(4, 90), np.roll(np.eye(90), 50, axis=0)
    shifted = image.clone()
    multiply_banded_(shifted, [None, shift])
    assert torch.equal(shifted, image.roll(50, 1))


def test_without_matrices_the_image_stays():
    image = torch.randn(5, 6, 7)
    before = image.clone()
    multiply_banded_(image, [None, None, None])
    assert torch.equal(image, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(5, 6), (7, 1, 8)])
def test_a_product_along_an_axis_may_change_its_length(size, dtype):
    image = torch.randn(size, dtype=dtype)
    for axis, length in enumerate(size):
        matrix = np.random.RandomState(0).standard_normal((11, length))
        product = multiply_along(image, torch.from_numpy(matrix), axis)
        assert product.dtype == dtype
        matrices = [matrix if each == axis else None for each in range(len(size))]
        np.testing.assert_allclose(product.numpy(), dense_product(image, matrices), atol=1e-5)

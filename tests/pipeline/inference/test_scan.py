"""Regions of images in memory and of arrays in files, padded or mirrored where they reach beyond."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.inference.scan import ArrayScan, TensorScan, read_mirrored, read_window
from scanloom.pipeline.inference.windows import window_grid
from torch.nn import functional

REGION = (slice(1, 4), slice(0, 2), slice(3, 6))


def test_a_tensor_is_read_without_a_copy():
    image = torch.randn(2, 5, 6, 7)
    scan = TensorScan(image)
    assert (scan.channels, scan.size) == (2, (5, 6, 7))
    part = scan.read(REGION)
    assert torch.equal(part, image[:, 1:4, 0:2, 3:6])
    assert part.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_a_tensor_of_integers_is_read_as_floating_point():
    image = torch.randint(-1000, 1000, (1, 5, 6, 7), dtype=torch.int16)
    part = TensorScan(image).read(REGION)
    assert part.dtype == torch.float32
    assert torch.equal(part, image[:, 1:4, 0:2, 3:6].float())


def test_a_tensor_of_float16_stays_float16():
    assert TensorScan(torch.ones(1, 5, 6, 7).half()).read(REGION).dtype == torch.float16


@pytest.mark.parametrize("kind", ["<i2", ">i2", ">f4", "<f8", "u1", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_of_any_type_and_memory_order_is_read_in_pieces(tmp_path, kind, order):
    values = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7) % 200
    file = np.memmap(tmp_path / "voxels", np.dtype(kind), "w+", shape=values.shape, order=order)
    file[:] = values
    scan = ArrayScan(np.memmap(tmp_path / "voxels", np.dtype(kind), "r", shape=values.shape, order=order))
    part = scan.read(REGION)
    assert (scan.channels, scan.size, part.dtype) == (2, (5, 6, 7), torch.float32)
    assert torch.equal(part, torch.from_numpy(values[(slice(None), *REGION)]).float())


def test_what_is_read_of_an_array_may_be_changed():
    array = np.ones((1, 5, 6, 7), dtype=np.float32)
    ArrayScan(array).read((slice(0, 5), slice(0, 6), slice(0, 7))).mul_(2)
    ArrayScan(array, prepare=lambda part: part.mul_(2)).read(REGION)
    assert (array == 1).all()


def test_preprocessing_is_of_the_region_alone():
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(1, 5, 6, 7)
    scan = ArrayScan(array, prepare=lambda part: torch.cat([part, part / 2]), channels=2)
    assert scan.channels == 2
    part = scan.read(REGION)
    assert part.shape == (2, 3, 2, 3)
    assert torch.equal(part[1], torch.from_numpy(array)[0, 1:4, 0:2, 3:6] / 2)


@pytest.mark.parametrize(("mode", "value"), [("constant", 0.0), ("constant", -7.5), ("reflect", 0.0),
                                             ("replicate", 0.0), ("circular", 0.0)])  # fmt: skip
@pytest.mark.parametrize("size", [(5, 20, 6), (20, 7, 9), (6, 6, 5)])
def test_a_padded_window_is_one_of_the_padded_image(mode, value, size):
    image = torch.randn(2, *size)
    grid = window_grid(size, (8, 8, 8), 0.5)
    amounts = []
    for before, n in reversed(list(zip(grid.before, size, strict=True))):
        amounts += [before, max(8 - n, 0) - before]
    fill = {"value": value} if mode == "constant" else {}
    whole = functional.pad(image[None], amounts, mode=mode, **fill)[0]
    for start in [tuple(starts[0] for starts in grid.starts), tuple(starts[-1] for starts in grid.starts)]:
        expected = whole[(slice(None), *(slice(at, at + 8) for at in start))]
        assert torch.equal(read_window(TensorScan(image), grid, start, mode, value), expected)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-20, 20), st.integers(1, 20)), min_size=1, max_size=3))
def test_beyond_the_image_it_is_mirrored_as_often_as_it_takes(axes):
    size, low, length = zip(*axes, strict=True)
    image = torch.arange(float(np.prod(size))).reshape(1, *size)
    high = np.add(low, length)
    pads = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(low, high, size, strict=True)]
    mirrored = np.pad(image[0].numpy(), pads, mode="reflect")
    expected = mirrored[tuple(slice(a + p, b + p) for a, b, (p, _) in zip(low, high, pads, strict=True))]
    assert np.array_equal(read_mirrored(TensorScan(image), low, high)[0].numpy(), expected)


def test_a_region_inside_the_image_is_not_copied():
    image = torch.randn(1, 8, 8)
    part = read_mirrored(TensorScan(image), (2, 3), (6, 8))
    assert part.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()

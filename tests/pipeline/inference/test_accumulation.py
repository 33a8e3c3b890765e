"""Blending box by box: equal to adding up whole images, with no more held than is said."""

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference import accumulation
from scanloom.pipeline.inference.accumulation import Accumulator
from scanloom.pipeline.inference.blending import BlendedPass, Padding
from scanloom.pipeline.inference.layout import lean_layout
from scanloom.pipeline.inference.reduction import Labels, Logits, background_logit
from scanloom.pipeline.inference.scan import Background, TensorScan
from scanloom.pipeline.inference.windows import window_grid


def naive(grid, layout, outputs, weights):
    """(K, *size): sums over the whole padded image."""
    channels = next(len(each) for each in outputs if each is not None)
    padded = tuple(map(max, grid.size, grid.roi))
    sums, counts = torch.zeros(channels, *padded, dtype=torch.float64), torch.zeros(padded, dtype=torch.float64)
    for start, output in zip(layout.windows(), outputs, strict=True):
        where = tuple(slice(at, at + r) for at, r in zip(start, grid.roi, strict=True))
        if output is not None:
            sums[(slice(None), *where)] += output.double() * weights
            counts[where] += weights
    inside = tuple(slice(b, b + n) for b, n in zip(grid.before, grid.size, strict=True))
    mean = (sums / counts)[(slice(None), *inside)]
    empty = (counts == 0)[inside]
    mean[:, empty] = 0.0
    mean[0, empty] = background_logit(channels)
    return mean


@st.composite
def cases(draw):
    dims = draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 24 // dims)) for _ in range(dims))
    roi = tuple(draw(st.integers(1, 6)) for _ in range(dims))
    grid = window_grid(size, roi, tuple(draw(st.floats(0, 0.75)) for _ in range(dims)))
    layout = lean_layout(grid, draw(st.sampled_from([None, *range(dims)])))
    return grid, layout, draw(st.integers(1, 7)), draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([0.0, 0.3, 0.95]), st.booleans())
def test_the_blend_is_that_of_whole_images(case, skipped, in_parts):
    grid, layout, channels, seed = case
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(grid.roi, generator=generator) + 0.01
    outputs = [
        torch.randn(channels, *grid.roi, generator=generator) if float(torch.rand((), generator=generator)) >= skipped
        else None
        for _ in range(grid.windows)
    ]  # fmt: skip
    outputs[0] = torch.randn(channels, *grid.roi, generator=generator)
    out, labels = torch.full((channels, *grid.size), torch.nan), torch.full(grid.size, 77, dtype=torch.uint8)
    filled = any(each is None for each in outputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulation, "CACHED_BYTES", 1 if in_parts else 2**22)
        for reduction in (Logits(out), Labels(labels, channels)):
            accumulator = Accumulator(grid, layout, channels, weights, reduction, filled)
            for output in outputs:
                accumulator.add(None if output is None else output.clone())
    expected = naive(grid, layout, outputs, weights)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    two = torch.cat([torch.zeros_like(expected), expected]) if channels == 1 else expected
    best = two.topk(2, dim=0)
    clear = best.values[0] - best.values[1] > 1e-4
    assert torch.equal(labels[clear], best.indices[0][clear].to(torch.uint8))


def test_what_is_given_is_not_changed():
    grid = window_grid((9, 9), 6, 0.5)
    layout = lean_layout(grid)
    outputs = [torch.randn(6, *grid.roi) for _ in range(grid.windows)]
    before = [each.clone() for each in outputs]
    accumulator = Accumulator(grid, layout, 6, torch.rand(grid.roi), Logits(torch.empty(6, 9, 9)))
    for output in outputs:
        accumulator.add(output)
    assert all(map(torch.equal, outputs, before))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_outputs_of_any_type_are_added_in_float32(kind):
    grid = window_grid((8,), 4, 0.5)
    layout, out = lean_layout(grid), torch.empty(2, 8)
    accumulator = Accumulator(grid, layout, 2, torch.ones(4), Logits(out))
    for _ in range(grid.windows):
        accumulator.add(torch.full((2, 4), 1.5, dtype=kind))
    assert torch.equal(out, torch.full((2, 8), 1.5))


def test_outputs_of_any_memory_order_are_taken():
    grid = window_grid((4, 4), 4, 0.0)
    output = torch.randn(4, 4, 9).movedim(2, 0)
    out = torch.empty(9, 4, 4)
    Accumulator(grid, lean_layout(grid), 9, torch.ones(4, 4), Logits(out)).add(output)
    torch.testing.assert_close(out, output)


def tensors_of(thing, seen):
    """Storages that an object holds, by their place in memory."""
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    elif isinstance(thing, list | tuple | deque):
        for each in thing:
            tensors_of(each, seen)
    elif isinstance(thing, dict):
        tensors_of(list(thing.values()), seen)
    elif type(thing).__name__ in {"Accumulator", "_Sums"}:
        kept = {name: value for name, value in vars(thing).items() if name not in {"reduction", "window"}}
        tensors_of(kept, seen)
    return seen


def most_held(size, roi, overlap, channels, reduction="logits"):
    """(bytes really held at most, bytes said)."""
    scan = TensorScan(torch.zeros(1, 1, 1).expand(1, *size))
    grid = window_grid(size, roi, overlap)
    layout, weights = lean_layout(grid), torch.rand(roi)
    out = torch.zeros(1, *[1] * len(size)).expand(channels, *size)
    one = BlendedPass(scan, grid, layout, weights, None, padding=Padding(), background=Background())
    taken = Logits(np.empty((channels, *size), np.float32)) if reduction == "logits" else Labels(
        np.empty(out.shape[1:], np.uint8), channels)  # fmt: skip
    accumulator = Accumulator(grid, layout, channels, weights, taken)
    output, held = torch.zeros(channels, *roi), 0
    for _ in range(grid.windows):
        accumulator.add(output)
        held = max(held, sum(tensors_of(accumulator, {}).values()))
    return held, one.held_bytes(channels)


@pytest.mark.parametrize("reduction", ["logits", "labels"])
@pytest.mark.parametrize(
    ("size", "roi", "overlap"),
    [
        ((40, 20, 20), (8, 8, 8), 0.5),
        ((41, 20, 17), (8, 6, 4), (0.25, 0.5, 0.75)),
        ((5, 30), (8, 8), 0.5),
        ((17, 33), (8, 8), 0.0),
    ],
)
def test_no_more_is_held_than_is_said(size, roi, overlap, reduction):
    held, said = most_held(size, roi, overlap, 3, reduction)
    assert said / 3 < held <= said


def test_what_is_really_held_does_not_grow_with_the_length():
    short, _ = most_held((40, 12, 12), (8, 8, 8), 0.5, 3)
    long, _ = most_held((400, 12, 12), (8, 8, 8), 0.5, 3)
    assert long == short
    assert long < 3 * 400 * 12 * 12 * 4 / 10


def test_it_can_move_to_another_device_between_windows():
    grid = window_grid((20, 12), 8, 0.5)
    layout, out = lean_layout(grid), torch.empty(3, 20, 12)
    outputs = [torch.randn(3, 8, 8) for _ in range(grid.windows)]
    accumulator = Accumulator(grid, layout, 3, torch.rand(8, 8), Logits(out))
    for index, output in enumerate(outputs):
        if index == 3:
            accumulator.to(torch.device("cpu"))
        accumulator.add(output)
    torch.testing.assert_close(out.double(), naive(grid, layout, outputs, accumulator.weights))
    accumulator.to(torch.device("meta"))
    assert {each.device.type for each in (accumulator.weights, *accumulator._sums.carries)} == {"meta"}


def test_windows_that_agree_have_no_seams_and_others_have():
    grid = window_grid((40, 40), 16, 0.5)
    layout = lean_layout(grid)
    found = []
    for change in (0.0, 1.0):
        accumulator = Accumulator(grid, layout, 2, torch.ones(16, 16), Logits(torch.empty(2, 40, 40)))
        for index in range(grid.windows):
            accumulator.add(torch.tensor([0.5, index % 2 * change]).view(2, 1, 1).expand(2, 16, 16))
        found.append(accumulator.seams.disagreement)
    assert found[0] == 0
    assert found[1] > 0.3

"""What becomes of boxes: the same as of the whole image at once, whatever the boxes and the groups of channels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference.reduction import (
    Dropped,
    Labels,
    Logits,
    Reduced,
    label_dtype,
    make_reduction,
    probabilities,
    store,
)

BOXES = [(slice(0, 4), slice(0, 3)), (slice(0, 4), slice(3, 7)), (slice(4, 5), slice(0, 3)), (slice(4, 5), slice(3, 7))]
SIZE = (5, 7)


def fed(reduction, values, step, boxes=BOXES):
    """Gives it the boxes, some channels at a time, in memory that is used again."""
    for where in boxes:
        reduction.begin(where)
        room = torch.full((step, *(part.stop - part.start for part in where)), torch.nan)
        for first in range(0, len(values), step):
            part = values[(slice(first, first + step), *where)]
            block = room[: len(part)].copy_(part)
            reduction.put(where, first, block)
        reduction.finish(where)


def maker(made):
    def make(channels, kind):
        made.append(torch.full((channels, *SIZE), 77, dtype=kind))
        return made[-1]

    return make


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_labels_are_the_first_of_the_largest_channels(channels, step, seed):
    values = torch.randint(-2, 3, (channels, *SIZE), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    out = torch.full(SIZE, 77, dtype=torch.uint8)
    fed(Labels(out, channels), values, step)
    expected = (values[0] > 0) if channels == 1 else torch.from_numpy(values.numpy().argmax(0))
    assert torch.equal(out, expected.to(torch.uint8))


@pytest.mark.parametrize("channels", [255, 256, 257, 300])
@pytest.mark.parametrize("step", [1, 100, 300])
def test_many_labels_have_a_type_that_holds_them(channels, step):
    values = torch.randn(channels, *SIZE)
    values[channels - 1, 0] = 9.0
    out = torch.full(SIZE, 7, dtype=label_dtype(channels))
    fed(Labels(out, channels), values, step)
    assert torch.equal(out.int(), values.argmax(0).int())
    assert int(out[0, 0]) == channels - 1


def test_the_type_of_labels_is_the_smallest():
    assert [label_dtype(channels) for channels in (1, 256, 257)] == [torch.uint8, torch.uint8, torch.uint16]


def test_labels_go_into_an_array_too():
    values, out = torch.randn(300, *SIZE), np.full(SIZE, 7, dtype=np.uint16)
    fed(Labels(out, 300), values, 300)
    assert np.array_equal(out, values.numpy().argmax(0))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_logits_are_written_as_they_are(step):
    values, out = torch.randn(3, *SIZE), np.zeros((3, *SIZE), dtype=np.float64)
    fed(Logits(out), values, step)
    assert np.array_equal(out, values.numpy())


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_function_is_given_all_channels_of_a_box(step):
    made = []
    values = torch.randn(3, *SIZE)
    seen = []

    def spread(box):
        seen.append(tuple(box.shape))
        return (box.amax(0) - box.amin(0))[None].double()

    fed(Reduced(spread, 3, maker(made)), values, step)
    assert seen == [(3, 4, 3), (3, 4, 4), (3, 1, 3), (3, 1, 4)]
    (out,) = made
    assert out.dtype == torch.float64
    assert torch.equal(out[0], (values.amax(0) - values.amin(0)).double())


@pytest.mark.parametrize("function", [lambda box: box[:, 1:], lambda box: box[0], lambda box: box.mean((1, 2))])
def test_a_function_that_changes_the_box_is_refused(function):
    with pytest.raises(ValueError, match=r"the reduction made \(.*\) of a box of \(4, 3\) voxels; it must return"):
        fed(Reduced(function, 3, maker([])), torch.randn(3, *SIZE), 3)


def test_what_is_dropped_is_gone():
    fed(Dropped(), torch.randn(3, *SIZE), 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_output_is_made_of_the_logits(channels):
    values = torch.randn(channels, *SIZE)
    softmax = values.sigmoid() if channels == 1 else values.softmax(0)
    labels = values > 0 if channels == 1 else values.argmax(0, keepdim=True)
    expected = {"logits": values, "probabilities": softmax, "labels": labels.to(torch.uint8), torch.exp: values.exp()}
    for output, result in expected.items():
        made = []
        reduction = make_reduction(output, channels, maker(made))
        fed(reduction, values, channels)
        assert reduction.needs_mean == (output != "labels")
        torch.testing.assert_close(made[0], result)


def test_probabilities_of_one_channel_are_its_sigmoid():
    assert float(probabilities(torch.zeros(1, 2))[0, 0]) == 0.5
    assert float(probabilities(torch.zeros(4, 2))[0, 0]) == 0.25


@pytest.mark.parametrize("out", [torch.zeros(3, 4), np.zeros((3, 4))])
def test_a_box_is_stored_in_its_place(out):
    store(out, (slice(1, 3), slice(0, 2)), torch.ones(2, 2))
    assert out.tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]

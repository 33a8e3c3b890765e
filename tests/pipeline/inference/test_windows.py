"""Windows lie where MONAI lays them, and where a smaller output puts them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from scanloom.pipeline.inference.windows import Span, WindowGrid, spans, window_grid

axis_lengths = st.tuples(st.integers(1, 40), st.integers(1, 20), st.floats(0, 0.99))


@settings(deadline=None)
@given(st.lists(axis_lengths, min_size=1, max_size=2))
def test_the_places_are_those_of_monai(axes):
    size, roi, overlap = zip(*axes, strict=True)
    grid = window_grid(size, roi, overlap)
    padded = tuple(map(max, size, roi))
    intervals = _get_scan_interval(padded, roi, len(size), overlap)
    expected = {
        tuple(part.start for part in place) for place in dense_patch_slices(padded, roi, intervals, return_slice=True)
    }
    assert set(np.ndindex(*map(len, grid.starts))) == {
        tuple(starts.index(at) for starts, at in zip(grid.starts, place, strict=True)) for place in expected
    }
    assert grid.windows == len(expected)
    assert all(starts[-1] == n - r for starts, n, r in zip(grid.starts, padded, roi, strict=True))


def test_an_image_smaller_than_a_window_is_padded_on_both_sides_less_before():
    grid = window_grid((5, 20), (8, 8), 0.0)
    assert grid.before == (1, 0)
    assert grid.starts == ((0,), (0, 8, 12))


@pytest.mark.parametrize("roi_size", [(-1, 8), (None, 8), (0, 8)])
def test_a_length_that_is_not_positive_is_the_images(roi_size):
    assert window_grid((31, 20), roi_size, 0.25).roi == (31, 8)


def test_one_number_serves_every_axis():
    assert window_grid((9, 9, 9), 4, 0.5) == window_grid((9, 9, 9), (4, 4, 4), (0.5, 0.5, 0.5))


def test_roi_size_of_another_number_of_axes_is_refused():
    with pytest.raises(ValueError, match=r"roi_size \(4, 4, 4\) has 3 axes, the image \(9, 9\) has 2 spatial axes"):
        window_grid((9, 9), (4, 4, 4), 0.5)


@pytest.mark.parametrize("overlap", [1.0, -0.1, (0.5, 1.0), (-0.01, 0.5)])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ValueError, match=r"overlap is .*; each must be at least 0 and less than 1"):
        window_grid((9, 9), (4, 4), overlap)


def test_an_output_of_half_the_size_has_its_windows_at_half_the_places():
    half = window_grid((20, 5), (8, 8), 0.5).scaled((4, 4))
    assert half == WindowGrid(size=(10, 3), roi=(4, 4), before=(0, 0), starts=((0, 2, 4, 6), (0,)))


def test_a_half_of_an_odd_image_ends_with_its_last_window():
    """5.5 voxels are 5, as MONAI cuts them: there is no window to say what the sixth would be."""
    assert window_grid((11,), (8,), 0.25).scaled((4,)).size == (5,)


def test_an_output_larger_than_the_window_is_laid_out_likewise():
    assert window_grid((10,), (4,), 0.5).scaled((8,)).starts == ((0, 4, 8, 12),)


def test_windows_of_an_output_that_do_not_join_up_are_refused():
    """27 * (13 / 3) is a little less than 117 as a floating-point number, where MONAI's windows do not fit either."""
    grid = window_grid((5, 27), (5, 3), 0.0)
    with pytest.raises(ValueError, match=r"do not join up along axis 1\. Choose roi_size and overlap"):
        grid.scaled((5, 13))


@given(st.lists(st.integers(1, 5), min_size=0, max_size=12), st.integers(5, 9), st.data())
def test_spans_are_final_once_and_know_what_was_reached(steps, length, data):
    starts = [0, *np.cumsum(steps).tolist()]
    cuts = sorted(data.draw(st.sets(st.sampled_from(range(1, len(starts))))) if len(starts) > 1 else ())
    rows = [part.tolist() for part in np.split(np.asarray(starts), cuts)]
    found = spans(rows, length)
    assert [each.starts for each in found] == list(map(tuple, rows))
    assert [each.start for each in found] == [0, *[before.final for before in found[:-1]]]
    assert found[-1].final == found[-1].stop == starts[-1] + length
    assert [each.reached for each in found] == [0, *[before.stop for before in found[:-1]]]
    assert all(each.length == each.starts[-1] + length - each.starts[0] for each in found)


def test_a_single_row_is_one_span():
    assert spans([(0, 3)], 4) == (Span(starts=(0, 3), stop=7, final=7, reached=0),)

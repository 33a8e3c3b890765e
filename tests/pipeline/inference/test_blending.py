"""One image in overlapping windows: what is skipped, where it is held, and what it says of itself."""

from types import SimpleNamespace

import pytest
import torch
from scanloom.pipeline.inference.blending import BlendedPass, Padding
from scanloom.pipeline.inference.layout import lean_layout
from scanloom.pipeline.inference.memory import FLOAT_BYTES
from scanloom.pipeline.inference.reduction import Logits
from scanloom.pipeline.inference.runner import WindowRunner
from scanloom.pipeline.inference.scan import Background, TensorScan
from scanloom.pipeline.inference.windows import window_grid

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("background", "filled", "other"),
    [
        (Background(value=-1.0), [-1.0, -1.0], [-1.0, -1.5]),
        (Background(below=0.0), [-1.0, -2.0], [-1.0, 0.0]),
        (Background(value=5.0, below=0.0), [5.0, 5.0], [5.0, -1.0]),
        (Background(value=5.0, below=0.0), [-1.0, -3.0], [0.0, -1.0]),
    ],
)
def test_a_window_of_background_holds_nothing_else(background, filled, other):
    assert background
    assert background.fills(torch.tensor(filled))
    assert not background.fills(torch.tensor(other))


def test_without_a_value_nothing_is_background():
    assert not Background()
    assert not Background().fills(torch.zeros(3))
    assert Background(value=0.0)


class Run:
    """One pass over an image, with everything that can be asked of it."""

    def __init__(self, image, network=lambda x: torch.cat([x, -x], dim=1), weights=None, batch=2, **settings):
        self.grid = window_grid(image.shape[1:], (6, 6), 0.5)
        self.made, self.said = [], []
        settings = {"padding": Padding(), "background": Background()} | settings
        weights = torch.ones(6, 6) if weights is None else weights
        self.one = BlendedPass(
            TensorScan(image), self.grid, lean_layout(self.grid), weights, self.reduction_of, **settings
        )
        self.runner = WindowRunner(network, [CPU], batch, self.one.relieve, self.said.append)

    def reduction_of(self, index, channels, size, order):
        assert tuple(order) == self.one.layout.order
        self.made.append(torch.full((channels, *size), torch.nan))
        return Logits(self.made[-1])

    def all(self):
        return list(self.one.run(self.runner))


def test_it_counts_its_windows_as_they_are_done():
    run = Run(torch.randn(1, 15, 12))
    assert run.one.windows == 4 * 3
    assert run.one.window_size == (6, 6)
    assert run.one.disagreement is None
    assert run.all() == list(range(1, 13))
    assert run.one.skipped == 0
    assert run.one.disagreement == 0


def test_an_identity_gives_the_image_back():
    image = torch.randn(1, 15, 12)
    run = Run(image)
    run.all()
    torch.testing.assert_close(run.made[0], torch.cat([image, -image]))


def test_each_output_has_its_own_grid():
    image = torch.randn(1, 15, 12)
    run = Run(image, lambda x: (x, torch.nn.functional.interpolate(x, scale_factor=2)))
    run.all()
    assert [tuple(each.shape) for each in run.made] == [(1, 15, 12), (1, 30, 24)]
    torch.testing.assert_close(run.made[1], image.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_padding_is_no_background_unless_it_has_its_value():
    image = torch.full((1, 4, 12), -1.0)
    for value, skipped in ((0.0, 0), (-1.0, 3)):
        run = Run(image, padding=Padding("constant", value), background=Background(value=-1.0))
        run.all()
        assert run.one.skipped == skipped


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_first_window_of_background_is_run_to_learn_the_channels(batch):
    image = torch.zeros(1, 15, 12)
    image[:, 10, 10] = 1.0
    calls = []

    def network(x):
        calls.append(len(x))
        return torch.cat([x, x + 1, x], dim=1)

    run = Run(image, network, batch=batch, background=Background(value=0.0))
    assert run.all() == list(range(1, 13))
    assert run.one.skipped == 12 - 2
    assert sum(calls) == 2 + 1
    assert run.made[0].shape == (3, 15, 12)
    expected = torch.zeros(15, 12, dtype=torch.int64)
    expected[6:, 6:] = 1
    assert torch.equal(run.made[0].argmax(0), expected)


def test_what_is_held_is_said_for_any_number_of_channels():
    run = Run(torch.randn(1, 60, 12))
    voxels = run.one.layout.voxels
    assert run.one.held_bytes(3) == FLOAT_BYTES * (4 * voxels + 5 * 36)
    assert run.one.held_bytes(3, regridded=True) == FLOAT_BYTES * (4 * (voxels + run.one.layout.edge_voxels) + 5 * 36)


def test_on_the_host_there_is_nothing_to_relieve():
    assert Run(torch.randn(1, 15, 12)).one.relieve() is False


def elsewhere():
    """Weights as if on a GPU, which are real where they are brought to the host."""
    return SimpleNamespace(device=torch.device("cuda"), cpu=lambda: torch.ones(6, 6))


def test_what_finds_no_room_on_the_device_is_held_by_the_host():
    image = torch.randn(1, 15, 12)
    run = Run(image, weights=elsewhere())
    make, failed = run.reduction_of, []

    def reduction_of(*arguments):
        if run.one.weights.device.type == "cuda":
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(*arguments)

    run.one.reduction_of = reduction_of
    run.all()
    assert failed == [1]
    assert run.one.weights.device == CPU
    torch.testing.assert_close(run.made[0], torch.cat([image, -image]))


def test_where_the_host_has_no_room_either_the_error_is_passed_on():
    run = Run(torch.randn(1, 15, 12))

    def reduction_of(*_):
        raise torch.OutOfMemoryError("out of memory")

    run.one.reduction_of = reduction_of
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        run.all()


def test_other_errors_are_passed_on():
    run = Run(torch.randn(1, 15, 12), weights=elsewhere())

    def reduction_of(*_):
        raise RuntimeError("no such type")

    run.one.reduction_of = reduction_of
    with pytest.raises(RuntimeError, match="no such type"):
        run.all()
    assert run.one.weights.device.type == "cuda"


def test_the_second_image_and_the_places_reach_the_network():
    image, second, told = torch.randn(1, 15, 12), torch.randn(2, 15, 12), []

    def network(x, places, condition):
        told.extend(places)
        for window, other, (a, b) in zip(x, condition, places, strict=True):
            assert torch.equal(window, image[:, a : a + 6, b : b + 6])
            assert torch.equal(other, second[:, a : a + 6, b : b + 6])
        return x

    run = Run(image, network, condition=TensorScan(second), coordinates=tuple)
    run.all()
    assert told == list(run.one.layout.windows())

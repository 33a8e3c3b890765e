"""Windows through a network: in order, in batches, on several devices, and with less where memory runs out."""

from collections import OrderedDict, UserDict

import pytest
import torch
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.inference.runner import Window, WindowRunner, flatten, is_out_of_memory, restored
from torch import nn

CPU = torch.device("cpu")


class Recording(nn.Module):
    """Doubles its input; runs out of memory above some number of windows at once."""

    def __init__(self, most=100, times=1000, error=None):
        super().__init__()
        self.most, self.times, self.error = most, times, error or torch.OutOfMemoryError("out of memory")
        self.batches = []
        self.given = []

    def forward(self, x, *args, **kwargs):
        if len(x) > self.most and self.times > 0:
            self.times -= 1
            raise self.error
        self.batches.append(len(x))
        self.given.append((args, kwargs))
        return 2 * x


def windows(count, skipped=()):
    return [Window(None if index in skipped else torch.full((1, 3, 4), float(index))) for index in range(count)]


def runner(network, batch=1, relieve=lambda: False, devices=(CPU,), **settings):
    said = []
    return WindowRunner(network, devices, batch, relieve, said.append, **settings), said


def values(outputs):
    return [None if each is None else float(each[0].mean()) for each in outputs]


@pytest.mark.parametrize(
    ("batch", "batches"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (9, [5])], ids=["1", "2", "4", "9"]
)
def test_windows_come_out_in_their_order(batch, batches):
    network = Recording()
    one, said = runner(network, batch)
    assert values(one.run(windows(5))) == [0, 2, 4, 6, 8]
    assert network.batches == batches
    assert said == []


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("skipped", [{0}, {1, 2}, {4}, {0, 1, 2, 3, 4}])
def test_windows_to_skip_cost_no_place_in_a_batch(batch, skipped):
    network = Recording()
    one, _ = runner(network, batch)
    expected = [None if index in skipped else 2 * index for index in range(5)]
    assert values(one.run(windows(5, skipped))) == expected
    assert sum(network.batches) == 5 - len(skipped)
    assert len(network.batches) == -(-(5 - len(skipped)) // batch)


def test_windows_are_taken_as_they_are_needed():
    taken = []

    def stream():
        for window in windows(10):
            taken.append(window)
            yield window

    outputs = runner(Recording(), 2)[0].run(stream())
    next(outputs)
    assert len(taken) == 2


def test_arguments_reach_the_network():
    network = Recording()
    one, _ = runner(network, 2, arguments=(7,), options={"key": "value"})
    list(one.run([Window(torch.ones(1, 3), coordinates=place) for place in "ab"]))
    assert network.given == [((["a", "b"], 7), {"key": "value"})]


def test_conditions_are_stacked_like_windows():
    network = Recording()
    one, _ = runner(network, 2, options={"key": "value"})
    list(one.run([Window(torch.ones(1, 3), condition=torch.full((2, 3), float(index))) for index in range(3)]))
    assert [given[1]["condition"].shape for given in network.given] == [(2, 2, 3), (1, 2, 3)]
    assert network.given[0][1]["condition"][1].unique().tolist() == [1.0]
    assert network.given[0][1]["key"] == "value"


def test_one_window_can_go_before_the_others():
    one, _ = runner(Recording(), 4)
    window = windows(1)[0]
    (output,) = one.once(window)
    assert torch.equal(output, torch.zeros(1, 3, 4))
    assert window.data is not None


class Losing(nn.Module):
    """NaN where the window's first voxel is 1 or 3, infinities elsewhere, and a whole number."""

    def forward(self, x):
        first = x[:, 0, 0, 0]
        spoilt = x.clone()
        spoilt[:, 0, 2, 3] = torch.where((first == 1) | (first == 3), torch.nan, -torch.inf)
        return {"sure": x + torch.inf, "spoilt": spoilt, "whole": x.long()}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_windows_of_no_numbers_are_counted(batch):
    one, _ = runner(Losing(), batch)
    list(one.run(windows(5, skipped={3})))
    assert one.not_numbers() == 1
    list(one.run(windows(5)))
    assert one.not_numbers() == 3
    one.once(windows(2)[1])
    assert one.not_numbers() == 3
    assert runner(Losing())[0].not_numbers() == 0


def test_outputs_without_fractions_have_nothing_to_count():
    one, _ = runner(lambda x: x.long())
    list(one.run(windows(2)))
    assert one.not_numbers() == 0


def test_no_gradients_are_kept():
    layer = nn.Linear(4, 4)
    seen = []

    def network(x):
        seen.append(torch.is_grad_enabled())
        return layer(x), x

    with torch.enable_grad():
        (outputs,) = runner(network)[0].run([Window(torch.ones(1, 3, 4, requires_grad=True))])
        assert torch.is_grad_enabled()
    assert seen == [False]
    assert not any(each.requires_grad for each in outputs)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    RuntimeError("MPS backend out of memory (MPS allocated: 3 GiB)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "mps"])
def test_out_of_memory_the_batch_is_halved_and_it_is_said(error):
    network = Recording(most=2, error=error)
    one, said = runner(network, 8)
    assert values(one.run(windows(19))) == [2 * index for index in range(19)]
    assert said == [
        "out of memory: 4 windows at a time instead of 8",
        "out of memory: 2 windows at a time instead of 4",
    ]
    assert max(network.batches) == 2
    assert sum(network.batches) == 19


def test_at_a_single_window_what_is_held_is_given_up():
    relieved = []
    network = Recording(most=0, times=2)
    one, said = runner(network, 2, relieve=lambda: not relieved and (relieved.append(1) or True))
    assert values(one.run(windows(3))) == [0, 2, 4]
    assert said == [
        "out of memory: 1 windows at a time instead of 2",
        "out of memory: the blended windows are held by the host from here on",
    ]
    assert relieved == [1]


def test_where_nothing_is_left_to_give_up_it_is_refused():
    one, said = runner(Recording(most=0), 2)
    message = (
        r"out of memory on cpu with one window of 3 x 4 voxels\. Choose smaller windows \(roi_size .* --device cpu"
    )
    with pytest.raises(PipelineError, match=message):
        list(one.run(windows(3)))
    assert said == ["out of memory: 1 windows at a time instead of 2"]


def test_other_errors_are_not_taken_for_want_of_memory():
    one, said = runner(Recording(most=0, error=RuntimeError("shapes do not match")), 2)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(one.run(windows(3)))
    assert said == []
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


class Numbered(nn.Module):
    """Counts its passes; a copy counts its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.weight * x


@pytest.mark.parametrize("skipped", [set(), {0, 3}])
def test_several_devices_take_turns(skipped):
    network = Numbered()
    one, _ = runner(network, 2, devices=(CPU, CPU, CPU))
    assert values(one.run(windows(12, skipped))) == [None if n in skipped else 2 * n for n in range(12)]
    assert one.networks[0] is network
    passes = -(-(12 - len(skipped)) // 2)
    assert sorted(each.passes for each in one.networks) == sorted(-(-(passes - n) // 3) for n in range(3))


def test_several_devices_need_a_module_to_copy():
    with pytest.raises(ValueError, match=r"several devices need a network that is a torch\.nn\.Module"):
        runner(lambda x: x, devices=(CPU, CPU))


ONE, TWO = torch.ones(1), torch.zeros(2)


@pytest.mark.parametrize(
    ("output", "keys", "parts", "back"),
    [
        (ONE, None, (ONE,), ONE),
        ((ONE, TWO), [], (ONE, TWO), (ONE, TWO)),
        ([ONE, TWO], [], (ONE, TWO), (ONE, TWO)),
        ((ONE,), None, (ONE,), ONE),
        ({"b": TWO, "a": ONE}, ["a", "b"], (ONE, TWO), {"a": ONE, "b": TWO}),
        ({"a": ONE}, ["a"], (ONE,), {"a": ONE}),
        (OrderedDict(b=TWO, a=ONE), ["a", "b"], (ONE, TWO), {"a": ONE, "b": TWO}),
        (UserDict(a=ONE), ["a"], (ONE,), {"a": ONE}),
    ],
    ids=["tensor", "tuple", "list", "tuple of one", "dictionary", "dictionary of one", "ordered", "mapping"],
)
def test_outputs_are_taken_apart_and_put_together(output, keys, parts, back):
    found, flat = flatten(output)
    assert found == keys
    assert all(a is b for a, b in zip(flat, parts, strict=True))
    result = restored(found, flat)
    assert type(result) is type(back)
    if isinstance(back, torch.Tensor):
        assert result is back
    else:
        assert [*result] == [*back]
        assert len(result) == len(back)

"""What an inference will take: its parts added up, refused where there is no room, and told once."""

import pytest
import torch
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.inference import estimate
from scanloom.pipeline.inference.estimate import FIRST_WINDOWS, Estimate, Pace, human_seconds, require_room
from scanloom.pipeline.inference.memory import HOST_EXTRA_BYTES, HOST_FACTOR, ForwardNeeds

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30
NEEDS = ForwardNeeds(activation_bytes=4 * GIB, channels=(3,))


@pytest.fixture
def available(monkeypatch):
    """What each device has, to be set by a test."""
    room = {}
    monkeypatch.setattr(estimate, "available_bytes", lambda device: room.get(device.type))
    return room


def test_on_a_processor_all_is_the_hosts():
    one = Estimate.of(64, NEEDS, held_bytes=2 * GIB, host_bytes=GIB, device=CPU)
    assert one.device_bytes == one.host_bytes == int(4 * GIB * HOST_FACTOR) + HOST_EXTRA_BYTES + 3 * GIB


def test_on_another_device_the_host_holds_what_it_will_in_any_case():
    assert Estimate.of(64, NEEDS, 2 * GIB, GIB, CUDA) == Estimate(64, CUDA, 6 * GIB, GIB)


def test_what_is_not_known_is_none():
    assert Estimate.of(64, None, 0, GIB, CPU) == Estimate(64, CPU, None, None)
    assert Estimate.of(64, None, 0, GIB, CUDA) == Estimate(64, CUDA, None, GIB)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Estimate(64, CPU, GIB, GIB), "64 windows, about 1.0 GiB"),
        (Estimate(1, CPU, None, None), "1 window"),
        (Estimate(2, CUDA, 3 * GIB, GIB), "2 windows, about 3.0 GiB on cuda:0"),
    ],
)
def test_it_is_said_in_words(one, words):
    assert str(one) == words


@pytest.mark.parametrize(
    ("one", "room"),
    [
        (Estimate(64, CPU, GIB, GIB), {"cpu": GIB}),
        (Estimate(64, CUDA, 2 * GIB, GIB), {"cpu": GIB, "cuda": 2 * GIB}),
        (Estimate(64, CPU, GIB, GIB), {}),
        (Estimate(64, CUDA, None, None), {"cpu": 0, "cuda": 0}),
    ],
    ids=["processor", "both", "not told", "not known"],
)
def test_what_fits_or_is_not_known_is_let_through(available, one, room):
    available.update(room)
    one.require("case a", "Choose smaller windows.")


@pytest.mark.parametrize(
    ("one", "room", "message"),
    [
        (Estimate(64, CPU, 2 * GIB, 2 * GIB), {"cpu": GIB}, r"2\.0 GiB of memory on cpu, where 1\.0 GiB can be had"),
        (Estimate(64, CUDA, 3 * GIB, GIB), {"cpu": GIB, "cuda": GIB}, r"3\.0 GiB of memory on cuda:0, where 1\.0 GiB"),
        (Estimate(64, CUDA, GIB, 4 * GIB), {"cpu": GIB, "cuda": GIB}, r"4\.0 GiB of memory on cpu, where 1\.0 GiB"),
    ],
    ids=["processor", "device", "host"],
)
def test_what_does_not_fit_is_refused_with_the_remedies(available, one, room, message):
    available.update(room)
    expected = rf"^case a: 64 windows need about {message}.*Choose smaller windows\.$"
    with pytest.raises(PipelineError, match=expected):
        one.require("case a", "Choose smaller windows.")


def test_a_result_is_refused_where_there_is_no_room_for_it(available):
    available["cpu"] = GIB
    require_room(GIB, CPU, (1, 2, 3))
    require_room(2 * GIB, CUDA, (1, 2, 3))
    message = (
        r'the result, 1 x 3 x 512, needs 2\.0 GiB of memory on cpu, where 1\.0 GiB can be had\. Ask for output "labels"'
    )
    with pytest.raises(PipelineError, match=message):
        require_room(2 * GIB, CPU, (1, 3, 512))


def told(windows, **settings):
    lines = []
    pace = Pace(lambda line, done=None: lines.append((line, done)), windows, **settings)
    for done in range(1, windows + 1):
        pace(done)
    return lines


def test_the_time_left_is_told_once_after_the_first_windows(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(estimate, "perf_counter", lambda: next(clock))
    lines = told(303, name="case a: ")
    assert [line for line, _ in lines if line is not None] == ["case a: 303 windows, about 3 min left"]
    assert lines[FIRST_WINDOWS - 1][0] is not None
    assert [done for _, done in lines] == pytest.approx([n / 303 for n in range(1, 304)])


def test_few_windows_are_not_worth_a_line():
    assert [line for line, _ in told(2 * FIRST_WINDOWS)] == [None] * 2 * FIRST_WINDOWS
    assert sum(line is not None for line, _ in told(2 * FIRST_WINDOWS + 1)) == 1


def test_a_scan_may_be_a_share_of_the_whole():
    assert [done for _, done in told(4, share=(0.5, 0.75))] == [0.5625, 0.625, 0.6875, 0.75]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (40, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (5399, "90 min"), (12600, "3.5 h")],
)
def test_times_are_said_in_words(seconds, words):
    assert human_seconds(seconds) == words

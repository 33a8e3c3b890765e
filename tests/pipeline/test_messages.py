"""Messages to a worker: whole, in order, with large arrays in memory that both sides see."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from scanloom.pipeline.messages import MOST_DESCRIPTORS, SHARED_BYTES, receive, send

Channels = tuple[socket.socket, socket.socket]


@pytest.fixture
def channels() -> Iterator[Channels]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def carried(channels: Channels, message: Any, descriptors: tuple[int, ...] = ()) -> tuple[Any, tuple[int, ...]]:
    """The message as the other side gets it; sent aside, for a socket holds little."""
    sender = threading.Thread(target=send, args=(channels[0], message, descriptors))
    sender.start()
    received = receive(channels[1])
    sender.join()
    assert received is not None
    return received


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_arrive_as_they_were_and_can_be_written(channels: Channels, order: Any) -> None:
    large = np.asarray(np.arange(2 * SHARED_BYTES).reshape(2, 16, -1), order=order)
    (word, array, small), _ = carried(channels, ("word", large, np.arange(3)))
    assert word == "word"
    np.testing.assert_array_equal(array, large)
    np.testing.assert_array_equal(small, np.arange(3))
    assert array.flags.f_contiguous == large.flags.f_contiguous
    array[...] = 0


def test_a_large_array_does_not_go_through_the_socket(channels: Channels) -> None:
    send(channels[0], np.zeros(2**28, np.uint8))  # it would wait for a reader for ever
    received = receive(channels[1])
    assert received is not None
    assert received[0].nbytes == 2**28


def test_more_arrays_than_descriptors_arrive_too(channels: Channels) -> None:
    arrays = [np.full(SHARED_BYTES, number % 251, np.uint8) for number in range(MOST_DESCRIPTORS + 3)]
    received, _ = carried(channels, arrays)
    for array, expected in zip(received, arrays, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_open_files_come_along_and_no_other_stays_open(channels: Channels) -> None:
    reading, writing = os.pipe()
    before = psutil.Process().num_fds()
    (_, array), (descriptor,) = carried(channels, ("file", np.ones(SHARED_BYTES)), (reading,))
    os.write(writing, b"x")
    assert os.read(descriptor, 1) == b"x"
    os.close(descriptor)
    del array
    assert psutil.Process().num_fds() == before
    os.close(reading)
    os.close(writing)


def test_a_channel_that_ends_in_a_message_holds_none(channels: Channels) -> None:
    send(channels[0], "whole")
    channels[0].send(b"\x10\0\0\0")
    channels[0].close()
    received = receive(channels[1])
    assert received is not None
    assert received[0] == "whole"
    assert receive(channels[1]) is None


@pytest.mark.parametrize("sent", [4, 16, 30])
def test_what_came_with_a_message_that_breaks_off_is_given_back(channels: Channels, sent: int) -> None:
    before = psutil.Process().num_fds()
    reading, writing = os.pipe()
    socket.send_fds(channels[0], [struct.pack("<QQ", 100, 1)[:sent]], [reading])
    channels[0].send(bytes(max(0, sent - 16)))
    os.close(reading)
    os.close(writing)
    channels[0].close()
    assert receive(channels[1]) is None
    assert psutil.Process().num_fds() == before - 1  # its own end of the channel

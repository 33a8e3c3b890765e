"""Messages between a process and its worker over a socket: a pickled object, and the open files that belong to it.

Large arrays in a message do not go through the socket: they are copied into memory that both sides see.
"""

from __future__ import annotations

import array
import os
import pickle
import socket
import struct
from typing import Any

import numpy as np

from .shared_memory import array_in, new_memory

_HEAD = struct.Struct("<QQ")
"""Bytes of the pickled object, and how many of the descriptors are arrays of it."""
SHARED_BYTES = 2**16
"""An array of fewer bytes goes through the socket."""
MOST_DESCRIPTORS = 16


def send(channel: socket.socket, message: Any, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; the descriptors stay open on this side."""
    arrays: list[pickle.PickleBuffer] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        """Whether to leave it in the pickled object; what is not is kept."""
        small = buffer.raw().nbytes < SHARED_BYTES or len(descriptors) + len(arrays) == MOST_DESCRIPTORS
        if not small:
            arrays.append(buffer)
        return small

    content = pickle.dumps(message, protocol=5, buffer_callback=is_small)
    shared = [_shared(buffer) for buffer in arrays]
    try:
        every = array.array("i", [*descriptors, *shared])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, every)] if every else []
        channel.sendmsg([_HEAD.pack(len(content), len(shared))], rights)
        channel.sendall(content)
    finally:
        for descriptor in shared:
            os.close(descriptor)


def receive(channel: socket.socket) -> tuple[Any, tuple[int, ...]] | None:
    """The next message and the descriptors that came with it; None where the other side is gone.

    Raises:
        TimeoutError: the channel has a time limit and nothing came.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _HEAD.size, MOST_DESCRIPTORS)
    content = None
    try:
        rest = _exactly(channel, _HEAD.size - len(head)) if head else None
        if rest is not None:
            size, shared = _HEAD.unpack(head + rest)
            content = _exactly(channel, size)
    finally:
        if content is None:  # broken off: nobody else gives back what came with it
            for descriptor in descriptors:
                os.close(descriptor)
    if content is None:
        return None
    own = len(descriptors) - shared
    arrays = [_taken_over(descriptor) for descriptor in descriptors[own:]]
    return pickle.loads(content, buffers=arrays), tuple(descriptors[:own])


def _shared(buffer: pickle.PickleBuffer) -> int:
    """A descriptor of memory with the buffer's bytes."""
    content = np.frombuffer(buffer.raw(), np.uint8)
    descriptor, memory = new_memory(content.shape, content.dtype)
    memory[...] = content
    return descriptor


def _taken_over(descriptor: int) -> np.ndarray:
    """The bytes of memory that the other side has filled."""
    memory = array_in(descriptor, (os.fstat(descriptor).st_size,), np.dtype(np.uint8))
    os.close(descriptor)
    return memory


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    content = bytearray()
    while len(content) < count:
        part = channel.recv(min(count - len(content), 2**20))
        if not part:
            return None
        content += part
    return bytes(content)

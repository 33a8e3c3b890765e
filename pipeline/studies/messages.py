"""Messages between a process and its worker over a socket: a pickled object, and the open files that belong to it."""

from __future__ import annotations

import array
import pickle
import socket
import struct
from typing import Any

_HEAD = struct.Struct("<Q")


def send(channel: socket.socket, message: Any, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; the descriptors stay open on this side."""
    content = pickle.dumps(message)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([_HEAD.pack(len(content))], rights)
    channel.sendall(content)


def receive(channel: socket.socket) -> tuple[Any, tuple[int, ...]] | None:
    """The next message and the descriptors that came with it; None where the other side is gone.

    Raises:
        TimeoutError: the channel has a time limit and nothing came.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _HEAD.size, 1)
    rest = _exactly(channel, _HEAD.size - len(head)) if head else None
    if rest is None:
        return None
    content = _exactly(channel, _HEAD.unpack(head + rest)[0])
    return None if content is None else (pickle.loads(content), tuple(descriptors))


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    content = bytearray()
    while len(content) < count:
        part = channel.recv(min(count - len(content), 2**20))
        if not part:
            return None
        content += part
    return bytes(content)

"""Ports of 127.0.0.1 for servers that must be told theirs before they listen."""

from __future__ import annotations

import os
import socket
from itertools import count, islice

FIRST, EACH = 20_000, 1_500
"""Below the ports that a system gives to whoever asks for any: such a one may be another's before the server starts."""

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_NEXT = count(os.getpid())


def free_ports(number: int) -> list[int]:
    """So many that nobody listens on at this moment, all different, and none that was given out lately."""
    ports = (FIRST + EACH * _WORKER + next(_NEXT) % EACH for _ in range(EACH))
    return list(islice(filter(_is_free, ports), number))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True

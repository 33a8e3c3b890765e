"""A process that works for this one: it answers one request after the other, and another takes its place if it dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .messages import receive, send

IS_POSSIBLE = os.name == "posix"
TICK = "tick"
"""What a worker says to tell that it goes on."""


class WorkerEndedError(Exception):
    """The worker did not survive a request; the message says how it ended."""


class WorkerProcess:
    """`python -m MODULE SOCKET ARGUMENTS…`, started at once; it reads requests from the socket by `messages.receive`.

    Args:
        module: its full name.
        arguments: words after the number of the socket.
        patience_seconds: after so long without a word it is killed; None waits for ever.
        environment: variables beside this process's own.
        shows_errors: let its own words through to standard error; they may hold values of the input.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        patience_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        shows_errors: bool = False,
    ) -> None:
        self.module, self.arguments, self.patience_seconds = module, arguments, patience_seconds
        self.environment, self.shows_errors = dict(environment or {}), shows_errors
        self._process: subprocess.Popen | None = None
        self._channel: socket.socket | None = None
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the worker; None where none runs."""
        return self._process.pid if self._process else None

    def ask(self, request: Any) -> tuple[Any, tuple[int, ...]]:
        """The answer to a request, and the descriptors that came with it; words that it goes on are passed over.

        Any other way out leaves no worker that would still answer.

        Raises:
            WorkerEndedError: it died.
            TimeoutError: it said nothing for too long.
        """
        if self._channel is None:
            self._start()
        assert self._channel is not None
        try:
            send(self._channel, request)
            while received := receive(self._channel):
                if received[0] != TICK:
                    return received
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is gone, as it is where there is no answer
        except BaseException:
            self.stop()
            raise
        raise WorkerEndedError(self._ending())

    def stop(self) -> None:
        """Kill the worker; not by closing the channel, which tells it that this process is no more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, str(theirs.fileno()), *self.arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if self.shows_errors else subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                process_group=0,  # Ctrl-C is for this process, which ends the worker; priorities count within a session
            )
        ours.settimeout(self.patience_seconds)
        self._channel = ours

    def _ending(self) -> str:
        """How the worker ended, in words; there is none afterwards."""
        status = self._process.wait() if self._process else 0
        self.stop()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

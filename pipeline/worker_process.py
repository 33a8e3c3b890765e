"""A process that works for this one: it answers one request after the other, and another takes its place if it dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any

from .messages import receive, send

IS_POSSIBLE = os.name == "posix"
TICK = "tick"
"""What a worker says to tell that it goes on."""


class WorkerEndedError(Exception):
    """The worker did not survive a request; the message says how it ended."""


class WorkerClosedError(Exception):
    """Nothing more is asked of the worker, nor expected of it."""


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
        self._closed = False
        self._one_at_a_time = RLock()
        self._start()

    @property
    def pid(self) -> int | None:
        """Of the worker; None where none runs."""
        process = self._process
        return process.pid if process else None

    def ask(self, request: Any) -> tuple[Any, tuple[int, ...]]:
        """The answer to a request, and the descriptors that came with it; words that it goes on are passed over.

        Any other way out leaves no worker that would still answer.

        Raises:
            WorkerEndedError: it died.
            WorkerClosedError: `close` was called, before or meanwhile.
            TimeoutError: it said nothing for too long.
        """
        channel = self._channel or self._start()
        try:
            send(channel, request)
            while received := receive(channel):
                if received[0] != TICK:
                    return received
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is gone, as it is where there is no answer
        except BaseException as error:
            self.stop()
            if self._closed and isinstance(error, OSError):
                raise WorkerClosedError from None
            raise
        ending = self._ending()
        if self._closed:
            raise WorkerClosedError
        raise WorkerEndedError(ending)

    def stop(self) -> None:
        """Kill the worker; not by closing the channel, which tells it that this process is no more."""
        with self._one_at_a_time:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                self._process = None
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def close(self) -> None:
        """Kill the worker, and let no other take its place, whichever thread asks."""
        with self._one_at_a_time:
            self._closed = True
            self.stop()

    def _start(self) -> socket.socket:
        with self._one_at_a_time:
            if self._closed:
                raise WorkerClosedError
            self._channel = self._new_process()
            return self._channel

    def _new_process(self) -> socket.socket:
        """Start a worker; this side's end of the channel to it."""
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
        return ours

    def _ending(self) -> str:
        """How the worker ended, in words; there is none afterwards."""
        process = self._process
        status = process.wait() if process else 0
        self.stop()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

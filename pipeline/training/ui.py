"""MLflow's own UI on the store in use, as a child process that ends with us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from typing import IO

from ..errors import PipelineError, UsageError
from .interruption import interruptible
from .store import SERVERS, require_store, shown_uri, tracking_uri

START_SECONDS = 120
"""How long MLflow may take until it answers; it takes ten to thirty."""


def serve_ui(host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        host: address to listen on.
        port: likewise.
        say: told the address as soon as it answers.
    Raises:
        UsageError: the port is taken, or the working folder has no store.
        PipelineError: MLflow did not start, or ended.
    """
    uri = tracking_uri()
    if uri.startswith(SERVERS):
        say(f"the runs are on the MLflow server {shown_uri()}; open it in a browser")
        return
    require_store()
    _check_port(host, port)
    words = ["ui", "--host", host, "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryFile("w+") as output, interruptible():
        say(f"starting MLflow on the store {shown_uri()}")
        # A session of its own: Ctrl-C reaches us alone, and we end MLflow with its workers.
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={
                **os.environ,
                "MLFLOW_BACKEND_STORE_URI": uri,  # not an argument: anybody here can read those, and a password in them
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it needs a dozen more processes
            },
        )
        try:
            if not _answers(process, f"http://{_for_url(host)}:{port}"):
                raise PipelineError(f"MLflow does not answer. {_last_line(output)}Check the store {shown_uri()}.")
            say(f"MLflow is on http://{_for_url(host)}:{port}; Ctrl-C ends it")
            process.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(process)
        raise PipelineError(f"MLflow ended. {_last_line(output)}Check the store {shown_uri()}.")


def _last_line(output: IO[str]) -> str:
    output.seek(0)
    said = [line.strip() for line in output if line.strip()]
    return f"Its last words: {said[-1].rstrip('.')}. " if said else ""


def _check_port(host: str, port: int) -> None:
    try:
        if not 0 < port < 2**16:
            raise OverflowError("a port is a number from 1 to 65535")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"can not listen on {host} port {port}: {reason}. Choose another with --port.") from None


def _answers(process: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until MLflow answers; not where it ended or took too long."""
    until = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None and time.monotonic() < until:
        try:
            direct.open(f"{address}/health", timeout=5).close()
            return True
        except OSError:
            time.sleep(0.3)
    return False


def _for_url(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue

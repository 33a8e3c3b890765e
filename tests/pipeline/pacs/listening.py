"""The command `scanloom listen` as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 240.0
COMMAND = [sys.executable, "-m", "scanloom.pipeline.cli", "listen"]


def listen(*words: object, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command, where it is to end by itself; `code` runs before it in the same process."""
    command = [*COMMAND, *map(str, words)]
    if code:
        call = f"import sys; sys.argv = {['scanloom', 'listen', *map(str, words)]!r}; {code}"
        command = [sys.executable, "-c", f"{call}; from scanloom.pipeline.cli import main; main()"]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


class Listening:
    """A listener that runs.

    Attributes:
        process: it.
        port: of DICOM.
        log: its standard error, in a file.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.port = int(self.wait_to_say(r"listens on 127\.0\.0\.1 port (\d+)").group(1))

    def wait_to_say(self, pattern: str, patience_s: float = PATIENCE_S) -> re.Match[str]:
        """The first match in the log."""
        end = time.monotonic() + patience_s
        while not (found := re.search(pattern, self.log.read_text())):
            ended = self.process.poll() is not None
            assert not ended and time.monotonic() < end, f"{pattern!r} not in:\n{self.log.read_text()}"
            time.sleep(0.05)
        return found


@contextmanager
def listening(folder: Path, *words: object, log: str = "listen.log") -> Iterator[Listening]:
    """`scanloom listen --aet SCANLOOM --port 0 …` while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / log
    command = [*COMMAND, "--aet", "SCANLOOM", "--port", "0", "-o", folder / "node", *words]
    with path.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)), stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        yield Listening(process, path)
    finally:
        process.kill()
        process.wait()

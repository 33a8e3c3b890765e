"""A node in a process of its own: `killed_node.py FOLDER AET@HOST:PORT [PLACE]`; at that place it kills itself by -9.

It prints its port, and writes each computation to FOLDER/computed.txt.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from nodes import AET, FakeCompute
from scanloom.pipeline.pacs import computing, forwarding, node, runs, spool
from scanloom.pipeline.pacs.addresses import parse_destination
from scanloom.pipeline.pacs.allowed import AllowList
from scanloom.pipeline.pacs.metrics import Metrics
from scanloom.pipeline.pacs.receiving import ReceivingOptions
from scanloom.pipeline.pacs.sending import Sender

PLACES: dict[str, tuple[Any, str, bool]] = {
    "while an instance is written": (spool, "flush_folder", False),
    "after an instance is stored": (spool.Spool, "store", True),
    "after a run is begun": (runs.Runs, "begin", True),
    "before a run is computed": (FakeCompute, "__call__", False),
    "after a run is computed": (FakeCompute, "__call__", True),
    "before the end lies with the results": (computing.Labelled, "write", False),
    "before the results take their place": (spool.Spool, "keep_results", False),
    "after the results have taken their place": (spool.Spool, "keep_results", True),
    "after the end is written down": (runs.Runs, "end", True),
    "before anything is sent": (Sender, "send", False),
    "after one object is sent": (forwarding.Forwarder, "_note_reached", False),
    "after everything is sent": (Sender, "send", True),
    "after the delivery is written down": (forwarding.Forwarder, "_write_down", True),
    "before the images are removed": (spool.Spool, "remove_instances", False),
    "after the images are removed": (spool.Spool, "remove_instances", True),
}
"""Of what, before or after: the last instance stored, or the first call."""


def kill_at(place: str) -> None:
    """End this process there, as a power cut would."""
    owner, name, after = PLACES[place]
    whole = getattr(owner, name)
    calls = []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        in_time = len(calls) >= 8 if name in ("store", "flush_folder") else True  # of the eight instances the last
        result = whole(*args, **kwargs) if after or not in_time else None
        if in_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killed)


class CountedCompute(FakeCompute):
    """Writes down each call before it works."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def __call__(self, images: Path, output: Path) -> computing.Labelled:
        with self.file.open("a") as file:
            file.write(f"{len(list(images.iterdir()))}\n")
        return super().__call__(images, output)


def main(folder: Path, destination: str, place: str | None = None) -> None:
    """Run until killed."""
    if place:
        kill_at(place)
    listening = node.Node(
        node.NodeOptions([parse_destination(destination)], quiet_s=0.3, first_pause_s=0.1, longest_pause_s=0.2),
        ReceivingOptions(AET, "127.0.0.1", 0, AllowList()),
        spool.Spool(folder, min_free_bytes=0),
        CountedCompute(folder / "computed.txt"),
        "0" * 16,
        Sender(AET),
        Metrics(),
        lambda line: print(line, flush=True),
    )
    print(f"port {listening.receiver.port}", flush=True)
    listening.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

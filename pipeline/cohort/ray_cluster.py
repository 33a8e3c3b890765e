"""Joining a Ray cluster, or starting one on this machine, and what of it a run takes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import UsageError
from ..prediction import PredictOptions, log

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray starts: nothing goes on the network by itself

try:
    import ray
except ImportError:
    raise UsageError('--cluster needs Ray, which is not installed: pip install "scanloom[cluster]"') from None

AUTO = "auto"
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Share:
    """What the run takes of the cluster.

    Attributes:
        devices: how many hold the bundle.
        cpus: processors of each, which is the number of its threads too; a part of one where several share one.
        gpus: of each, 1 or 0.
        hands: processors of the cluster, which is how many cases may be read or written at a time; 2 at least.
    """

    devices: int
    cpus: float
    gpus: int
    hands: int

    @property
    def threads(self) -> int:
        """Of each device's process."""
        return max(1, int(self.cpus))


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of the cluster while the block runs; one that was joined before stays joined.

    Args:
        address: HOST:PORT, or "auto" for the one that is running here or that RAY_ADDRESS names, else a new one on
            this machine alone, which ends with the block.
    Raises:
        UsageError: it can not be joined.
    """
    if ray.is_initialized():
        yield
        return
    where = {} if address == AUTO else {"address": address}
    if where:
        _require_answer(address)
    told_to_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            **where,
            log_to_driver=log.isEnabledFor(logging.DEBUG),
            logging_level="warning",
            configure_logging=log.isEnabledFor(logging.DEBUG),
        )
    except Exception as error:  # whatever is wrong: no such address, another version, a refused token
        log.debug("no cluster", exc_info=error)
        raise UsageError(
            f"--cluster {address}: can not be joined ({type(error).__name__}). Start it with `ray start`, "
            "with the same versions of Python and Ray as here, or use --cluster auto; --debug shows what Ray says."
        ) from None
    if callable(told_to_terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, told_to_terminate)  # Ray's own handler ends with another status
    try:
        yield
    finally:
        ray.shutdown()


def share_of(options: PredictOptions) -> Share:
    """As many devices as were asked for; else one a GPU, or where there is none one a node.

    A node keeps one processor for reading and writing.

    Raises:
        UsageError: the cluster has no such device.
    """
    kind = options.device.partition(":")[0]
    if "," in options.device or (":" in options.device and options.cluster):
        raise UsageError(f"--device {options.device}: in a cluster each device is one worker's. Use auto, cpu or cuda.")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    hands = max(2, int(sum(node["CPU"] for node in nodes)))
    if kind == "cuda" and not gpus:
        raise UsageError("--device cuda: the cluster has no GPU. Use --device auto, or add a node that has one.")
    if gpus and kind in ("auto", "cuda"):
        return Share(options.workers or gpus, 1, 1, hands)
    if not nodes:
        raise UsageError(f"--cluster {options.cluster}: no node has a processor to give. Add one.")
    devices = options.workers or len(nodes)
    of_each_node = -(-devices // len(nodes))
    spare = min(node["CPU"] for node in nodes) - 1
    return Share(devices, _whole(max(spare, 1) / of_each_node), 0, hands)


def _whole(cpus: float) -> float:
    """Ray gives whole processors, or a part of one."""
    return float(int(cpus)) if cpus >= 1 else round(cpus, 2)


def _require_answer(address: str) -> None:
    """Return where something listens there: Ray itself would try for minutes.

    Raises:
        UsageError: nothing does.
    """
    host, colon, port = address.rpartition(":")
    try:
        if not colon or not port.isdecimal():
            raise ValueError
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS).close()
    except (ValueError, OverflowError):
        raise UsageError(f"--cluster {address}: it must be auto, or HOST:PORT as `ray start` prints it.") from None
    except OSError as error:
        raise UsageError(
            f"--cluster {address}: nothing answers there ({error.strerror or type(error).__name__}). Start it with "
            "`ray start`, or use --cluster auto."
        ) from None


def alive_nodes() -> set[str]:
    """Ids of the nodes that have not left."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

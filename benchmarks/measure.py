"""What both benchmarks measure with: CPU and wall time of a call, its peak memory, and words for a table."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch


@dataclass
class Times:
    """Milliseconds a round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def measure(call: Callable[[], Any], times: Times) -> None:
    """Adds one call's CPU and wall time; its output is freed after, and no garbage is collected within."""
    gc.collect()
    gc.disable()
    wall, cpu = perf_counter(), process_time()
    output = call()
    times.cpu.append(1e3 * (process_time() - cpu))
    times.wall.append(1e3 * (perf_counter() - wall))
    del output
    gc.enable()


def peak_mib(call: Callable[[], Any]) -> tuple[float, Any]:
    """Peak resident memory above what there is before the call, and what it returns; Linux only.

    Free memory is handed back with malloc_trim and the kernel's record of the peak reset through /proc/self/clear_refs.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    output = call()
    return status_mib("VmHWM") - before, output


def status_mib(name: str) -> float:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and the range in brackets."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine() -> str:
    """Processor, its vector instructions as torch sees them, and cores."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].split(":")[1].strip() if names else "unknown processor"
    return f"{processor} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores"


def versions(libraries: Sequence[str]) -> str:
    """Python's version and theirs."""
    found = [f"Python {sys.version.split()[0]}"]
    for name in libraries:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)

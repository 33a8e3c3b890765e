"""What an inference will take, told before it starts: windows, memory, and after the first windows seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from ..errors import PipelineError
from ..progress import Report
from .memory import HOST_EXTRA_BYTES, HOST_FACTOR, ForwardNeeds, available_bytes, human_bytes

FIRST_WINDOWS = 3
"""Windows after which the time of the others is told; the first is slower than the rest."""

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Estimate:
    """What one scan will take.

    Attributes:
        windows: that the network will see.
        device: that they are computed on.
        device_bytes: of memory there, None where that can not be told before.
        host_bytes: of the host's memory, None likewise; the same as `device_bytes` if the host is the device.
    """

    windows: int
    device: torch.device
    device_bytes: int | None
    host_bytes: int | None

    @classmethod
    def of(
        cls, windows: int, needs: ForwardNeeds | None, held_bytes: int, host_bytes: int, device: torch.device
    ) -> Estimate:
        """From its parts.

        Args:
            windows: of the scan.
            needs: of one pass through the network; None where unknown.
            held_bytes: of the windows being blended.
            host_bytes: that the host will hold in any case: results, the scan where it is copied.
            device: that computes.
        """
        if needs is None:
            return cls(windows, device, None, host_bytes if device.type != "cpu" else None)
        if device.type != "cpu":
            return cls(windows, device, needs.activation_bytes + held_bytes, host_bytes)
        total = int(needs.activation_bytes * HOST_FACTOR) + HOST_EXTRA_BYTES + held_bytes + host_bytes
        return cls(windows, device, total, total)

    def require(self, case: str, remedies: str) -> None:
        """Return where there is room.

        Raises:
            PipelineError: there is not; it says what is missing where, and the remedies.
        """
        for device, needed in {self.device: self.device_bytes, HOST: self.host_bytes}.items():
            available = available_bytes(device)
            if needed is not None and available is not None and needed > available:
                raise PipelineError(
                    f"{case}: {self.windows} windows need about {human_bytes(needed)} of memory on {device}, where "
                    f"{human_bytes(available)} can be had. {remedies}"
                )

    def __str__(self) -> str:
        """In words: "64 windows, about 1.2 GiB"."""
        words = [f"{self.windows} window{'' if self.windows == 1 else 's'}"]
        if self.device_bytes is not None:
            where = "" if self.device.type == "cpu" else f" on {self.device}"
            words.append(f"about {human_bytes(self.device_bytes)}{where}")
        return ", ".join(words)


class Pace:
    """Tells a report how far a scan is; after the first windows, how long the rest will take.

    Args:
        report: told.
        windows: of the scan.
        share: of the report's whole that the scan takes, from and to.
        name: of the scan, at the beginning of the line.
    """

    def __init__(self, report: Report, windows: int, share: tuple[float, float] = (0.0, 1.0), name: str = "") -> None:
        self.report, self.windows, self.share, self.name = report, windows, share, name
        self._start = perf_counter()
        self._said = windows <= 2 * FIRST_WINDOWS  # then it is over before it is read

    def __call__(self, done: int) -> None:
        """So many windows are done."""
        begin, end = self.share
        line = None
        if not self._said and done >= FIRST_WINDOWS:
            self._said = True
            left = (perf_counter() - self._start) / done * (self.windows - done)
            line = f"{self.name}{self.windows} windows, about {human_seconds(left)} left"
        self.report(line, begin + (end - begin) * done / self.windows)


def require_room(needed: int, device: torch.device, shape: Sequence[int]) -> None:
    """Return where a result of that shape finds room; memory that is not there is otherwise missed when it is written.

    Raises:
        PipelineError: it does not.
    """
    available = available_bytes(device)
    if available is not None and needed > available:
        raise PipelineError(
            f"the result, {' x '.join(map(str, shape))}, needs {human_bytes(needed)} of memory on {device}, where "
            f'{human_bytes(available)} can be had. Ask for output "labels", stream it to a file, or set device="cpu".'
        )


def human_seconds(seconds: float) -> str:
    """The time in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""How much an archive may hold, counted while it is inflated: what its headers say may be a lie."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import PipelineError, StudyError


@dataclass(frozen=True)
class ArchiveLimits:
    """What is unpacked at most, archives inside included.

    Attributes:
        members: files, folders and whatever else has an entry.
        inflated_bytes: of all members together; never more than the disk has free.
        ratio: inflated bytes to a byte of the archive. Scans deflate to a half or a third, one with much air to a
            tenth; a bomb of zeros to a thousandth.
        ratio_from_bytes: so many inflated bytes are of no harm, whatever their ratio.
    """

    members: int = 10_000
    inflated_bytes: int = 16 * 2**30
    ratio: int = 200
    ratio_from_bytes: int = 2**27


class Budget:
    """What has been taken of the limits.

    Args:
        limits: the limits.
        path: the archive.
        folder: where it is unpacked; must exist.
        where: names the archive in messages.
    """

    def __init__(self, limits: ArchiveLimits, path: Path, folder: Path, where: str) -> None:
        self.limits, self.where = limits, where
        self.members = self.inflated = 0
        self._packed = max(path.stat().st_size, 1)
        self._free = shutil.disk_usage(folder).free

    def add_members(self, count: int) -> None:
        """Counts entries.

        Raises:
            StudyError: there are too many.
        """
        self.members += count
        if self.members > self.limits.members:
            raise StudyError(
                f"{self.where} has more than {self.limits.members:,} members. Unpack it and pass the folder.",
                "archive-too-many",
            )

    def add_bytes(self, count: int) -> None:
        """Counts inflated bytes.

        Raises:
            StudyError: there are too many, or too many for the archive's own size.
            PipelineError: the disk has no room for them.
        """
        self.inflated += count
        self.check(self.inflated)

    def check(self, inflated: int) -> None:
        """As `add_bytes` for a total that is claimed and not yet counted."""
        if inflated > self.limits.inflated_bytes:
            raise StudyError(
                f"{self.where} inflates to more than {_gib(self.limits.inflated_bytes)}. "
                "Unpack it and pass the folder of one study.",
                "archive-too-large",
            )
        if inflated > max(self.limits.ratio_from_bytes, self.limits.ratio * self._packed):
            raise StudyError(
                f"{self.where} inflates to more than {self.limits.ratio} times its size, as no scan does. "
                "If you trust it, unpack it and pass the folder.",
                "archive-too-large",
            )
        if inflated > self._free:
            raise no_room(self.where, f"{_gib(self._free)} free")


def no_room(where: str, reason: str) -> PipelineError:
    """The error where the disk is full, or can not be written for another reason."""
    return PipelineError(
        f"{where} can not be unpacked into the folder for temporary files ({reason}). "
        "Free space there, or point TMPDIR to a larger disk."
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"

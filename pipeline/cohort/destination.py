"""Where the results of a run go: a folder, or a place in any store that fsspec knows, such as s3://BUCKET/PLACE."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import UsageError
from ..lock import NAME, locked
from ..outputs import whole_report

_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How a URL begins that was made a Path; one letter would be a Windows drive."""


class Destination(Protocol):
    """A place for results; it travels to other processes and machines, so it holds no open thing and no secret."""

    def locked(self) -> AbstractContextManager[None]:
        """Hold the place for this run alone while the block runs.

        Raises:
            FolderInUseError: another run holds it; says which one, and what to do.
            PipelineError: nothing can be written there.
        """

    def case_folder(self, case: str) -> AbstractContextManager[Path]:
        """A folder on this machine to write a case's files into; when the block ends they are where they belong.

        Where the block raises before it has written report.json, nothing of it counts: no report vouches for it.

        Raises:
            PipelineError: a file did not arrive.
        """

    def run_folder(self) -> AbstractContextManager[Path]:
        """The same for what belongs to the run as a whole: summary.csv, index.html and the pages' viewer."""

    def whole_report(
        self, case: str, weights_sha256: str, formats: Sequence[str] = (), names: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """The case's report, where these weights made every file that it names and all are there; else None."""

    def shown(self, case: str) -> Path | str:
        """Where the case's files are, for people."""

    def ignores_case(self) -> bool:
        """Whether a and A are one name there; ask while the place is held."""


def destination_of(output: str | Path) -> Destination:
    """The destination that a path, or a URL of a scheme that fsspec knows, names.

    Nothing is opened or made yet.

    Args:
        output: a folder, file://FOLDER, or SCHEME://PLACE.
    Raises:
        UsageError: a URL that holds credentials, is of an unknown scheme, or needs a package that is missing.
    """
    text = str(output).removeprefix("file://")
    if isinstance(output, Path) and _COLLAPSED.match(text):
        raise UsageError(f"{text}: a URL that was made a path has lost a slash. Pass it as text.")
    if "://" not in text:
        return FolderDestination(Path(text).absolute(), text)
    from .destination_url import url_destination

    return url_destination(text)


@dataclass(frozen=True)
class FolderDestination:
    """A folder, OUT: files are written where they belong, each of them whole or not at all.

    Attributes:
        folder: absolute, so that it is the same for every process.
        said: the folder as the user named it.
    """

    folder: Path
    said: str = field(compare=False)

    def locked(self) -> AbstractContextManager[None]:
        """See `Destination.locked`; the lock is a file, OUT/.scanloom.lock."""
        return locked(self.folder)

    @contextmanager
    def case_folder(self, case: str) -> Iterator[Path]:
        """OUT/CASE, which `write_case` makes."""
        yield self.folder / case

    @contextmanager
    def run_folder(self) -> Iterator[Path]:
        """OUT."""
        yield self.folder

    def whole_report(
        self, case: str, weights_sha256: str, formats: Sequence[str] = (), names: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """See `Destination.whole_report`; each file is read, and its hash compared."""
        return whole_report(self.folder / case, weights_sha256, formats, names)

    def shown(self, case: str) -> Path:
        """OUT/CASE as the user named OUT."""
        return Path(self.said) / case

    def ignores_case(self) -> bool:
        """See `Destination.ignores_case`; the lock tells it."""
        return (self.folder / NAME.upper()).exists()

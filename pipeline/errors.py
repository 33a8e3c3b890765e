"""Errors that a user can mend. Each message is one line: what, where, how to mend; nothing of the patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

SOME_FAILED = 4
"""Exit status where some of several cases failed."""


class PipelineError(Exception):
    """Something that stops one case or one command; the command line prints its message and exits with its status."""

    exit_status = 1


class UsageError(PipelineError):
    """The arguments do not fit together, or name something that does not exist."""

    exit_status = 2


class StudyError(PipelineError):
    """An input that can not be read as a scan, or that does not say which of several scans is meant.

    Attributes:
        code: the reason in machine-readable form, such as "missing-slice"; as in `Notice`.
    """

    exit_status = 3

    def __init__(self, message: str, code: str = "input") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """What pickle rebuilds it from; an exception's own way would lose the code."""
        return type(self), (str(self), self.code), self.__dict__


class GeometryError(StudyError):
    """The place of the voxels in the patient is missing, contradictory or not supported."""


class DatasetError(PipelineError):
    """A dataset that can not be trained on as it is.

    Attributes:
        faults: all of them, a line each; the message holds the first.
    """

    exit_status = 3

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


class BundleError(PipelineError):
    """A bundle that is missing, incomplete or contradicts itself."""


class Ended(Protocol):
    """How one of several cases ended."""

    @property
    def error(self) -> PipelineError | None:
        """What stopped it; None where it is done."""


def exit_status(results: Sequence[Ended]) -> int:
    """0 all done; 4 some of several failed; else what the errors have in common, or 1."""
    errors = [result.error for result in results if result.error]
    if not errors:
        return 0
    if len(errors) < len(results):
        return SOME_FAILED
    statuses = {error.exit_status for error in errors}
    return statuses.pop() if len(statuses) == 1 else 1


def our_own(error: BaseException) -> str:
    """The line for an error that is a mistake of ours; its own text may hold values of the input."""
    return f"{type(error).__name__} in scanloom itself. Run again with --debug and report the trace."

"""What every stage of a run needs to know; it travels to the processes and machines that work on it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle
from ..prediction import PredictOptions
from ..studies import file_case, short_digest
from .destination import Destination
from .inputs import studies_in

if TYPE_CHECKING:
    from ..dicomweb import StudyAddress
STORED_FORMATS = ("nifti", "dicom-seg", "dicom-sr")
"""What is written of a study whose results go back to its server, unless something else is asked for."""


@dataclass(frozen=True)
class Input:
    """One of what is to be labelled.

    Attributes:
        given: its file or folder, absolute, so that it is the same for every process; or where a server has it.
        tag: what stands behind the name of a volume file, to tell it from others of its name in the cohort; may be
            empty.
        name: what it is called where it is refused before it has a case's name; None for its number.
    """

    given: Path | StudyAddress
    tag: str = ""
    name: str | None = None

    @property
    def address(self) -> StudyAddress | None:
        """Where a server has it; None for a file or folder."""
        return None if isinstance(self.given, Path) else self.given


@dataclass(frozen=True)
class Job:
    """A bundle to run, on what and how, and where the results go.

    Attributes:
        bundle: may run here; see `trust.require_trust`.
        inputs: one case each.
        options: what was asked for.
        destination: where the results go.
        run: tells this run from every other.
    """

    bundle: Bundle
    inputs: tuple[Input, ...]
    options: PredictOptions
    destination: Destination
    run: str = field(default_factory=lambda: secrets.token_hex(8), compare=False)

    def formats_of(self, given: Input) -> Sequence[str]:
        """The formats that are asked for of an input; what is to be stored is a segmentation and its measurements."""
        usual = STORED_FORMATS if self.options.store and given.address else ()
        return self.options.formats or usual

    def travelling(self) -> Job:
        """The same without the inputs, for other processes; with what they would else read from the bundle's folder."""
        bundle = replace(self.bundle, private_copy=None)
        _ = bundle.labels, bundle.weights_sha256  # kept with the object from here on
        return replace(self, bundle=bundle, inputs=(), options=replace(self.options, inputs=()))


def inputs_of(options: PredictOptions) -> tuple[Input, ...]:
    """One for each case: the inputs as they are given, or where they are cohorts the studies in them.

    Raises:
        UsageError, StudyError: a cohort can not be read, or holds nothing.
    """
    inputs = [given.absolute() if isinstance(given, Path) else given for given in options.inputs]
    if not options.cohort:
        return tuple(map(Input, inputs))
    return tuple(each for given in inputs for each in _studies_of(given, options))


def _studies_of(given: Path | StudyAddress, options: PredictOptions) -> Iterator[Input]:
    """Those of a cohort; volume files of one name are common in its folders, so these get a tag."""
    if not isinstance(given, Path) or not given.is_dir():
        yield Input(given)
        return
    for path in studies_in(given, [Path(str(options.output).removeprefix("file://"))]):
        inside = path.relative_to(given)
        digest = short_digest(os.fsencode(inside.as_posix()))
        deep = path.is_dir() or len(inside.parts) > 1
        name = f"input-{digest}" if path.is_dir() else file_case(path)
        yield Input(path, digest if deep and path != given else "", name)

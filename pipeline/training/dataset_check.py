"""What is wrong with a dataset, all of it, before a training's first step; each file is read once, a case at a time."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..bundle import file_sha256
from ..errors import DatasetError, PipelineError
from ..progress import Report, silent
from ..volume import NOT_FINITE, Volume
from .dataset import Case, file_ending, joint_digest, list_cases, name_in, read_json
from .dataset_description import BACKGROUND, IGNORE, DatasetDescription, describe_dataset
from .dataset_faults import (
    Fault,
    absent_labels,
    description_faults,
    description_warnings,
    list_faults,
    stray_files,
)
from .voxel_faults import LabelCounts, count_labels, grid_fault, image_faults, label_faults

SHOWN = 50
"""Lines of an error; the rest is in its `faults`."""

Read = Callable[[Path], Volume]
"""The one scan in a file, its values as they are; `scanloom.pipeline.scans.read_scan`."""


@dataclass(frozen=True)
class LabelledImage:
    """A case in memory, without faults.

    Attributes:
        name: of the case.
        image: the scan.
        labels: (X, Y, Z) whole numbers on the scan's grid.
        voxels: value -> how many voxels hold it.
    """

    name: str
    image: Volume
    labels: np.ndarray
    voxels: Mapping[int, int]


Visit = Callable[[LabelledImage], None]


@dataclass(frozen=True)
class DatasetCheck:
    """What the look at a dataset found.

    Attributes:
        folder: the dataset.
        cases: all that it lists, sorted by name.
        description: what its dataset.json says.
        faults: what it can not be trained with.
        warnings: what its owner should know, a line each.
        file_digests: SHA-256 of each file that could be read.
        label_cases: value -> the number of cases that hold it.
    """

    folder: Path = field(repr=False)
    cases: tuple[Case, ...]
    description: DatasetDescription
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    file_digests: Mapping[Path, bytes] = field(repr=False)
    label_cases: Mapping[int, int]

    @property
    def digest(self) -> str:
        """`dataset_digest` of the cases; empty where a file could not be read."""
        read = all(path in self.file_digests for case in self.cases for path in case.files)
        return joint_digest(self.cases, self.file_digests) if read else ""

    def require_faultless(self) -> None:
        """Return where there is no fault.

        Raises:
            DatasetError: there is; its message has the first faults, a line each, its `faults` all.
        """
        if not self.faults:
            return
        lines = tuple(map(str, self.faults))
        files = len({fault.file for fault in self.faults})
        more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        head = (
            f"dataset {self.folder}: {_counted(len(lines), 'fault')} in {_counted(files, 'file')}. "
            "Mend them, or take the cases out:"
        )
        raise DatasetError("\n".join([head, *(f"  {line}" for line in lines[:SHOWN]), *more]), lines)


def check_dataset(
    folder: str | Path,
    labels: Mapping[int, str] | None,
    read: Read,
    *,
    ignored: int | None = None,
    slices: bool = False,
    visit: Visit | None = None,
    report: Report = silent,
) -> DatasetCheck:
    """Look at every file of a dataset.

    Args:
        folder: Medical Decathlon's or nnU-Net's raw layout.
        labels: value -> name of what the bundle labels, without the background; None where the dataset decides. A value
            that dataset.json calls "ignore" is known in either case.
        read: of the image and label files.
        ignored: the label that the bundle's loss ignores; see `dataset_faults.ignored_label`.
        slices: the network takes single slices; see `dataset_faults.takes_slices`.
        visit: given every case without faults while it is in memory.
        report: told how far it is.
    Raises:
        UsageError: there is no dataset, or its dataset.json can not be understood.
    """
    folder = Path(folder).expanduser()
    contents = read_json(folder)
    description, cases = describe_dataset(contents), list_cases(folder, contents)
    look = _Look(folder, read, _known(labels, description), visit, slices)
    for number, case in enumerate(cases):
        report(None, number / len(cases))
        look.at(case)
    faults = [*description_faults(labels, description, ignored), *list_faults(folder, cases), *look.faults]
    warnings = [
        *description_warnings(labels, description, cases),
        *stray_files(folder, cases, file_ending(contents)),
        *look.warnings(),
        *absent_labels(look.known, look.label_cases),
    ]
    found = dict(sorted(look.label_cases.items()))
    return DatasetCheck(folder, tuple(cases), description, tuple(faults), tuple(warnings), look.digests, found)


class _Look:
    """Goes from case to case and remembers what it saw.

    Args:
        folder: the dataset.
        read: of its files.
        known: value -> name of all labels; None where any number will do.
        visit: given the cases without faults.
        slices: single slices are images, too.
    """

    def __init__(
        self, folder: Path, read: Read, known: Mapping[int, str] | None, visit: Visit | None, slices: bool
    ) -> None:
        self.folder, self.read, self.known, self.visit, self.slices = folder, read, known, visit, slices
        self.faults: list[Fault] = []
        self.label_cases: Counter[int] = Counter()
        self.digests: dict[Path, bytes] = {}
        self._names: dict[bytes, str] = {}
        self._notices: defaultdict[str, list[str]] = defaultdict(list)

    def at(self, case: Case) -> None:
        """Read the case's two files and note what is wrong with them."""
        if case.image == case.label:
            self._add(case.image, "is listed as image and as label. Name the label's own file in dataset.json.")
            return
        before = len(self.faults)
        image, label = self._read(case.image, "image"), self._read(case.label, "label")
        if image is not None:
            self._look_at_image(case, image)
        counts = self._look_at_label(case, label) if label is not None else LabelCounts({})
        if image is None or label is None:
            return
        what = grid_fault(image, label)
        if what:
            self._add(case.label, what)
        elif self.visit and len(self.faults) == before:
            self.visit(LabelledImage(case.name, image, label.array[0], counts.voxels))

    def warnings(self) -> list[str]:
        """One line a kind of thing to know: of the first file, and how many others it is said of."""
        return [
            lines[0] + (f" So it is with {_counted(len(lines) - 1, 'other file')}." if len(lines) > 1 else "")
            for lines in self._notices.values()
        ]

    def _look_at_image(self, case: Case, image: Volume) -> None:
        for what in image_faults(image.array, slices=self.slices):
            self._add(case.image, what)
        twin = self._names.setdefault(self.digests[case.image], case.name)
        if twin != case.name:  # the folds would train on what they validate on
            self._note("twin", case.image, f"is the image of case {twin} too. Leave one out.")

    def _look_at_label(self, case: Case, label: Volume) -> LabelCounts:
        counts = count_labels(label.array)
        for what in label_faults(counts, self.known):
            self._add(case.label, what)
        if not counts.others and set(counts.voxels) == {BACKGROUND}:
            self._note("background-only", case.label, "labels nothing: all of it is background.")
        self.label_cases.update(counts.voxels.keys())
        return counts

    def _read(self, path: Path, kind: str) -> Volume | None:
        if not path.is_file():
            self._add(path, f"is missing. Put the {kind} there, or take the case out of the dataset.")
            return None
        try:
            volume = self.read(path)
            self.digests[path] = file_sha256(path)  # while the system still holds its bytes
        except PipelineError as error:
            self._add(path, _without_case(str(error)))
            return None
        except Exception as error:  # whatever a reader raises at a broken file
            self._add(path, f"can not be read ({type(error).__name__}). Write it again.")
            return None
        for notice in volume.notices:
            if notice.code != NOT_FINITE:  # a fault, told by `image_faults`
                self._note(notice.code, path, _without_case(notice.message))
        return volume

    def _add(self, path: Path, what: str) -> None:
        self.faults.append(Fault(name_in(self.folder, path), what))

    def _note(self, code: str, path: Path, text: str) -> None:
        self._notices[code].append(f"{name_in(self.folder, path)}: {text}")


def _known(labels: Mapping[int, str] | None, description: DatasetDescription) -> dict[int, str] | None:
    """All values that a label map may hold; None where any number will do."""
    named = description.labels if labels is None else labels
    if not named:
        return None
    ignored = {} if description.ignore is None else {description.ignore: IGNORE}
    return {BACKGROUND: "background", **named, **ignored}


def _without_case(message: str) -> str:
    """The message without the name of its case, which the file's name says."""
    return re.sub(r"^case [^:]*: ", "", message)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")

"""What is wrong with a dataset's list and description, and which files nobody asked for; no image is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dataset import Case, name_in, several_channels
from .dataset_description import DatasetDescription

DESCRIPTION = "dataset.json"
EXAMPLES = 5
"""Files that a warning names."""
IGNORED_BY_DEFAULT = 255
"""As `losses.IgnoreLabel` has it."""


@dataclass(frozen=True)
class Fault:
    """Something wrong: the file, by its place in the dataset, and a line that says what and how to mend it."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def description_faults(
    labels: Mapping[int, str] | None, description: DatasetDescription, ignored: int | None = None
) -> list[Fault]:
    """What of dataset.json can not be trained on.

    Args:
        labels: value -> name of what the bundle labels; None where the dataset decides.
        description: of the dataset.
        ignored: the label that the bundle's loss ignores.
    """
    faults = [Fault(DESCRIPTION, what) for what in description.faults]
    if labels is not None and description.ignore not in (None, ignored):
        what = "none" if ignored is None else f"label {ignored}"
        faults.append(
            Fault(
                DESCRIPTION,
                f"label {description.ignore} is to be ignored, and the bundle's loss ignores {what}. "
                "Put an IgnoreLabel around its loss: docs/training.md.",
            )
        )
    strange = {value: name for value, name in description.labels.items() if labels is not None and value not in labels}
    if strange:
        named = ", ".join(f"{value} {name}" for value, name in strange.items())
        faults.append(
            Fault(
                DESCRIPTION,
                f"names {len(strange)} {_plural('label', len(strange))} that the bundle does not know: {named}. "
                "Use another bundle, or make one for this dataset with `scanloom bundle init`.",
            )
        )
    return faults


def ignored_label(config: Mapping[str, Any]) -> int | None:
    """The label that a train config's loss ignores; None where it ignores none.

    Args:
        config: as read; a number may be a reference (`@id`) to its top.
    """
    found = [
        each.get("ignore_label", IGNORED_BY_DEFAULT) for each in _components(config) if _is_named(each, "IgnoreLabel")
    ]
    value = config.get(found[0][1:]) if found and str(found[0]).startswith("@") else next(iter(found), None)
    return None if value is None else int(value)


def takes_slices(metadata: Mapping[str, Any]) -> bool:
    """Whether a bundle's network takes single slices: its metadata give the image two axes, not three."""
    try:
        return len(metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]) == 2
    except (KeyError, TypeError):
        return False


def list_faults(folder: Path, cases: Sequence[Case]) -> list[Fault]:
    """Case names that stand for several images, and images of several channels."""
    faults = []
    for name, times in Counter(case.name for case in cases).items():
        if times > 1:
            files = ", ".join(name_in(folder, case.image) for case in cases if case.name == name)
            faults.append(
                Fault(DESCRIPTION, f"{times} images are called {name}: {files}. Give each a file name of its own.")
            )
    for case in several_channels(cases):
        what = "has a second channel beside it (_0001); images of one channel can be trained on. Keep one."
        faults.append(Fault(name_in(folder, case.image), what))
    return faults


def description_warnings(
    labels: Mapping[int, str] | None, description: DatasetDescription, cases: Sequence[Case]
) -> list[str]:
    """Where dataset.json says other things than the bundle, or than there are."""
    warnings = []
    for value, name in description.labels.items():
        known = labels.get(value) if labels is not None else None
        if known is not None and _plain(known) != _plain(name):
            warnings.append(
                f"{DESCRIPTION}: label {value} is {name}, the bundle calls it {known}. Check that they mean the same."
            )
    if description.number is not None and description.number != len(cases):
        warnings.append(f"{DESCRIPTION}: numTraining is {description.number}, but {len(cases)} cases are listed.")
    return warnings


def stray_files(folder: Path, cases: Sequence[Case], ending: str) -> list[str]:
    """Files beside the images and the labels that no case names; they are not trained on.

    Args:
        folder: the dataset.
        cases: what it lists.
        ending: of the nnU-Net layout's files.
    """
    listed = {path for case in cases for path in (case.image, case.label)}
    folders = sorted({path.parent for path in listed} | {folder / "imagesTr", folder / "labelsTr"})
    strays = [
        path
        for each in folders
        if each.is_dir() and each != folder
        for path in sorted(each.iterdir())
        if path.is_file() and path not in listed and not path.name.endswith(f"_0001{ending}")
    ]
    hidden = [path for path in strays if path.name.startswith(".")]
    kinds = {
        "that are hidden, as macOS leaves them; delete them": hidden,
        "that no case names; they are not trained on": [path for path in strays if path not in hidden],
    }
    return [
        f"{_some([name_in(folder, path) for path in paths])}: {len(paths)} {_plural('file', len(paths))} {what}."
        for what, paths in kinds.items()
        if paths
    ]


def absent_labels(known: Mapping[int, str] | None, cases_of: Mapping[int, int]) -> list[str]:
    """Labels that no case holds.

    Args:
        known: value -> name of all labels; None where any number will do.
        cases_of: value -> the number of cases that hold it.
    """
    absent = [f"{value} {name}" for value, name in (known or {}).items() if value and not cases_of.get(value)]
    return [f"no case holds {_plural('label', len(absent))} {', '.join(absent)}."] if absent else []


def _components(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in the config that names a class."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _components(value)


def _is_named(component: Mapping[str, Any], name: str) -> bool:
    return str(component["_target_"]).rpartition(".")[2] == name


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", …" if len(names) > EXAMPLES else "")

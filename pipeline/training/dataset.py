"""A dataset folder, Medical Decathlon's or nnU-Net's raw layout, and its folds. Imports no torch.

Folds are drawn as nnU-Net draws them, unless the folder holds a `splits_final.json`, nnU-Net's own file of folds: where
neighbours are alike, as the slices of a stack, it keeps them together.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import file_sha256
from ..errors import UsageError

FOLD_SEED = 12345
"""nnU-Net's: its folds and ours hold the same cases."""

SPLITS = "splits_final.json"
"""A list with an object a fold, {"train": [name], "val": [name]}."""


@dataclass(frozen=True)
class Case:
    """One labelled image of a dataset.

    Attributes:
        name: unique in the dataset.
        image, label: its files.
        fold: that the dataset itself holds it out in; None where none does, or the dataset leaves folds to us.
    """

    name: str
    image: Path
    label: Path
    fold: int | None = None

    @property
    def files(self) -> tuple[Path, Path]:
        """Image and label."""
        return self.image, self.label


@dataclass(frozen=True)
class Split:
    """The cases to train on and those held out, as lists for MONAI's datasets: {"image", "label"} paths."""

    training: list[dict[str, str]]
    validation: list[dict[str, str]]


def read_dataset(folder: str | Path) -> list[Case]:
    """The labelled cases of a dataset folder, sorted by name; `dataset_check` looks into their files.

    Raises:
        UsageError: no folder, no usable dataset.json, or files that it names are missing.
    """
    folder = Path(folder).expanduser()
    cases = list_cases(folder, read_json(folder))
    missing = [path for case in cases for path in case.files if not path.is_file()]
    if missing:
        raise UsageError(
            f"dataset {folder}: {len(missing)} files are missing, the first is {name_in(folder, missing[0])}. "
            "Put them there, or take them out of dataset.json."
        )
    twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    if twice:
        raise UsageError(
            f"dataset {folder}: {len(twice)} case names stand for several images, the first is {twice[0]}. "
            "Give every image a file name of its own."
        )
    several = several_channels(cases)
    if several:
        raise UsageError(
            f"dataset {folder}: case {several[0].name} has several channels; images of one channel can be trained on. "
            "Keep only the files that end in _0000."
        )
    return cases


def list_cases(folder: Path, description: Mapping[str, Any]) -> list[Case]:
    """The cases that a dataset.json or its folders name, sorted by name, whether or not their files are there.

    An nnU-Net image without label is a case whose label is missing, and the reverse.

    Raises:
        UsageError: there is none, or an entry of the list is no pair.
    """
    if isinstance(description.get("training"), list):
        cases = _decathlon_cases(folder, description["training"])
    elif isinstance(description.get("dataset"), Mapping):
        cases = _listed_nnunet_cases(folder, description["dataset"])
    else:
        cases = _nnunet_cases(folder, file_ending(description))
    if not cases:
        raise UsageError(f"dataset {folder}: it lists no labelled image. Fill `training` in dataset.json.")
    return _with_folds(folder, sorted(cases, key=lambda case: case.name))


def several_channels(cases: Sequence[Case]) -> list[Case]:
    """The cases of the nnU-Net layout that have a second channel beside the first."""
    images = {case.image for case in cases}
    second = {case.name: _second_channel(case.image) for case in cases}
    return [case for case in cases if second[case.name].is_file() and second[case.name] not in images]


def name_in(folder: Path, path: Path) -> str:
    """How messages call a file of the dataset: by its place in the folder, where it lies in it."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def file_ending(description: Mapping[str, Any]) -> str:
    """The format of the files of the nnU-Net layout."""
    return str(description.get("file_ending", ".nii.gz"))


def split_dataset(folder: str | Path, fold: int | None, folds: int = 5) -> Split:
    """Which cases train and which validate in one fold of nnU-Net's cross-validation.

    Args:
        folder: the dataset.
        fold: 0 to folds - 1; None trains on every case and validates on the cases of fold 0 (seen in training, so
            that figure says nothing of new scans).
        folds: number of folds.
    Raises:
        UsageError: the dataset can not be read, has fewer cases than folds, or has no such fold.

    Source: nnU-Net, KFold(5, shuffle=True, random_state=12345) over the sorted case names, or its splits_final.json.
    """
    training, validation = split_cases(read_dataset(folder), fold, folds)
    return Split([_files(case) for case in training], [_files(case) for case in validation])


def require_fold(folder: str | Path, fold: int | None, folds: int = 5) -> None:
    """Return where the dataset lists cases enough for such a fold, whether or not their files are there.

    Raises:
        UsageError: there is no dataset, it has fewer cases than folds, or there is no such fold.
    """
    folder = Path(folder).expanduser()
    split_cases(list_cases(folder, read_json(folder)), fold, folds)


def split_cases(cases: Sequence[Case], fold: int | None, folds: int = 5) -> tuple[list[Case], list[Case]]:
    """As `split_dataset`, for the cases of a dataset: those to train on, and those to validate on.

    Raises:
        UsageError: there are fewer cases than folds, or there is no such fold.
    """
    own = max((case.fold + 1 for case in cases if case.fold is not None), default=None)
    if own is not None and folds != own:
        raise UsageError(f"--folds {folds}: the dataset's own {SPLITS} has {own}. Pass --folds {own}.")
    if own is None and not 2 <= folds <= len(cases):
        raise UsageError(f"--folds {folds}: the dataset has {len(cases)} cases. Choose between 2 and that.")
    if fold is not None and not 0 <= fold < folds:
        raise UsageError(f"--fold {fold}: there are folds 0 to {folds - 1}. Choose one of them.")
    if own is not None:
        validation = [case for case in cases if case.fold == (fold or 0)]
        return [case for case in cases if fold is None or case.fold != fold], validation
    return _drawn(cases, fold, folds)


def _drawn(cases: Sequence[Case], fold: int | None, folds: int) -> tuple[list[Case], list[Case]]:
    from sklearn.model_selection import KFold

    parts = list(KFold(folds, shuffle=True, random_state=FOLD_SEED).split(np.arange(len(cases))))
    training, validation = parts[fold or 0]
    if fold is None:
        training = np.arange(len(cases))
    return [cases[i] for i in training], [cases[i] for i in validation]


def dataset_digest(cases: Sequence[Case]) -> str:
    """SHA-256 over the contents of all images and labels, in the order of the cases' names; no path goes in."""
    return joint_digest(cases, file_digests(cases))


def file_digests(cases: Sequence[Case]) -> dict[Path, bytes]:
    """SHA-256 of each file of the cases."""
    return {path: file_sha256(path) for case in cases for path in case.files}


def joint_digest(cases: Sequence[Case], digests: Mapping[Path, bytes]) -> str:
    """`dataset_digest` of cases whose files' own digests are known: image, label, image, label, …

    The folds that the dataset gives its cases go in, too: which cases a training saw follows from them.
    """
    folds = [] if all(case.fold is None for case in cases) else [case.fold for case in cases]
    parts = [*(digests[path] for case in cases for path in case.files), *(f"{fold};".encode() for fold in folds)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _files(case: Case) -> dict[str, str]:
    return {"image": str(case.image), "label": str(case.label), "case": case.name}


def _with_folds(folder: Path, cases: list[Case]) -> list[Case]:
    """The cases with the folds that the dataset's `SPLITS` gives them, where it has one.

    Raises:
        UsageError: it can not be read, names cases that are not there, or a case twice, or leaves some out in training.
    """
    path = folder / SPLITS
    if not path.is_file():
        return cases
    names = {case.name for case in cases}
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        folds = [({*split["train"]}, {*split["val"]}) for split in splits]
    except (OSError, ValueError, TypeError, LookupError):
        raise UsageError(
            f'dataset {folder}: {SPLITS} can not be read. It must be a list of {{"train": [name], "val": [name]}}.'
        ) from None
    fold_of: dict[str, int] = {}
    for number, (training, validation) in enumerate(folds):
        if not validation or training != names - validation or validation & fold_of.keys():
            raise UsageError(
                f"dataset {folder}: {SPLITS}: fold {number} must hold out cases that no other fold does, and train on "
                f"all others of the {len(names)}. Mend it, or remove it."
            )
        fold_of |= dict.fromkeys(validation, number)
    return [replace(case, fold=fold_of.get(case.name)) for case in cases]


def read_json(folder: Path) -> dict[str, Any]:
    """What dataset.json holds.

    Raises:
        UsageError: there is none, or it is no JSON object.
    """
    path = folder / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"no dataset at {folder}: it holds no dataset.json. Pass a Medical Decathlon or nnU-Net raw folder with -d."
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"dataset {folder}: dataset.json can not be read: {error}. It must be a JSON object."
        ) from None
    if not isinstance(description, dict):
        raise UsageError(f"dataset {folder}: dataset.json holds no JSON object. Write one, as the Decathlon's.")
    return description


def _decathlon_cases(folder: Path, listed: list[Any]) -> list[Case]:
    try:
        return [_case(folder / entry["image"], folder / entry["label"]) for entry in listed]
    except (KeyError, TypeError):
        raise UsageError(
            f"dataset {folder}: `training` in dataset.json must be a list of "
            '{"image": path, "label": path}. Mend the entries that are not.'
        ) from None


def _nnunet_cases(folder: Path, ending: str) -> list[Case]:
    """Cases of `labelsTr/<name><ending>` and their images `imagesTr/<name>_0000<ending>`, of all names in either."""
    images, labels = folder / "imagesTr", folder / "labelsTr"
    visible = f"[!.]*{ending}"  # no dot files: macOS leaves its `._name` in archives
    names = {path.name.removesuffix(ending) for path in labels.glob(visible)}
    names |= {path.name.removesuffix(ending)[:-5] for path in images.glob(f"[!.]*_0000{ending}")}
    return [Case(name, images / f"{name}_0000{ending}", labels / f"{name}{ending}") for name in names]


def _listed_nnunet_cases(folder: Path, listed: Mapping[str, Any]) -> list[Case]:
    """Cases of nnU-Net's own list, {name: {"images": [path], "label": path}}."""
    try:
        return [Case(str(name), folder / e["images"][0], folder / e["label"]) for name, e in listed.items()]
    except (KeyError, TypeError, IndexError):
        raise UsageError(
            f"dataset {folder}: `dataset` in dataset.json must map each case to "
            '{"images": [path], "label": path}. Mend the entries that do not.'
        ) from None


def _second_channel(image: Path) -> Path:
    """Where an nnU-Net image's second channel would be; the image itself where its name is none of a first channel."""
    name, first, ending = image.name.rpartition("_0000")
    return image.with_name(f"{name}_0001{ending}") if first and ending.startswith(".") else image


def _case(image: Path, label: Path) -> Case:
    return Case(Path(image.name.removesuffix(".gz")).stem, image, label)

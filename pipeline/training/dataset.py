"""A dataset folder, Medical Decathlon's or nnU-Net's raw layout, and its folds. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError

FOLD_SEED = 12345
"""nnU-Net's: its folds and ours hold the same cases."""


@dataclass(frozen=True)
class Case:
    """One labelled image of a dataset."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Split:
    """The cases to train on and those held out, as lists for MONAI's datasets: {"image", "label"} paths."""

    training: list[dict[str, str]]
    validation: list[dict[str, str]]


def read_dataset(folder: str | Path) -> list[Case]:
    """The labelled cases of a dataset folder, sorted by name.

    Raises:
        UsageError: no folder, no usable dataset.json, or files that it names are missing.
    """
    folder = Path(folder).expanduser()
    description = _read_description(folder)
    listed = description.get("training")
    cases = _decathlon_cases(folder, listed) if isinstance(listed, list) else _nnunet_cases(folder, description)
    if not cases:
        raise UsageError(f"dataset {folder}: it lists no labelled image. Fill `training` in dataset.json.")
    missing = [path for case in cases for path in (case.image, case.label) if not path.is_file()]
    if missing:
        first = missing[0].relative_to(folder) if missing[0].is_relative_to(folder) else missing[0]
        raise UsageError(
            f"dataset {folder}: {len(missing)} files are missing, the first is {first}. "
            "Put them there, or take them out of dataset.json."
        )
    twice = [name for name, times in Counter(case.name for case in cases).items() if times > 1]
    if twice:
        raise UsageError(
            f"dataset {folder}: {len(twice)} case names stand for several images, the first is {twice[0]}. "
            "Give every image a file name of its own."
        )
    return sorted(cases, key=lambda case: case.name)


def split_dataset(folder: str | Path, fold: int | None, folds: int = 5) -> Split:
    """Which cases train and which validate in one fold of nnU-Net's cross-validation.

    Args:
        folder: the dataset.
        fold: 0 to folds - 1; None trains on every case and validates on the cases of fold 0 (seen in training, so
            that figure says nothing of new scans).
        folds: number of folds.
    Raises:
        UsageError: the dataset can not be read, has fewer cases than folds, or has no such fold.

    Source: nnU-Net, KFold(5, shuffle=True, random_state=12345) over the sorted case names.
    """
    from sklearn.model_selection import KFold

    cases = read_dataset(folder)
    if not 2 <= folds <= len(cases):
        raise UsageError(f"--folds {folds}: the dataset has {len(cases)} cases. Choose between 2 and that.")
    if fold is not None and not 0 <= fold < folds:
        raise UsageError(f"--fold {fold}: there are folds 0 to {folds - 1}. Choose one of them.")
    parts = list(KFold(folds, shuffle=True, random_state=FOLD_SEED).split(np.arange(len(cases))))
    training, validation = parts[fold or 0]
    if fold is None:
        training = np.arange(len(cases))
    return Split([_files(cases[i]) for i in training], [_files(cases[i]) for i in validation])


def dataset_digest(cases: list[Case]) -> str:
    """SHA-256 over the contents of all images and labels, in the order of the cases' names; no path goes in."""
    digest = hashlib.sha256()
    for case in cases:
        for path in (case.image, case.label):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(case: Case) -> dict[str, str]:
    return {"image": str(case.image), "label": str(case.label), "case": case.name}


def _read_description(folder: Path) -> dict[str, Any]:
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


def _nnunet_cases(folder: Path, description: dict[str, Any]) -> list[Case]:
    """Cases of `labelsTr/<name><ending>` with their image `imagesTr/<name>_0000<ending>`; one channel."""
    ending = str(description.get("file_ending", ".nii.gz"))
    images, cases = folder / "imagesTr", []
    for label in (folder / "labelsTr").glob(f"[!.]*{ending}"):  # no dot files: macOS leaves its `._name` in archives
        name = label.name.removesuffix(ending)
        if (images / f"{name}_0001{ending}").exists():
            raise UsageError(
                f"dataset {folder}: case {name} has several channels; images of one channel can be trained on. "
                "Keep only the files that end in _0000."
            )
        cases.append(Case(name, images / f"{name}_0000{ending}", label))
    return cases


def _case(image: Path, label: Path) -> Case:
    return Case(Path(image.name.removesuffix(".gz")).stem, image, label)

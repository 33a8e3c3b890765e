"""What a dataset.json says of its data: names of labels, modality, licence; the Decathlon's words and nnU-Net's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BACKGROUND = 0
IGNORE = "ignore"
"""What nnU-Net calls the label of voxels that nobody annotated."""

MODALITIES = {
    "CT": {"ct", "cbct"},
    "MR": {"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "mprage"},
    "PT": {"pt", "pet"},
    "US": {"us", "ultrasound"},
}
"""DICOM Modality (0008,0060), and the words that stand for it in descriptions."""


@dataclass(frozen=True)
class DatasetDescription:
    """What dataset.json says, where it says it.

    Attributes:
        name: of the dataset.
        licence: of the data.
        modality: DICOM Modality of the images.
        labels: value -> name, without the background and the ignored label; empty where it names none.
        ignore: the value of voxels that were not annotated.
        number: of training cases.
        faults: what can not be trained on, or not be understood; each a line that says how to mend it.
    """

    name: str = ""
    licence: str = ""
    modality: str | None = None
    labels: Mapping[int, str] = field(default_factory=dict)
    ignore: int | None = None
    number: int | None = None
    faults: tuple[str, ...] = ()


def describe_dataset(description: Mapping[str, Any]) -> DatasetDescription:
    """What the contents of a dataset.json say of the data.

    Source: medicaldecathlon.com, {"labels": {"1": "liver"}, "modality": {"0": "CT"}}; nnU-Net's dataset format 2,
        {"labels": {"liver": 1, "ignore": 2}, "channel_names": {"0": "CT"}}.
    """
    labels, faults = _labels(description.get("labels", {}))
    ignored = [value for value, name in labels.items() if name.lower() == IGNORE]
    channels = description.get("channel_names", description.get("modality", {}))
    channels = list(channels.values()) if isinstance(channels, Mapping) else [channels]
    if len(channels) > 1:
        faults.append(
            f"the images have {len(channels)} channels ({', '.join(map(str, channels))}); images of one channel can be "
            "trained on. Make a dataset of one of them."
        )
    number = description.get("numTraining")
    return DatasetDescription(
        name=str(description.get("name", "")),
        licence=str(description.get("licence", description.get("license", ""))),
        modality=modality_of(str(channels[0])) if channels else None,
        labels={value: name for value, name in labels.items() if value != BACKGROUND and value not in ignored},
        ignore=ignored[0] if ignored else None,
        number=number if isinstance(number, int) else None,
        faults=tuple(faults),
    )


def modality_of(words: str) -> str | None:
    """DICOM Modality that the words of a description stand for; None where they name none, or several."""
    found = set(re.split(r"[^a-z0-9]+", words.lower()))
    named = [modality for modality, known in MODALITIES.items() if known & found]
    return named[0] if len(named) == 1 else None


def _labels(entries: Any) -> tuple[dict[int, str], list[str]]:
    """Value -> name of both layouts, the background among them, and what is wrong with the rest."""
    if not isinstance(entries, Mapping):
        return {}, [f'labels is {entries!r}. Make it an object such as {{"0": "background", "1": "liver"}}.']
    labels: dict[int, str] = {}
    faults = []
    for key, value in entries.items():
        if isinstance(value, list | tuple) and key.lower() != "background":
            faults.append(
                f"label {key} is a region of {value}; regions can not be trained on. "
                "Give each voxel one label, and each label one number."
            )
            continue
        number, name = (key, value) if str(key).isdigit() else (value, key)
        if isinstance(number, bool) or not str(number).isdigit():
            faults.append(f"label {key} is {value!r}. Name it by a whole number from 0.")
        elif int(number) in labels:
            faults.append(f"label {int(number)} has two names. Leave it one.")
        else:
            labels[int(number)] = str(name)
    return labels, faults

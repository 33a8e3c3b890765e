"""What dataset.json says, in the Decathlon's words and nnU-Net's."""

from __future__ import annotations

from typing import Any

import pytest
from scanloom.pipeline.training.dataset_description import describe_dataset, modality_of


def test_the_decathlon_s_words() -> None:
    found = describe_dataset(
        {
            "name": "Liver",
            "licence": "CC-BY-SA 4.0",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "liver", "2": "cancer"},
            "numTraining": 131,
        }
    )
    assert (found.name, found.licence, found.modality, found.number) == ("Liver", "CC-BY-SA 4.0", "CT", 131)
    assert found.labels == {1: "liver", 2: "cancer"} and found.ignore is None and not found.faults


def test_nnunet_s_words_with_an_ignored_label() -> None:
    found = describe_dataset(
        {"channel_names": {"0": "T1"}, "labels": {"background": 0, "left": 1, "right": 2, "ignore": 3}}
    )
    assert (found.modality, found.labels, found.ignore) == ("MR", {1: "left", 2: "right"}, 3)


def test_nothing_is_said_where_nothing_is_there() -> None:
    found = describe_dataset({"training": []})
    assert (found.labels, found.modality, found.number, found.faults) == ({}, None, None, ())


def test_regions_are_refused() -> None:
    found = describe_dataset({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    assert found.faults == (
        "label whole is a region of [1, 2]; regions can not be trained on. "
        "Give each voxel one label, and each label one number.",
    )


def test_several_channels_are_refused() -> None:
    (fault,) = describe_dataset({"modality": {"0": "FLAIR", "1": "T1w"}}).faults
    assert fault.startswith("the images have 2 channels (FLAIR, T1w); images of one channel can be trained on.")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], r"labels is [0, 1]. Make it an object"),
        ({"liver": "one"}, "label liver is 'one'. Name it by a whole number from 0."),
        ({"liver": True}, "label liver is True. Name it"),
        ({"liver": -1}, "label liver is -1. Name it"),
        ({"liver": 1, "spleen": 1}, "label 1 has two names. Leave it one."),
    ],
)
def test_labels_that_are_not_understood_are_faults(labels: Any, words: str) -> None:
    (fault,) = describe_dataset({"labels": labels}).faults
    assert fault.startswith(words)


@pytest.mark.parametrize(
    ("words", "modality"),
    [
        ("CT", "CT"),
        ("MRI", "MR"),
        ("MR T1", "MR"),
        ("T2-weighted, FLAIR", "MR"),
        ("FDG PET", "PT"),
        ("PET/CT", None),
        ("doctor", None),
        ("", None),
    ],
)
def test_modalities_are_known_by_whole_words(words: str, modality: str | None) -> None:
    assert modality_of(words) == modality

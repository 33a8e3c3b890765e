"""Nothing of the patient leaves: a study whose every text holds a canary, through each command, well and badly."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from factories import make_affine, write_mr_series
from pydicom.datadict import DicomDictionary

CANARY = "PHICANARY"
TEXTS = {"LO": CANARY, "SH": CANARY, "PN": f"{CANARY}^{CANARY}", "LT": CANARY, "ST": CANARY, "UT": CANARY, "UC": CANARY}
GROUPS = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
KEPT = ("SpecificCharacterSet", "LossyImageCompressionMethod")


def poison(dataset: pydicom.Dataset, _: int) -> None:
    """Sets every text element of the standard's patient, study, series and equipment groups, and one private."""
    for tag, (kind, multiplicity, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        wanted = kind in TEXTS and group in GROUPS and not retired and keyword not in KEPT
        if wanted and multiplicity.startswith("1"):
            dataset.add_new(tag, kind, TEXTS[kind])
    block = dataset.private_block(0x0011, CANARY, create=True)
    block.add_new(0x01, "LO", CANARY)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 900, (40, 56, 40), dtype=np.int16)
    write_mr_series(tmp_path / CANARY / "good", array, make_affine((1, 1, 1)), edit=poison)
    return tmp_path / CANARY


def told(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status, and all that a command said."""
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "scanloom.pipeline.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.returncode, done.stdout + done.stderr


def holding(folder: Path) -> set[str]:
    """Names of the files under the folder whose name or content, inflated where it is gzip, holds the canary."""
    found = set()
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        if CANARY.encode() in content or CANARY in path.name or CANARY.encode("utf-16-le") in content:
            found.add(path.name)
    return found


def test_the_study_is_full_of_canaries(study: Path) -> None:
    texts = str(pydicom.dcmread(next(study.rglob("*.dcm"))))
    assert texts.count(CANARY) > 200


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["inspect", "--debug"]])
def test_inspect_tells_nothing(study: Path, words: list[str]) -> None:
    status, said = told(study.parent, *words[:1], CANARY, *words[1:])
    assert status == 0
    assert CANARY not in said.replace(str(study.parent), "")


def test_convert_tells_and_writes_nothing(study: Path) -> None:
    status, said = told(study.parent, "convert", "-i", CANARY, "-o", "out", "--json")
    assert status == 0
    assert CANARY not in said
    assert holding(study.parent / "out") == set()


@pytest.mark.parametrize("damage", ["cut", "codec", "mixed"])
def test_a_refusal_tells_nothing_even_with_debug(study: Path, damage: str) -> None:
    file = next(study.rglob("*.dcm"))
    dataset = pydicom.dcmread(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "codec":
        syntax = f"1.2.840.{CANARY}".encode().ljust(20, b"\0")
        file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax, 1))
    else:
        dataset.PatientID = f"{CANARY}2"
        dataset.save_as(file)
    for extra in ([], ["--debug"]):
        status, said = told(study.parent, "convert", "-i", CANARY, "-o", "out", *extra)
        assert status in (3, 4)
        assert CANARY not in said.replace(f"-i {CANARY}", "").replace(str(study), "")


@pytest.mark.slow
def test_predict_writes_the_canary_into_dicom_objects_only(study: Path) -> None:
    status, said = told(study.parent, "predict", "-b", "hippocampus_mr_unet", "-i", CANARY, "-o", "out")
    assert status == 0, said
    assert CANARY not in said
    assert holding(study.parent / "out") == {"segmentation.dcm"}

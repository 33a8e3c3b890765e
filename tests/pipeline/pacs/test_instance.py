"""The names of an instance, and that nothing is missing of it."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from factories import write_mr_series
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import split_dataset
from scanloom.pipeline.pacs.instance import (
    InstanceName,
    NotAnInstanceError,
    OtherInstanceError,
    name_instance,
    study_name,
    uid_hash,
)


def encoded(path: Path) -> tuple[bytes, pydicom.Dataset]:
    """The data set as it goes over the network, and what it says."""
    return path.read_bytes()[split_dataset(path)[1] :], pydicom.dcmread(path)


def named(content: bytes, data: pydicom.Dataset) -> InstanceName:
    return name_instance(BytesIO(content), data.file_meta.TransferSyntaxUID, data.SOPClassUID, data.SOPInstanceUID)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small",
        "MR_small_bigendian",
        "MR_small_RLE",
        "JPEG2000",
        "SC_rgb_jpeg_dcmtk",
        "MR_small_implicit",
        "reportsi",
    ],
)
def test_every_usual_transfer_syntax_is_read(name: str) -> None:
    content, data = encoded(Path(str(get_testdata_file(f"{name}.dcm"))))
    assert named(content, data) == InstanceName(
        uid_hash(data.StudyInstanceUID), uid_hash(data.SOPInstanceUID), data.SOPClassUID
    )


@pytest.mark.parametrize("name", ["CT_small", "MR_small_RLE", "MR_small_implicit"])
def test_pixels_that_were_cut_off_are_seen(name: str) -> None:
    content, data = encoded(Path(str(get_testdata_file(f"{name}.dcm"))))
    start = content.index(b"\xe0\x7f\x10\x00")
    for cut in (1, 2, 7, 100, (len(content) - start) // 2):
        with pytest.raises(NotAnInstanceError, match=r"cut off|can not be read"):
            named(content[:-cut], data)


def test_a_data_set_that_is_not_the_announced_one_is_refused(tmp_path: Path) -> None:
    content, data = encoded(write_mr_series(tmp_path)[0])
    for sop_class, sop_instance in ((data.SOPClassUID, "1.2.3"), ("1.2.3", data.SOPInstanceUID)):
        with pytest.raises(OtherInstanceError, match="not the announced"):
            name_instance(BytesIO(content), ExplicitVRLittleEndian, sop_class, sop_instance)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("value", [None, "", "1.2/../../x", "name^of^somebody"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_uid_that_is_missing_or_none_is_refused(tmp_path: Path, keyword: str, value: str | None) -> None:
    file = write_mr_series(tmp_path)[0]
    data = pydicom.dcmread(file)
    if value is None:
        delattr(data, keyword)
    else:
        setattr(data, keyword, value)
    data.save_as(file)
    with pytest.raises(NotAnInstanceError) as caught:
        named(encoded(file)[0], pydicom.dcmread(file) if value else encoded(write_mr_series(tmp_path / "o")[0])[1])
    assert "name" not in str(caught.value) and "/" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_and_no_crash(content: bytes) -> None:
    for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.70"):
        with pytest.raises(NotAnInstanceError):
            name_instance(BytesIO(content), UID(syntax), "1.2", "1.3")


def test_a_damaged_data_set_is_named_or_refused(tmp_path: Path) -> None:
    content, data = encoded(write_mr_series(tmp_path)[0])
    chance = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            name = named(bytes(damaged), data)
        except NotAnInstanceError:
            continue
        assert len(name.study) == len(name.instance) == 32


def test_a_study_is_called_by_eight_digits() -> None:
    assert study_name(uid_hash("1.2.3")) == "study-" + uid_hash("1.2.3")[:8]

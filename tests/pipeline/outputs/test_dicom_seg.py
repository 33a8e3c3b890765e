import logging
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scanloom.pipeline.errors import BundleError, PipelineError, StudyError, UsageError
from scanloom.pipeline.outputs import dicom_seg, write_dicom_seg
from scanloom.pipeline.outputs.dicom_maker import series_description
from scanloom.pipeline.verdict import Reason, Verdict
from scanloom.pipeline.volume import SourceSlice, Volume

TILT = np.deg2rad(6)
OBLIQUE = np.array(
    [[np.cos(TILT), -np.sin(TILT), 0, 0], [np.sin(TILT), np.cos(TILT), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
)
AXIAL = np.diag([-1.0, -1.5, 2.0, 1.0])
AXIAL[:3, 3] = [40.0, 55.5, -20.25]
CORONAL = AXIAL[:, [0, 2, 1, 3]] * [1, -1, 1, 1]
SAGITTAL = AXIAL[:, [1, 2, 0, 3]] * [1, -1, 1, 1]
PLANES = {
    "axial": AXIAL,
    "axial reversed": AXIAL * [1, 1, -1, 1],
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "sagittal reversed": SAGITTAL * [1, 1, -1, 1],
    "oblique": OBLIQUE @ CORONAL,
}


def files_of(volume: Volume) -> list[Path]:
    return [source.file for source in volume.sources]


def read_back(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Segment numbers (X, Y, Z) and affine (voxel index -> RAS mm) as highdicom reads them."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    assert volume.coordinate_system == hd.CoordinateSystemNames.PATIENT
    return volume.array.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]


def canonical(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.uint8), affine))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("labelmap", [False, True])
def test_highdicom_reads_back_the_label_map_with_the_same_affine(
    tmp_path, plane, labelmap, make_volume, make_labels, write_dicom_volume, bundle
):
    volume = write_dicom_volume(make_volume((12, 10, 8), PLANES[plane]))
    labels = make_labels(volume.spatial_shape)

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle, labelmap=labelmap)

    found, expected = canonical(*read_back(tmp_path / "seg.dcm")), canonical(labels, volume.affine)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)


def test_each_frame_lies_on_its_source_instance_even_where_the_gantry_is_tilted(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle
):
    tilted = AXIAL.copy()
    tilted[1, 2] = 0.4
    volume = write_dicom_volume(make_volume((12, 10, 8), tilted))
    labels = make_labels(volume.spatial_shape)

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)

    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    slices = {pydicom.dcmread(path).SOPInstanceUID: index for index, path in enumerate(files_of(volume))}
    seen = set()
    for frame, item in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        source = item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        index = slices[source]
        position = np.diag([-1, -1, 1, 1]) @ volume.affine @ [0, 0, index, 1]
        np.testing.assert_allclose(
            item.PlanePositionSequence[0].ImagePositionPatient, position[:3].astype(float), atol=1e-4
        )
        mask = segment == labels[:, :, index].T
        np.testing.assert_array_equal(frame, mask)
        seen.add((index, segment))
    assert seen == {(index, segment) for index in range(8) for segment in (1, 2)}
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.0)


LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TILTED = PLANES["oblique"] @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def places(affine: np.ndarray, slices: list[float]) -> list[np.ndarray]:
    """LPS mm of the first voxel of each slice."""
    return [(LPS_RAS @ affine @ [0, 0, z, 1])[:3] for z in slices]


def planes_of(path: Path) -> dict[tuple[str, int, int], tuple[np.ndarray, np.ndarray]]:
    """(source UID, source frame, segment) -> (position, pixels) of each frame of a segmentation."""
    segmentation = pydicom.dcmread(path)
    found = {}
    frames = np.atleast_3d(segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns))
    for pixels, item in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        identified = item.get("SegmentIdentificationSequence")
        segment = identified[0].ReferencedSegmentNumber if identified else 0
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        found[str(source.ReferencedSOPInstanceUID), int(source.ReferencedFrameNumber), segment] = position, pixels
    return found


@pytest.mark.parametrize("affine", [AXIAL, TILTED], ids=["axial", "oblique and tilted"])
@pytest.mark.parametrize("labelmap", [False, True])
def test_some_frames_of_several_multi_frame_files_are_referred_to_one_by_one(
    tmp_path, make_volume, make_labels, write_enhanced, bundle, affine, labelmap, dciodvfy_errors
):
    # Slices 0, 2, 4 are frames 6, 5, 4 of one file, whose others lie elsewhere; 1, 3, 5 are all frames of another.
    write_enhanced(tmp_path / "one.dcm", places(affine, [50, 40, 30, 4, 2, 0]), affine, "1.2.3.4.1")
    write_enhanced(tmp_path / "two.dcm", places(affine, [1, 3, 5]), affine, "1.2.3.4.2")
    used = [("one", 5), ("two", 0), ("one", 4), ("two", 1), ("one", 3), ("two", 2)]
    sources = tuple(SourceSlice(tmp_path / f"{name}.dcm", frame, z) for z, (name, frame) in enumerate(used))
    volume = make_volume((7, 9, 6), affine, sources=sources, modality="MR")
    labels = make_labels((7, 9, 6))

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle, labelmap=labelmap)

    found = planes_of(tmp_path / "seg.dcm")
    assert len(found) == 6 * (1 if labelmap else 2)
    for (uid, frame, segment), (position, pixels) in found.items():
        z = used.index(("one" if uid.endswith(".1") else "two", frame - 1))
        np.testing.assert_allclose(position, places(affine, [z])[0], atol=1e-6)
        np.testing.assert_array_equal(pixels, labels[:, :, z].T if labelmap else segment == labels[:, :, z].T)
    one, two = pydicom.dcmread(tmp_path / "seg.dcm").SourceImageSequence
    assert list(one.ReferencedFrameNumber) == [4, 5, 6]
    assert "ReferencedFrameNumber" not in two
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def test_slices_that_were_filled_in_or_resampled_take_the_nearest_labels(
    tmp_path, make_volume, make_labels, write_enhanced, bundle
):
    slices = [0.0, 1.0, 2.6, 4.4]
    write_enhanced(tmp_path / "one.dcm", places(AXIAL, slices), AXIAL)
    sources = tuple(SourceSlice(tmp_path / "one.dcm", frame, z) for frame, z in enumerate(slices))
    volume = make_volume((7, 9, 6), AXIAL, sources=sources)
    labels = make_labels((7, 9, 6))

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)

    found = planes_of(tmp_path / "seg.dcm")
    assert len(found) == 4 * 2
    for (_, frame, segment), (position, pixels) in found.items():
        np.testing.assert_allclose(position, places(AXIAL, [slices[frame - 1]])[0], atol=1e-6)
        np.testing.assert_array_equal(pixels, segment == labels[:, :, [0, 1, 3, 4][frame - 1]].T)
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "SpacingBetweenSlices" not in measures
    assert float(measures.SliceThickness) == 2.5


def test_labels_and_voxels_may_be_views_of_any_order_and_type(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((12, 10, 8), AXIAL))
    labels = np.zeros((16, 20, 12), np.int16).transpose(2, 1, 0)[:, ::-2, ::2]
    labels[3:7, 2:5, 1:6] = 2
    assert not labels.flags.c_contiguous
    small = np.asfortranarray(volume.array.astype(np.int16))
    write_dicom_seg(tmp_path / "seg.dcm", labels, replace(volume, array=small), bundle)
    np.testing.assert_array_equal(
        canonical(*read_back(tmp_path / "seg.dcm")).dataobj, canonical(labels, volume.affine).dataobj
    )


def test_text_of_the_source_is_valid_whatever_its_character_set(
    tmp_path, make_volume, write_dicom_volume, make_bundle, dciodvfy_errors
):
    def rename(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName = "Yamada^Tarou=山田^太郎"

    one, _ = make_bundle().metadata["label_classes"]
    bundle = make_bundle(one | {"name": "海馬"})
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL), change=rename)
    write_dicom_seg(tmp_path / "seg.dcm", np.ones((6, 5, 4), np.uint8), volume, bundle)
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    assert segmentation.PatientName == "Yamada^Tarou=山田^太郎"
    assert segmentation.SegmentSequence[0].SegmentLabel == "海馬"
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def test_segments_carry_codes_colour_and_the_algorithm(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[2:4, 2:4, 1:3] = 2

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)

    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    absent, present = (segmentation.get_segment_description(number) for number in (1, 2))
    assert [absent.segment_label, present.segment_label] == ["anterior", "posterior"]
    kind = present.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("5366008", "SCT", "Hippocampus")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "255551008"
    assert present.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    color = hd.color.CIELabColor.from_dicom_value(present.RecommendedDisplayCIELabValue).to_rgb()
    assert np.allclose(color, (86, 180, 233), atol=1)
    algorithm = present.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("test_bundle", "1.2.3")
    assert algorithm.AlgorithmParameters == f"weights_sha256={bundle.weights_sha256}"


def test_the_object_belongs_to_the_study_and_names_its_maker(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    write_dicom_seg(tmp_path / "seg.dcm", np.ones((6, 5, 4), np.uint8), volume, bundle)
    source, segmentation = pydicom.dcmread(files_of(volume)[0]), pydicom.dcmread(tmp_path / "seg.dcm")
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    assert segmentation.SeriesNumber == 1000 + source.SeriesNumber
    assert segmentation.PatientName == source.PatientName
    assert (segmentation.Manufacturer, segmentation.ManufacturerModelName) == ("scanloom", "test_bundle")
    assert segmentation.DeviceSerialNumber == bundle.weights_sha256
    assert segmentation.ImageType[0] == "DERIVED"
    assert segmentation.SegmentationType == "BINARY"


def test_the_two_kinds_of_one_series_can_be_told_apart(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    kinds = []
    for labelmap in (False, True):
        write_dicom_seg(tmp_path / "seg.dcm", np.ones((6, 5, 4), np.uint8), volume, bundle, labelmap=labelmap)
        kinds.append(pydicom.dcmread(tmp_path / "seg.dcm"))
    assert kinds[0].SeriesNumber != kinds[1].SeriesNumber
    assert [kind.SeriesDescription for kind in kinds] == ["test_bundle labels", "test_bundle label map"]


@pytest.mark.parametrize(
    ("severity", "expected"),
    [(None, "test_bundle labels"), ("check", "test_bundle labels, verdict check")],
)
def test_a_pacs_lists_what_is_not_to_be_taken_as_it_is(
    tmp_path, make_volume, write_dicom_volume, bundle, severity, expected
):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    verdict = Verdict((Reason("spacing", severity, "voxels of 9 mm"),) if severity else ())
    write_dicom_seg(tmp_path / "seg.dcm", np.ones((6, 5, 4), np.uint8), volume, bundle, verdict=verdict)
    assert pydicom.dcmread(tmp_path / "seg.dcm").SeriesDescription == expected


def test_a_long_name_of_a_bundle_leaves_the_verdict_whole(bundle):
    long = replace(bundle, metadata={**bundle.metadata, "name": "n" * 80})
    rejected = Verdict((Reason("spacing", "reject", "voxels of 9 mm"),))
    description = series_description(long, "measurements", rejected)
    assert len(description) == 64
    assert description.endswith("n measurements, verdict reject")


def test_no_voxel_of_any_label_still_gives_the_whole_grid(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros((6, 5, 4), np.uint8), volume, bundle)
    labels, _ = read_back(tmp_path / "seg.dcm")
    assert labels.shape == (6, 5, 4)
    assert not labels.any()
    assert hd.seg.segread(tmp_path / "seg.dcm").number_of_segments == 2


def test_label_values_with_gaps_become_segments_in_their_order(tmp_path, make_volume, write_dicom_volume, make_bundle):
    one, two = make_bundle().metadata["label_classes"]
    bundle = make_bundle(one | {"value": 7}, two | {"value": 300})
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    labels = np.zeros((6, 5, 4), np.uint16)
    labels[0, 0, 0], labels[5, 4, 3] = 7, 300

    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)

    found = canonical(*read_back(tmp_path / "seg.dcm"))
    expected = canonical(np.select([labels == 7, labels == 300], [1, 2]), volume.affine)
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)


def test_empty_frames_are_left_out_only_where_they_would_fill_the_disk(
    tmp_path, make_volume, write_dicom_volume, bundle, monkeypatch
):
    monkeypatch.setattr(dicom_seg, "ALL_FRAMES_LIMIT_BYTES", 10)
    volume = write_dicom_volume(make_volume((6, 5, 4), AXIAL))
    labels = np.zeros((6, 5, 4), np.uint8)
    labels[:, :, 1] = 2
    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)
    assert pydicom.dcmread(tmp_path / "seg.dcm").NumberOfFrames == 1


def _without_type_2(dataset: Dataset) -> None:
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        delattr(dataset, keyword)
    del dataset.SliceThickness, dataset.SeriesNumber


def _with_odd_values(dataset: Dataset) -> None:
    dataset.PatientName, dataset.PatientSex = "PHICANARY", "UNKNOWN"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.PatientBirthDate, dataset.StudyTime = "PHICANARY", "PHICANARY"
    dataset.SpacingBetweenSlices = "77"
    dataset.SeriesNumber = -5


@pytest.mark.parametrize("change", [_without_type_2, _with_odd_values])
def test_odd_but_readable_sources_are_mended_in_silence(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle, change, caplog, capfd
):
    volume = write_dicom_volume(make_volume((12, 10, 8), AXIAL), change=change)
    before = [path.read_bytes() for path in files_of(volume)]
    labels = make_labels(volume.spatial_shape)
    caplog.clear()
    capfd.readouterr()

    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle)

    assert not caught
    assert "PHICANARY" not in caplog.text + "".join(capfd.readouterr())
    assert [path.read_bytes() for path in files_of(volume)] == before
    found, expected = canonical(*read_back(tmp_path / "seg.dcm")), canonical(labels, volume.affine)
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    assert pydicom.dcmread(tmp_path / "seg.dcm").SeriesNumber == 1000


def test_an_input_that_is_not_dicom_is_refused(tmp_path, make_volume, make_labels, bundle):
    with pytest.raises(UsageError, match=r"case_1: dicom-seg refers to DICOM instances and this input has none"):
        write_dicom_seg(tmp_path / "seg.dcm", make_labels(), make_volume(), bundle)


def test_a_source_that_has_gone_is_refused_without_its_path(tmp_path, make_volume, make_labels, bundle):
    volume = make_volume(sources=tuple(SourceSlice(tmp_path / f"PHICANARY{z}.dcm", None, z) for z in range(7)))
    with pytest.raises(StudyError, match=r"can not be read again \(No such file or directory\)") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", make_labels(), volume, bundle)
    assert "PHICANARY" not in str(caught.value)


def test_what_highdicom_refuses_is_an_error_of_one_line_that_quotes_nothing(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle, monkeypatch
):
    def refuse(*arguments, **keywords):
        raise ValueError("PHICANARY")

    volume = write_dicom_volume(make_volume(affine=AXIAL))
    monkeypatch.setattr(hd.seg, "Segmentation", refuse)
    with pytest.raises(StudyError, match=r"highdicom can not make a DICOM SEG of this series \(ValueError\)") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", make_labels(), volume, bundle)
    assert caught.value.__suppress_context__
    assert "PHICANARY" not in str(caught.value)
    assert not (tmp_path / "seg.dcm").exists()


def test_labels_without_a_name_or_of_another_grid_are_refused(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle
):
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    with pytest.raises(BundleError, match="labels hold 3, 6, which label_classes does not name"):
        write_dicom_seg(tmp_path / "seg.dcm", make_labels() * 3, volume, bundle)
    with pytest.raises(PipelineError, match="Bring the labels back to the source grid"):
        write_dicom_seg(tmp_path / "seg.dcm", make_labels((4, 4, 4)), volume, bundle)


def test_a_writer_that_fails_midway_keeps_the_old_file(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle, monkeypatch
):
    path = tmp_path / "out" / "seg.dcm"
    volume = write_dicom_volume(make_volume(affine=AXIAL))
    write_dicom_seg(path, make_labels(), volume, bundle)
    old = path.read_bytes()

    def save_half(self, name, **kwargs):
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hd.seg.Segmentation, "save_as", save_half)
    with pytest.raises(PipelineError, match="No space left on device"):
        write_dicom_seg(path, make_labels(), volume, bundle)
    assert path.read_bytes() == old
    assert [file.name for file in path.parent.iterdir()] == ["seg.dcm"]


@pytest.mark.parametrize("plane", ["axial", "oblique"])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("labelmap", [False, True])
def test_dciodvfy_finds_no_error(
    tmp_path, make_volume, make_labels, write_dicom_volume, bundle, plane, empty, labelmap, dciodvfy_errors
):
    volume = write_dicom_volume(make_volume((12, 10, 8), PLANES[plane]))
    labels = make_labels(volume.spatial_shape) * np.uint8(not empty)
    write_dicom_seg(tmp_path / "seg.dcm", labels, volume, bundle, labelmap=labelmap)
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []


def test_one_slice_alone_is_written(tmp_path, make_volume, write_dicom_volume, bundle):
    volume = write_dicom_volume(make_volume((6, 5, 3), AXIAL))
    one = replace(volume, array=volume.array[..., :1], sources=volume.sources[:1])
    write_dicom_seg(tmp_path / "seg.dcm", np.ones((6, 5, 1), np.uint8), one, bundle)
    assert pydicom.dcmread(tmp_path / "seg.dcm").pixel_array[0].all()

"""DICOM series to volumes: order, place, values, and what is refused."""

import hashlib
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
from factories import (
    edit_file,
    make_affine,
    make_volume,
    reorient,
    write_ct_series,
    write_mr_series,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError, StudyError
from scanloom.pipeline.studies import find_series, read_series


def read_one(folder):
    (series,) = find_series(folder)
    return read_series(series)


def canonical(array, affine):
    return nibabel.as_closest_canonical(nibabel.Nifti1Image(np.asarray(array, np.float32), affine))


@settings(max_examples=12, deadline=None)
@given(
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    degrees=st.tuples(*[st.floats(-30, 30)] * 3),
)
def test_any_orientation_reads_back_to_the_voxels_and_affine(tmp_path_factory, axes, flips, degrees):
    array, affine = make_volume((4, 5, 6), (0.7, 1.1, 1.9), degrees)
    turned, turned_affine = reorient(array, affine, axes, flips)
    folder = tmp_path_factory.mktemp("series")
    write_mr_series(folder, turned, turned_affine, shuffle_names=True)
    volume = read_one(folder)
    again, expected = canonical(volume.array[0], volume.affine), canonical(array, affine)
    np.testing.assert_array_equal(again.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(again.affine, expected.affine, atol=1e-9)
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous


def test_slices_are_ordered_by_position_not_file_name(tmp_path):
    array, affine = make_volume()
    files = write_mr_series(tmp_path, array, affine, shuffle_names=True)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-12)
    # RAS to LPS keeps the handedness of this grid, so that slices ascend as they were written
    assert [source.file for source in volume.sources] == files


def test_each_instance_holds_its_slice(tmp_path):
    array, affine = reorient(*make_volume(), (0, 1, 2), (False, False, True))
    write_mr_series(tmp_path, array, affine, shuffle_names=True)
    volume = read_one(tmp_path)
    for index, file in enumerate(source.file for source in volume.sources):
        dataset = pydicom.dcmread(file)
        np.testing.assert_array_equal(dataset.pixel_array.T, volume.array[0, :, :, index])
        left, posterior, superior = dataset.ImagePositionPatient
        np.testing.assert_allclose(volume.affine @ [0, 0, index, 1], [-left, -posterior, superior, 1], atol=1e-9)


def test_a_volume_tells_its_case_modality_and_hashed_uid(tmp_path):
    write_mr_series(tmp_path)
    (series,) = find_series(tmp_path)
    volume = read_series(series)
    assert volume.series_sha256 == hashlib.sha256(series.uid.encode()).hexdigest()
    assert volume.case == f"mr-{volume.series_sha256[:8]}" == series.case
    assert (volume.modality, volume.notices) == ("MR", ())


def test_more_slices_than_a_block_are_read(tmp_path):
    array, affine = make_volume((3, 4, 37))
    write_mr_series(tmp_path, array, affine)
    np.testing.assert_array_equal(read_one(tmp_path).array[0], array)


def test_rescale_is_applied_slice_by_slice(tmp_path):
    array, affine = make_volume()

    def rescale(dataset, index):
        dataset.RescaleSlope, dataset.RescaleIntercept = str(index + 0.5), str(-10 * index)

    write_ct_series(tmp_path, array, affine, edit=rescale)
    k = np.arange(8)
    np.testing.assert_array_equal(read_one(tmp_path).array[0], (array * (k + 0.5) - 10 * k).astype(np.float32))


def test_signed_pixels_keep_their_sign(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path, array - 500, affine)
    np.testing.assert_array_equal(read_one(tmp_path).array[0], array - 500)


def test_compressed_pixels_are_decoded(tmp_path):
    array, affine = make_volume()
    for file in write_mr_series(tmp_path, array, affine):
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    np.testing.assert_array_equal(read_one(tmp_path).array[0], array)


def test_a_tilted_gantry_stays_in_the_affine_as_shear(tmp_path):
    array, affine = make_volume()
    affine[1, 2] += 0.6
    write_ct_series(tmp_path, array, affine)
    volume = read_one(tmp_path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-12)
    assert [notice.code for notice in volume.notices] == ["sheared-slices"]
    assert "0.600 mm sideways" in volume.notices[0].message


def test_copies_of_a_file_are_left_out_and_told(tmp_path):
    files = write_mr_series(tmp_path)
    shutil.copy(files[3], tmp_path / "again")
    volume = read_one(tmp_path)
    assert volume.array.shape == (1, 6, 7, 8)
    assert [notice.code for notice in volume.notices] == ["duplicate-files"]


def test_files_that_differ_under_one_sop_instance_uid_are_refused(tmp_path):
    files = write_mr_series(tmp_path)
    shutil.copy(files[3], tmp_path / "again")
    edit_file(tmp_path / "again", PixelData=bytes(84))
    with pytest.raises(StudyError, match="two files hold different images under one SOPInstanceUID"):
        read_one(tmp_path)


def test_a_missing_slice_is_refused(tmp_path):
    write_mr_series(tmp_path, gap_after=3)
    with pytest.raises(GeometryError, match=r"series mr-\w{8}: gap of 4\.00 mm after slice 3 of 7"):
        read_one(tmp_path)


def test_two_slices_at_one_place_are_refused(tmp_path):
    write_mr_series(tmp_path, duplicate=2)
    with pytest.raises(GeometryError, match="slices 2 and 3 lie at the same place"):
        read_one(tmp_path)


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"PatientID": "OTHER"}, r"2 patients in one series \(7, 1 images\)", "mixed-patients"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 frames of reference in one series", "mixed-frames-of-reference"),
        ({"Modality": "CT"}, "2 modalities in one series", "mixed-modalities"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "2 orientations among 8 images", "mixed-orientations"),
        ({"Rows": 6, "PixelData": bytes(72)}, "2 matrix sizes among 8 images", "mixed-matrix-sizes"),
        ({"PixelSpacing": [1, 1]}, "2 pixel spacings among 8 images", "mixed-pixel-spacings"),
        (
            {"ImagePositionPatient": None},
            r"1 of 8 images \(such as InstanceNumber 3\) have no",
            "no-geometry",
        ),
        ({"ImageOrientationPatient": None}, "have no usable ImageOrientationPatient", "no-geometry"),
        ({"PixelSpacing": [0, 1]}, "have no usable PixelSpacing", "no-geometry"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "pixels are MONOCHROME1 with 1 samples", "not-monochrome2"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "pixels are RGB with 3", "not-monochrome2"),
        ({"PhotometricInterpretation": "ODD"}, "pixels are of an unknown kind", "not-monochrome2"),
        ({"NumberOfFrames": 5}, "multi-frame .*5 frames in a file", "multi-frame"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "Siemens mosaic", "mosaic"),
        ({"Rows": 65535, "Columns": 65535}, "2 matrix sizes", "mixed-matrix-sizes"),
    ],
)
def test_one_image_unlike_the_others_refuses_the_series(tmp_path, change, message, code):
    edit_file(write_mr_series(tmp_path)[2], **change)
    (series,) = find_series(tmp_path)
    with pytest.raises(StudyError, match=message) as caught:
        read_series(series)
    assert caught.value.code == code
    assert "\n" not in series.verdict


def test_a_matrix_that_can_not_fit_is_refused_before_it_is_allocated(tmp_path):
    for file in write_mr_series(tmp_path):
        edit_file(file, Rows=65535, Columns=65535)
    with pytest.raises(StudyError, match="34,358,689,800 voxels claimed"):
        read_one(tmp_path)


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"PixelData": bytes(20)}, "slice 2 of 8 holds 20 bytes of pixels, its header claims 84", "truncated"),
        ({"PixelData": None}, "slice 2 of 8 has no PixelData", "truncated"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "slice 2 of 8 has an unusable RescaleSlope", "bad-rescale"),
        ({"BitsAllocated": 12}, r"slice 2 of 8 can not be read \(\w+\): the file is damaged", "unreadable"),
        ({"ModalityLUTSequence": []}, "slice 2 of 8 has a ModalityLUTSequence", "modality-lut"),
    ],
)
def test_pixels_that_can_not_be_trusted_are_refused(tmp_path, change, message, code):
    edit_file(write_mr_series(tmp_path)[2], **change)
    with pytest.raises(StudyError, match=message) as caught:
        read_one(tmp_path)
    assert caught.value.code == code


def test_a_transfer_syntax_without_decoder_is_named(tmp_path):
    for file in write_mr_series(tmp_path):
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(file)
    with pytest.raises(StudyError, match=r"slice 0 of 8: no installed decoder reads .* JPEG Lossless"):
        read_one(tmp_path)


def test_a_file_that_vanished_or_changed_is_refused(tmp_path):
    files = write_mr_series(tmp_path)
    (series,) = find_series(tmp_path)
    edit_file(files[1], Rows=6, PixelData=bytes(72))
    with pytest.raises(StudyError, match=r"slice 1 of 8 decodes to \(6, 6\)"):
        read_series(series)
    files[0].unlink()
    with pytest.raises(StudyError, match="slice 0 of 8 can not be read"):
        read_series(series)


def test_a_single_slice_takes_its_extent_from_the_thickness_and_says_so(tmp_path):
    array, affine = make_volume((6, 7, 1))
    (file,) = write_mr_series(tmp_path, array, affine)
    volume = read_one(tmp_path)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-12)
    assert [notice.code for notice in volume.notices] == ["single-slice"]
    edit_file(file, SliceThickness="")
    with pytest.raises(GeometryError, match="a single slice without SliceThickness has no extent"):
        read_one(tmp_path)


def test_what_may_mislead_is_told(tmp_path):
    def spoil(dataset, _):
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.LossyImageCompression, dataset.SeriesInstanceUID = "01", ""

    write_ct_series(tmp_path, edit=spoil)
    assert [notice.code for notice in read_one(tmp_path).notices] == ["lossy", "no-rescale", "no-uid"]


def test_pydicom_s_messages_about_values_stay_unsaid(tmp_path, caplog):
    files = write_mr_series(tmp_path, edit=lambda dataset, _: setattr(dataset, "PatientID", "PHICANARY"))
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content.replace(b"PN\x12\0ANONYMOUS^EXAMPLE ", b"PN\x12\0PHICANARY\\\x1b$B\xff\xfe\xfd  "))
    read_one(tmp_path)
    assert "PHICANARY" not in caplog.text


def test_nonsense_outside_the_geometry_does_not_stop_the_reading(tmp_path):
    array, affine = make_volume()
    for file in write_mr_series(tmp_path, array, affine):
        content = file.read_bytes()
        file.write_bytes(content.replace(b"20260102", b"N/A     ").replace(b"101112", b"1,5;?!"))
    np.testing.assert_array_equal(read_one(tmp_path).array[0], array)


@pytest.mark.data
def test_both_acquisitions_of_the_real_study_hold_the_voxels_of_their_source(data_folder):
    source = nibabel.load(data_folder / "msd_hippocampus" / "images" / "hippocampus_003.nii.gz")
    expected = np.rint(source.get_fdata())
    for series in find_series(data_folder / "dicom" / "hippocampus_study")[1:]:
        volume = read_series(series)
        image = canonical(volume.array[0], volume.affine)
        np.testing.assert_array_equal(image.get_fdata(), expected)
        # oblique by about six degrees: the axes are still the closest to RAS
        np.testing.assert_allclose(np.diag(image.affine)[:3], 1, atol=0.02)


def test_the_factory_s_rotation_is_a_rotation():
    affine = make_affine((1, 1, 1), (10, 20, 30))
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(affine) == pytest.approx(1)

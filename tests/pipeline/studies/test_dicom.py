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
    assert volume.array.dtype == np.int16
    assert volume.array.T.flags.c_contiguous  # a slice after the other, as files hold them


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
    with pytest.raises(StudyError, match="slices 3 and 4 lie at the same place"):
        read_one(tmp_path)


def test_images_of_one_uid_in_places_of_their_own_are_read_and_told(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path, array, affine, edit=lambda dataset, _: setattr(dataset, "SOPInstanceUID", "1.2.3"))
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert [notice.code for notice in volume.notices] == ["repeated-uid"]


def test_series_without_uids_are_told_apart_by_number(tmp_path):
    write_mr_series(tmp_path / "a", number=1, edit=lambda dataset, _: setattr(dataset, "SeriesInstanceUID", ""))
    write_mr_series(tmp_path / "b", number=2, edit=lambda dataset, _: setattr(dataset, "SeriesInstanceUID", ""))
    series = find_series(tmp_path)
    assert [one.slices for one in series] == [8, 8]
    assert len({one.case for one in series}) == 2


def test_signedness_that_contradicts_the_codestream_is_told(tmp_path):
    array, affine = make_volume((48, 40, 4))
    for file in write_mr_series(tmp_path, array, affine):
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
        dataset.PixelRepresentation = 1
        dataset.save_as(file)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert [notice.code for notice in volume.notices] == ["signedness"]


def test_a_missing_slice_is_interpolated_between_its_neighbours_and_told(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path, array, affine, gap_after=3)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(
        volume.array[0, :, :, [0, 1, 2, 3, 5, 6, 7]], array.T[[0, 1, 2, 3, 5, 6, 7]].transpose(0, 2, 1)
    )
    np.testing.assert_allclose(volume.array[0, :, :, 4], (array[:, :, 3] + array[:, :, 5]) / 2)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-12)
    assert [notice.code for notice in volume.notices] == ["missing-slice"]
    assert [source.z for source in volume.sources] == [0, 1, 2, 3, 5, 6, 7]


def test_an_uneven_slice_is_interpolated_at_its_true_place(tmp_path):
    ramp = np.broadcast_to(np.arange(8) * 100, (6, 7, 8))
    files = write_mr_series(tmp_path, ramp, make_volume()[1])
    position = pydicom.dcmread(files[3]).ImagePositionPatient
    edit_file(
        files[3], ImagePositionPatient=[*position[:2], position[2] + 0.5], PixelData=np.full(42, 325, "<u2").tobytes()
    )
    volume = read_one(tmp_path)
    np.testing.assert_allclose(
        volume.array[0], ramp, atol=1e-4
    )  # a linear image is told exactly by linear interpolation
    assert [notice.code for notice in volume.notices] == ["uneven-slices"]


def test_a_slice_moved_sideways_is_interpolated_at_its_true_place(tmp_path):
    ramp = np.broadcast_to((np.arange(60)[:, None] * 10 + np.arange(50) * 3)[:, :, None], (60, 50, 6))
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])  # columns to the left, rows to the back: LPS
    files = write_mr_series(tmp_path, ramp, affine)
    dataset = pydicom.dcmread(files[2])
    left, back, up = dataset.ImagePositionPatient
    moved = ramp[:, :, 2] + 10 * 1.5 + 3 * 0.5  # what is there, one and a half columns and half a row further on
    content = np.rint(moved * 2).astype("<u2").T.tobytes()
    position = [left + 1.5, back + 0.5, up]
    edit_file(files[2], ImagePositionPatient=position, PixelData=content, RescaleSlope="0.5", RescaleIntercept="0")
    volume = read_one(tmp_path)
    np.testing.assert_allclose(volume.array[0, 2:, 1:], ramp[2:, 1:], atol=1e-3)
    assert [notice.code for notice in volume.notices] == ["shifted-slice"]


def test_two_slices_at_one_place_are_refused(tmp_path):
    write_mr_series(tmp_path, duplicate=2)
    with pytest.raises(GeometryError, match="slices 2 and 3 lie at the same place"):
        read_one(tmp_path)


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"PatientID": "OTHER"}, r"2 patients in one series \(7, 1 images\)", "mixed-patients"),
        ({"StudyInstanceUID": "1.2.3"}, "2 studies in one series", "mixed-studies"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 frames of reference in one series", "mixed-frames-of-reference"),
        ({"Modality": "CT"}, "2 modalities in one series", "mixed-modalities"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.99, 0.141]}, "one slice at 8.1 degrees", "mixed-orientations"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}, "2 orientations among 8 images", "mixed-orientations"),
        ({"Rows": 6, "PixelData": bytes(72)}, "2 matrix sizes among 8 parallel images", "mixed-matrix-sizes"),
        ({"PixelSpacing": [1, 1]}, "2 pixel spacings among 8 parallel images", "mixed-pixel-spacings"),
        (
            {"ImagePositionPatient": None},
            r"1 of 8 images \(such as InstanceNumber 3\) have no",
            "no-geometry",
        ),
        ({"ImageOrientationPatient": None}, "have no usable ImageOrientationPatient", "no-geometry"),
        ({"PixelSpacing": [0, 1]}, "have no usable PixelSpacing", "no-geometry"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "pixels are RGB with 3", "not-greyscale"),
        ({"PhotometricInterpretation": "ODD"}, "pixels are of an unknown kind", "not-greyscale"),
        ({"Columns": 0}, "of 0 columns and 7 rows", "bad-pixels"),
        ({"NumberOfFrames": 5}, "multi-frame file of 5 frames without a functional group", "multi-frame"),
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
        ({"PixelData": bytes(20)}, r"\(such as InstanceNumber 3\) holds 20 bytes of pixels.* claims 84", "truncated"),
        ({"PixelData": None}, r"\(such as InstanceNumber 3\) has no PixelData", "truncated"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "RescaleSlope is unusable .*InstanceNumber 3", "bad-rescale"),
        ({"BitsAllocated": 12}, "BitsAllocated 12, BitsStored 16 and HighBit 15 contradict", "bad-pixels"),
        ({"HighBit": 3}, "BitsStored 16 and HighBit 3 contradict", "bad-pixels"),
        ({"PixelData": bytes(168)}, "168 bytes of pixels, its header claims 84: more images", "bad-pixels"),
        ({"ModalityLUTSequence": []}, "a ModalityLUTSequence maps the pixels", "modality-lut"),
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
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(file)
    with pytest.raises(StudyError, match=r"slice 0 of 8: no installed decoder reads .* MPEG2"):
        read_one(tmp_path)


def test_a_decoder_that_panics_refuses_the_series(tmp_path, monkeypatch):
    class PanicException(BaseException):  # as decoders written in Rust name theirs
        pass

    def panic(*_, **__):
        raise PanicException("index out of bounds")

    for file in write_mr_series(tmp_path):
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    monkeypatch.setattr(pydicom.pixels, "pixel_array", panic)
    with pytest.raises(StudyError, match=r"slice 0 of 8: no installed decoder reads .*RLE Lossless \(PanicException\)"):
        read_one(tmp_path)


def test_a_file_that_vanished_or_changed_is_refused(tmp_path):
    files = write_mr_series(tmp_path)
    (series,) = find_series(tmp_path)
    edit_file(files[1], Rows=6, PixelData=bytes(72))
    with pytest.raises(StudyError, match="slice 1 of 8 ends before its last pixel"):
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
    (notice,) = read_one(tmp_path).notices
    assert "without SliceThickness; its extent of 1 mm is a guess" in notice.message


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


def test_an_image_without_frame_of_reference_is_told(tmp_path):
    edit_file(write_mr_series(tmp_path)[2], FrameOfReferenceUID="")
    assert [notice.code for notice in read_one(tmp_path).notices] == ["no-frame-of-reference"]


def test_two_birth_dates_are_two_patients(tmp_path):
    files = write_mr_series(tmp_path, edit=lambda dataset, _: setattr(dataset, "PatientBirthDate", "19500101"))
    edit_file(files[0], PatientBirthDate="")
    assert read_one(tmp_path).notices == ()
    edit_file(files[1], PatientBirthDate="19600101")
    with pytest.raises(GeometryError, match=r"2 birth dates in one series \(6, 1 images\)"):
        read_one(tmp_path)


def test_nonsense_outside_the_geometry_does_not_stop_the_reading(tmp_path):
    array, affine = make_volume()
    for file in write_mr_series(tmp_path, array, affine):
        content = file.read_bytes()
        file.write_bytes(content.replace(b"20260102", b"N/A     ").replace(b"101112", b"1,5;?!"))
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert [notice.code for notice in volume.notices] == ["bad-values"]


def test_orientations_in_one_series_are_volumes_of_their_own(tmp_path):
    files = write_mr_series(tmp_path)
    for file in files[5:]:
        edit_file(file, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    series = find_series(tmp_path)
    assert [one.part for one in series] == ["orientation 1 of 2", "orientation 2 of 2"]
    assert [one.case[-2:] for one in series] == ["-1", "-2"]


def test_monochrome1_keeps_its_values_and_is_told(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path, array, affine, edit=lambda d, _: setattr(d, "PhotometricInterpretation", "MONOCHROME1"))
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert [notice.code for notice in volume.notices] == ["monochrome1"]


@pytest.mark.parametrize("signed", [False, True])
def test_bits_that_do_not_count_are_left_out(tmp_path, signed):
    array, affine = make_volume()
    array = array - 500 if signed else array

    def overlay(dataset, _):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, int(signed)
        stored = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = ((stored & 0x0FFF) | 0x5000).astype("<u2").tobytes()

    write_mr_series(tmp_path, array, affine, edit=overlay)
    np.testing.assert_array_equal(read_one(tmp_path).array[0], array)


def test_values_beyond_16_bits_are_kept_exactly(tmp_path):
    array, affine = make_volume()

    def shift(dataset, _):
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "32000"

    write_mr_series(tmp_path, array, affine, edit=shift)
    volume = read_one(tmp_path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], array + 32000.0)


def test_padding_is_told_and_named(tmp_path):
    array, affine = make_volume()
    array[:2] = 0

    def pad(dataset, _):
        dataset.add_new("PixelPaddingValue", "US", 0)

    write_ct_series(tmp_path, array, affine, edit=pad)
    volume = read_one(tmp_path)
    assert volume.padding == -1024
    assert [notice.code for notice in volume.notices] == ["padding"]
    assert f"{int((array == 0).sum())} voxels" in volume.notices[0].message


@pytest.mark.data
def test_both_acquisitions_of_the_real_study_hold_the_voxels_of_their_source(data_folder):
    source = nibabel.load(data_folder / "msd_hippocampus" / "images" / "hippocampus_003.nii.gz")
    expected = np.rint(source.get_fdata())
    for series in find_series(data_folder / "dicom" / "hippocampus_study")[3:]:
        volume = read_series(series)
        image = canonical(volume.array[0], volume.affine)
        np.testing.assert_array_equal(image.get_fdata(), expected)
        # oblique by about six degrees: the axes are still the closest to RAS
        np.testing.assert_allclose(np.diag(image.affine)[:3], 1, atol=0.02)


def test_the_factory_s_rotation_is_a_rotation():
    affine = make_affine((1, 1, 1), (10, 20, 30))
    np.testing.assert_allclose(affine[:3, :3].T @ affine[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(affine) == pytest.approx(1)

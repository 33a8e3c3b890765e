"""The reader that MONAI's loaders use: the same volumes, the same refusals."""

import numpy as np
import pytest
from factories import make_affine, make_volume, write_mr_series, write_nifti
from scanloom.pipeline.errors import GeometryError, StudyError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and MONAI warn of their own affairs

NAME = "scanloom.pipeline.studies.reader.StudyReader"


def load(path, reader=NAME, **kwargs):
    from monai.transforms import LoadImaged

    return LoadImaged(keys=["image"], reader=reader, image_only=True, **kwargs)({"image": path})["image"]


@pytest.mark.parametrize("channel_first", [False, True])
def test_the_loader_gives_a_channel_and_the_affine_in_ras(tmp_path, channel_first):
    array, affine = make_volume(degrees=(10, 20, 30))
    image = load(write_nifti(tmp_path / "x.nii.gz", array, affine), ensure_channel_first=channel_first)
    np.testing.assert_array_equal(image.numpy()[0], array)
    np.testing.assert_allclose(image.affine.numpy(), affine, atol=1e-5)
    assert image.shape == (1, 6, 7, 8)
    assert image.meta["space"] == "RAS"


def test_a_dicom_folder_and_a_file_of_one_scan_load_alike(tmp_path):
    array, affine = make_volume()
    write_mr_series(tmp_path / "dicom", array, affine, shuffle_names=True)
    one, other = load(tmp_path / "dicom"), load(write_nifti(tmp_path / "x.nii", array, affine))
    np.testing.assert_array_equal(one.numpy(), other.numpy())
    np.testing.assert_allclose(one.affine.numpy(), other.affine.numpy(), atol=1e-6)


def test_labels_come_through_exactly(tmp_path):
    labels = np.random.default_rng(0).choice([0, 1, 2, 250], (5, 6, 7)).astype(np.uint8)
    np.testing.assert_array_equal(load(write_nifti(tmp_path / "l.nii.gz", labels, make_affine())).numpy()[0], labels)


def test_a_refused_study_is_not_given_to_another_reader(tmp_path):
    write_mr_series(tmp_path, duplicate=2)
    with pytest.raises(StudyError, match="lie at the same place"):
        load(tmp_path)


def test_a_series_is_chosen_by_rule_or_name(tmp_path):
    from scanloom.pipeline.studies.reader import StudyReader

    write_mr_series(tmp_path / "a", number=1)
    write_mr_series(tmp_path / "b", make_volume((6, 7, 3))[0], number=2)
    assert load(tmp_path, StudyReader(min_slices=4)).shape == (1, 6, 7, 8)
    assert load(tmp_path, StudyReader(series="2")).shape == (1, 6, 7, 3)
    with pytest.raises(StudyError, match="2 series found, 2 fit"):
        load(tmp_path, StudyReader)


def test_several_files_of_one_grid_become_channels(tmp_path):
    array, affine = make_volume()
    one = write_nifti(tmp_path / "t1.nii", array, affine)
    other = write_nifti(tmp_path / "t2.nii", array + 1, affine)
    np.testing.assert_array_equal(load([one, other]).numpy(), np.stack([array, array + 1]))
    moved = write_nifti(tmp_path / "t3.nii", array, affine + np.eye(4)[:, [1, 2, 0, 3]])
    with pytest.raises(GeometryError, match="cases t1 and t3 lie on different grids"):
        load([one, moved])


def test_a_bundle_config_may_name_the_reader(tmp_path):
    from monai.bundle import ConfigParser

    file = write_nifti(tmp_path / "x.nii", *make_volume())
    loader = {"_target_": "LoadImaged", "keys": ["image"], "reader": NAME}
    chosen = {"_target_": "LoadImaged", "keys": ["image"], "reader": {"_target_": NAME, "min_slices": 2}}
    parser = ConfigParser({"loader": loader, "chosen": chosen})
    for name in ("loader", "chosen"):
        assert parser.get_parsed_content(name)({"image": file})["image"].shape == (1, 6, 7, 8)


def test_the_array_is_contiguous_as_transforms_expect_it(tmp_path):
    from scanloom.pipeline.studies.reader import StudyReader

    write_mr_series(tmp_path)
    reader = StudyReader()
    array, _ = reader.get_data(reader.read(tmp_path))
    assert array.flags.c_contiguous

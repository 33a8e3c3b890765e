"""The look at a dataset: each fault planted, found and told by its file, and all of them together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_affine, write_nifti
from scanloom.pipeline.errors import DatasetError, UsageError
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.dataset import dataset_digest, read_dataset
from scanloom.pipeline.training.dataset_check import DatasetCheck, LabelledImage, check_dataset
from scanloom.pipeline.training.dataset_faults import ignored_label, takes_slices

TORTURE = Path(__file__).resolve().parents[4] / "shared" / "torture" / "cases"
LABELS = {1: "head", 2: "body"}
SHAPE = (6, 7, 8)


def write_case(folder: Path, name: str, seed: int = 0, layout: str = "decathlon") -> None:
    """An image of noise, and a label map that holds 0, 1 and 2."""
    random = np.random.default_rng([seed, *name.encode()])
    channel = "_0000" if layout == "nnunet" else ""
    write_nifti(
        folder / f"imagesTr/{name}{channel}.nii.gz", random.normal(size=SHAPE).astype(np.float32), make_affine()
    )
    label = np.zeros(SHAPE, np.uint8)
    label[1:3, 1:3, 1:3], label[4, 4, 4] = 1, 2
    write_nifti(folder / f"labelsTr/{name}.nii.gz", label, make_affine())


def write_dataset(folder: Path, names: str = "abc", layout: str = "decathlon", **words: Any) -> Path:
    """A dataset without faults; `words` go into dataset.json."""
    for name in names:
        write_case(folder, name, layout=layout)
    listed = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    own = {"training": listed} if layout == "decathlon" else {"file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**own, **words}))
    return folder


def check(folder: Path, labels: Mapping[int, str] | None = LABELS, **options: Any) -> DatasetCheck:
    return check_dataset(folder, labels, read_scan, **options)


def faults(folder: Path) -> list[str]:
    return [str(fault) for fault in check(folder).faults]


def label_map(value: float, kind: Any = np.float32) -> np.ndarray:
    array = np.zeros(SHAPE, kind)
    array[2, 2, 2], array[3, 3, 3] = 1, value
    return array


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
def test_a_good_dataset_has_no_fault_and_the_digest_of_its_files(tmp_path: Path, layout: str) -> None:
    found = check(write_dataset(tmp_path, layout=layout))
    found.require_faultless()
    assert (found.faults, found.warnings) == ((), ())
    assert [case.name for case in found.cases] == ["a", "b", "c"]
    assert found.digest == dataset_digest(read_dataset(tmp_path))
    assert found.label_cases == {0: 3, 1: 3, 2: 3}


def test_every_missing_file_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for name in ("imagesTr/a", "labelsTr/a", "labelsTr/c"):
        (tmp_path / f"{name}.nii.gz").unlink()
    assert faults(tmp_path) == [
        f"{name}.nii.gz: is missing. Put the {name[:5]} there, or take the case out of the dataset."
        for name in ("imagesTr/a", "labelsTr/a", "labelsTr/c")
    ]
    assert check(tmp_path).digest == ""


def test_an_nnunet_image_without_label_and_the_reverse_are_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, layout="nnunet")
    (tmp_path / "labelsTr/a.nii.gz").unlink()
    (tmp_path / "imagesTr/b_0000.nii.gz").unlink()
    assert [line.partition(".")[0] for line in faults(tmp_path)] == ["labelsTr/a", "imagesTr/b_0000"]


def test_a_file_that_can_not_be_read_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    content = (tmp_path / "imagesTr/a.nii.gz").read_bytes()
    (tmp_path / "imagesTr/a.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "labelsTr/b.nii.gz").write_text("voxels")
    first, second = faults(tmp_path)
    assert first.startswith("imagesTr/a.nii.gz: ") and second.startswith("labelsTr/b.nii.gz: ")


def test_an_error_that_the_reader_did_not_foresee_is_told_as_the_file_s(tmp_path: Path) -> None:
    def read(path: Path) -> Any:
        raise RuntimeError("of the patient")

    found = check_dataset(write_dataset(tmp_path, "a"), LABELS, read)
    assert [str(fault) for fault in found.faults] == [
        f"{kind}sTr/a.nii.gz: can not be read (RuntimeError). Write it again." for kind in ("image", "label")
    ]


def test_a_4d_image_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_nifti(tmp_path / "imagesTr/b.nii.gz", np.zeros((*SHAPE, 2), np.int16), make_affine())
    (line,) = faults(tmp_path)
    assert line.startswith("imagesTr/b.nii.gz: an array of 6 x 7 x 8 x 2, not one 3D volume.")


def test_a_single_slice_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for kind in ("images", "labels"):
        write_nifti(tmp_path / f"{kind}Tr/b.nii.gz", np.eye(9, dtype=np.uint8)[..., np.newaxis], make_affine())
    (line,) = faults(tmp_path)
    assert line.startswith("imagesTr/b.nii.gz: 9 x 9 x 1 voxels: a single slice")


def test_another_grid_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_nifti(tmp_path / "labelsTr/a.nii.gz", label_map(2), make_affine(origin=(0, 0, 0)))
    write_nifti(tmp_path / "labelsTr/b.nii.gz", label_map(2)[1:], make_affine())
    first, second = faults(tmp_path)
    assert first.startswith("labelsTr/a.nii.gz: lies up to 37.4 mm off its image")
    assert second.startswith("labelsTr/b.nii.gz: 5 x 7 x 8 voxels, its image has 6 x 7 x 8.")


@pytest.mark.parametrize(
    ("value", "words"), [(1.5, "holds 1.5:"), (-1, "holds -1:"), (3, "holds 3: the labels are 0 background, 1 head")]
)
def test_a_value_that_is_no_label_is_told(tmp_path: Path, value: float, words: str) -> None:
    write_dataset(tmp_path)
    write_nifti(tmp_path / "labelsTr/a.nii.gz", label_map(value), make_affine())
    (line,) = faults(tmp_path)
    assert line.startswith(f"labelsTr/a.nii.gz: {words}")


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    image[0, 0, :2] = np.nan, np.inf
    write_nifti(tmp_path / "imagesTr/c.nii.gz", image, make_affine())
    (line,) = faults(tmp_path)
    assert line.startswith("imagesTr/c.nii.gz: 1 NaN and 1 infinite of 336 voxels.")
    assert not check(tmp_path).warnings  # told once


def test_a_constant_image_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_nifti(tmp_path / "imagesTr/c.nii.gz", np.full(SHAPE, 3, np.int16), make_affine())
    (line,) = faults(tmp_path)
    assert line.startswith("imagesTr/c.nii.gz: every voxel is 3")


def test_an_image_that_is_its_own_label_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, "a")
    one = {"image": "imagesTr/a.nii.gz", "label": "imagesTr/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [one]}))
    (line,) = faults(tmp_path)
    assert line.startswith("imagesTr/a.nii.gz: is listed as image and as label.")


def test_one_name_for_several_images_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, "ab")
    write_case(tmp_path / "site2", "a", seed=1)
    files = [("imagesTr/a", "labelsTr/a"), ("site2/imagesTr/a", "site2/labelsTr/a")]
    listed = [{"image": f"{image}.nii.gz", "label": f"{label}.nii.gz"} for image, label in files]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    assert faults(tmp_path) == [
        "dataset.json: 2 images are called a: imagesTr/a.nii.gz, site2/imagesTr/a.nii.gz. "
        "Give each a file name of its own."
    ]


def test_every_image_of_several_channels_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, layout="nnunet")
    for name in "ac":
        shutil.copy(tmp_path / f"imagesTr/{name}_0000.nii.gz", tmp_path / f"imagesTr/{name}_0001.nii.gz")
    assert [line.partition(":")[0] for line in faults(tmp_path)] == ["imagesTr/a_0000.nii.gz", "imagesTr/c_0000.nii.gz"]


def test_cases_numbered_like_channels_are_cases(tmp_path: Path) -> None:
    for name in ("la_0000", "la_0001"):
        write_case(tmp_path, name)
    listed = [
        {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in ("la_0000", "la_0001")
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    assert faults(tmp_path) == [] and len(read_dataset(tmp_path)) == 2


def test_regions_and_labels_that_the_bundle_does_not_know_are_told(tmp_path: Path) -> None:
    labels = {"background": 0, "head": 1, "body": 2, "tail": 3, "whole": [1, 2, 3]}
    region, tail = faults(write_dataset(tmp_path, layout="nnunet", labels=labels))
    assert region.startswith("dataset.json: label whole is a region of [1, 2, 3]")
    assert tail.startswith("dataset.json: names 1 label that the bundle does not know: 3 tail.")


def test_an_ignored_label_is_known_where_the_bundle_ignores_it(tmp_path: Path) -> None:
    labels = {"background": 0, "head": 1, "body": 2, "ignore": 3}
    write_dataset(tmp_path, layout="nnunet", labels=labels)
    write_nifti(tmp_path / "labelsTr/a.nii.gz", label_map(3), make_affine())
    found = check(tmp_path, ignored=3)
    assert (found.faults, found.description.ignore) == ((), 3)
    assert check(tmp_path, None).faults == ()
    assert faults(tmp_path) == [
        "dataset.json: label 3 is to be ignored, and the bundle's loss ignores none. "
        "Put an IgnoreLabel around its loss: docs/training.md."
    ]
    assert "ignores label 255." in str(check(tmp_path, ignored=255).faults[0])


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        ({"_target_": "monai.losses.DiceCELoss"}, None),
        ({"_target_": "scanloom.pipeline.training.losses.IgnoreLabel"}, 255),
        ({"_target_": "scanloom.pipeline.training.losses.IgnoreLabel", "ignore_label": 3}, 3),
        ({"_target_": "scanloom.pipeline.training.losses.IgnoreLabel", "ignore_label": "@nobody"}, 7),
    ],
)
def test_the_ignored_label_is_read_off_the_config(loss: dict[str, Any], ignored: int | None) -> None:
    outer = {"_target_": "monai.losses.DeepSupervisionLoss", "loss": loss}
    assert ignored_label({"steps": [{"keys": "image"}], "loss": outer, "nobody": 7}) == ignored


def test_labels_are_those_of_the_dataset_where_no_bundle_names_them(tmp_path: Path) -> None:
    write_dataset(tmp_path, labels={"0": "background", "1": "head"})
    lines = [str(fault) for fault in check(tmp_path, None).faults]
    assert len(lines) == 3 and "holds 2: the labels are 0 background, 1 head." in lines[0]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    write_dataset(tmp_path, "abcd")
    (tmp_path / "imagesTr/a.nii.gz").unlink()
    write_nifti(tmp_path / "labelsTr/a.nii.gz", label_map(0.999), make_affine())
    write_nifti(tmp_path / "imagesTr/b.nii.gz", np.full(SHAPE, np.nan, np.float32), make_affine(origin=(0, 0, 0)))
    write_nifti(tmp_path / "labelsTr/d.nii.gz", label_map(9), make_affine())
    with pytest.raises(
        DatasetError, match=r": 5 faults in 5 files\. Mend them, or take the cases out:\n  imag"
    ) as info:
        check(tmp_path).require_faultless()
    assert info.value.exit_status == 3
    files = [line.partition(":")[0] for line in info.value.faults]
    assert files == [
        f"{name}.nii.gz" for name in ("imagesTr/a", "labelsTr/a", "imagesTr/b", "labelsTr/b", "labelsTr/d")
    ]
    assert [f"  {line}" for line in info.value.faults] == str(info.value).splitlines()[1:]


def test_of_very_many_faults_fifty_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    listed = [{"image": f"imagesTr/{number}.nii.gz", "label": f"labelsTr/{number}.nii.gz"} for number in range(40)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed}))
    with pytest.raises(DatasetError, match=r"80 faults in 80 files") as info:
        check(tmp_path).require_faultless()
    lines = str(info.value).splitlines()
    assert (len(lines), lines[-1], len(info.value.faults)) == (52, "  and 30 more", 80)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dataset at .*: it holds no dataset\.json"):
        check(tmp_path)


def test_a_label_map_of_nothing_is_a_warning(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for name in "ab":
        write_nifti(tmp_path / f"labelsTr/{name}.nii.gz", np.zeros(SHAPE, np.uint8), make_affine())
    found = check(tmp_path)
    assert found.faults == ()
    assert found.warnings == (
        "labelsTr/a.nii.gz: labels nothing: all of it is background. So it is with 1 other file.",
    )


def test_a_label_that_no_case_holds_is_a_warning(tmp_path: Path) -> None:
    found = check(write_dataset(tmp_path), {**LABELS, 3: "tail"})
    assert (found.faults, found.warnings) == ((), ("no case holds label 3 tail.",))


def test_other_names_and_numbers_in_the_description_are_warnings(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "Head", "2": "foot"}
    found = check(write_dataset(tmp_path, labels=labels, numTraining=7))
    assert found.warnings == (
        "dataset.json: label 2 is foot, the bundle calls it body. Check that they mean the same.",
        "dataset.json: numTraining is 7, but 3 cases are listed.",
    )


def test_an_image_that_two_cases_share_is_a_warning(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    shutil.copy(tmp_path / "imagesTr/a.nii.gz", tmp_path / "imagesTr/b.nii.gz")
    assert check(tmp_path).warnings == ("imagesTr/b.nii.gz: is the image of case a too. Leave one out.",)


def test_stray_files_are_warnings(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for name in ("imagesTr/._a.nii.gz", "labelsTr/.DS_Store", "imagesTr/d.nii.gz", "labelsTr/notes.txt"):
        (tmp_path / name).write_text("stray")
    assert check(tmp_path).warnings == (
        "imagesTr/._a.nii.gz, labelsTr/.DS_Store: 2 files that are hidden, as macOS leaves them; delete them.",
        "imagesTr/d.nii.gz, labelsTr/notes.txt: 2 files that no case names; they are not trained on.",
    )


def test_what_the_reader_could_not_verify_is_a_warning(tmp_path: Path) -> None:
    write_dataset(tmp_path)

    def contradict(header: Any) -> None:
        header.set_qform(make_affine(origin=(0, 0, 0)), 1)

    for kind in ("images", "labels"):
        write_nifti(tmp_path / f"{kind}Tr/a.nii.gz", label_map(2), make_affine(), contradict)
    found = check(tmp_path)
    assert found.faults == ()
    (line,) = found.warnings
    assert line.startswith("imagesTr/a.nii.gz: ") and line.endswith("So it is with 1 other file.")


def test_cases_without_faults_are_given_out_while_they_are_in_memory(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_nifti(tmp_path / "labelsTr/b.nii.gz", label_map(9), make_affine())
    seen: list[LabelledImage] = []
    check(tmp_path, visit=seen.append)
    assert [each.name for each in seen] == ["a", "c"]
    assert seen[0].image.spatial_shape == seen[0].labels.shape == SHAPE
    assert seen[0].voxels == {0: 327, 1: 8, 2: 1}


def test_each_file_is_read_once_and_progress_is_told(tmp_path: Path) -> None:
    read: list[str] = []
    told: list[float | None] = []

    def counting(path: Path) -> Any:
        read.append(path.name)
        return read_scan(path)

    check_dataset(write_dataset(tmp_path), LABELS, counting, report=lambda line, done=None: told.append(done))
    assert sorted(read) == sorted(["a.nii.gz", "b.nii.gz", "c.nii.gz"] * 2)
    assert told == pytest.approx([0, 1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("n25_label_grid_mismatch", r"label\.nii\.gz: lies up to .* mm off its image"),
        ("n26_label_float_nonint", r"label\.nii\.gz: holds 0\.999, 1\.5 and -1: labels are whole numbers from 0\."),
    ],
)
def test_the_torture_set_s_pairs_are_refused(tmp_path: Path, case: str, words: str) -> None:
    if not TORTURE.is_dir():
        pytest.skip(f"needs the torture set: no folder {TORTURE}")
    shutil.copytree(TORTURE / case, tmp_path / case)
    (tmp_path / case / "dataset.json").write_text(
        json.dumps({"training": [{"image": "img.nii.gz", "label": "label.nii.gz"}]})
    )
    found = check(tmp_path / case)
    with pytest.raises(DatasetError, match=words):
        found.require_faultless()


def test_a_training_tells_of_all_missing_files_before_its_first_step(tmp_path: Path) -> None:
    from scanloom.pipeline.bundle import find_bundle
    from scanloom.pipeline.training.options import TrainOptions
    from scanloom.pipeline.training.train import train

    write_dataset(tmp_path / "data")
    for name in ("imagesTr/a", "labelsTr/c"):
        (tmp_path / "data" / f"{name}.nii.gz").unlink()
    options = TrainOptions(tmp_path / "data", tmp_path / "RUN", folds=3, device="cpu")
    with pytest.raises(DatasetError, match="2 faults in 2 files"):
        train(find_bundle("hippocampus_mr_unet"), options, lambda line, done=None: None, read_scan)


@pytest.mark.data
def test_the_real_data_is_without_faults(data_folder: Path) -> None:
    found = check(data_folder / "msd_hippocampus", {1: "anterior", 2: "posterior"})
    assert (found.faults, found.warnings, len(found.cases)) == ((), (), 208)


def test_a_single_slice_is_a_fault_unless_the_network_takes_slices(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, "a")
    slice_ = np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32)
    write_nifti(folder / "imagesTr/a.nii.gz", slice_, make_affine())
    write_nifti(folder / "labelsTr/a.nii.gz", (slice_ > 0).astype(np.uint8), make_affine())
    assert "a single slice, not a volume" in str(check(folder, {1: "one"}).faults[0])
    assert check(folder, {1: "one"}, slices=True).faults == ()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"network_data_format": {"inputs": {"image": {"spatial_shape": ["n", "n"]}}}}, True),
        ({"network_data_format": {"inputs": {"image": {"spatial_shape": ["n", "n", 32]}}}}, False),
        ({"network_data_format": {"inputs": {"image": {"spatial_shape": 5}}}}, False),
        ({}, False),
    ],
)
def test_a_network_takes_slices_where_its_metadata_give_the_image_two_axes(
    metadata: dict[str, Any], expected: bool
) -> None:
    assert takes_slices(metadata) == expected

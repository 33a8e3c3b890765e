"""Datasets on disk: the two layouts, what is refused, nnU-Net's folds, the digest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.training.dataset import dataset_digest, read_dataset, require_fold, split_dataset
from sklearn.model_selection import KFold


def write(path: Path, text: str = "voxels") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_description(folder: Path, description: Any) -> None:
    write(folder / "dataset.json", json.dumps(description))


def write_decathlon(folder: Path, names: list[str], contents: Callable[[str], str] = lambda name: name) -> Path:
    """A Decathlon dataset of empty files, listed in the order given."""
    for name in names:
        write(folder / f"imagesTr/{name}.nii.gz", contents(name))
        write(folder / f"labelsTr/{name}.nii.gz", "label " + contents(name))
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    write_description(folder, {"training": listed})
    return folder


def write_nnunet(folder: Path, names: list[str], ending: str = ".nii.gz") -> Path:
    for name in names:
        write(folder / f"imagesTr/{name}_0000{ending}")
        write(folder / f"labelsTr/{name}{ending}")
    write_description(folder, {"channel_names": {"0": "MR"}, "labels": {"background": 0}, "file_ending": ending})
    return folder


def test_a_decathlon_folder_gives_its_cases_sorted_by_name(tmp_path: Path) -> None:
    cases = read_dataset(write_decathlon(tmp_path, ["case_10", "case_2", "case_1"]))
    assert [case.name for case in cases] == ["case_1", "case_10", "case_2"]
    assert cases[0].image == tmp_path / "imagesTr/case_1.nii.gz"
    assert cases[0].label == tmp_path / "labelsTr/case_1.nii.gz"


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_an_nnunet_folder_gives_the_same_cases(tmp_path: Path, ending: str) -> None:
    cases = read_dataset(write_nnunet(tmp_path, ["b", "a_0000_x"], ending))
    assert [(case.name, case.image.name, case.label.name) for case in cases] == [
        ("a_0000_x", f"a_0000_x_0000{ending}", f"a_0000_x{ending}"),
        ("b", f"b_0000{ending}", f"b{ending}"),
    ]


def test_the_dot_files_of_macos_are_no_cases(tmp_path: Path) -> None:
    write(write_nnunet(tmp_path, ["a"]) / "labelsTr/._a.nii.gz")
    assert [case.name for case in read_dataset(tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("file", "name"), [("a.nii.gz", "a"), ("a.nii", "a"), ("a.1.nii.gz", "a.1"), ("a.b.nrrd", "a.b"), ("a.mha", "a")]
)
def test_a_case_is_called_after_its_file_without_the_format(tmp_path: Path, file: str, name: str) -> None:
    write(tmp_path / file)
    write_description(tmp_path, {"training": [{"image": file, "label": file}]})
    assert [case.name for case in read_dataset(tmp_path)] == [name]


def test_images_of_one_name_in_different_folders_are_refused(tmp_path: Path) -> None:
    names = ["site1/case", "site2/case", "site1/other"]
    with pytest.raises(UsageError, match=r"1 case names stand for several images, the first is case\. Give every"):
        read_dataset(write_decathlon(tmp_path, names))


def test_a_folder_without_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dataset at .*: it holds no dataset\.json\. Pass a Medical Decathlon"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("text", ["{", "\udcff"])
def test_a_description_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"dataset\.json can not be read: .*It must be a JSON object"):
        read_dataset(tmp_path)


def test_a_description_that_is_a_list_is_refused(tmp_path: Path) -> None:
    write_description(tmp_path, [])
    with pytest.raises(UsageError, match=r"dataset\.json holds no JSON object"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("listed", [["a.nii.gz"], [{"image": "a.nii.gz"}], [{"image": ["a"], "label": "a"}], [None]])
def test_entries_that_are_no_pairs_are_refused(tmp_path: Path, listed: list[Any]) -> None:
    write_description(tmp_path, {"training": listed})
    with pytest.raises(UsageError, match=r"must be a list of \{.*\}\. Mend the entries that are not"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("description", [{"training": []}, {}])
def test_a_dataset_of_no_case_is_refused(tmp_path: Path, description: dict[str, Any]) -> None:
    write_description(tmp_path, description)
    with pytest.raises(UsageError, match=r"it lists no labelled image\. Fill `training`"):
        read_dataset(tmp_path)


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write_decathlon(tmp_path, ["a", "b"])
    (tmp_path / "imagesTr/b.nii.gz").unlink()
    (tmp_path / "labelsTr/b.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"2 files are missing, the first is imagesTr/b\.nii\.gz\. Put them there"):
        read_dataset(tmp_path)


def test_a_missing_file_outside_the_dataset_is_named_in_full(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "a.nii.gz"
    write_description(tmp_path / "dataset", {"training": [{"image": str(elsewhere), "label": str(elsewhere)}]})
    with pytest.raises(UsageError, match=rf"2 files are missing, the first is {elsewhere}"):
        read_dataset(tmp_path / "dataset")


def test_an_nnunet_label_without_image_is_missing(tmp_path: Path) -> None:
    write(write_nnunet(tmp_path, ["a"]) / "labelsTr/b.nii.gz")
    with pytest.raises(UsageError, match=r"1 files are missing, the first is imagesTr/b_0000\.nii\.gz"):
        read_dataset(tmp_path)


def test_an_nnunet_dataset_of_several_channels_is_refused(tmp_path: Path) -> None:
    write(write_nnunet(tmp_path, ["a"]) / "imagesTr/a_0001.nii.gz")
    with pytest.raises(UsageError, match=r"case a has several channels; .*Keep only the files that end in _0000"):
        read_dataset(tmp_path)


def test_folds_are_those_of_nnunet(tmp_path: Path) -> None:
    names = [f"case_{number}" for number in range(23)]
    write_decathlon(tmp_path, names)
    expected = KFold(n_splits=5, shuffle=True, random_state=12345).split(np.sort(names))
    for fold, (training, validation) in enumerate(expected):
        split = split_dataset(tmp_path, fold)
        assert [item["case"] for item in split.training] == [sorted(names)[index] for index in training]
        assert [item["case"] for item in split.validation] == [sorted(names)[index] for index in validation]


def test_folds_do_not_depend_on_the_order_of_the_list(tmp_path: Path) -> None:
    names = [f"case_{number}" for number in range(7)]
    one = split_dataset(write_decathlon(tmp_path / "one", names), 1)
    other = split_dataset(write_decathlon(tmp_path / "other", names[::-1]), 1)
    assert [item["case"] for item in one.validation] == [item["case"] for item in other.validation]


def test_without_a_fold_every_case_trains(tmp_path: Path) -> None:
    write_decathlon(tmp_path, ["a", "b", "c", "d", "e"])
    split = split_dataset(tmp_path, None)
    assert [item["case"] for item in split.training] == ["a", "b", "c", "d", "e"]
    assert split.validation == split_dataset(tmp_path, 0).validation


@pytest.mark.parametrize("fold", [-1, 3])
def test_a_fold_that_is_not_there_is_refused(tmp_path: Path, fold: int) -> None:
    write_decathlon(tmp_path, ["a", "b", "c"])
    with pytest.raises(UsageError, match=rf"--fold {fold}: there are folds 0 to 2\. Choose one of them"):
        split_dataset(tmp_path, fold, folds=3)


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_more_folds_than_cases_or_fewer_than_two_are_refused(tmp_path: Path, folds: int) -> None:
    write_decathlon(tmp_path, ["a", "b", "c"])
    with pytest.raises(UsageError, match=rf"--folds {folds}: the dataset has 3 cases\. Choose between 2 and that"):
        split_dataset(tmp_path, 0, folds)


def test_the_digest_depends_on_contents_not_on_paths(tmp_path: Path) -> None:
    names = ["a", "b"]
    one = dataset_digest(read_dataset(write_decathlon(tmp_path / "one", names)))
    moved = dataset_digest(read_dataset(write_decathlon(tmp_path / "PHICANARY", names)))
    listed = write_description(tmp_path / "one", {"name": "other words", **_description(tmp_path / "one")})
    assert listed is None and dataset_digest(read_dataset(tmp_path / "one")) == one == moved
    changed = dataset_digest(read_dataset(write_decathlon(tmp_path / "two", names, lambda name: name + "!")))
    assert changed != one and len(one) == 64


def test_the_digest_changes_when_labels_swap_cases(tmp_path: Path) -> None:
    folder = write_decathlon(tmp_path, ["a", "b"])
    before = dataset_digest(read_dataset(folder))
    labels = [folder / f"labelsTr/{name}.nii.gz" for name in "ab"]
    first, second = (path.read_bytes() for path in labels)
    labels[0].write_bytes(second)
    labels[1].write_bytes(first)
    assert dataset_digest(read_dataset(folder)) != before


def test_reading_a_dataset_imports_no_torch() -> None:
    code = "import sys, scanloom.pipeline.training.dataset; print('torch' in sys.modules, 'monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.data
def test_fold_0_of_the_real_data_holds_out_42_cases(data_folder: Path) -> None:
    split = split_dataset(data_folder / "msd_hippocampus", 0)
    assert (len(split.training), len(split.validation)) == (166, 42)
    assert {item["case"] for item in split.training}.isdisjoint(item["case"] for item in split.validation)


def _description(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "dataset.json").read_text()))


def test_nnunets_own_list_of_files_is_read(tmp_path: Path) -> None:
    write(tmp_path / "pool/a.nrrd")
    write(tmp_path / "masks/a.nrrd")
    entry = {"images": ["pool/a.nrrd"], "label": "masks/a.nrrd"}
    write_description(tmp_path, {"dataset": {"case_a": entry}, "file_ending": ".nrrd"})
    (case,) = read_dataset(tmp_path)
    assert (case.name, case.image, case.label) == ("case_a", tmp_path / "pool/a.nrrd", tmp_path / "masks/a.nrrd")


@pytest.mark.parametrize("entry", [{"images": [], "label": "a"}, {"label": "a"}, ["a"], None])
def test_entries_of_nnunets_list_that_are_no_pairs_are_refused(tmp_path: Path, entry: Any) -> None:
    write_description(tmp_path, {"dataset": {"a": entry}})
    with pytest.raises(UsageError, match=r"`dataset` in dataset\.json must map each case to .*Mend the entries"):
        read_dataset(tmp_path)


def test_an_nnunet_image_without_label_is_missing_its_label(tmp_path: Path) -> None:
    write(write_nnunet(tmp_path, ["a"]) / "imagesTr/b_0000.nii.gz")
    with pytest.raises(UsageError, match=r"1 files are missing, the first is labelsTr/b\.nii\.gz"):
        read_dataset(tmp_path)


def test_the_fold_is_refused_before_any_file_is_looked_for(tmp_path: Path) -> None:
    write_decathlon(tmp_path, ["a", "b", "c"])
    (tmp_path / "imagesTr/b.nii.gz").unlink()
    require_fold(tmp_path, 1, folds=3)
    require_fold(tmp_path, None, folds=3)
    with pytest.raises(UsageError, match="--fold 3: there are folds 0 to 2"):
        require_fold(tmp_path, 3, folds=3)


def write_splits(folder: Path, blocks: list[list[str]], names: list[str]) -> Path:
    splits = [{"train": [name for name in names if name not in block], "val": block} for block in blocks]
    write(folder / "splits_final.json", json.dumps(splits))
    return folder


def test_a_datasets_own_folds_are_taken_where_it_has_some(tmp_path: Path) -> None:
    names = [f"slice{number}" for number in range(6)]
    folder = write_splits(write_decathlon(tmp_path, names), [names[:3], names[3:]], names)
    split = split_dataset(folder, 1, folds=2)
    assert [case["case"] for case in split.validation] == names[3:]
    assert [case["case"] for case in split.training] == names[:3]


def test_with_its_own_folds_all_cases_train_and_the_first_fold_validates_where_none_is_held_out(
    tmp_path: Path,
) -> None:
    names = [f"slice{number}" for number in range(4)]
    folder = write_splits(write_decathlon(tmp_path, names), [names[:2], names[2:]], names)
    split = split_dataset(folder, None, folds=2)
    assert [case["case"] for case in split.training] == names
    assert [case["case"] for case in split.validation] == names[:2]


def test_another_number_of_folds_than_the_datasets_own_is_refused(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    folder = write_splits(write_decathlon(tmp_path, names), [["c"]], names)
    assert [case["case"] for case in split_dataset(folder, 0, folds=1).validation] == ["c"]
    with pytest.raises(UsageError, match=r"--folds 5: the dataset's own splits_final.json has 1. Pass --folds 1"):
        split_dataset(folder, 0)


@pytest.mark.parametrize(
    "splits",
    [
        [{"train": ["a"], "val": ["b"]}],
        [{"train": ["a", "b"], "val": ["d"]}],
        [{"train": ["a", "b"], "val": ["c"]}, {"train": ["a", "b"], "val": ["c"]}],
        [{"train": ["a", "b", "c"], "val": []}],
    ],
)
def test_folds_of_its_own_that_leave_cases_out_or_hold_one_out_twice_are_refused(tmp_path: Path, splits: Any) -> None:
    folder = write_decathlon(tmp_path, ["a", "b", "c"])
    write(folder / "splits_final.json", json.dumps(splits))
    with pytest.raises(UsageError, match=r"splits_final.json: fold \d must hold out cases that no other fold does"):
        read_dataset(folder)


@pytest.mark.parametrize("text", ["{", "{}[", "[1]", '{"train": []}'])
def test_folds_of_its_own_that_are_no_list_of_folds_are_refused(tmp_path: Path, text: str) -> None:
    folder = write_decathlon(tmp_path, ["a", "b"])
    write(folder / "splits_final.json", text)
    with pytest.raises(UsageError, match=r"splits_final.json can not be read. It must be a list of"):
        read_dataset(folder)


def test_the_digest_knows_which_folds_a_dataset_gives_its_cases(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    folder = write_decathlon(tmp_path, names)
    drawn = dataset_digest(read_dataset(folder))
    halves = dataset_digest(read_dataset(write_splits(folder, [["a", "b"], ["c", "d"]], names)))
    others = dataset_digest(read_dataset(write_splits(folder, [["a", "c"], ["b", "d"]], names)))
    assert len({drawn, halves, others}) == 3

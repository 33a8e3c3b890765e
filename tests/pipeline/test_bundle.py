"""Bundles on disk: found by name or folder, and refused in one line that says what is wrong."""

import hashlib
import json

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import (
    SHIPPED,
    Bundle,
    Code,
    SeriesRule,
    find_bundle,
    running_bundle_root,
    shipped_bundles,
)
from scanloom.pipeline.errors import BundleError

PART = {
    "value": 1,
    "name": "part",
    "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
    "type": {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"},
    "color": [1, 2, 3],
}


def bundle_of(tmp_path, **metadata):
    return Bundle(tmp_path, {"name": "mine", "version": "1.0.0"} | metadata)


def test_a_shipped_bundle_is_found_by_its_name():
    assert "hippocampus_mr_unet" in shipped_bundles()
    bundle = find_bundle("hippocampus_mr_unet")
    assert bundle.folder == SHIPPED / "hippocampus_mr_unet"
    assert bundle.name == "hippocampus_mr_unet"


def test_a_folder_is_found_by_its_path_absolute_or_not(tmp_path, monkeypatch):
    make_bundle(tmp_path / "here" / "it is")
    monkeypatch.chdir(tmp_path / "here")
    for path in (tmp_path / "here" / "it is", str(tmp_path / "here" / "it is"), "it is", "../here/it is"):
        bundle = find_bundle(path)
        assert bundle.folder == (tmp_path / "here" / "it is").resolve()
        assert (bundle.name, bundle.version) == ("tiny", "0.0.1")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_bundle(tmp_path / "mine")
    assert find_bundle("~/mine").folder == (tmp_path / "mine").resolve()


def test_a_folder_of_the_working_folder_comes_before_a_shipped_one(tmp_path, monkeypatch):
    make_bundle(tmp_path / "hippocampus_mr_unet")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("hippocampus_mr_unet").name == "tiny"


@pytest.mark.parametrize("name", ["no_such_bundle", "/no/such/folder"])
def test_a_bundle_that_is_not_there_is_refused_with_the_names_of_the_shipped(name):
    with pytest.raises(BundleError, match=f"no bundle '{name}': neither .* shipped .*hippocampus_mr_unet") as caught:
        find_bundle(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "can not be read: .*It must be a JSON object"),
        ("[1, 2]", "holds a list. It must be a JSON object"),
        (b"\xff\xfe", "can not be read: "),
    ],
)
def test_metadata_that_is_no_json_object_is_refused(tmp_path, text, words):
    path = tmp_path / "configs" / "metadata.json"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BundleError, match=rf"bundle metadata .*metadata\.json {words}"):
        find_bundle(tmp_path)


def test_a_bundle_without_a_name_has_its_folders(tmp_path):
    assert Bundle(tmp_path / "folder", {}).name == "folder"


def test_a_bundle_without_a_version_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"bundle mine: configs/metadata\.json has no version\. Add one"):
        _ = Bundle(tmp_path, {"name": "mine"}).version


def test_labels_are_in_the_order_of_their_values_with_their_codes(tmp_path):
    modifier = {"value": "255549009", "scheme": "SCT", "meaning": "Anterior"}
    classes = [PART | {"value": 7, "name": "seven"}, PART | {"modifier": modifier, "color": [230, 159, 0]}]
    first, second = bundle_of(tmp_path, label_classes=classes).labels
    assert (first.value, first.name, first.color) == (1, "part", (230, 159, 0))
    assert first.type == Code("5366008", "SCT", "Hippocampus")
    assert first.category == Code("91723000", "SCT", "Anatomical Structure")
    assert first.modifier == Code("255549009", "SCT", "Anterior")
    assert (second.value, second.name, second.modifier) == (7, "seven", None)


@pytest.mark.parametrize(
    "classes",
    [
        None,
        "part",
        ["part"],
        [{key: value for key, value in PART.items() if key != "type"}],
        [PART | {"value": "one"}],
        [PART | {"color": [1, 2]}],
        [PART | {"category": "Anatomical Structure"}],
    ],
)
def test_unusable_label_classes_are_refused(tmp_path, classes):
    words = r"bundle mine: label_classes in configs/metadata\.json is missing or incomplete \(.*Give each label value"
    with pytest.raises(BundleError, match=words):
        _ = bundle_of(tmp_path, label_classes=classes).labels
    with pytest.raises(BundleError, match=words):
        _ = bundle_of(tmp_path).labels


@pytest.mark.parametrize("values", [(0, 1), (-1, 2), (1, 1)])
def test_labels_of_background_or_of_one_value_are_refused(tmp_path, values):
    classes = [PART | {"value": value} for value in values]
    with pytest.raises(
        BundleError, match=r"bundle mine: label_classes .* values .*; each must be 1 or more and its own"
    ):
        _ = bundle_of(tmp_path, label_classes=classes).labels


def test_the_rule_for_series_is_the_metadatas_or_takes_any(tmp_path):
    assert bundle_of(tmp_path).series_rule == SeriesRule(None, 1)
    rule = {"modality": "MR", "min_slices": 8}
    assert bundle_of(tmp_path, series_selection=rule).series_rule == SeriesRule("MR", 8)
    assert bundle_of(tmp_path, series_selection={"modality": "CT"}).series_rule == SeriesRule("CT", 1)
    rule = {"spacing_mm": [0.5, 2], "keywords": ["T1", "mprage"]}
    assert bundle_of(tmp_path, series_selection=rule).series_rule == SeriesRule(None, 1, (0.5, 2), ("t1", "mprage"))


@pytest.mark.parametrize("rule", [None, "MR", {"min_slices": "some"}, {"min_slices": None}])
def test_an_unusable_rule_for_series_is_refused(tmp_path, rule):
    with pytest.raises(BundleError, match=r"bundle mine: series_selection in configs/metadata\.json .*min_slices"):
        _ = bundle_of(tmp_path, series_selection=rule).series_rule


def test_the_digest_of_the_weights_is_their_sha256(tmp_path):
    bundle = make_bundle(tmp_path)
    assert bundle.weights_sha256 == hashlib.sha256(bundle.weights.read_bytes()).hexdigest()


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"bundle mine: no readable weights at .*model\.pt \(No such file or directory"
    ):
        _ = bundle_of(tmp_path).weights_sha256


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json"])
def test_a_config_is_found_with_each_suffix(tmp_path, suffix):
    (tmp_path / "configs").mkdir()
    path = tmp_path / "configs" / f"train{suffix}"
    path.touch()
    assert bundle_of(tmp_path).config("train") == path


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"bundle mine: no train\.yaml or train\.json in .*configs\. Add one"):
        bundle_of(tmp_path).config("train")


@pytest.mark.parametrize("words", [["--config_file", "{}"], ["--config_file={}"], ["run", "--x", "1", "--file={}"]])
def test_the_running_bundle_is_the_one_whose_config_was_named(tmp_path, monkeypatch, words):
    bundle = make_bundle(tmp_path / "one of mine")
    monkeypatch.chdir(tmp_path)
    config = bundle.config("inference").relative_to(tmp_path.resolve())
    monkeypatch.setattr("sys.argv", ["monai.bundle", *(word.format(config) for word in words)])
    assert running_bundle_root() == bundle.folder


def test_the_running_bundle_is_the_working_folder_where_no_config_was_named(tmp_path, monkeypatch):
    (tmp_path / "dataset.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "dataset.json", "--config_file", "configs/gone.yaml", "--name", "x" * 5000]
    monkeypatch.setattr("sys.argv", ["monai.bundle", *words])
    assert running_bundle_root() == tmp_path


def test_what_bf16_costs_is_the_difference_of_what_was_measured(tmp_path):
    assert bundle_of(tmp_path).bf16_dice_cost is None
    assert bundle_of(tmp_path, measured_dice={"fp32": 0.9}).bf16_dice_cost is None
    assert bundle_of(tmp_path, measured_dice={"fp32": 0.9, "bf16": 0.88}).bf16_dice_cost == pytest.approx(0.02)


@pytest.mark.parametrize("measured", [{"fp32": "good", "bf16": 0.9}, [0.9, 0.9], 0.9, {"fp32": None, "bf16": 0.9}])
def test_a_measured_dice_that_is_no_number_is_refused(tmp_path, measured):
    with pytest.raises(
        BundleError, match=r"bundle mine: measured_dice in configs/metadata\.json is .*Make it an object"
    ):
        _ = bundle_of(tmp_path, measured_dice=measured).bf16_dice_cost

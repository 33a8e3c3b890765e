"""New bundles from data: whole, of one mind, refused with a reason; trained and used as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from factories import make_affine, write_nifti
from monai.bundle import ConfigParser
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.errors import BundleError, DatasetError, PipelineError, UsageError
from scanloom.pipeline.fingerprint import Fingerprint
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training import new_bundle, plan
from scanloom.pipeline.training.new_bundle import NewBundle, PlannedBundle, make_bundle

LIKE = "hippocampus_mr_unet"
CONFIGS = ("train", "inference", "evaluate")
SHAPE, SPACING = (40, 36, 8), (0.8, 0.8, 5.0)
TINY = replace(plan.BUDGETS["cpu"], values=1.6e5, features=4, most_features=8)


def write_ct(folder: Path, cases: int = 5, **words: Any) -> Path:
    """An nnU-Net dataset of thick CT slices: a ball labelled 1 with a core labelled 2, in air."""
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    for number in range(cases):
        random = np.random.default_rng(number)
        distance = np.linalg.norm(voxels * SPACING - np.array([16, 14, 18]) - random.normal(size=3), axis=-1)
        label = np.where(distance < 4, 2, np.where(distance < 9, 1, 0)).astype(np.uint8)
        hounsfield = np.choose(label, [-900, 120, 60]) + random.normal(0, 20, SHAPE)
        affine = make_affine(SPACING, origin=random.normal(0, 50, 3))
        write_nifti(folder / f"imagesTr/ct{number}_0000.nii.gz", hounsfield.astype(np.int16), affine)
        write_nifti(folder / f"labelsTr/ct{number}.nii.gz", label, affine)
    labels = {"background": 0, "liver": 1, "tumour (core)": 2}
    own = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**own, **words}))
    return folder


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct(tmp_path_factory.mktemp("ct"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's budget is small enough that a patch is a part of a scan."""
    monkeypatch.setitem(plan.BUDGETS, "cpu", TINY)


def make(data: Path, folder: Path, **changes: Any) -> PlannedBundle:
    return make_bundle(
        NewBundle(**{"name": "new", "folder": folder, "like": find_bundle(LIKE), "dataset": data} | changes),
        read_scan,
    )


def config(bundle: Bundle, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(bundle.config(name).read_text(encoding="utf-8")))


def components(contents: Any, name: str) -> list[dict[str, Any]]:
    """Every mapping that names the class."""
    found = []
    if isinstance(contents, dict):
        found = [contents] if str(contents.get("_target_")).rpartition(".")[2] == name else []
        contents = list(contents.values())
    if isinstance(contents, list):
        found += [each for value in contents for each in components(value, name)]
    return found


def template_copy(folder: Path, change: Callable[[dict[str, dict[str, Any]]], None]) -> Bundle:
    """The template with its train and inference configs changed."""
    shutil.copytree(find_bundle(LIKE).folder, folder, ignore=shutil.ignore_patterns("models"))
    configs = {name: config(find_bundle(folder), name) for name in CONFIGS}
    change(configs)
    for name, contents in configs.items():
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(contents, sort_keys=False))
    return find_bundle(folder)


def test_every_config_is_set_to_the_plan(ct: Path, tmp_path: Path) -> None:
    made = make(ct, tmp_path / "new")
    configs = {name: config(made.bundle, name) for name in CONFIGS}
    networks = [each["network_def"] for each in configs.values()]
    assert networks[0] == networks[1] == networks[2]
    assert networks[0]["out_channels"] == 3 and networks[0]["strides"] == [[2, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert networks[0]["kernel_sizes"][0] == [3, 3, 1] and networks[0]["norm"] == "batch"
    for each in configs.values():
        assert {tuple(step["pixdim"]) for step in components(each, "Spacingd")} == {SPACING}
        assert not components(each, "NormalizeIntensityd")
        (scale,) = components(each, "ScaleIntensityRanged")
        assert scale["clip"] and scale["a_min"] < 60 < scale["a_max"] and scale["b_min"] < 0 < scale["b_max"]
    train, inference = configs["train"], configs["inference"]
    assert (train["patch_size"], train["batch_size"]) == ([*made.plan.patch_size], made.plan.batch_size)
    assert (train["roi_size"], train["epochs"]) == (train["patch_size"], made.plan.epochs)
    assert train["label_names"] == ["liver", "tumour core"]
    assert {step["to_onehot"] for step in components(train, "AsDiscreted")} == {3}
    (deformation,) = components(train, "RandSpatialDeformationd")
    (as_before,) = components(config(find_bundle(LIKE), "train"), "RandSpatialDeformationd")
    assert deformation["rotation"] == [0, 0, as_before["rotation"]] and deformation["displacement"][2] == 0
    assert deformation["flip_axes"] == inference["inferer"]["mirror_axes"] == [0]
    assert inference["inferer"] == configs["evaluate"]["inferer"]


def test_intensities_come_out_as_the_plan_says(ct: Path, tmp_path: Path) -> None:
    made = make(ct, tmp_path / "new")
    how = made.plan.normalisation
    (step,) = components(config(made.bundle, "inference"), "ScaleIntensityRanged")
    scaled = ConfigParser({"step": step}).get_parsed_content("step")({"image": torch.tensor([-900.0, 100.0, 9000.0])})
    expected = (np.clip([-900.0, 100.0, 9000.0], how.low, how.high) - how.mean) / how.std
    np.testing.assert_allclose(scaled["image"], expected, rtol=1e-4)


def test_it_says_what_it_is_and_that_nothing_is_measured(ct: Path, tmp_path: Path) -> None:
    made = make(ct, tmp_path / "new")
    metadata = made.bundle.metadata
    assert (metadata["name"], made.bundle.version, made.bundle.series_rule.modality) == ("new", "0.1.0", "CT")
    assert [(label.value, label.name, label.type.scheme) for label in made.bundle.labels] == [
        (1, "liver", "99SCANLOOM"),
        (2, "tumour core", "99SCANLOOM"),
    ]
    assert not {"training", "measured_dice"} & set(metadata)
    assert Fingerprint.from_json(metadata["fingerprint"]).to_json() == made.fingerprint.to_json()
    assert metadata["plan"]["patch_size"] == [*made.plan.patch_size]
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 3
    card = (made.bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert "nothing about it is\nmeasured" in card and "tumour core" in card and "0.8 x 0.8 x 5 mm" in card
    head = made.bundle.config("train").read_text(encoding="utf-8").splitlines()[0]
    assert head == "# The train config of new, planned by `scanloom bundle init` from 5 cases."
    assert not made.bundle.weights.exists() and (made.bundle.folder / "LICENSE").is_file()
    text = "".join(path.read_text(encoding="utf-8") for path in made.bundle.folder.rglob("*") if path.is_file())
    assert str(ct) not in text and "anterior" not in text


def test_the_crops_of_the_hippocampus_are_planned_as_they_are(crops: Path, tmp_path: Path) -> None:
    made = make(crops, tmp_path / "new")
    train = config(made.bundle, "train")
    assert train["patch_size"] == [20, 20, 20] and not components(train, "RandCropByLabelClassesd")
    assert made.bundle.metadata["label_classes"][0]["name"] == "label 1"
    assert components(train, "NormalizeIntensityd") == [{"_target_": "NormalizeIntensityd", "keys": "image"}]


@pytest.mark.usefixtures("tiny")
def test_crops_are_centred_on_labels_where_a_patch_is_a_part_of_a_scan(ct: Path, tmp_path: Path) -> None:
    made = make(ct, tmp_path / "new")
    assert made.plan.oversampled
    parser = ConfigParser(config(made.bundle, "train"))
    crop = parser.get_parsed_content("train#random_crop")
    label = torch.zeros(1, *SHAPE)
    label[0, 20, 20, 4] = 2
    item = {"image": torch.rand(1, *SHAPE), "label": label}
    centred = 0
    for seed in range(60):
        data: Any = dict(item)
        for step in crop:
            if hasattr(step, "set_random_state"):
                step.set_random_state(seed=seed)
            data = step(data)
        assert set(data[0]) == {"image", "label"}
        assert tuple(data[0]["image"].shape[1:]) == made.plan.patch_size
        centred += bool(data[0]["label"].any())
    assert centred > 0.3 * 60


def test_without_seams_only_where_the_norm_allows_it(ct: Path, tmp_path: Path) -> None:
    def change(configs: dict[str, dict[str, Any]]) -> None:
        for contents in configs.values():
            contents["network_def"]["norm"] = "instance"

    like = template_copy(tmp_path / "like", change)
    made = make(ct, tmp_path / "new", like=like)
    inferer = config(made.bundle, "inference")["inferer"]
    assert (inferer["mode"], inferer["roi_size"]) == ("gaussian", [*made.plan.patch_size])
    assert inferer["overlap"] == 0.5
    assert config(make(ct, tmp_path / "other").bundle, "inference")["inferer"]["mode"] == "seamless"


def test_a_template_of_json_configs_and_other_windows_will_do(ct: Path, tmp_path: Path) -> None:
    def change(configs: dict[str, dict[str, Any]]) -> None:
        for name in ("inference", "evaluate"):
            configs[name]["inferer"] = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]}
        for contents in configs.values():
            contents["network_def"]["depth"] = 9

    like = template_copy(tmp_path / "like", change)
    path = like.config("inference")
    path.with_suffix(".json").write_text(json.dumps(config(like, "inference")))
    path.unlink()
    made = make(ct, tmp_path / "new", like=like)
    inference = json.loads(made.bundle.config("inference").read_text())
    assert inference["inferer"]["roi_size"] == [*made.plan.patch_size]
    assert inference["network_def"]["depth"] == len(made.plan.strides)


def test_what_does_not_fit_into_memory_is_not_cached(ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plan.BUDGETS, "cpu", replace(plan.BUDGETS["cpu"], cache_voxels=20_000))
    made = make(ct, tmp_path / "new")
    caches = components(config(made.bundle, "train"), "CacheDataset")
    assert made.plan.cache_rate < 1 and {each["cache_rate"] for each in caches} == {made.plan.cache_rate}


def drop(name: str, key: str) -> Callable[[dict[str, dict[str, Any]]], None]:
    return lambda configs: configs[name].pop(key)


def put(key: str, value: Any) -> Callable[[dict[str, dict[str, Any]]], None]:
    return lambda configs: [each["network_def"].update({key: value}) for each in configs.values()]  # type: ignore[func-returns-value, return-value]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("train", "patch_size"), "its train config has no patch_size at its top"),
        (drop("train", "preprocessing_steps"), "its train config has no Spacingd"),
        (drop("inference", "inferer"), "its inference config has no StreamingInferer or SlidingWindowInferer"),
        (drop("inference", "network_def"), r"network_def in its inference config is no scanloom\.networks\.UNet"),
        (put("_target_", "monai.networks.nets.UNet"), r"is no scanloom\.networks\.UNet, which is what can be planned"),
        (put("spatial_dims", 2), 'is not 3D with padding "same"'),
        (put("out_channels", 1), "has one output channel"),
        (put("norm", "no such"), r"the planned network_def can not be built: norm is 'no such'"),
        (lambda configs: configs["evaluate"]["network_def"].update(norm="none"), "do not agree about network_def"),
    ],
)
def test_a_template_that_lacks_something_is_refused(
    ct: Path, tmp_path: Path, change: Callable[[dict[str, dict[str, Any]]], None], words: str
) -> None:
    like = template_copy(tmp_path / "like", change)
    with pytest.raises(BundleError, match=words):
        make(ct, tmp_path / "new", like=like)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["like"]


def test_a_template_whose_config_is_no_yaml_is_refused(ct: Path, tmp_path: Path) -> None:
    like = template_copy(tmp_path / "like", lambda configs: None)
    like.config("train").write_text("a: [")
    with pytest.raises(BundleError, match=r"train\.yaml can not be read: no YAML"):
        make(ct, tmp_path / "new", like=like)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, "is no name for a bundle"),
        ({"name": LIKE}, "is a bundle that comes with scanloom"),
        ({"budget": "much"}, "--budget much: there is no such budget. Use one of gpu, cpu"),
        ({"dataset": Path("nowhere")}, "no dataset at nowhere"),
    ],
)
def test_what_can_not_be_is_refused(ct: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make(ct, tmp_path / "new", **changes)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(ct: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(UsageError, match=r"new is there already\. Choose another folder"):
        make(ct, tmp_path / "new")
    assert not any((tmp_path / "new").iterdir())


def test_a_dataset_with_faults_is_refused_with_all_of_them(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct")
    (tmp_path / "ct/labelsTr/ct0.nii.gz").unlink()
    write_nifti(tmp_path / "ct/labelsTr/ct1.nii.gz", np.full(SHAPE, 7, np.uint8), make_affine(SPACING))
    with pytest.raises(DatasetError, match="3 faults in 2 files"):
        make(tmp_path / "ct", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "liver": 1, "core": 2, "ignore": 3}, "label 3 is to be ignored, which is not planned for"),
        ({"background": 0, "liver": 1, "core": 2, "far": 4}, r"its labels are 1, 2, 4; they must be 1, 2, … without"),
    ],
)
def test_labels_that_can_not_be_planned_for_are_refused(tmp_path: Path, labels: dict[str, int], words: str) -> None:
    write_ct(tmp_path / "ct", 2, labels=labels)
    with pytest.raises(DatasetError, match=words):
        make(tmp_path / "ct", tmp_path / "new")


def test_a_dataset_without_a_labelled_voxel_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", 1)
    image = read_scan(tmp_path / "ct/imagesTr/ct0_0000.nii.gz")
    write_nifti(tmp_path / "ct/labelsTr/ct0.nii.gz", np.zeros(SHAPE, np.uint8), image.affine)
    with pytest.raises(DatasetError, match="no voxel of any case is labelled"):
        make(tmp_path / "ct", tmp_path / "new")


def test_nothing_is_left_where_writing_fails(ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(bundle: Bundle) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_bundle, "_require_whole", full)
    with pytest.raises(PipelineError, match=r"new: can not be written \(No space left on device\)\. Free space"):
        make(ct, tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_warnings_of_the_data_are_handed_on(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", 2, numTraining=9)
    assert make(tmp_path / "ct", tmp_path / "new").warnings == (
        "dataset.json: numTraining is 9, but 2 cases are listed.",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
def test_it_trains_and_predicts_with_no_editing(
    ct: Path, crops: Path, own_store: Path, tmp_path: Path, layout: str
) -> None:
    from scanloom.pipeline.calibration import held_out_facts
    from scanloom.pipeline.inference.predictor import Predictor
    from scanloom.pipeline.training.options import TrainOptions
    from scanloom.pipeline.training.train import train

    dataset = ct if layout == "nnunet" else crops
    made = make(dataset, tmp_path / "new")
    options = TrainOptions(dataset, own_store / "RUN", folds=2, epochs=1, device="cpu")
    trained = train(made.bundle, options, lambda line, done=None: None, read_scan, held_out_facts)
    fingerprint = Fingerprint.from_json(trained.metadata["fingerprint"])
    assert 0 < fingerprint.cases < made.fingerprint.cases  # those trained on
    assert fingerprint.held_out is not None
    assert 0 < fingerprint.held_out.cases <= made.fingerprint.cases - fingerprint.cases
    scan = read_scan(next(path for path in sorted(dataset.glob("image*/*")) if path.is_file()))
    labels = Predictor(trained, "cpu")(scan)
    assert labels.shape == scan.spatial_shape and set(np.unique(labels)) <= {0, 1, 2}

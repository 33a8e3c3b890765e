"""A good bundle passes; each planted fault is found, in a line that names file, key, value and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import make_bundle
from planting import change_config, change_metadata, save_weights
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle, shipped_bundles
from scanloom.pipeline.bundling.check import check_bundle
from scanloom.pipeline.bundling.check_running import STEPS

META, TRAIN, INFERENCE, EVALUATE = (
    f"configs/{name}" for name in ("metadata.json", "train.yaml", "inference.yaml", "evaluate.yaml")
)
STRANGER = "it is a stranger"
Plant = Callable[[Path], Any]


@dataclass
class Fault:
    """A fault to plant, and the words that the line about it has."""

    plant: Plant
    file: str
    key: str
    value: str
    remedy: str
    kind: str = "fault"


def metadata(key: str, value: Any = None, **options: bool) -> Plant:
    return lambda folder: change_metadata(folder, key, value, **options)


def config(name: str, key: str, value: Any = None, **options: bool) -> Plant:
    return lambda folder: change_config(folder, name, key, value, **options)


def weights(edit: Callable[[dict[str, Any]], Any]) -> Plant:
    def plant(folder: Path) -> None:
        save_weights(folder, torch.load(folder / "models" / "model.pt", weights_only=True), edit)

    return plant


def write(file: str, text: str) -> Plant:
    return lambda folder: (folder / file).write_text(text, encoding="utf-8")


def remove(file: str) -> Plant:
    return lambda folder: (folder / file).unlink()


def bomb() -> str:
    """Nine to the ninth entries in nine lines."""
    rows = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        rows.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(rows)


CONFIGS = ("train", "inference", "evaluate")
PRED = "network_data_format#outputs#pred"
READ = {
    "a required key is missing": Fault(metadata("authors", drop=True), META, "authors", "(missing)", "Add who made it"),
    "text is empty": Fault(metadata("task", " "), META, "task", '" "', "Make it what the network does"),
    "a number for text": Fault(metadata("version", 1), META, "version", "1", 'such as "0.1.0"'),
    "another schema": Fault(
        metadata("schema", "https://example.org/x.json"), META, "schema", "example.org", "meta_schema_20240725.json"
    ),
    "the changelog forgets the version": Fault(
        metadata("version", "0.3.0"), META, "changelog#0.3.0", "(missing)", "Add a line for 0.3.0"
    ),
    "a package is not installed": Fault(
        metadata("required_packages_version#no-such-package", "1.0"),
        META,
        "required_packages_version#no-such-package",
        '"1.0"',
        'pip install "no-such-package>=1.0"',
    ),
    "an installed version is older": Fault(
        metadata("monai_version", "99.10.0"), META, "monai_version", '"99.10.0"', "pip install", "warning"
    ),
    "a version that is none": Fault(
        metadata("numpy_version", "1.x.y"), META, "numpy_version", '"1.x.y"', "Write the version of numpy"
    ),
    "a shape in another variable": Fault(
        metadata("network_data_format#inputs#image#spatial_shape", ["m", "n", "n"]),
        META,
        "network_data_format#inputs#image#spatial_shape#0",
        '"m"',
        "an expression in n and p",
    ),
    "the output has another name": Fault(
        metadata("network_data_format#outputs", {"logits": {}}),
        META,
        "network_data_format#outputs#pred",
        "(missing)",
        "Add an object with type, format",
    ),
    "a label without a code": Fault(
        metadata("label_classes#0#type", drop=True), META, "label_classes#0#type", "(missing)", "Add a code"
    ),
    "a code that DICOM can not hold": Fault(
        metadata("label_classes#0#type#value", "x" * 17),
        META,
        "label_classes#0#type#value",
        "xxx",
        "1 to 16 characters",
    ),
    "two labels of one value": Fault(
        metadata("label_classes#1#value", 1), META, "label_classes#1#value", "1", "a value of its own"
    ),
    "two labels of one name": Fault(
        metadata("label_classes#1#name", "Anterior"), META, "label_classes#1#name", '"Anterior"', "a name of its own"
    ),
    "a channel without a label": Fault(
        metadata("label_classes#1", drop=True), META, "label_classes", "(missing)", "Add the label of channel 2"
    ),
    "a label beyond the channels": Fault(
        metadata("label_classes#1#value", 7), META, "label_classes#1#value", "7", "Number the labels as the channels"
    ),
    "channel and label have other names": Fault(
        metadata(f"{PRED}#channel_def#2", "tail"), META, f"{PRED}#channel_def#2", '"tail"', "Use one name"
    ),
    "label names of the training differ": Fault(
        config("train", "label_names", ["head", "tail"]), TRAIN, "label_names", '["head", "tail"]', "in the order"
    ),
    "a series rule that can not be read": Fault(
        metadata("series_selection#spacing_mm", [1]), META, "series_selection", "spacing_mm", "Make it an object"
    ),
    "the weights are others": Fault(
        metadata("training#weights_sha256", "0" * 64), META, "training#weights_sha256", "000", "Restore models/model.pt"
    ),
    "a digest that is none": Fault(
        metadata("training#dataset_sha256", "abc"), META, "training#dataset_sha256", '"abc"', "64 hex digits"
    ),
    "no weights": Fault(remove("models/model.pt"), "models/model.pt", "", "(missing)", "Train the bundle"),
    "weights that are no weights": Fault(
        write("models/model.pt", "text"), "models/model.pt", "", "", "Train the bundle again"
    ),
    "weights with NaN": Fault(
        weights(lambda state: state["heads.0.bias"].fill_(float("nan"))),
        "models/model.pt",
        "heads.0.bias",
        "NaN",
        "Train the bundle again",
    ),
    "no model card": Fault(remove("docs/README.md"), "docs/README.md", "", "(missing)", "Write what the bundle is for"),
    "an empty model card": Fault(write("docs/README.md", "\n"), "docs/README.md", "", "(empty)", "Write what"),
    "no licence": Fault(remove("LICENSE"), "LICENSE", "", "(missing)", "Add the licence's text"),
    "no inference config": Fault(remove(INFERENCE), INFERENCE, "", "(missing)", "Add it"),
    "no train config": Fault(remove(TRAIN), TRAIN, "", "(missing)", "only to predict", "warning"),
    "a config that is no YAML": Fault(write(INFERENCE, "a: [1"), INFERENCE, "", "", "Make it a mapping"),
    "a config that is a list": Fault(write(TRAIN, "- a\n"), TRAIN, "", "", "Make it a mapping"),
    "a key twice": Fault(write(EVALUATE, "a: 1\na: 2\n"), EVALUATE, "", "", "Make it a mapping"),
    "a required id is missing": Fault(
        config("inference", "evaluator", drop=True),
        INFERENCE,
        "evaluator",
        "(missing)",
        "Add it: inference / evaluation",
    ),
    "predict's id is missing": Fault(
        config("inference", "preprocessing", drop=True), INFERENCE, "preprocessing", "(missing)", "Add it"
    ),
    "an optional id has another name": Fault(
        config("inference", "evaluator#postprocessing", "@handlers"),
        INFERENCE,
        "evaluator#postprocessing",
        '"@handlers"',
        "Name it postprocessing",
    ),
    "a handler that MONAI's check fails at": Fault(
        config("train", "train#handlers#1", "@ema"),
        TRAIN,
        "train#handlers#1",
        '"@ema"',
        "Write it as _target_: '$lambda: @ema'",
        "warning",
    ),
    "a reference leads nowhere": Fault(
        config("inference", "dataloader#dataset", "@datasett"),
        INFERENCE,
        "dataloader#dataset",
        '"@datasett"',
        "Did you mean @dataset?",
    ),
    "a reference in an expression leads nowhere": Fault(
        config("train", "network", "$@network_deff.to(@device)"),
        TRAIN,
        "network",
        '"$@network_deff.to(@device)"',
        "Did you mean @network_def?",
    ),
    "references in a circle": Fault(
        config("evaluate", "inferer", "@evaluator#inferer"),
        EVALUATE,
        "evaluator#inferer",
        '"@inferer"',
        "Let one of them not refer to the next",
    ),
    "a macro leads nowhere": Fault(
        config("inference", "output_dir", "%nothing"), INFERENCE, "output_dir", '"%nothing"', "Add it"
    ),
    "a macro out of the bundle": Fault(
        config("inference", "output_dir", "%../other.json#x"), INFERENCE, "output_dir", "other.json", "into this config"
    ),
    "a component that MONAI has not": Fault(
        config("inference", "preprocessing#transforms#1#_target_", "Orientationdd"),
        INFERENCE,
        "preprocessing#transforms#1#_target_",
        '"Orientationdd"',
        "Did you mean Orientationd?",
    ),
    "a component of a package that is not there": Fault(
        config("inference", "handlers#0#_target_", "no_such_package.Handler"),
        INFERENCE,
        "handlers#0#_target_",
        '"no_such_package.Handler"',
        "Install the package that holds no_such_package",
    ),
    "a component with a typing mistake": Fault(
        config("evaluate", "network_def#_target_", "scanloom.networks.UNett"),
        EVALUATE,
        "network_def#_target_",
        '"scanloom.networks.UNett"',
        "Did you mean scanloom.networks.UNet?",
    ),
    "an argument that it does not take": Fault(
        config("inference", "inferer#roi_sise", [8, 8, 8]),
        INFERENCE,
        "inferer#roi_sise",
        "[8, 8, 8]",
        "Did you mean roi_size?",
    ),
    "an argument that it has to have": Fault(
        config("inference", "handlers#0#load_path", drop=True),
        INFERENCE,
        "handlers#0#load_path",
        "(missing)",
        "Add it",
    ),
    "an expression that is no Python": Fault(
        config("inference", "datalist", "$sorted(glob.glob("), INFERENCE, "datalist", '"$sorted(glob.glob("', "Mend the"
    ),
    "a name that is not imported": Fault(
        config("inference", "datalist", "$sorted(pathlib.Path('.'))"),
        INFERENCE,
        "datalist",
        "pathlib.Path",
        "Import pathlib in imports",
    ),
    "an import that fails": Fault(
        config("inference", "imports#2", "$from scanloom.pipeline.studies.reader import StudyReeder"),
        INFERENCE,
        "imports#2",
        "StudyReeder",
        "Did you mean scanloom.pipeline.studies.reader.StudyReader?",
    ),
    "another network in training": Fault(
        config("train", "network_def#features", [2, 8]), TRAIN, "network_def#features", "[2, 8]", "Let all configs have"
    ),
    "another number of channels": Fault(
        metadata(f"{PRED}#num_channels", 4), META, f"{PRED}#num_channels", "4", "Write the network's number of channels"
    ),
    "another number of axes": Fault(
        metadata(f"{PRED}#spatial_shape", ["n", "n"]), META, f"{PRED}#spatial_shape", '["n", "n"]', "Give 3 lengths"
    ),
    "YAML that grows without end": Fault(write(EVALUATE, bomb()), EVALUATE, "", "", "Make it a mapping"),
}
RUN = {
    "a weight is missing": Fault(
        weights(lambda state: state.pop("heads.0.bias")),
        "models/model.pt",
        "heads.0.bias",
        "(missing)",
        "mend network_def",
    ),
    "a weight too many": Fault(
        weights(lambda state: state.update(extra=torch.zeros(3))), "models/model.pt", "extra", "3", "mend network_def"
    ),
    "a weight of another shape": Fault(
        weights(lambda state: state.update({"heads.0.bias": torch.zeros(7)})),
        "models/model.pt",
        "heads.0.bias",
        "7",
        "Train the bundle again",
    ),
    "a network that can not be built": Fault(
        lambda folder: [change_config(folder, name, "network_def#padding", "some") for name in CONFIGS],
        INFERENCE,
        "network_def",
        "scanloom.networks.UNet",
        "Mend it",
    ),
    "a size that the network does not take": Fault(
        lambda folder: [change_config(folder, name, "network_def#padding", "valid") for name in CONFIGS],
        META,
        "network_data_format#inputs#image#spatial_shape",
        '["n", "n", "n"]',
        "Write the sizes that it takes",
    ),
    "the output is of another type": Fault(
        metadata(f"{PRED}#dtype", "float16"), META, f"{PRED}#dtype", '"float16"', 'Write "float32"'
    ),
    "the output has another size": Fault(
        metadata(f"{PRED}#spatial_shape", ["2*n", "n", "n"]),
        META,
        f"{PRED}#spatial_shape",
        '["2*n", "n", "n"]',
        "Write the sizes of what it makes",
    ),
    "the input has other channels": Fault(
        lambda folder: [
            change_metadata(folder, "network_data_format#inputs#image#num_channels", 2),
            *[change_config(folder, name, "network_def#in_channels", "$1") for name in CONFIGS],
        ],
        META,
        "network_data_format#inputs#image#spatial_shape",
        "n",
        "and its channels",
    ),
    "preprocessing that fails": Fault(
        config("inference", "preprocessing#transforms#3#keys", "imagee"),
        INFERENCE,
        "preprocessing",
        '["LoadImaged", "Orientationd", "Spacingd", "NormalizeIntensityd"]',
        "Mend preprocessing",
    ),
    "preprocessing that makes more channels": Fault(
        config(
            "inference", "preprocessing#transforms#3", {"_target_": "RepeatChanneld", "keys": "image", "repeats": 2}
        ),
        INFERENCE,
        "preprocessing",
        "RepeatChanneld",
        "Let it end with the channels of the network",
    ),
    "preprocessing that can not be inverted": Fault(
        config(
            "inference",
            "preprocessing#transforms#3",
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda image: image.flip(1)"},
        ),
        INFERENCE,
        "preprocessing",
        "Lambdad",
        "can be inverted",
    ),
    "preprocessing that makes NaN": Fault(
        config(
            "inference",
            "preprocessing#transforms#3",
            {"_target_": "Lambdad", "keys": "image", "func": "$lambda image: image / 0 * 0"},
        ),
        INFERENCE,
        "preprocessing",
        "Lambdad",
        "Mend the step that divides",
    ),
    "an inferer that fails": Fault(
        config("inference", "inferer#roi_size", [9, 9]), INFERENCE, "inferer", "StreamingInferer", "Mend inferer"
    ),
    "postprocessing that does not lead back": Fault(
        config("inference", "postprocessing#transforms#0", drop=True),
        INFERENCE,
        "postprocessing",
        '["AsDiscreted", "SaveImaged"]',
        "Begin it with Invertd",
    ),
    "training preprocessing that fails": Fault(
        config("train", "preprocessing_steps#2#pixdim", [-1.0, 1.0, "x"]),
        TRAIN,
        "train#preprocessing",
        "Compose",
        "Mend train#preprocessing",
    ),
}


def lines(folder: Path, *, run: bool) -> list[str]:
    report = check_bundle(find_bundle(folder), untrusted=None if run else STRANGER)
    return report.lines()


def assert_said(fault: Fault, said: list[str]) -> None:
    """One of the lines names everything, in its order."""
    begin = f"{fault.kind}: {fault.file}{': ' + fault.key if fault.key else ''}"
    fitting = [line for line in said if line.startswith(begin) and fault.value in line and fault.remedy in line]
    assert fitting, "\n".join(said)


@pytest.mark.parametrize("name", READ)
def test_a_planted_fault_is_read(name: str, good_bundle: Bundle) -> None:
    READ[name].plant(good_bundle.folder)
    assert_said(READ[name], lines(good_bundle.folder, run=False))


@pytest.mark.parametrize("name", RUN)
def test_a_planted_fault_is_found_by_running(name: str, good_bundle: Bundle) -> None:
    RUN[name].plant(good_bundle.folder)
    assert_said(RUN[name], lines(good_bundle.folder, run=True))


def test_a_good_bundle_passes_every_step(good_bundle: Bundle) -> None:
    before = snapshot(good_bundle.folder)
    report = check_bundle(good_bundle)
    assert report.findings == () and report.left_out == () and set(STEPS) < set(report.done), report.lines()
    assert report.lines() == ["tiny 0.2.0: no faults, no warnings; 14 steps done, 0 left out"]
    assert snapshot(good_bundle.folder) == before


def test_a_good_bundle_of_pictures_passes(flat_bundle: Bundle) -> None:
    report = check_bundle(flat_bundle)
    assert report.faults == () and report.left_out == (), report.lines()
    (warning,) = report.warnings
    assert warning.file == TRAIN


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_bundles() if (SHIPPED / name / "models/model.pt").is_file()])
def test_what_is_shipped_passes(name: str) -> None:
    report = check_bundle(find_bundle(name))
    assert report.findings == () and report.left_out == (), report.lines()


def test_nothing_of_an_untrusted_bundle_runs(good_bundle: Bundle, tmp_path: Path) -> None:
    change_config(good_bundle.folder, "inference", "initialize", [f"$open({str(tmp_path / 'ran')!r}, 'w')"])
    change_config(good_bundle.folder, "inference", "network_def#padding", f"$open({str(tmp_path / 'ran')!r}, 'w')")
    (good_bundle.folder / "scripts").mkdir()
    (good_bundle.folder / "scripts" / "__init__.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: ...\n"
    )
    change_config(good_bundle.folder, "inference", "handlers#0", {"_target_": "scripts.Own"})
    report = check_bundle(find_bundle(good_bundle.folder), untrusted=STRANGER)
    assert [(step.step, step.why) for step in report.left_out] == [(step, STRANGER) for step in STEPS]
    assert report.lines()[-2] == f"left out: {', '.join(STEPS)}: {STRANGER}"
    assert not (tmp_path / "ran").exists()
    assert not [finding for finding in report.findings if "Own" in finding.value]


def test_a_component_that_the_bundle_itself_lacks_is_found(good_bundle: Bundle) -> None:
    (good_bundle.folder / "scripts").mkdir()
    (good_bundle.folder / "scripts" / "own.py").write_text("class Own: ...\n")
    change_config(good_bundle.folder, "inference", "handlers#0", {"_target_": "scripts.own.Other"})
    change_config(good_bundle.folder, "evaluate", "handlers#0", {"_target_": "scripts.nothing.Own"})
    said = lines(good_bundle.folder, run=False)
    assert_said(Fault(print, INFERENCE, "handlers#0#_target_", "scripts.own.Other", "Define Other there"), said)
    assert_said(Fault(print, EVALUATE, "handlers#0#_target_", "scripts.nothing.Own", "Add it, or mend the name"), said)


def test_a_bundle_is_not_run_while_its_inference_config_has_faults(good_bundle: Bundle) -> None:
    change_config(good_bundle.folder, "inference", "dataset#data", "@nothing")
    report = check_bundle(find_bundle(good_bundle.folder))
    assert {step.why for step in report.left_out} == {"configs/inference.yaml has faults; mend them first"}


def test_what_needs_a_network_is_left_out_where_it_can_not_be_built(good_bundle: Bundle) -> None:
    RUN["a network that can not be built"].plant(good_bundle.folder)
    report = check_bundle(find_bundle(good_bundle.folder))
    assert [step.step for step in report.left_out] == list(STEPS[1:])
    assert "must be one of 'valid', 'same'" in report.lines()[0]


def test_what_needs_a_described_network_is_left_out_where_it_is_not_described(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, f"{PRED}#spatial_shape", drop=True)
    report = check_bundle(find_bundle(good_bundle.folder))
    assert [step.step for step in report.left_out] == list(STEPS[2:])
    assert "does not say what the network takes and makes" in report.lines()[-2]


def test_a_config_that_lies_upon_another_is_checked_upon_it(good_bundle: Bundle) -> None:
    """As the Model Zoo's evaluate.json upon train.json."""
    overlay = {
        "validate#dataloader#num_workers": 2,
        "validate#postprocessing#transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
        "run": ["$@validate#evaluator.run()"],
        "extra": "@train#trainerr",
    }
    (good_bundle.folder / "configs" / "evaluate.yaml").unlink()
    (good_bundle.folder / "configs" / "evaluate.json").write_text(json.dumps(overlay))
    said = lines(good_bundle.folder, run=True)
    assert_said(Fault(print, "configs/evaluate.json", "extra", "@train#trainerr", "Did you mean @train#trainer?"), said)
    assert said[-1].startswith("tiny 0.2.0: 1 fault, no warnings"), said


def test_a_bundle_without_codes_works_but_is_told_of(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, "label_classes", "1 is anterior, 2 is posterior")
    (line,) = [line for line in lines(good_bundle.folder, run=False) if "label_classes" in line]
    assert "Give each label value, name, category, type and color" in line


def test_a_bundle_for_predicting_only_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bare")
    report = check_bundle(bundle)
    files = {finding.file for finding in report.faults}
    assert files == {META, "docs/README.md", "LICENSE", INFERENCE}
    assert {finding.key for finding in report.faults if finding.file == INFERENCE} == {
        "bundle_root",
        "device",
        "dataset_dir",
        "dataset",
        "evaluator",
        "run",
    }


def test_the_report_as_json_has_every_finding(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, "authors", 7)
    content = check_bundle(find_bundle(good_bundle.folder), untrusted=STRANGER).to_json()
    assert json.loads(json.dumps(content)) == content
    assert content["ok"] is False and content["bundle"] == "tiny 0.2.0"
    assert content["findings"] == [
        {
            "file": META,
            "key": "authors",
            "value": "7",
            "problem": "it is no string",
            "remedy": "Make it who made it, as text.",
            "kind": "fault",
        }
    ]


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}

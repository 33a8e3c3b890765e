"""Attacks on whoever runs a stranger's bundle: each must fail, or be shown before it is trusted."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_bundle, write_nifti
from scanloom.pipeline import trust
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.bundle_modules import BundlePath, make_importable
from scanloom.pipeline.bundle_network import inference_config, load_network, read_weights
from scanloom.pipeline.bundling.execution import Executed, what_runs
from scanloom.pipeline.cli import app
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.trust import record_trust, require_trust
from scanloom.pipeline.volume import Volume
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A record of our own; no module of a bundle outlives its test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    modules, path, bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("scripts", "gadget"):
            del sys.modules[name]
    sys.path[:], sys.dont_write_bytecode = path, bytecode


@pytest.fixture
def loot(tmp_path: Path) -> Path:
    """What an attack would write."""
    return tmp_path / "loot"


def touching(loot: Path) -> str:
    return f"$__import__('pathlib').Path({str(loot)!r}).touch()"


def run(bundle: Bundle, tmp_path: Path, **options: Any) -> Any:
    scan = write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(12, 12, 12)), np.eye(4))
    return predict(bundle, PredictOptions([scan], tmp_path / "out", pages=False, **options))


def cli(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def small_volume() -> Volume:
    array = np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32)
    return Volume(array, np.eye(4), "scan")


# ---- configs


@pytest.mark.parametrize("key", ["roi", "imports", "network_def", "preprocessing"])
def test_a_strangers_config_is_not_parsed(tmp_path: Path, loot: Path, key: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", config={key: [touching(loot)]})
    with pytest.raises(BundleError, match="its config can run any code"):
        run(bundle, tmp_path)
    for words in (["info"], ["list"], ["trust"], ["trust", "--json"]):
        cli("bundle", *words, *([] if words == ["list"] else [str(bundle.folder)]))
    assert not loot.exists()


def test_a_component_of_another_package_is_shown_and_not_run(tmp_path: Path, loot: Path) -> None:
    evil = {"_target_": "os.system", "command": f"touch {loot}"}
    bundle = make_bundle(tmp_path / "bundle", config={"network_def": evil})
    with pytest.raises(BundleError, match="did not come with scanloom"):
        run(bundle, tmp_path)
    assert Executed("target", "configs/inference.yaml", "network_def#_target_", "os.system") in what_runs(bundle.folder)
    assert not loot.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.os.system",
        "torch.subprocess.Popen",
        "torch.hub.load",
        "torch.load",
        "monai.bundle.run",
        "monai.apps.download_url",
        "scripts.networks.Net",
        "download_url",
        "$__import__('os').system",
        "torch.nn.Conv2d ; x",
    ],
)
def test_what_is_no_plain_class_of_ours_is_shown(tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path, config={"x": {"y": [{"_target_": target}]}})
    shown = [(each.key, each.text) for each in what_runs(bundle.folder)]
    assert ("x#y#0#_target_", target) in shown


@pytest.mark.parametrize("target", ["Compose", "monai.networks.nets.UNet", "torch.nn.Conv2d", "scanloom.networks.UNet"])
def test_plain_classes_are_not_shown(tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path, config={"x": {"_target_": target}})
    assert what_runs(bundle.folder) == []


def test_everything_is_shown_where_it_is(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path, config={"imports": ["$import glob"], "a": {"b": "$1 + 1"}, "c": "%/tmp/other.json#d"}
    )
    (bundle.folder / "configs" / "more.json").write_text('{"e::_target_": "os.system"}')
    (bundle.folder / "configs" / "broken.yaml").write_text("[unfinished")
    (bundle.folder / "configs" / "logging.conf").write_text("[h]\nargs=(__import__('os').system('x'),)\n")
    (bundle.folder / "scripts").mkdir()
    (bundle.folder / "scripts" / "net.py").write_text("")
    assert [(each.kind, each.file, each.key) for each in what_runs(bundle.folder)] == [
        ("unreadable", "configs/broken.yaml", ""),
        ("import", "configs/inference.yaml", "imports#0"),
        ("expression", "configs/inference.yaml", "a#b"),
        ("file outside", "configs/inference.yaml", "c"),
        ("expression", "configs/logging.conf", "line 2"),
        ("target", "configs/more.json", "e::_target_"),
        ("python", "scripts/net.py", ""),
    ]


def test_a_bomb_of_anchors_ends(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    lines = ["a0: &a0 [$x, $x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))]
    (bundle.folder / "configs" / "bomb.yaml").write_text("\n".join(lines))
    (bundle.folder / "configs" / "deep.json").write_text("[" * 100_000)
    found = what_runs(bundle.folder)
    assert {(each.kind, each.file) for each in found} == {
        ("expression", "configs/bomb.yaml"),
        ("unreadable", "configs/deep.json"),
    }


def test_a_text_can_not_hide_itself_on_the_terminal(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", name="\x1b[31mred", config={"x": "$evil()\x1b[2K\r\u202e\nok"})
    shown = cli("bundle", "trust", str(bundle.folder)).output
    assert "x: $evil()\\x1b[2K\\r\\u202e\\nok" in shown and "\\x1b[31mred" in shown
    assert not {"\x1b", "\r", "\u202e"} & set(shown)


# ---- files


def test_a_linked_config_is_what_it_was_when_it_was_trusted(tmp_path: Path, loot: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    config = bundle.config("inference")
    outside = config.rename(tmp_path / "outside.yaml")
    config.symlink_to(outside)
    record_trust(bundle)
    assert not require_trust(bundle).config("inference").is_symlink()
    outside.write_text(json.dumps({"network_def": touching(loot)}))
    with pytest.raises(BundleError, match=r"is not as it was trained here .*configs/inference\.yaml was changed"):
        run(bundle, tmp_path)
    assert not loot.exists()


def test_a_linked_folder_is_not_taken_along(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "__init__.py").write_text("")
    (bundle.folder / "scripts").symlink_to(outside)
    record_trust(bundle)
    assert not (require_trust(bundle).folder / "scripts").exists()


@pytest.mark.parametrize("linked", ["configs/inference.yaml", "models", "scripts"])
def test_a_link_out_of_the_package_makes_a_shipped_bundle_a_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    monkeypatch.setattr(trust, "SHIPPED", (tmp_path / "package").resolve())
    bundle = make_bundle(tmp_path / "package" / "bundle")
    assert require_trust(bundle).folder == bundle.folder
    path = bundle.folder / linked
    if path.exists():
        shutil.move(path, tmp_path / "outside")
    else:
        (tmp_path / "outside").mkdir()
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(find_bundle(bundle.folder))


def test_a_bundle_linked_into_the_package_is_a_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "SHIPPED", (tmp_path / "package").resolve())
    made = make_bundle(tmp_path / "elsewhere")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "bundle").symlink_to(made.folder)
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(find_bundle(tmp_path / "package" / "bundle"))
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(Bundle(tmp_path / "package" / "bundle", {}))


def test_files_swapped_after_the_check_do_not_run(tmp_path: Path, loot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    record_trust(bundle)
    checked = trust.require_trust

    def check_then_swap(*words: Any, **more: Any) -> Bundle:
        result = checked(*words, **more)
        bundle.config("inference").write_text(json.dumps({"network_def": touching(loot)}))
        bundle.weights.write_bytes(b"other")
        return result

    monkeypatch.setattr("scanloom.pipeline.segment.require_trust", check_then_swap)
    (result,) = run(bundle, tmp_path)
    assert result.status == "done", result.error
    assert not loot.exists()


# ---- Python files


def with_scripts(bundle: Bundle, file: str, code: str) -> Bundle:
    path = bundle.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    return bundle


def test_python_files_of_a_stranger_can_not_be_imported(tmp_path: Path, loot: Path) -> None:
    config = {"imports": ["$import gadget"], "x": "$gadget.value"}
    bundle = with_scripts(make_bundle(tmp_path / "bundle", config=config), "gadget/__init__.py", "value = 7\n")
    with pytest.raises(RuntimeError) as caught:
        inference_config(bundle).get_parsed_content("x")
    assert "No module named 'gadget'" in str(caught.getrepr(chain=True))
    record_trust(bundle)
    checked = require_trust(bundle)
    assert inference_config(checked).get_parsed_content("x") == 7
    assert sys.modules["gadget"].__file__ == str(checked.folder / "gadget" / "__init__.py")
    assert not list(bundle.folder.rglob("__pycache__"))


@pytest.mark.parametrize("file", ["monai.py", "monai/__init__.py", "torch/__init__.py", "json.py"])
def test_a_module_that_shadows_another_is_refused_though_trusted(tmp_path: Path, loot: Path, file: str) -> None:
    code = f"import pathlib; pathlib.Path({str(loot)!r}).touch()"
    bundle = with_scripts(make_bundle(tmp_path / "bundle"), file, code)
    (result,) = run(bundle, tmp_path, trust_bundle=True)
    name = file.split("/")[0].removesuffix(".py")
    assert f"its Python file or folder {name} has the name of " in str(result.error)
    assert not loot.exists()
    assert not any(isinstance(entry, BundlePath) for entry in sys.path)


def test_two_bundles_do_not_mix_up_their_scripts(tmp_path: Path) -> None:
    config = {"imports": ["$import scripts"], "x": "$scripts.value"}
    values = []
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        bundle = with_scripts(make_bundle(folder, config=config), "scripts/__init__.py", f"value = {name!r}\n")
        values.append(inference_config(require_trust(bundle, given=True)).get_parsed_content("x"))
    assert values == ["one", "two", "one"]
    make_importable(make_bundle(tmp_path / "three"))
    assert "scripts" not in sys.modules and not any(isinstance(entry, BundlePath) for entry in sys.path)


# ---- weights


class Bomb:
    def __init__(self, loot: Path) -> None:
        self.loot = loot

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.loot}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bomb_for_weights_does_not_go_off_though_trusted(
    tmp_path: Path, loot: Path, zipped: bool, protocol: int
) -> None:
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network_def"},
        "weights_only": False,
    }
    loading = "$torch.load(@bundle_root + '/models/model.pt', weights_only=False)"
    config = {"handlers": [loader], "initialize": [loading], "evaluator": {"_target_": "x", "y": loading}}
    bundle = make_bundle(tmp_path / "bundle", config=config)
    content = {"a": torch.ones(2), "b": Bomb(loot)}
    torch.save(content, bundle.weights, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    (result,) = run(bundle, tmp_path, trust_bundle=True)
    assert not loot.exists()
    told = str(result.error)
    assert "models/model.pt holds more than tensors" in told and "is not loaded" in told and "\n" not in told
    (shown,) = [each for each in what_runs(bundle.folder) if each.kind == "pickle"]
    assert (shown.file, shown.text) == ("models/model.pt", "a pickle that calls posix.system")
    torch.load(bundle.weights, weights_only=False)  # it was a bomb
    assert loot.exists()


def test_plain_weights_are_not_shown(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    state = torch.load(bundle.weights)
    assert what_runs(bundle.folder) == []
    torch.save({"model": state, "epoch": 3}, bundle.weights, _use_new_zipfile_serialization=False)
    assert what_runs(bundle.folder) == []
    assert read_weights(bundle).keys() == state.keys()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04cut", b"PK\x03\x04cut"])
def test_weights_that_are_none_are_shown_and_refused(tmp_path: Path, content: bytes) -> None:
    bundle = make_bundle(tmp_path)
    bundle.weights.write_bytes(content)
    assert [each.kind for each in what_runs(bundle.folder)] == ["pickle"]
    with pytest.raises(BundleError, match=r"models/model\.pt"):
        load_network(bundle)


def test_weights_whose_compressed_pickle_is_damaged_are_shown(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with zipfile.ZipFile(bundle.weights, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(range(256)))
        at = archive.start_dir
    content = bundle.weights.read_bytes()
    packed = len("m/data.pkl") + 30
    bundle.weights.write_bytes(content[:packed] + b"\xff" * (at - packed) + content[at:])
    (shown,) = what_runs(bundle.folder)
    assert (shown.kind, shown.text) == ("pickle", "can not be looked into (error)")
    with pytest.raises(BundleError, match=r"models/model\.pt"):
        load_network(bundle)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    torch.save([1, 2], bundle.weights)
    with pytest.raises(BundleError, match=r"models/model\.pt holds a list\. It must be a state dict"):
        load_network(bundle)


def test_torchscript_alone_is_refused_unless_trusted(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    network = load_network(bundle).eval()
    bundle.weights.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(network, torch.zeros(1, 1, 12, 12, 12)).save(str(bundle.weights.with_suffix(".ts")))
    (shown,) = [each for each in what_runs(bundle.folder) if each.kind == "pickle"]
    assert (shown.file, shown.text) == ("models/model.ts", "TorchScript, a program")
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(bundle)
    with pytest.raises(BundleError, match=r"models/model\.ts is TorchScript, a program\. Trust the bundle"):
        load_network(bundle)
    record_trust(bundle)
    loaded = load_network(require_trust(bundle)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


# ---- the command


def test_the_command_shows_asks_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", config={"x": "$1"})
    refused = cli("bundle", "trust", str(bundle.folder))
    assert refused.exit_code == 2
    assert "configs/inference.yaml: x: $1" in refused.output
    assert "there is no terminal to ask on. Pass --yes" in refused.output
    with pytest.raises(BundleError):
        require_trust(bundle)
    done = cli("bundle", "trust", str(bundle.folder), "--yes")
    assert done.exit_code == 0 and f"trusted: {trust.trust_state(bundle).digest}" in done.output
    assert run(bundle, tmp_path)[0].status == "done"
    (entry,) = json.loads(cli("bundle", "trust", "--list", "--json").stdout)["trusted"]
    assert (entry["name"], entry["version"], entry["how"]) == ("tiny", "0.0.1", "trusted")
    assert entry["folder"] == str(bundle.folder)
    assert "tiny" in cli("bundle", "trust", "--list").output
    assert "forgotten: tiny 0.0.1" in cli("bundle", "trust", "--forget", "tiny").output
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(bundle)


def test_the_command_tells_programs_too(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", config={"x": "$1"})
    shown = json.loads(cli("bundle", "trust", str(bundle.folder), "--yes", "--json").stdout)
    assert shown["executes"] == [{"kind": "expression", "file": "configs/inference.yaml", "key": "x", "text": "$1"}]
    assert shown["trusted"] and shown["digest"] == trust.trust_state(bundle).digest


@pytest.mark.parametrize("words", [[], ["x", "--list"], ["--list", "--forget", "x"]])
def test_one_thing_at_a_time(words: list[str]) -> None:
    result = cli("bundle", "trust", *words)
    assert result.exit_code == 2 and "give one of a bundle, --list and --forget" in result.output


def test_a_shipped_bundle_needs_no_trust() -> None:
    assert "comes with scanloom" in cli("bundle", "trust", "hippocampus_mr_unet").output


def test_the_predictor_runs_nothing_but_what_it_needs(tmp_path: Path, loot: Path) -> None:
    calls = {key: [touching(loot)] for key in ("initialize", "run", "finalize", "handlers", "evaluator", "dataset")}
    Predictor(make_bundle(tmp_path, config=calls), "cpu")(small_volume())
    assert not loot.exists()

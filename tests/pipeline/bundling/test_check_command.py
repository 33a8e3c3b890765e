"""`scanloom bundle check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planting import change_metadata
from scanloom.pipeline import cli
from scanloom.pipeline.bundle import Bundle
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def check(*words: str | Path):
    return CliRunner().invoke(cli.app, ["bundle", "check", *map(str, words)])


def test_a_bundle_that_is_not_trusted_is_read_and_not_run(good_bundle: Bundle) -> None:
    result = check("tiny")
    assert result.exit_code == 0, result.output
    left_out, summary = result.stdout.splitlines()
    assert left_out.startswith("left out: network is built,") and "--trust-bundle" in left_out
    assert summary == "tiny 0.2.0: no faults, no warnings; 10 steps done, 4 left out"


def test_a_bundle_is_run_by_leave(good_bundle: Bundle) -> None:
    result = check(good_bundle.folder, "--trust-bundle")
    assert result.exit_code == 0, result.output
    assert result.stdout == "tiny 0.2.0: no faults, no warnings; 14 steps done, 0 left out\n"


def test_faults_end_with_status_1_and_a_line_each(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, "authors", drop=True)
    change_metadata(good_bundle.folder, "task", 3)
    result = check("tiny")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == [
        "fault: configs/metadata.json: authors = (missing): it is required. Add who made it, as text.",
        "fault: configs/metadata.json: task = 3: it is no string. Make it what the network does, as text.",
    ]


def test_warnings_alone_end_with_status_0(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, "monai_version", "99.0")
    result = check("tiny")
    assert result.exit_code == 0 and result.stdout.startswith("warning: configs/metadata.json: monai_version"), result


def test_json_is_all_that_is_printed(good_bundle: Bundle) -> None:
    change_metadata(good_bundle.folder, "authors", drop=True)
    result = check("tiny", "--json", "--trust-bundle")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert [finding["key"] for finding in content["findings"]] == ["authors"]
    assert content["ok"] is False and content["left_out"] == []


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.exit_code == 1 and result.stderr.startswith("scanloom: no bundle ") and result.stdout == ""


def test_metadata_that_can_not_be_read_is_one_line(good_bundle: Bundle) -> None:
    (good_bundle.folder / "configs" / "metadata.json").write_text("{")
    result = check("tiny")
    assert result.exit_code == 1 and "configs/metadata.json can not be read" in result.stderr

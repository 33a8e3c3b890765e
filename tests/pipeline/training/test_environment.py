"""Versions, packages, the commit of the source."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from scanloom.pipeline.training import environment as module
from scanloom.pipeline.training.environment import environment, installed_packages


def test_every_installed_package_is_listed_without_a_path() -> None:
    lines = installed_packages().splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
    assert any(line.startswith("torch==") for line in lines) and any(line.startswith("scanloom==") for line in lines)
    assert "/" not in installed_packages()


def test_the_environment_has_versions_and_the_commit() -> None:
    facts = environment()
    assert {"version/torch", "version/monai", "version/mlflow", "version/python", "version/scanloom"} <= set(facts)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if head.returncode == 0:
        assert facts["git_commit"].removesuffix("+changes") == head.stdout.strip()


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    assert environment()["git_commit"] == "unknown"


def test_the_checkout_that_an_environment_lies_in_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], cwd=tmp_path, check=True)
    (tmp_path / "environment.py").touch()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "environment.py"))
    assert environment()["git_commit"] == "unknown"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] == "unknown"

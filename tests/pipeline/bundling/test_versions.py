"""Versions are compared as versions, not as text."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from factories import make_affine, make_bundle, make_volume, write_nifti
from scanloom.pipeline import cli
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.bundling import versions
from scanloom.pipeline.bundling.versions import installed_version, is_older, version_findings, version_notices
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("installed", "needed", "older"),
    [
        ("1.10.0", "1.9.0", False),  # as text it would be
        ("1.9.0", "1.10.0", True),
        ("2.13.0+cpu", "2.13.0", False),
        ("2.13", "2.13.0", False),
        ("1.13.0a0+936e930", "1.13.0", False),
        ("1.6.1rc2", "1.6.1", False),
        ("1.6.0rc2", "1.6.1", True),
        ("10.0", "9", False),
    ],
)
def test_a_version_is_older_by_its_numbers(installed: str, needed: str, older: bool) -> None:
    assert is_older(installed, needed) is older


def test_what_is_no_version_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid version"):
        is_older("1.0", "one")


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-package") is None
    assert installed_version("monai") == importlib.metadata.version("monai")


def test_older_packages_are_warned_of_and_missing_ones_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"monai": "1.10.0", "torch": "2.6.0+cpu", "numpy": "2.0", "nibabel": "5.2"}
    monkeypatch.setattr(versions, "installed_version", installed.get)
    metadata = {
        "monai_version": "1.9.0",
        "pytorch_version": "2.13.0",
        "numpy_version": "2.0.0",
        "required_packages_version": {"nibabel": "5.10", "itk": "5.4"},
        "optional_packages_version": {"einops": "0.8", "nibabel": "5.3"},
    }
    said = [(finding.kind, finding.key, finding.problem) for finding in version_findings(metadata)]
    assert said == [
        ("warning", "pytorch_version", "torch 2.6.0+cpu is installed, which is older"),
        ("warning", "required_packages_version#nibabel", "nibabel 5.2 is installed, which is older"),
        ("fault", "required_packages_version#itk", "itk is not installed"),
        ("warning", "optional_packages_version#nibabel", "nibabel 5.2 is installed, which is older"),
    ]


def test_the_shipped_bundle_asks_for_what_is_installed() -> None:
    assert version_notices(find_bundle("hippocampus_mr_unet")) == []


def test_a_prediction_tells_of_an_older_package_and_goes_on(tmp_path: Path) -> None:
    make_bundle(tmp_path / "tiny", pytorch_version="99.10.0")
    scan = write_nifti(tmp_path / "scan.nii.gz", make_volume((16, 16, 16))[0], make_affine())
    words = ["predict", "-b", tmp_path / "tiny", "-i", scan, "-o", tmp_path / "out", "--trust-bundle"]
    result = CliRunner().invoke(cli.app, [*map(str, words)])
    assert result.exit_code == 0, result.output
    torch = importlib.metadata.version("torch")
    assert (
        f'scanloom: bundle tiny: pytorch_version is "99.10.0", but torch {torch} is installed, which is older. '
        'Install it: pip install "torch>=99.10.0".'
    ) in result.stderr

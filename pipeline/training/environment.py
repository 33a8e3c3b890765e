"""What a result depends on besides config and data: versions, platform, the source's commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("scanloom", "torch", "monai", "numpy", "pytorch-ignite", "nibabel", "pydicom", "mlflow")


def environment() -> dict[str, str]:
    """What a result depends on besides config and data: versions, platform, the source's commit where there is one."""
    versions = {f"version/{package}": metadata.version(package) for package in PACKAGES}
    return {**versions, "version/python": platform.python_version(), "git_commit": _git_commit()}


def installed_packages() -> str:
    """Every installed package with its version, a line each, as `pip freeze` has them; no path of an editable one."""
    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items(), key=lambda item: item[0].lower()))


def _git_commit() -> str:
    """Commit of the source tree that runs, with "+changes" where it differs; "unknown" for an installed package."""
    file = Path(__file__).resolve()
    folder = file.parent
    try:
        _git(folder, "ls-files", "--error-unmatch", file.name)  # not the repository that a virtual environment lies in
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

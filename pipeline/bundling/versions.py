"""Versions compared as versions: what a bundle needs against what is installed.

MONAI compares them as strings (`monai.bundle.scripts._examine_monai_version`), where 1.10.0 comes before 1.9.0.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from ..bundle import Bundle
from .finding import Finding, shown
from .schema import METADATA

NEEDED = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
"""Keys of the metadata and the packages whose versions they are."""
REQUIRED, OPTIONAL = "required_packages_version", "optional_packages_version"


def is_older(installed: str, needed: str) -> bool:
    """Whether a version comes before another; pre-releases and builds count as their release.

    Raises:
        ValueError: one of them is no version.
    Source: PEP 440.
    """
    from packaging.version import Version

    return Version(Version(installed).base_version) < Version(Version(needed).base_version)


def installed_version(package: str) -> str | None:
    """Of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_findings(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """A fault for each required package that is missing and each version that is none, a warning for each older one."""
    for key, package in NEEDED.items():
        if isinstance(metadata.get(key), str):
            yield from _compared(key, package, metadata[key], required=True)
    for group in (REQUIRED, OPTIONAL):
        packages = metadata.get(group)
        for package, needed in packages.items() if isinstance(packages, Mapping) else ():
            if isinstance(needed, str):
                yield from _compared(f"{group}#{package}", package, needed, required=group == REQUIRED)


def version_notices(bundle: Bundle) -> list[str]:
    """What a user about to run the bundle should know: a line for each package that is missing or older."""
    return [
        f"bundle {bundle.name}: {finding.key} is {finding.value}, but {finding.problem}. {finding.remedy}"
        for finding in version_findings(bundle.metadata)
    ]


def _compared(key: str, package: str, needed: str, *, required: bool) -> Iterator[Finding]:
    installed = installed_version(package)
    install = f'Install it: pip install "{package}>={needed}".'
    if installed is None:
        if required:
            yield Finding(METADATA, key, shown(needed), f"{package} is not installed", install)
        return
    try:
        older = is_older(installed, needed)
    except ValueError:
        problem, remedy = "it is no version", f'Write the version of {package}, such as "{installed}".'
        yield Finding(METADATA, key, shown(needed), problem, remedy)
        return
    if older:
        problem = f"{package} {installed} is installed, which is older"
        yield Finding(METADATA, key, shown(needed), problem, install, kind="warning")

"""Metadata against the schema and against itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..bundle import Bundle
from ..errors import BundleError
from .finding import MISSING, Finding, shown
from .schema import METADATA, schema_findings
from .versions import version_findings


def metadata_findings(bundle: Bundle) -> Iterator[Finding]:
    """What of configs/metadata.json the schema does not allow, what it lacks, and what is not installed here."""
    yield from schema_findings(bundle.metadata)
    yield from _changelog(bundle.metadata)
    yield from _series_rule(bundle)
    yield from version_findings(bundle.metadata)


def _changelog(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """The version is one of the changelog's."""
    changelog, version = metadata.get("changelog"), metadata.get("version")
    if isinstance(changelog, Mapping) and isinstance(version, str) and changelog and version not in changelog:
        problem, remedy = f"version is {version}, which it does not tell of", f"Add a line for {version}."
        yield Finding(METADATA, f"changelog#{version}", MISSING, problem, remedy)


def _series_rule(bundle: Bundle) -> Iterator[Finding]:
    """`series_selection` can be read."""
    try:
        _ = bundle.series_rule
    except BundleError as error:
        remedy = str(error).rpartition(". Make")[2].strip()
        value = shown(bundle.metadata["series_selection"])
        yield Finding(METADATA, "series_selection", value, "it can not be read", f"Make {remedy}")

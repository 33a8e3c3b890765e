"""The JSON Schema of a bundle's metadata, and what of a metadata.json is not as it has it. Never on the network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finding import MISSING, Finding, shown

if TYPE_CHECKING:
    from jsonschema import ValidationError

SCHEMA_FILE = Path(__file__).resolve().parent / "schemas" / "bundle_metadata.json"
"""The contract of MONAI's meta_schema_20240725; `python -m monai.bundle verify_metadata --filepath` takes it."""

METADATA = "configs/metadata.json"
PHRASES = {
    "minimum": "is too small",
    "maximum": "is too large",
    "minLength": "is too short",
    "maxLength": "is too long",
}


@cache
def metadata_schema() -> dict[str, Any]:
    """The schema, draft 2019-09."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def schema_findings(metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """A fault for each value that the schema does not allow, and for each that it misses."""
    from jsonschema import Draft201909Validator

    errors = Draft201909Validator(metadata_schema()).iter_errors(dict(metadata))
    ordered = sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])
    yield from dict.fromkeys(finding for error in ordered for finding in _findings(error))


def _findings(error: ValidationError) -> Iterator[Finding]:
    """Of one error; of each of several about missing keys, all that are missing."""
    path = "#".join(map(str, error.absolute_path))
    if error.validator == "required":
        properties = error.schema.get("properties", {})
        for name in error.validator_value:
            if name not in error.instance:
                wanted = _description(properties.get(name) or error.schema.get("additionalProperties"))
                yield Finding(METADATA, _joined(path, name), MISSING, "it is required", f"Add {wanted}.")
        return
    value = shown(error.instance)
    if error.validator == "propertyNames":
        remedy = f"Make its keys numbers: {_description(_described(error))}."
        yield Finding(METADATA, path, value, "its keys are no channels", remedy)
        return
    yield Finding(METADATA, path, value, _problem(error), f"Make it {_description(_described(error))}.")


def _problem(error: ValidationError) -> str:
    if error.validator == "type":
        return f"it is no {error.validator_value if isinstance(error.validator_value, str) else 'text or object'}"
    return f"it {PHRASES.get(str(error.validator), 'is not what the schema allows')}"


def _described(error: ValidationError) -> Mapping[str, Any]:
    """The nearest part of the schema, from the error outwards, that says what the value has to be."""
    part: Any = metadata_schema()
    found: Mapping[str, Any] = {}
    for step in error.absolute_schema_path:
        if isinstance(part, Mapping) and step not in part and "$ref" in part:  # which a path does not name
            part = _referred(part)
        part = part[step]
        if isinstance(part, Mapping) and isinstance(part.get("description"), str):
            found = part
    return found


def _description(part: Any) -> str:
    """What a part of the schema says that the value has to be."""
    if isinstance(part, Mapping):
        if isinstance(part.get("description"), str):
            return str(part["description"])
        if "$ref" in part:
            return _description(_referred(part))
    return "it"


def _referred(part: Mapping[str, Any]) -> Any:
    return metadata_schema()["$defs"][part["$ref"].rpartition("/")[2]]


def _joined(path: str, name: str) -> str:
    return f"{path}#{name}" if path else name

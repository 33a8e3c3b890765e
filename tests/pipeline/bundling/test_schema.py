"""Our schema of a bundle's metadata: valid, to MONAI's contract, and with a remedy for each value."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft201909Validator
from scanloom.pipeline.bundle import SHIPPED, shipped_bundles
from scanloom.pipeline.bundling.schema import SCHEMA_FILE, metadata_schema, schema_findings

GOOD = json.loads((SHIPPED / "hippocampus_mr_unet" / "configs" / "metadata.json").read_text(encoding="utf-8"))


def test_the_schema_is_a_schema_of_draft_2019_09() -> None:
    assert metadata_schema()["$schema"] == "https://json-schema.org/draft/2019-09/schema"
    Draft201909Validator.check_schema(metadata_schema())


def test_every_value_that_can_be_wrong_is_described() -> None:
    def properties(part: Any) -> list[tuple[str, Any]]:
        if not isinstance(part, dict):
            return []
        own = list(part.get("properties", {}).items())
        return own + [pair for each in part.values() for pair in properties(each)]

    schema, found = metadata_schema(), properties(metadata_schema())
    assert len(found) > 30
    for name, part in found:
        referred = schema["$defs"].get(part.get("$ref", "").rpartition("/")[2], {})
        conditional = part.get("then", {}).get("$ref")
        assert part.get("description") or referred.get("description") or conditional, name


@pytest.mark.parametrize(
    "address",
    [
        "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "project-monai.github.io/schema/meta_schema_20240725.json",
        "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
    ],
)
def test_the_published_addresses_of_the_contract_are_taken(address: str) -> None:
    assert list(schema_findings(GOOD | {"schema": address})) == []


@pytest.mark.parametrize("key", metadata_schema()["required"])
def test_every_key_of_the_contract_is_required(key: str) -> None:
    (finding,) = schema_findings({name: value for name, value in GOOD.items() if name != key})
    assert (finding.key, finding.value) == (key, "(missing)") and finding.remedy.startswith("Add ")


def test_each_missing_key_is_one_finding() -> None:
    keys = ("task", "authors", "copyright")
    found = [finding.key for finding in schema_findings({name: GOOD[name] for name in GOOD if name not in keys})]
    assert found == sorted(keys, key=metadata_schema()["required"].index)


@pytest.mark.parametrize("shape", [[96, 96, 96], ["n"], ["16*n", "2**p*n"], ["*", "*"], ["16*(n+1)", "2**p", 4]])
def test_shapes_are_numbers_or_expressions_in_n_and_p(shape: list[int | str]) -> None:
    assert list(schema_findings(with_shape(shape))) == []


@pytest.mark.parametrize("shape", [[], ["x"], [0], [1.5], ["__import__('os')"], [None], ["n"] * 4, ["n;p"]])
def test_other_shapes_are_faults(shape: list[Any]) -> None:
    (finding,) = schema_findings(with_shape(shape))
    assert finding.key.startswith("network_data_format#inputs#image#spatial_shape")
    assert "n and p" in finding.remedy


@pytest.mark.parametrize("label_classes", ["1 is spleen", {"1": "spleen"}])
def test_the_label_classes_of_the_model_zoo_are_allowed(label_classes: object) -> None:
    assert list(schema_findings(GOOD | {"label_classes": label_classes})) == []


@pytest.mark.parametrize("name", shipped_bundles())
def test_monai_verifies_the_shipped_metadata_with_our_schema(name: str, tmp_path: Path) -> None:
    """In a process that can not reach any network."""
    result = verify(SHIPPED / name / "configs" / "metadata.json", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "metadata is verified with no error" in result.stdout + result.stderr


def test_monai_refuses_metadata_with_a_fault_by_our_schema(tmp_path: Path) -> None:
    metadata = tmp_path / "metadata.json"
    metadata.write_text(json.dumps({key: value for key, value in GOOD.items() if key != "authors"}), encoding="utf-8")
    result = verify(metadata, tmp_path)
    assert result.returncode != 0 and "'authors' is a required property" in result.stderr


def with_shape(shape: list[Any]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(GOOD))
    changed["network_data_format"]["inputs"]["image"]["spatial_shape"] = shape
    return changed


def verify(metadata: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle verify_metadata`, with every address but this machine's own unreachable."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "verify_metadata"]
        command += ["--meta_file", str(metadata), "--filepath", str(SCHEMA_FILE)]
        environment = {"PATH": "", "http_proxy": proxy, "https_proxy": proxy, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

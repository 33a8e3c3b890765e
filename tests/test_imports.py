"""What may import what: the rooms of the house are held apart, and the networks need torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("networks", "transforms", "pipeline")
ROOMS = ("studies", "inference", "outputs", "training", "bundling", "verdicts")
SHARED = (
    "atomic",
    "volume",
    "bundle",
    "bundle_files",
    "bundle_network",
    "organ_codes",
    "network_export",
    "errors",
    "progress",
    "device",
    "nifti_writer",
    "lock",
    "messages",
    "silent_loggers",
    "shared_memory",
    "worker_process",
    "shear",
    "limits",
    "dicom_reading",
    "trust",
    "case_facts",
    "fingerprint",
    "verdict",
)


def imports_of(file: Path, package: str) -> Iterator[str]:
    """Full names of what a module imports, relative imports resolved, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def modules() -> list[tuple[Path, str]]:
    """Every module of the installed package and the name of the package that it is in."""
    found = []
    for folder in FOLDERS:
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            parts = file.relative_to(REPOSITORY).parent.parts
            found.append((file, ".".join(("scanloom", *parts))))
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_relative_imports_are_resolved(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\nfrom ..h import i\n")
    assert list(imports_of(file, "p.q")) == ["a.b", "c.d", "p.q.e", "p.q.f.g", "p.h.i"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_networks_transforms_and_pipeline_do_not_import_each_other(folder: str) -> None:
    others = [f"scanloom.{other}" for other in FOLDERS if other != folder]
    wrong = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file, package in modules()
        if within(package, f"scanloom.{folder}")
        for name in imports_of(file, package)
        if any(within(name, other) for other in others)
    ]
    assert wrong == []


def test_inside_a_folder_imports_are_relative() -> None:
    wrong = [
        f"{file.relative_to(REPOSITORY)} line {node.lineno}"
        for file, _ in modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and not node.level and within(node.module or "", "scanloom")
    ]
    assert wrong == []


def test_networks_import_torch_and_the_standard_library_only() -> None:
    allowed = {"torch", "scanloom", *sys.stdlib_module_names}
    wrong = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file, package in modules()
        if within(package, "scanloom.networks")
        for name in imports_of(file, package)
        if name.partition(".")[0] not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_pipeline_imports_no_other_rooms_insides(room: str) -> None:
    """It takes what the rooms share, its own modules, and nothing else of the pipeline."""
    own = f"scanloom.pipeline.{room}"
    allowed = [own, *(f"scanloom.pipeline.{name}" for name in SHARED)]
    wrong = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file, package in modules()
        if within(package, own)
        for name in imports_of(file, package)
        if within(name, "scanloom") and not any(within(name, each) for each in allowed)
    ]
    assert wrong == []


def test_importing_the_networks_does_not_import_monai() -> None:
    code = (
        "import sys, scanloom.networks; print([name for name in ('monai', 'ignite', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("dicomweb", ("cohort", "pacs", "segment", "cli")),
        ("cohort", ("pacs", "segment", "cli")),
        ("pacs", ("cli",)),
    ],
)
def test_what_stands_above_the_rooms_is_built_one_on_the_other(lower: str, higher: tuple[str, ...]) -> None:
    wrong = [
        f"{file.relative_to(REPOSITORY)} imports {name}"
        for file, package in modules()
        if within(package, f"scanloom.pipeline.{lower}")
        for name in imports_of(file, package)
        if any(within(name, f"scanloom.pipeline.{each}") for each in higher)
    ]
    assert wrong == []

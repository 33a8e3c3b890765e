"""Where the real data is; one thread and one seed for every test."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests' networks are tiny

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, `../shared/data` or SCANLOOM_TEST_DATA; skips the test where there is none."""
    folder = Path(os.environ.get("SCANLOOM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: no folder {folder}; set SCANLOOM_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Torch's global random state is the same at the start of every test; torch is not imported for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    yield

"""Where the real data is, for tests that read it."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, `../shared/data` or SCANLOOM_TEST_DATA; skips the test where there is none."""
    folder = Path(os.environ.get("SCANLOOM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: no folder {folder}; set SCANLOOM_TEST_DATA")
    return folder

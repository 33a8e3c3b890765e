"""Where the real data is; one thread, one seed and the same made-up examples for every test, each time."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the tests' networks are tiny

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")  # `pytest --hypothesis-profile default -m hypothesis` draws new examples each time

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, `../shared/data` or SCANLOOM_TEST_DATA; skips the test where there is none."""
    folder = Path(os.environ.get("SCANLOOM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs real data: no folder {folder}; set SCANLOOM_TEST_DATA")
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a fixture for many tests draws is the same whatever test ran before in this process."""
    _seed()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Torch's random state, and that of MONAI's transforms without a seed, are the same at the start of every test."""
    _seed()


def _seed() -> None:
    """Neither is imported for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "monai.transforms.transform" in sys.modules:
        sys.modules["monai.transforms.transform"].Randomizable.R.seed(0)

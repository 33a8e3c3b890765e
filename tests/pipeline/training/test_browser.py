"""MLflow's page, as `scanloom ui` serves it, in a real browser: the run, its metrics, its picture, the model.

    SCANLOOM_SCREENSHOTS=docs/images pytest tests/pipeline/training/test_browser.py

writes what docs/tracking.md shows.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.training.options import TrainOptions
from scanloom.pipeline.training.tracking import tracking_uri
from scanloom.pipeline.training.train import train

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAME = "hippocampus_mr_unet"
SMALL = {
    "network_def#features": [4, 8],
    "network_def#deep_supervision": 0,
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "val_interval": 1,
}
DATASET = os.environ.get("SCANLOOM_SCREENSHOTS_DATASET")
"""For pictures worth looking at: a real dataset, trained with the bundle's own settings for a few epochs."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]


@pytest.fixture
def address(own_store: Path) -> Iterator[str]:
    """Of MLflow's page, served by `scanloom ui`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "scanloom.pipeline.cli", "ui", "--port", str(port)]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    found = re.search(r"http://\S+(?=;)", process.stderr.readline())
    assert found is not None
    yield found.group()
    process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stderr.close()


def train_one(crops: Path, own_store: Path) -> str:
    """The ID of a run of a few epochs."""
    options = TrainOptions(crops, own_store / "RUN", folds=3, epochs=8, device="cpu", overrides=SMALL)
    if DATASET:
        options = TrainOptions(Path(DATASET), own_store / "RUN", epochs=12, overrides={"val_interval": 2})
    trained = train(find_bundle(NAME), options, lambda line, done=None: None)
    return str(trained.metadata["training"]["mlflow_run_id"])


def look(page: Any, url: str, words: list[str], picture: str) -> None:
    """Open the page and wait until it shows all the words; keep a picture of it where that is asked for."""
    page.goto(url)
    for word in words:
        page.get_by_text(word).first.wait_for(timeout=60_000)
    folder = os.environ.get("SCANLOOM_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(3_000)
        page.screenshot(path=Path(__file__).parents[3] / folder / f"tracking_{picture}.png")


def test_the_page_shows_the_run_its_metrics_its_picture_and_the_model(
    crops: Path, own_store: Path, address: str
) -> None:
    run_id = train_one(crops, own_store)
    run = MlflowClient(tracking_uri()).get_run(run_id)
    experiment = f"{address}/#/experiments/{run.info.experiment_id}"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        look(page, f"{experiment}/runs", [f"{NAME} fold 0"], "runs")
        look(page, f"{experiment}/runs/{run_id}", ["train/loss", "val/mean_dice"], "run")
        look(page, f"{experiment}/runs/{run_id}/model-metrics", ["learning_rate"], "metrics")
        look(page, f"{experiment}/runs/{run_id}/artifacts/validation/worst.png", ["worst.png"], "picture")
        page.wait_for_function("[...document.images].some(image => image.naturalWidth > 800)", timeout=60_000)
        look(page, f"{address}/#/models/{NAME}", [NAME, "champion"], "model")
        browser.close()

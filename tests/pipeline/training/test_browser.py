"""MLflow's page, as `scanloom ui` serves it, in a real browser: the run, its metrics, its picture, the model.

    SCANLOOM_SCREENSHOTS=docs/images SCANLOOM_SCREENSHOTS_DATASET=DATASET pytest tests/pipeline/training/test_browser.py

writes what docs/tracking.md shows, of a real dataset of some fifty cases.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ports import free_ports
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.progress import silent
from scanloom.pipeline.training.options import TrainOptions
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
"""For pictures worth looking at: a real dataset, trained with nearly the bundle's own settings for a few epochs."""
SHOWN = {"val_interval": 2, "ema#momentum": 0.1}
"""Of a dozen epochs: weights averaged over the last tens of steps, not over hundreds."""
VIEW = {"width": 1100, "height": 720}
AS_CHOSEN = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}
"""What MLflow's page keeps in the browser of one who trains models and has closed its chat."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]


@pytest.fixture
def address(own_store: Path) -> Iterator[str]:
    """Of MLflow's page, served by `scanloom ui`."""
    (port,) = free_ports(1)
    words = ["-m", "scanloom.pipeline.cli", "ui", "--port", str(port)]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    found = re.search(r"http://\S+(?=;)", process.stderr.readline())
    assert found is not None
    yield found.group()
    process.send_signal(signal.SIGINT)
    process.wait(240)
    process.stderr.close()


def train_one(crops: Path, own_store: Path) -> str:
    """The ID of a run of a few epochs."""
    options = TrainOptions(crops, own_store / "RUN", folds=3, epochs=8, device="cpu", overrides=SMALL)
    if DATASET:
        options = TrainOptions(Path(DATASET), own_store / "RUN", epochs=12, device="cpu", overrides=SHOWN)
    trained = train(find_bundle(NAME), options, silent)
    return str(trained.metadata["training"]["mlflow_run_id"])


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    """An empty page of a browser whose user has been to MLflow before."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.add_init_script(
            f"Object.entries({json.dumps(AS_CHOSEN)}).forEach(entry => localStorage.setItem(...entry))"
        )
        yield page
        browser.close()


def look(page: Any, picture: str, *words: str) -> None:
    """Wait until the page shows all the words; keep a picture of it where that is asked for, without paths in it."""
    for word in words:
        page.get_by_text(word).first.wait_for(timeout=240_000)
    folder = os.environ.get("SCANLOOM_SCREENSHOTS")
    if folder:
        page.mouse.move(0, 0)
        page.wait_for_timeout(3_000)
        taken = page.screenshot(mask=[page.get_by_text("Path: ")], mask_color="white")
        file = Path(__file__).parents[3] / folder / f"tracking_{picture}.png"
        Image.open(io.BytesIO(taken)).quantize(256, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)


def test_the_page_shows_the_run_its_metrics_its_picture_and_the_model(
    crops: Path, own_store: Path, address: str, page: Any
) -> None:
    run_id = train_one(crops, own_store)
    page.goto(f"{address}/#/experiments")
    page.get_by_role("link", name=NAME).click(timeout=240_000)
    look(page, "runs", f"{NAME} fold 0")
    page.get_by_role("link", name=f"{NAME} fold 0").first.click()
    look(page, "run", "train/loss", "val/mean_dice", run_id)
    run = page.url.partition("?")[0].removesuffix("/overview")
    page.goto(f"{run}/model-metrics")
    look(page, "metrics", "learning_rate")
    page.goto(f"{run}/artifacts/validation/worst.png")
    page.wait_for_function("[...document.images].some(image => image.naturalWidth > 800)", timeout=240_000)
    look(page, "picture", "worst.png")
    page.goto(f"{address}/#/models/{NAME}")
    look(page, "model", NAME, "champion")

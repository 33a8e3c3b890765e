"""The shipped bundle's verdicts on real scans, whole and spoilt."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.segment import PredictOptions, predict

pytestmark = [pytest.mark.data, pytest.mark.slow]

GOOD = ("hippocampus_001", "hippocampus_003", "hippocampus_004")
SPOILT = {
    "half": lambda array: array[:, array.shape[1] // 2 :],
    "upside_down": lambda array: array[:, :, ::-1],
    "back_to_front": lambda array: array[:, ::-1],
    "noisy": lambda array: array + np.random.default_rng(0).normal(0, array.std() / 2, array.shape),
    "nothing": lambda array: np.random.default_rng(0).normal(100, 20, array.shape),
}


@pytest.fixture(scope="module")
def loaded() -> list[Predictor]:
    """The network, loaded once."""
    return []


def test_good_scans_are_ok_and_spoilt_ones_are_not(data_folder: Path, tmp_path: Path, loaded: list[Predictor]) -> None:
    images = [data_folder / "msd_hippocampus" / "images" / f"{name}.nii.gz" for name in GOOD]
    image = nib.load(images[0])
    for name, spoil in SPOILT.items():
        array = np.ascontiguousarray(spoil(image.get_fdata(dtype=np.float32)), np.float32)
        nib.save(nib.Nifti1Image(array, image.affine), tmp_path / f"{name}.nii.gz")
    doubled = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine @ np.diag([2.0, 2, 2, 1]))
    nib.save(doubled, tmp_path / "doubled.nii.gz")
    inputs = [*images, *sorted(tmp_path.glob("*.nii.gz"))]
    options = PredictOptions(inputs, tmp_path / "out", device="cpu", pages=False, confidence=True)
    results = predict(find_bundle("hippocampus_mr_unet"), options, loaded=loaded)
    verdicts = {result.case: result.verdict for result in results}
    assert {name: verdicts[name].status for name in GOOD} == dict.fromkeys(GOOD, "ok")
    spoilt = {name: verdict.status for name, verdict in verdicts.items() if name not in GOOD}
    assert len(spoilt) == len(SPOILT) + 1
    assert "ok" not in spoilt.values()
    assert spoilt["doubled"] == spoilt["nothing"] == spoilt["back_to_front"] == "reject"
    for result in results:  # a rejected case has its files all the same
        assert (result.status, result.error) == ("done", None)
        assert {"labels.nii.gz", "confidence.nii.gz", "preview.png"} <= {path.name for path in result.folder.iterdir()}
        report = json.loads((result.folder / "report.json").read_text())
        assert report["verdict"] == result.verdict.to_json()
        assert report["seconds"]["verdict"] < 5


def test_the_network_is_surer_inside_than_on_the_surface(
    data_folder: Path, tmp_path: Path, loaded: list[Predictor]
) -> None:
    image = data_folder / "msd_hippocampus" / "images" / f"{GOOD[0]}.nii.gz"
    options = PredictOptions([image], tmp_path / "out", device="cpu", pages=False, confidence=True)
    [result] = predict(find_bundle("hippocampus_mr_unet"), options, loaded=loaded)
    confidence = nib.load(result.folder / "confidence.nii.gz").get_fdata()
    labels = np.asarray(nib.load(result.folder / "labels.nii.gz").dataobj)
    assert confidence.min() >= 1 / 3 - 0.01
    assert confidence.max() <= 1
    from scipy.ndimage import binary_erosion

    inside = binary_erosion(labels > 0, iterations=3)
    edge = (labels > 0) & ~binary_erosion(labels > 0)
    assert confidence[inside].mean() > confidence[edge].mean() + 0.05

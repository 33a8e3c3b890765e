"""The example study, and the command that shows the main job on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scanloom.pipeline import demo
from scanloom.pipeline.doctor import examine
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.studies import find_series, read_series


def test_the_study_holds_both_sides_where_they_are_in_the_template(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="the template comes with nilearn")
    volumes = {}
    for folder in demo.write_study(tmp_path / "study"):
        [series] = find_series(folder)
        assert series.verdict == "ok"
        assert series.plane == "sagittal"
        volumes[folder.name] = read_series(series)
    for side, volume in volumes.items():
        centre = volume.affine @ [*(np.array(volume.spatial_shape) / 2), 1]
        assert np.allclose(centre[:3], demo.CENTRES_RAS_MM[side], atol=1.5)
        assert volume.array.max() > 300
    assert len(find_series(tmp_path / "study")) == 2


def test_without_the_template_the_demo_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="needs the MNI152 template"):
        demo.write_study(tmp_path)


def test_a_study_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="the template comes with nilearn")
    (tmp_path / "study").write_text("a file")
    with pytest.raises(PipelineError, match="can not write the example study"):
        demo.write_study(tmp_path / "study")


def test_the_picture_is_read_as_one_slice(tmp_path: Path) -> None:
    [series] = find_series(demo.write_picture(tmp_path / "new" / "cells.png"))
    assert read_series(series).spatial_shape == (768, 768, 1)


def test_a_picture_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(PipelineError, match="can not write the picture"):
        demo.write_picture(tmp_path / "demo" / "cells.png")


@pytest.mark.slow
def test_the_demo_labels_hippocampi_and_membranes_with_plausible_volumes(tmp_path: Path) -> None:
    pytest.importorskip("nilearn", reason="the template comes with nilearn")
    command = [sys.executable, "-m", "scanloom.pipeline.cli", "demo", "-o", str(tmp_path / "demo")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert process.returncode == 0, process.stderr
    reports = [json.loads(path.read_text()) for path in (tmp_path / "demo" / "results").glob("*/report.json")]
    assert len(reports) == 2
    for report in reports:
        volumes = {label["name"]: label["volume_ml"] for label in report["labels"]}
        assert 0.8 < volumes["anterior"] < 4
        assert 0.8 < volumes["posterior"] < 4
        assert "right" in process.stdout
        assert "left" in process.stdout
    report = json.loads((tmp_path / "demo" / "cells" / "cells" / "report.json").read_text())
    [membrane] = report["labels"]
    assert 0.08 < membrane["voxels"] / 768**2 < 0.4


@pytest.mark.filterwarnings("ignore")  # torch warns of its own affairs where it is imported first
def test_the_doctor_names_versions_devices_and_bundles() -> None:
    facts = examine()
    assert {"python", "torch", "monai", "device", "bundles", "tracking store"} <= set(facts)
    assert "hippocampus_mr_unet" in facts["bundles"]
    assert "membrane_em_resnetunet" in facts["bundles"]
    assert facts["DICOM pixels"] == "all still-image transfer syntaxes"

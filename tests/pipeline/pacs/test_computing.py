"""What a node makes of a prediction; the prediction itself is made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scanloom.pipeline import segment
from scanloom.pipeline.errors import BundleError, GeometryError
from scanloom.pipeline.pacs.computing import BundleRun, Labelled
from scanloom.pipeline.segment import CaseResult, PredictOptions
from scanloom.pipeline.studies import AmbiguousSeriesError
from scanloom.pipeline.verdict import Reason, Verdict

REJECTED = Verdict((Reason("spacing", "reject", "voxels of 9 mm"),))
OPTIONS = PredictOptions((), Path("out"), formats=("dicom-seg", "dicom-sr"))
BUNDLE: Any = SimpleNamespace(weights_sha256="w", version="1")


def ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, results: dict[str | None, Any], **options: bool) -> Labelled:
    """How a study ends whose predictions, by the series asked for, are these."""

    def predict(bundle: Any, options: PredictOptions, report: Any, loaded: Any) -> list[CaseResult]:
        result = results[options.series]
        if isinstance(result, Exception):
            raise result
        if result.error is None:
            (options.output / str(result.case)).mkdir(parents=True)
            (options.output / str(result.case) / "segmentation.dcm").write_bytes(b"x")
        return [result]

    monkeypatch.setattr(segment, "predict", predict)
    return BundleRun(BUNDLE, OPTIONS, **options)(tmp_path / "images", tmp_path / "out")


def several(*cases: str) -> CaseResult:
    candidates = [SimpleNamespace(case=case) for case in cases]
    error = AmbiguousSeriesError("2 fit.", candidates)  # type: ignore[arg-type]
    return CaseResult(None, status="refused", error=error)


def test_a_case_that_went_well_is_done_with_its_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ended(monkeypatch, tmp_path, {None: CaseResult("mr-1")}) == Labelled("done", "mr-1")
    done = ended(monkeypatch, tmp_path, {None: CaseResult("mr-2", verdict=Verdict())})
    assert done == Labelled("done", "mr-2, verdict ok")


def test_what_is_not_to_be_used_is_held_back_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held = ended(monkeypatch, tmp_path, {None: CaseResult("mr-1", verdict=REJECTED)}, holds_rejected=True)
    assert held == Labelled("held", "mr-1, verdict reject: voxels of 9 mm")
    sent = ended(monkeypatch, tmp_path, {None: CaseResult("mr-2", verdict=REJECTED)})
    assert sent.status == "done"


def test_a_refusal_and_a_failure_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refused = CaseResult(None, status="refused", error=GeometryError("a slice is missing"))
    assert ended(monkeypatch, tmp_path, {None: refused}) == Labelled("refused", "a slice is missing")
    assert ended(monkeypatch, tmp_path, {None: BundleError("no weights")}) == Labelled("failed", "no weights")


def test_several_series_are_refused_or_each_is_labelled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = {None: several("a", "b", "c"), "a": CaseResult("a"), "b": CaseResult("b", verdict=REJECTED)}
    results["c"] = CaseResult("c", status="refused", error=GeometryError("no c"))
    refused = ended(monkeypatch, tmp_path, results, one_series=True)
    assert refused == Labelled("refused", "2 fit. Or listen without --one-series.")
    every = ended(monkeypatch, tmp_path, results, holds_rejected=True)
    assert every == Labelled("done", "a; b, verdict reject: voxels of 9 mm; no c", beside="refused")
    sent = [file.parent.name for file in (tmp_path / "out").glob("*/*.dcm")]
    assert sent == ["a"]
    assert (tmp_path / "out" / "held" / "b" / "segmentation.dcm").exists()


def test_another_bundle_or_setting_has_another_digest() -> None:
    other: Any = SimpleNamespace(weights_sha256="v", version="1")
    runs = [
        BundleRun(BUNDLE, OPTIONS),
        BundleRun(other, OPTIONS),
        BundleRun(BUNDLE, replace(OPTIONS, formats=("dicom-seg",))),
        BundleRun(BUNDLE, replace(OPTIONS, precision="bf16")),
        BundleRun(BUNDLE, OPTIONS, holds_rejected=True),
        BundleRun(BUNDLE, OPTIONS, one_series=True),
    ]
    assert len({run.digest for run in runs}) == len(runs)
    assert BundleRun(BUNDLE, replace(OPTIONS, formats=("dicom-sr", "dicom-seg"))).digest == runs[0].digest


def test_the_end_lies_beside_the_results(tmp_path: Path) -> None:
    Labelled("held", "why").write(tmp_path)
    assert Labelled.read(tmp_path) == Labelled("held", "why")

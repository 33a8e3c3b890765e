"""The trail of a case: which software, weights and input made it, how long it took, what to beware of."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..bundle import Bundle
from ..verdict import Verdict
from ..volume import Notice, Volume
from .measure import LabelMeasurement

PACKAGES = ("scanloom", "torch", "monai", "numpy", "nibabel", "pydicom", "highdicom")
"""The packages whose versions a report holds."""


@dataclass(frozen=True)
class RunFacts:
    """What the caller knows about a run and the outputs can not see.

    Attributes:
        device: what the network ran on, such as "cpu" or "cuda:0 (NVIDIA H200)".
        seconds: stage -> wall-clock seconds.
        notices: warnings of the stages after the reader; the volume brings the reader's own.
        inference: what there is to say of the windows, the precision and the memory.
        verdict: whether the result can be trusted; None where nobody asked.
    """

    device: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    inference: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class SummaryRow:
    """One case of a run.

    Attributes:
        case: its name; None where the input was refused before it had one.
        status: "done", "failed", "refused" or "skipped".
        seconds: wall-clock seconds of the whole case.
        volumes_ml: label name -> millilitres; of a skipped case those found before; else empty unless done.
        error: the one-line message; None unless failed or refused.
        description: the words of imaging in the series' description.
        warnings: one-line messages.
        files: names of the files in the case's folder.
        verdict: whether the result can be trusted; None where there is no result.
    """

    case: str | None
    status: str
    seconds: float
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    description: str = ""
    warnings: Sequence[str] = ()
    files: Sequence[str] = ()
    verdict: Verdict | None = None


def build_report(
    volume: Volume,
    bundle: Bundle,
    measurements: Sequence[LabelMeasurement],
    facts: RunFacts,
    outputs: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of report.json; nothing of the patient, the series only by the hash of its UID.

    Args:
        volume: the input.
        bundle: names the weights; its `training` metadata names the MLflow run that made them.
        measurements: of every label of the bundle.
        facts: device, seconds, warnings.
        outputs: names of the files written beside the report.
    """
    return {
        "case": volume.case,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": _describe_input(volume),
        "bundle": describe_bundle(bundle),
        "device": facts.device,
        "inference": dict(facts.inference),
        "versions": package_versions(),
        "seconds": {stage: round(seconds, 3) for stage, seconds in facts.seconds.items()},
        "labels": [
            {"value": row.value, "name": row.name, "voxels": row.voxels, "volume_ml": row.volume_ml}
            for row in measurements
        ],
        "verdict": facts.verdict.to_json() if facts.verdict else None,
        "warnings": [asdict(notice) for notice in (*volume.notices, *facts.notices)],
        "outputs": list(outputs),
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write report.json.

    Raises:
        PipelineError: the file can not be written.
    """
    write_whole(path, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())


def write_summary(path: Path, rows: Sequence[SummaryRow]) -> None:
    """Write summary.csv: a row a case, a column `<label>_ml` for each label that any case has; verdict and its reasons.

    Raises:
        PipelineError: the file can not be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.volumes_ml))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["case", "status", "seconds", *(f"{name}_ml" for name in names), "verdict", "reasons", "error"])
    for row in rows:
        volumes = [f"{row.volumes_ml[name]:.6g}" if name in row.volumes_ml else "" for name in names]
        error = " ".join((row.error or "").split())
        verdict = row.verdict.status if row.verdict else ""
        reasons = "; ".join(f"{reason.code}: {reason.message}" for reason in row.verdict.reasons) if row.verdict else ""
        writer.writerow([row.case or "", row.status, f"{row.seconds:.2f}", *volumes, verdict, reasons, error])
    write_whole(path, table.getvalue().encode())


def package_versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES, read without importing them; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """The bundle for reports: name, version, its weights, and the MLflow run that made them."""
    training = bundle.metadata.get("training")
    run = training.get("mlflow_run_id") if isinstance(training, Mapping) else None
    return {
        "name": bundle.name,
        "version": bundle.version,
        "weights_sha256": bundle.weights_sha256,
        "mlflow_run_id": run,
    }


def _describe_input(volume: Volume) -> dict[str, Any]:
    return {
        "kind": "dicom" if volume.sources else "image file",
        "modality": volume.modality,
        "series_sha256": volume.series_sha256,
        "instances": len(volume.sources),
        "shape_voxels": list(volume.spatial_shape),
        "spacing_mm": list(volume.spacing),
        "affine_ras_mm": [[float(entry) for entry in row] for row in volume.affine],
    }

"""Pages that tie the files of a run together; they need no server and load nothing from the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..atomic import write_whole
from ..bundle import Bundle
from .measure import volume_text
from .report import SummaryRow

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_LABELS = 8
"""Volumes of a case that the index shows; the others open on a click."""
LINKED = {
    "labels.nii.gz": "labels",
    "labels.tif": "labels (TIFF)",
    "confidence.nii.gz": "confidence",
    "segmentation.dcm": "DICOM SEG",
    "labelmap.dcm": "DICOM label map",
    "measurements.dcm": "DICOM SR",
    "rtstruct.dcm": "RTSTRUCT",
    "measurements.csv": "measurements",
    "report.json": "report",
}
"""File of a case -> what the index calls it."""


def write_index(path: Path, rows: Sequence[SummaryRow], bundle: Bundle) -> None:
    """Write index.html: a row a case, with its picture, volumes and warnings, and links to what is there.

    Args:
        path: OUT/index.html; the cases' folders stand beside it.
        rows: one a case.
        bundle: what made them.
    Raises:
        PipelineError: the file can not be written.
    """
    counts = Counter(row.status for row in rows)
    verdicts = Counter(f"verdict {row.verdict.status}" for row in rows if row.verdict)
    write_page(
        path,
        "index.html",
        made_by=f"{bundle.name} {bundle.version}",
        counts=", ".join(f"{number} {word}" for word, number in (*counts.items(), *verdicts.items())),
        rows=[_row(row) for row in rows],
        limit=SHOWN_LABELS,
    )


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill a template and write it; what the content holds is text, never markup.

    Raises:
        PipelineError: the file can not be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    write_whole(path, environment.get_template(template).render(content).encode())


def _row(row: SummaryRow) -> dict[str, Any]:
    """What the index shows of a case; only files that this run or the one it skipped vouches for are linked."""

    def link(name: str) -> str | None:
        return f"{quote(str(row.case))}/{name}" if name in row.files else None

    return {
        "case": row.case,
        "description": row.description,
        "status": row.status,
        "seconds": f"{row.seconds:.1f}",
        "volumes": [(name, volume_text(volume)) for name, volume in row.volumes_ml.items()],
        "verdict": row.verdict.status if row.verdict else None,
        "reasons": [(reason.severity, reason.message) for reason in row.verdict.reasons] if row.verdict else [],
        "warnings": list(row.warnings),
        "error": row.error,
        "preview": link("preview.png"),
        "page": link("view.html"),
        "files": [(shown, url) for name, shown in LINKED.items() if (url := link(name))],
    }

"""What an evaluation writes when all its cases are done: the summary as JSON and Markdown, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .outputs.pages import write_page
from .outputs.report import describe_bundle, package_versions
from .training.held_out import Chosen
from .training.score_files import case_json, summary_json, write_card_table, write_metrics_json
from .training.score_pages import page_content
from .training.scores import CaseScores, Summary

TABLE, PAGE, SUMMARY = "table.md", "index.html", "metrics.json"


def remove_old_files(output: Path) -> None:
    """The summary of an earlier evaluation is not to stand beside the rows of this one."""
    for name in (TABLE, PAGE, SUMMARY):
        (output / name).unlink(missing_ok=True)


def write_evaluation(
    output: Path,
    bundles: Sequence[Bundle],
    chosen: Sequence[Chosen],
    cases: Sequence[CaseScores],
    summary: Summary,
    facts: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> dict[str, Any]:
    """Write table.md, index.html and, last, metrics.json; returns what the latter holds.

    Args:
        output: the folder OUT.
        bundles: one, or all folds of a cross-validation.
        chosen: the cases of each.
        cases: all that were tried.
        summary: of those that were scored.
        facts: `dataset`, `settings` and `seconds` of metrics.json.
        pictures: case -> path of its picture in OUT.
    Raises:
        PipelineError: a file can not be written.
    """
    content = _content(bundles, chosen, cases, summary, facts)
    write_card_table(output / TABLE, summary)
    title = f"{bundles[0].name} {bundles[0].version}" + (f", {len(bundles)} folds" if len(bundles) > 1 else "")
    shown = page_content(title, _foot(content), content["notices"], cases, bundles[0].labels, summary, pictures)
    write_page(output / PAGE, "evaluation.html", **shown)
    write_metrics_json(output / SUMMARY, content)
    return content


def _content(
    bundles: Sequence[Bundle],
    chosen: Sequence[Chosen],
    cases: Sequence[CaseScores],
    summary: Summary,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Of metrics.json: the summary and how it came about; no path, and nothing of the patient."""
    failed = sum(case.error is not None for case in cases)
    described = [{**describe_bundle(bundle), "fold": each.fold} for bundle, each in zip(bundles, chosen, strict=True)]
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bundles": described,
        **facts,
        "notices": list(dict.fromkeys(notice for each in chosen for notice in each.notices)),
        "evaluated": len(cases) - failed,
        "failed": failed,
        "summary": summary_json(summary),
        "cases": [case_json(case) for case in cases],
        "versions": package_versions(),
    }


def _foot(content: Mapping[str, Any]) -> dict[str, str]:
    """How the figures were made, for the foot of the page."""
    settings, dataset = content["settings"], content["dataset"]
    return {
        "created": content["created"],
        "weights (SHA-256)": ", ".join(each["weights_sha256"] for each in content["bundles"]),
        "MLflow run": ", ".join(each["mlflow_run_id"] or "unknown" for each in content["bundles"]),
        "dataset (SHA-256)": dataset["sha256"] or "unknown: some of its files are missing",
        "cases": f"{content['evaluated']} evaluated, {content['failed']} failed, {dataset['cases']} in the dataset",
        "tolerance of surface Dice": f"{settings['tolerance_mm']:g} mm",
        "computed on": f"{settings['device'] or 'nothing'}, {settings['precision'] or 'no network'}",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }

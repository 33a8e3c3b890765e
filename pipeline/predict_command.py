"""The command `scanloom predict`. Imports only typer, as `cli` does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .command import (
    BundleOption,
    DevicesOption,
    FormatsOption,
    JsonOption,
    MaxVoxelsOption,
    NamesOption,
    PrecisionOption,
    check_paths,
    quiet_libraries,
    show_trace,
    tell_of_versions,
)
from .errors import StudyError, exit_status
from .limits import MAX_VOXELS

if TYPE_CHECKING:
    from .dicomweb import StudyAddress
    from .prediction import CaseResult

SHOWN_CASES = 100
"""More are counted on the terminal, not listed; the tables of the run hold them."""


def predict(
    bundle: BundleOption,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="A scan's file or folder, or dicomweb://HOST/…/studies/UID; may be repeated."
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for the results, one subfolder a case; or s3://BUCKET/FOLDER.")
    ],
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, case name or series number.")] = None,
    cohort: Annotated[bool, typer.Option("--cohort", help="Each input is a folder of many studies.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="auto|ADDRESS", help="Share a cohort out over a Ray cluster; auto finds or starts one."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Devices of the cluster to use; all if not given.")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Send DICOM results back to the dicomweb:// of the study.")
    ] = False,
    formats: FormatsOption = None,
    device: DevicesOption = "auto",
    precision: PrecisionOption = "auto",
    engine: Annotated[
        Literal["torch", "openvino", "onnxruntime"],
        typer.Option(help="What runs the network; openvino on processors only, onnxruntime in fp32 only."),
    ] = "torch",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first (torch.compile).")] = False,
    trust_bundle: Annotated[bool, typer.Option(help="Run a bundle that is not ours; its config is code.")] = False,
    skip_existing: Annotated[bool, typer.Option(help="Leave out cases that these weights have done.")] = False,
    names: NamesOption = "hashed",
    max_voxels: MaxVoxelsOption = MAX_VOXELS,
    pages: Annotated[bool, typer.Option("--pages/--no-pages", help="Write pages that show the results.")] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Write how sure the network is of each voxel.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Segment scans: label maps, DICOM SEG, measurements, pictures and a report for each."""
    given = [_input(word) for word in inputs]
    check_paths([path for path in given if isinstance(path, Path)])
    from .bundle import find_bundle

    found = find_bundle(bundle)
    tell_of_versions(found)
    from .progress import ProgressBar
    from .segment import PredictOptions
    from .segment import predict as run

    quiet_libraries()
    options = PredictOptions(
        given,
        output,
        series,
        tuple(formats or ()),
        device,
        precision,
        engine,
        compile,
        trust_bundle,
        skip_existing,
        names_of_source=names == "source",
        max_voxels=max_voxels,
        pages=pages,
        only_predicts=not trust_bundle,
        confidence=confidence,
        cohort=cohort or cluster is not None,
        store=store,
        cluster=cluster,
        workers=workers,
    )
    with ProgressBar("predict") as report:
        results = run(found, options, report)
    if as_json:
        typer.echo(json.dumps({"output": str(output), "cases": [_result_json(result) for result in results]}, indent=2))
    else:
        print_results(results)
    for result in results:
        if result.error:
            named = result.case is None or result.case in str(result.error)
            typer.echo(f"scanloom: {result.error}" if named else f"scanloom: {result.case}: {result.error}", err=True)
            show_trace(result.error)
    raise typer.Exit(exit_status(results))


def print_results(results: list[CaseResult]) -> None:
    """Volumes and files of the cases that went well, the series to choose from of those that were ambiguous."""
    from .tables import print_series, print_verdict, print_volumes

    if len(results) > SHOWN_CASES:
        counts = Counter(result.status for result in results)
        typer.echo(
            ", ".join(f"{number} {word}" for word, number in counts.items()) + "; summary.csv has a row for each"
        )
        return
    for result in results:
        if isinstance(result.error, StudyError) and result.found:
            print_series(list(result.found), stderr=True)
    done = [result for result in results if result.status == "done"]
    if done:
        print_volumes([(f"{result.case} {result.description}".strip(), result.volumes_ml) for result in done])
    for result in results:
        for warning in result.warnings:
            typer.echo(f"{result.case}: {warning['message']}")
        if result.folder is not None and result.error is None:
            typer.echo(f"{result.case}: {result.status}, {result.folder}")
    for result in results:
        if result.verdict is not None:
            print_verdict(str(result.case), result.verdict)


def _input(word: str) -> Path | StudyAddress:
    """What an input is: a path, or the address of a study on a server."""
    if "://" not in word:
        return Path(word)
    from .dicomweb import StudyAddress

    return StudyAddress.parse(word)


def _result_json(result: CaseResult) -> dict[str, Any]:
    return {
        "case": result.case,
        "status": result.status,
        "folder": str(result.folder) if result.folder and result.error is None else None,
        "seconds": round(result.seconds, 3),
        "verdict": result.verdict.to_json() if result.verdict else None,
        "volumes_ml": result.volumes_ml,
        "warnings": result.warnings,
        "error": str(result.error) if result.error else None,
        "series": list(result.found) if result.error else [],
    }

"""The last stage of a case: a verdict on its labels, and every file where it belongs."""

from __future__ import annotations

import json
from time import perf_counter

from ..atomic import remove_left_overs
from ..outputs import RunFacts, write_case
from ..prediction import CaseResult
from ..verdicts import Judge
from .job import Job
from .labelling import Labelled
from .reading import Scan
from .storing import is_being_stored, store_case


def finish_case(result: CaseResult, scan: Scan, labelled: Labelled, job: Job) -> CaseResult:
    """The last stage: a verdict, and every file where it belongs."""
    started = perf_counter()
    with result.ended_by_errors("a case"):
        verdict = Judge(job.bundle)(scan.volume.measured(), labelled.labels, labelled.surface_confidence)
        result.verdict = verdict
        seconds = {**labelled.seconds, "verdict": perf_counter() - started}
        facts = RunFacts(labelled.device, seconds, labelled.notices, labelled.facts, verdict)
        with job.destination.case_folder(str(result.case)) as folder:
            remove_left_overs(folder)  # of an attempt that was killed
            if scan.address is None or not is_being_stored(folder, job.run):
                write_case(
                    folder,
                    labelled.labels,
                    scan.volume,
                    job.bundle,
                    facts,
                    scan.formats,
                    job.options.pages,
                    labelled.confidence,
                    scan.source,
                )
            result.take_findings(json.loads((folder / "report.json").read_text(encoding="utf-8")))
            if scan.address is not None:
                result.warnings = [*result.warnings, *store_case(folder, result.files, scan.address, job.run)]
        result.found = ()
    result.seconds += perf_counter() - started
    return result

"""What is asked of a prediction, and how each of its inputs ended."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PipelineError, our_own
from .limits import MAX_VOXELS
from .outputs import SummaryRow
from .studies import AmbiguousSeriesError
from .verdict import Verdict

if TYPE_CHECKING:
    from .dicomweb import StudyAddress

log = logging.getLogger("scanloom.predict")


@dataclass(frozen=True)
class PredictOptions:
    """What the command line says of a prediction.

    Attributes:
        inputs: files, folders and addresses of studies on a DICOMweb server, one case each.
        output: the folder OUT, or an address that fsspec knows, such as s3://BUCKET/OUT; a case's files go to
            OUT/<case>.
        series: which series of each input; None where the bundle's rule must decide.
        formats: of `outputs.FORMATS`; empty for NIfTI, with DICOM SEG for DICOM and TIFF for pictures.
        device: "auto", "cpu", "cuda", …; several of one kind with commas between.
        precision: "auto", "fp32", "bf16" or "fp16".
        engine: "torch", "openvino" or "onnxruntime".
        compile: run the network through `torch.compile`.
        trust_bundle: run a bundle that is a stranger's.
        names_of_source: call DICOM cases after the folders of their files, which may name a patient.
        max_voxels: refuse a scan that claims more.
        skip_existing: leave cases alone that these weights have done already, where every file is as it was written.
        pages: write index.html, and for each case view.html, which shows image and labels in a browser.
        only_predicts: the process does nothing else with MONAI, so that it can leave out what training needs.
        confidence: write confidence.nii.gz, how sure the network is of each voxel.
        store: send the DICOM objects of each study that came by DICOMweb back to where it came from.
        cohort: each input is a folder of many studies, each a case of its own.
        cluster: the Ray cluster that does the work, an address or "auto"; None for this machine alone.
        workers: devices of the cluster that hold the bundle; None for as many as there are.
    """

    inputs: Sequence[Path | StudyAddress]
    output: Path | str
    series: str | None = None
    formats: Sequence[str] = ()
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    compile: bool = False
    trust_bundle: bool = False
    skip_existing: bool = False
    names_of_source: bool = False
    max_voxels: int = MAX_VOXELS
    pages: bool = True
    only_predicts: bool = False
    confidence: bool = False
    store: bool = False
    cohort: bool = False
    cluster: str | None = None
    workers: int | None = None

    @property
    def extra_files(self) -> tuple[str, ...]:
        """Names of files that were asked for beside the formats."""
        return ("confidence.nii.gz",) if self.confidence else ()


@dataclass
class CaseResult:
    """How one input ended.

    Attributes:
        case: its name; None where it was refused before it had one.
        description: the words of imaging in the series' description.
        status: "done", "skipped", "refused" or "failed".
        folder: of its files; an address where they are not on a disk.
        seconds: that were worked on it; waiting is not counted.
        volumes_ml: label name -> millilitres.
        files: names of the outputs in the folder.
        error: what stopped it.
        found: what `Series.summary` says of each series of the input; empty where the case is done.
        verdict: whether the result can be trusted; None where there is none.
    """

    case: str | None
    description: str = ""
    status: str = "done"
    folder: Path | str | None = None
    seconds: float = 0.0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    error: PipelineError | None = None
    found: tuple[dict[str, Any], ...] = ()
    verdict: Verdict | None = None

    @contextmanager
    def ended_by_errors(self, name: str) -> Iterator[None]:
        """A block whose errors end this case and no other; `name` is what it is called before it has a name."""
        try:
            yield
        except Exception as error:
            self.end(error, name)

    def end(self, error: Exception, name: str) -> None:
        """The case is refused or failed."""
        if not isinstance(error, PipelineError):
            log.debug("case failed", exc_info=error)
            cause, error = error, PipelineError(f"{self.case or name}: {our_own(error)}")
            error.__cause__ = cause
        self.status = "refused" if error.exit_status in (2, 3) else "failed"
        self.error = error

    def take_findings(self, report: Mapping[str, Any]) -> None:
        """Volumes, verdict, warnings and files of the case, from its report."""
        if report.get("verdict"):
            self.verdict = Verdict.from_json(report["verdict"])
        self.volumes_ml = {label["name"]: label["volume_ml"] for label in report["labels"]}
        self.warnings = report["warnings"]
        self.files = [*report["outputs"], "report.json"]

    def let_go(self) -> None:
        """Keep nothing of the scan: many results are held at a time, and the trace of an error holds its volume.

        Call it when the work on the case is over.
        """
        if self.error is None:
            self.found = ()
        if isinstance(self.error, AmbiguousSeriesError):
            light = [replace(one, files=(), planes=(), z=(), shifts=()) for one in self.error.candidates]
            self.error.candidates = tuple(light)
        error: BaseException | None = self.error
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__

    @property
    def row(self) -> SummaryRow:
        """What the tables of the run say of it."""
        return SummaryRow(
            self.case,
            self.status,
            self.seconds,
            self.volumes_ml,
            str(self.error) if self.error else None,
            self.description,
            [warning["message"] for warning in self.warnings],
            self.files,
            self.verdict,
        )

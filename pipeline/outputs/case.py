"""All files of one case, written in an order that lets the last one vouch for the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from ..bundle import Bundle
from ..errors import PipelineError, StudyError, UsageError
from ..volume import Notice, Volume
from .labels import write_confidence, write_labels
from .measure import measure, write_measurements
from .report import RunFacts, build_report, write_report
from .viewer import write_view
from .vouching import file_facts

if TYPE_CHECKING:
    from .dicom_planes import DicomSource

FORMATS = ("nifti", "dicom-seg", "dicom-seg-labelmap", "dicom-sr", "rtstruct", "tiff")
"""How a label map, or what was measured on it, can be written."""
DEFAULT_FORMATS = ("nifti", "dicom-seg")
"""What is written of a DICOM series unless something else is asked for; of other inputs the first."""
PICTURE_FORMATS = ("nifti", "tiff")
"""What is written of a picture."""
NOT_DICOM = {*PICTURE_FORMATS}
"""The formats that refer to no DICOM instances."""


def check_formats(requested: Sequence[str]) -> None:
    """Return where all of these formats are known; needs no input, so that a slip of the pen costs nothing.

    Raises:
        UsageError: one is not.
    """
    unknown = [name for name in requested if name not in FORMATS]
    if unknown:
        raise UsageError(f"format {unknown[0]!r} is not known. Use --format {' or --format '.join(FORMATS)}.")


def choose_formats(requested: Sequence[str] | None, volume: Volume) -> tuple[str, ...]:
    """The formats to write: those requested, else NIfTI, with DICOM SEG for DICOM and TIFF for a picture.

    A structured report refers to a segmentation, so "dicom-sr" brings "dicom-seg" along where neither kind of it is
    requested. Call it before the network runs, so that a request that can not be met costs nothing.

    Raises:
        UsageError: an unknown format, a DICOM object for an input that is not DICOM, or a TIFF for one that is no
            picture.
    """
    if not requested and volume.is_picture:
        return PICTURE_FORMATS
    if not requested:
        return DEFAULT_FORMATS if volume.sources else DEFAULT_FORMATS[:1]
    check_formats(requested)
    wanted = {*requested}
    if "dicom-sr" in wanted and not wanted & {"dicom-seg", "dicom-seg-labelmap"}:
        wanted.add("dicom-seg")
    of_dicom = [name for name in FORMATS if name in requested and name not in NOT_DICOM]
    if of_dicom and not volume.sources:
        raise UsageError(
            f"case {volume.case}: {of_dicom[0]} refers to DICOM instances and this input has none. "
            f"Leave out --format {of_dicom[0]}, or give the DICOM series as input."
        )
    if "tiff" in wanted and not volume.is_picture:
        raise UsageError(
            f"case {volume.case}: a TIFF does not say where its pixels lie in a patient, so only pictures get one. "
            "Leave out --format tiff."
        )
    return tuple(name for name in FORMATS if name in wanted)


def write_case(
    folder: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    facts: RunFacts,
    formats: Sequence[str] | None = None,
    pages: bool = False,
    confidence: np.ndarray | None = None,
    source: DicomSource | StudyError | None = None,
) -> dict[str, Path]:
    """Write every output of a case into the folder and return name -> path.

    An old report.json goes first and the new one comes last: where there is one, everything it lists was written by
    the same run. An error leaves the files that were finished before it. A source that allows no DICOM object (it has
    no UIDs to refer to, say) costs that object alone: the report warns of it, and where the object was asked for by
    name the error is raised once everything else is written.

    Args:
        folder: OUT/<case>; made if there is none.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: the input.
        bundle: names labels and weights.
        facts: device, seconds so far (the writing is added as "outputs"), warnings.
        formats: as choose_formats takes them.
        pages: write view.html too, which shows image and labels in a browser.
        confidence: (X, Y, Z) of uint8, how sure the network is, to write as confidence.nii.gz; None writes none.
        source: what `source_or_reason` says of a DICOM volume; None asks it, which reads the source's headers again.
    Raises:
        UsageError: a format that this input does not allow.
        StudyError: a DICOM object that was asked for can not be written on this source; all else is there.
        BundleError: labels hold a value that the bundle does not name.
        PipelineError: labels are not on the volume's grid, or a file can not be written.
    """
    start = perf_counter()
    chosen = choose_formats(formats, volume)
    measurements = measure(labels, volume, bundle)
    _remove(folder / "report.json")
    written: dict[str, Path] = {}

    if "nifti" in chosen:
        written["labels"] = folder / "labels.nii.gz"
        write_labels(written["labels"], labels, volume)
    if "tiff" in chosen:
        from .label_picture import write_label_picture

        written["label_picture"] = folder / "labels.tif"
        write_label_picture(written["label_picture"], labels, volume)
    if confidence is not None:
        written["confidence"] = folder / "confidence.nii.gz"
        write_confidence(written["confidence"], confidence, volume)
    written["measurements_json"], written["measurements_csv"] = write_measurements(folder, measurements, volume)
    # matplotlib and highdicom are imported only when their files are written: each costs a large part of a second.
    from .preview import write_preview

    written["preview"] = folder / "preview.png"
    write_preview(written["preview"], labels, volume, bundle, measurements, facts.verdict)
    refusals: dict[str, StudyError] = {}
    if {*chosen} - NOT_DICOM:
        from .dicom_objects import write_dicom_objects

        objects, refusals = write_dicom_objects(
            folder, chosen, labels, measurements, volume, bundle, source, facts.verdict
        )
        written |= objects
    if pages:
        names = [path.name for path in written.values()]
        written |= write_view(folder, labels, volume, bundle, measurements, names, facts.verdict)

    timed = replace(
        facts,
        seconds={**facts.seconds, "outputs": perf_counter() - start},
        notices=(*facts.notices, *dict.fromkeys(Notice(error.code, str(error)) for error in refusals.values())),
    )
    names = [path.name for path in written.values()]
    report = build_report(volume, bundle, measurements, timed, names)
    vouched = {
        "formats": {
            "written": [name for name in chosen if name not in refusals],
            "usual": [name for name in choose_formats(None, volume) if name not in refusals],
        },
        "files": file_facts(written.values()),
    }
    written["report"] = folder / "report.json"
    write_report(written["report"], report | vouched)
    if refusals and formats:
        raise next(iter(refusals.values()))
    return written


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PipelineError(
            f"{path}: can not be replaced ({error.strerror or type(error).__name__}). "
            "Choose another folder with -o, or change its permissions."
        ) from None

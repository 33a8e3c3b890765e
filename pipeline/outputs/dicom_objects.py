"""The DICOM objects of one case; one that its source does not allow does not keep the others from being written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..bundle import Bundle
from ..errors import StudyError
from ..verdict import Verdict
from ..volume import Volume
from .dicom_planes import DicomSource, WrittenSegmentation
from .dicom_seg import write_dicom_seg
from .dicom_source import source_or_reason
from .dicom_sr import write_dicom_sr
from .measure import LabelMeasurement

FILES = {
    "dicom-seg": "segmentation.dcm",
    "dicom-seg-labelmap": "labelmap.dcm",
    "dicom-sr": "measurements.dcm",
    "rtstruct": "rtstruct.dcm",
}
"""Name of the file by format."""


def write_dicom_objects(
    folder: Path,
    formats: Sequence[str],
    labels: np.ndarray,
    measurements: Sequence[LabelMeasurement],
    volume: Volume,
    bundle: Bundle,
    source: DicomSource | StudyError | None = None,
    verdict: Verdict | None = None,
) -> tuple[dict[str, Path], dict[str, StudyError]]:
    """Write those of FILES that are among the formats; return name -> path, and format -> what stopped it.

    A file of an earlier run is removed where its source is refused, so that it is not taken for this run's.

    Args:
        folder: OUT/<case>.
        formats: as `choose_formats` returns them; a report has a segmentation to refer to among them.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        measurements: of every label of the bundle.
        volume: a DICOM volume.
        bundle: names labels and weights.
        source: what `source_or_reason` says of the volume; None asks it.
        verdict: on the case, for the series' descriptions.
    Raises:
        UsageError, BundleError, PipelineError: as the writers.
    """
    written: dict[str, Path] = {}
    refusals: dict[str, StudyError] = {}
    segmentation: WrittenSegmentation | None = None
    if source is None:
        source = source_or_reason(volume)
    for name in (name for name in FILES if name in formats):
        path = folder / FILES[name]
        try:
            if isinstance(source, StudyError):
                raise source
            if name == "rtstruct":
                from .rtstruct import write_rtstruct  # scikit-image is slow to import

                write_rtstruct(path, labels, volume, bundle, source, verdict)
            elif name != "dicom-sr":
                made = write_dicom_seg(
                    path, labels, volume, bundle, source, labelmap=name == "dicom-seg-labelmap", verdict=verdict
                )
                segmentation = segmentation or made
            elif segmentation is not None:
                write_dicom_sr(path, measurements, volume, bundle, segmentation, source, verdict)
            else:
                raise next(iter(refusals.values()))  # what stopped the segmentation that it would refer to
        except StudyError as error:
            refusals[name] = error
            with suppress(OSError):
                path.unlink(missing_ok=True)
        else:
            written[path.stem] = path
    return written, refusals

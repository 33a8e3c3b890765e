"""From labels on the source grid to files: NIfTI, DICOM SEG, measurements, preview and report.

`write_dicom_seg` and `write_preview` are imported when they are first asked for, because highdicom and matplotlib
are slow to import.
"""

from typing import TYPE_CHECKING, Any

from .case import FORMATS, check_formats, choose_formats, write_case
from .labels import write_labels
from .measure import LabelMeasurement, measure, write_measurements
from .pages import write_index
from .report import RunFacts, SummaryRow, build_report, package_versions, write_report, write_summary
from .viewer import install_viewer
from .vouching import whole_report

if TYPE_CHECKING:
    from .dicom_seg import write_dicom_seg
    from .preview import write_preview

__all__ = [
    "FORMATS",
    "LabelMeasurement",
    "RunFacts",
    "SummaryRow",
    "build_report",
    "check_formats",
    "choose_formats",
    "install_viewer",
    "measure",
    "package_versions",
    "whole_report",
    "write_case",
    "write_dicom_seg",
    "write_index",
    "write_labels",
    "write_measurements",
    "write_preview",
    "write_report",
    "write_summary",
]


def __getattr__(name: str) -> Any:
    """Import the heavy writers on first use (PEP 562)."""
    if name == "write_dicom_seg":
        from .dicom_seg import write_dicom_seg

        return write_dicom_seg
    if name == "write_preview":
        from .preview import write_preview

        return write_preview
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""From labels on the source grid to files: NIfTI, DICOM SEG, SR and RTSTRUCT, measurements, preview and report.

The writers of DICOM and `write_preview` are imported when they are first asked for, because highdicom, scikit-image and
matplotlib are slow to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .case import FORMATS, NOT_DICOM, check_formats, choose_formats, write_case
from .labels import write_labels
from .measure import LabelMeasurement, measure, write_measurements
from .pages import write_index
from .report import RunFacts, SummaryRow, build_report, package_versions, write_report, write_summary
from .viewer import install_viewer
from .vouching import whole_report

if TYPE_CHECKING:
    from .dicom_planes import DicomSource
    from .dicom_seg import write_dicom_seg
    from .dicom_source import source_or_reason
    from .dicom_sr import write_dicom_sr
    from .preview import write_preview
    from .rtstruct import write_rtstruct

__all__ = [
    "FORMATS",
    "NOT_DICOM",
    "DicomSource",
    "LabelMeasurement",
    "RunFacts",
    "SummaryRow",
    "build_report",
    "check_formats",
    "choose_formats",
    "install_viewer",
    "measure",
    "package_versions",
    "source_or_reason",
    "whole_report",
    "write_case",
    "write_dicom_seg",
    "write_dicom_sr",
    "write_index",
    "write_labels",
    "write_measurements",
    "write_preview",
    "write_report",
    "write_rtstruct",
    "write_summary",
]


_LAZY = {
    "DicomSource": "dicom_planes",
    "source_or_reason": "dicom_source",
    "write_dicom_seg": "dicom_seg",
    "write_dicom_sr": "dicom_sr",
    "write_preview": "preview",
    "write_rtstruct": "rtstruct",
}
"""Name -> the module that holds it."""


def __getattr__(name: str) -> Any:
    """Import the heavy writers on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

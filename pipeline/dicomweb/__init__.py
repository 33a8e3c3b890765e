"""Studies from a PACS that speaks DICOMweb, and results back to it.

Addresses can be read without the client that fetching and storing need, which are imported when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .address import StudyAddress, is_dicomweb

if TYPE_CHECKING:
    from .fetch import MAX_STUDY_BYTES, fetch_study
    from .store import Stored, store_instances

__all__ = ["MAX_STUDY_BYTES", "Stored", "StudyAddress", "fetch_study", "is_dicomweb", "store_instances"]

_LAZY = {"MAX_STUDY_BYTES": "fetch", "Stored": "store", "fetch_study": "fetch", "store_instances": "store"}
"""Name -> the module that holds it."""


def __getattr__(name: str) -> Any:
    """Import the client on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

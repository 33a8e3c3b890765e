"""Studies from a PACS that speaks DICOMweb, and results back to it.

`dicomweb_address` is apart, so that an address can be read without the client that this needs.
"""

from .dicomweb_fetch import MAX_STUDY_BYTES, fetch_study
from .dicomweb_store import Stored, store_instances

__all__ = ["MAX_STUDY_BYTES", "Stored", "fetch_study", "store_instances"]

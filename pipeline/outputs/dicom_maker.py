"""What every DICOM object written here says of its maker, and how its making fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from ..bundle import Bundle
from ..errors import StudyError
from ..verdict import OK, Verdict
from .seg_segments import LONG_STRING


def equipment(bundle: Bundle) -> dict[str, str]:
    """The general and enhanced equipment modules, in highdicom's words. Source: DICOM PS3.3 C.7.5.1, C.7.5.2."""
    return {
        "manufacturer": "scanloom",
        "manufacturer_model_name": bundle.name[:LONG_STRING],
        "software_versions": version("scanloom"),
        "device_serial_number": bundle.weights_sha256,
    }


def series_description(bundle: Bundle, what: str, verdict: Verdict | None) -> str:
    """SeriesDescription (0008,103E), which a PACS lists: it says where a result is not to be taken as it is.

    Args:
        bundle: what made the series.
        what: it holds.
        verdict: on the case; None where there is none.
    """
    end = f" {what}"
    if verdict is not None and verdict.status != OK:
        end += f", verdict {verdict.status}"
    return bundle.name[: LONG_STRING - len(end)] + end


@contextmanager
def refusing(case: str, what: str, instead: str) -> Iterator[None]:
    """Within it what highdicom raises at a source refuses the object alone.

    The library's own text may quote the patient's attributes: only the kind of the error is passed on.

    Args:
        case: for the message.
        what: the object's name.
        instead: what the user can do.
    Raises:
        StudyError: highdicom can not make the object.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise StudyError(
            f"case {case}: highdicom can not make a {what} of this series ({type(error).__name__}). {instead}",
            code="seg-source",
        ) from None

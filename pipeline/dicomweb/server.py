"""Ask a DICOMweb server, and get an answer or an error of one line that says nothing of the patient."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import TypeVar

import requests
from urllib3.exceptions import ReadTimeoutError

from ..dicom_reading import UNREADABLE, quiet_dicom
from ..errors import PipelineError, StudyError, UsageError
from .address import StudyAddress
from .credentials import CERTIFICATES
from .session import CHECK_PATH, GuardedSession, always, quiet_http

try:
    from dicomweb_client.api import DICOMwebClient
except ImportError:
    raise UsageError(
        'dicomweb:// needs dicomweb-client, which is not installed: pip install "scanloom[pacs]"'
    ) from None

CONNECT_S, SILENCE_S = 10.0, 60.0
"""Longest wait for a connection, and between two pieces of an answer."""
PAUSES_S = (0.5, 2.0, 8.0)
"""Before each further try."""
PASSING = (408, 429, 502, 503, 504)
"""Statuses of HTTP that may be others a moment later."""
LATER = "Try again later, or ask who runs it."

Answer = TypeVar("Answer")


class Server:
    """A DICOMweb server, asked about one study.

    Attributes:
        address: which study, and where.
    """

    def __init__(self, address: StudyAddress, max_bytes: int, go_on: Callable[[], object] = always) -> None:
        """Prepare; nothing is sent yet.

        Args:
            address: which study, and where.
            max_bytes: all answers together may be as long.
            go_on: called before each request and with each piece of an answer; what it raises ends the asking.
        Raises:
            UsageError: the token can not be sent, or the file of authorities is not there.
        """
        self.address = address
        self._session = GuardedSession(address, max_bytes, go_on)
        self._client = DICOMwebClient(
            address.service,
            session=self._session,
            permissive_uid=True,
            timeout=(CONNECT_S, SILENCE_S),
            chunk_size=2**31,  # what is stored goes with its length, because many a proxy takes no chunks
        )
        self._client.set_http_retry_params(retry=False)

    def ask(self, question: Callable[[DICOMwebClient], Answer]) -> Answer:
        """What the client gets, tried again while the failure may pass.

        Raises:
            UsageError: the server wants other credentials, or is no DICOMweb.
            StudyError: it has no such study, or more of it than may be fetched.
            PipelineError: it can not be reached, trusted or understood.
        """
        for pause in PAUSES_S:
            try:
                return self._ask(question)
            except requests.RequestException as error:
                if not _may_pass(error):
                    raise self._explained(error) from None
            time.sleep(pause)
        try:
            return self._ask(question)
        except requests.RequestException as error:
            raise self._explained(error) from None

    def _ask(self, question: Callable[[DICOMwebClient], Answer]) -> Answer:
        try:
            with quiet_http(), quiet_dicom():
                return question(self._client)
        except requests.JSONDecodeError as error:
            raise self._not_dicomweb(error) from None
        except requests.RequestException:
            raise
        except UNREADABLE as error:
            raise self._not_dicomweb(error) from None

    def error(self, what: str, remedy: str, kind: type[PipelineError] = PipelineError) -> PipelineError:
        """An error about this study at this server."""
        return kind(f"{self.address}: the server {what}. {remedy}")

    def _not_dicomweb(self, error: Exception) -> PipelineError:
        return self.error(f"answers with what is not DICOMweb ({type(error).__name__})", CHECK_PATH)

    def _explained(self, error: requests.RequestException) -> PipelineError:
        """The line for what `requests` raised; its own text holds the URL, and so UIDs."""
        if error.response is not None:
            return self._refused(error.response.status_code)
        if isinstance(error, requests.exceptions.SSLError) and not _is_cut(error):
            return self._no_tls(_tls_fault(error))
        if isinstance(error, requests.Timeout) or isinstance(error.__context__, ReadTimeoutError):
            return self.error("does not answer in time", LATER)
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            return self.error("breaks off in the middle of an answer", LATER)
        if isinstance(error, requests.exceptions.ProxyError):
            what = "can not be reached through the proxy that the environment names"
            return self.error(what, "Correct that, or name the host in NO_PROXY.")
        if isinstance(error, requests.ConnectionError):
            return self.error("can not be reached", "Check host and port, and that it runs.")
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
            what = f"can not be asked ({type(error).__name__})"
            return self.error(what, "Correct its host, or the proxies that the environment names.")
        return self._not_dicomweb(error)

    def _no_tls(self, fault: ssl.SSLError | None) -> PipelineError:
        """The line for a conversation that never began."""
        if isinstance(fault, ssl.SSLCertVerificationError):
            what = f"has a certificate that is not trusted ({fault.verify_message.rstrip('.')})"
            return self.error(what, f"Name its authority's file in {CERTIFICATES[0]}.")
        what = f"speaks no TLS that is spoken here ({fault.reason if fault else 'no reason'})"
        return self.error(what, "If it is meant to speak plain http, give its address as dicomweb+http://.")

    def _refused(self, status: int) -> PipelineError:
        """The line for a status of HTTP that is an error."""
        if status in (401, 403):
            return self.error(f"refuses ({status})", self._session.credentials.remedy(), UsageError)
        if status in (404, 410):
            what = f"has no such study or series, or no DICOMweb at this path ({status})"
            return self.error(what, CHECK_PATH, StudyError)
        return self.error(f"answers with status {status}", LATER if status >= 500 or status in PASSING else CHECK_PATH)


def _may_pass(error: requests.RequestException) -> bool:
    """Whether another try may end better."""
    if error.response is not None:
        return error.response.status_code in PASSING
    if isinstance(error, requests.exceptions.SSLError):
        return _is_cut(error)
    return isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError))


def _tls_fault(error: BaseException | None) -> ssl.SSLError | None:
    """What the system's TLS says, at the end of the chain of errors that the libraries made of it."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _is_cut(error: BaseException) -> bool:
    """Whether a connection broke while its TLS was being agreed on, which is nobody's certificate's fault."""
    return isinstance(_tls_fault(error), (ssl.SSLEOFError, ssl.SSLZeroReturnError))

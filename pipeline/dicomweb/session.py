"""A session of HTTP with one DICOMweb server that guards secrets, memory and patience.

What `dicomweb-client` and `requests` do not do by themselves: answers are bounded, and known to be whole; redirects are
refused, so that neither token nor study goes where the user did not say; nothing is logged, because URLs hold UIDs.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from ..errors import PipelineError, StudyError, UsageError
from ..silent_loggers import silent_loggers
from .address import StudyAddress
from .credentials import Credentials, trusted_authorities

ANSWER_S = 3600.0
"""Longest wait for the whole of one answer."""
MAX_LISTING_BYTES, MAX_INSTANCE_BYTES = 64 * 2**20, 2**32
"""Of one answer: the largest series lists some megabytes, and a larger instance DICOM can not hold uncompressed."""
PIECE_BYTES = 2**18
TAIL_BYTES = 256
"""More than the closing delimiter of a multipart answer, RFC 2046 section 5.1.1, and what may follow it."""
CHECK_PATH = "Check the path before /studies; Orthanc's is /dicom-web."
LISTING = ("json", "xml")
"""How the subtypes of media types end that list things."""


def always() -> None:
    """There is no reason to stop."""


class GuardedSession(requests.Session):
    """A session with one server that follows no redirect and takes no more than it may.

    Attributes:
        address: what it is about.
        credentials: what it sends of them.
    """

    def __init__(self, address: StudyAddress, max_bytes: int, go_on: Callable[[], object] = always) -> None:
        """Prepare; nothing is sent yet. `go_on` is called as `Server` says.

        Raises:
            UsageError: the token can not be sent, or the file of authorities is not there.
        """
        super().__init__()
        self.address, self.max_bytes, self._left = address, max_bytes, max_bytes
        self._go_on = go_on
        self.trust_env = not address.is_loopback  # no proxy stands between us and ourselves
        self.verify = trusted_authorities()
        self.auth = self.credentials = Credentials(address)
        self.headers["Accept"] = "application/dicom+json"  # to a store; for all else the client says what it wants
        self.headers["Accept-Encoding"] = "identity"  # deflating images on the way takes a server longer than sending
        for scheme in ("https://", "http://"):
            self.mount(scheme, SilentAdapter())

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """The answer, whole and within the limits.

        Raises:
            UsageError: it is a redirect or a page.
            StudyError, PipelineError: it is too long.
            requests.RequestException: as ever, and where a multipart answer ends too early.
        """
        self._go_on()
        request.headers.pop("Host", None)  # the client's own lacks the port; http.client knows better
        if isinstance(request.body, bytes):
            request.body = io.BytesIO(request.body)  # goes in pieces, because each has the time of a connection to go
        response = super().send(request, **{**options, "stream": True, "allow_redirects": False})
        try:
            media_type = _media_type(response)
            self._require_service(response, media_type)
            if media_type.get_content_subtype().endswith(LISTING):
                response.headers["Content-Type"] = media_type.get_content_type()  # the client knows it bare only
            response.raw = BoundedBody(response.raw, self, media_type)
            _ = response.content
        except BaseException:
            response.close()
            raise
        return response

    def take(self, count: int) -> None:
        """Count bytes of an answer.

        Raises:
            StudyError: more than may be fetched.
        """
        self._go_on()
        self._left -= count
        if self._left < 0:
            raise StudyError(
                f"{self.address}: larger than the {self.max_bytes:,} bytes that may be fetched. "
                "Fetch one series of it, by /series/UID at the end of the address.",
                code="too-large",
            )

    def _require_service(self, response: requests.Response, media_type: Message) -> None:
        """Refuse what a web server says that is no DICOMweb service."""
        if response.is_redirect:
            raise UsageError(
                f"{self.address}: the server sends us to another address, where neither study nor token goes unasked. "
                "Name the address where it ends."
            )
        if response.ok and media_type.get_content_type() == "text/html":
            raise UsageError(f"{self.address}: the server answers with a page, not with DICOMweb. {CHECK_PATH}")


class BoundedBody:
    """The body of an answer as `requests` reads it, counted as it comes, and whole or an error."""

    def __init__(self, raw: Any, session: GuardedSession, media_type: Message) -> None:
        self._raw, self._session = raw, session
        self._limit = MAX_LISTING_BYTES if media_type.get_content_subtype().endswith(LISTING) else MAX_INSTANCE_BYTES
        boundary = media_type.get_boundary() if media_type.get_content_maintype() == "multipart" else None
        self._closing = f"--{boundary}--".encode() if boundary else b""

    def stream(self, size: int, decode_content: bool | None = None) -> Iterator[bytes]:
        """The body as it comes, in pieces of at most our size, inflated; `requests` asks for it so."""
        until, length, tail = time.monotonic() + ANSWER_S, 0, b""
        while piece := self._raw.read1(PIECE_BYTES, decode_content=decode_content):
            self._session.take(len(piece))
            length, tail = length + len(piece), (tail + piece[-TAIL_BYTES:])[-TAIL_BYTES:]
            if length > self._limit:
                what = f"one answer of the server is longer than {self._limit:,} bytes"
                raise PipelineError(f"{self._session.address}: {what}. {CHECK_PATH}")
            if time.monotonic() > until:
                raise requests.exceptions.ReadTimeout("the answer takes too long")
            yield piece
        if self._closing not in tail:
            raise requests.exceptions.ChunkedEncodingError("no closing delimiter")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class SilentAdapter(HTTPAdapter):
    """Connections that never print what they send, token included, whatever http.client's debuglevel is."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        """As the library's, with a silent class of connections."""
        pool = super().get_connection_with_tls_context(*args, **options)
        if "debuglevel" not in vars(pool.ConnectionCls):
            silent = {"debuglevel": 0, "set_debuglevel": lambda self, level: None}
            pool.ConnectionCls = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), silent)
        return pool


@contextmanager
def quiet_http() -> Iterator[None]:
    """Within it the HTTP libraries log nothing: they log URLs, and so UIDs."""
    with silent_loggers("dicomweb_client", "urllib3"):
        yield


def _media_type(response: requests.Response) -> Message:
    message = Message()
    message["Content-Type"] = response.headers.get("Content-Type", "application/octet-stream")
    return message

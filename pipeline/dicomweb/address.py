"""Addresses of studies in a PACS that speaks DICOMweb: `dicomweb://HOST[:PORT]/…/studies/UID[/series/UID]`.

Imports nothing heavy, so that the command line can ask of every input whether it is one.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from ..errors import UsageError

SCHEMES = ("dicomweb", "dicomweb+http", "dicomweb+https")
FORM = "dicomweb://HOST[:PORT]/PATH/studies/UID[/series/UID]"
PATH = re.compile(
    r"(?P<root>(?:/[\w.~%!$&'()*+,;=:-]+)*)/studies/(?P<study>[^/]+)(?:/series/(?P<series>[^/]+))?/?", re.ASCII
)
HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\.?|[0-9a-f:.]+", re.ASCII)


@dataclass(frozen=True, repr=False)
class StudyAddress:
    """Where a study is: a DICOMweb service, and the study or one series there.

    Neither `str` nor `repr` tells a UID.

    Attributes:
        scheme: "https" or "http".
        host: a name or an IP address, that of version 6 without its brackets.
        port: None for the scheme's own.
        root: path of the service on the host, such as "/dicom-web"; may be empty.
        study_uid: StudyInstanceUID (0020,000D).
        series_uid: SeriesInstanceUID (0020,000E); None for all of the study.
    """

    scheme: str
    host: str
    port: int | None
    root: str
    study_uid: str
    series_uid: str | None = None

    @classmethod
    def parse(cls, text: str) -> StudyAddress:
        """The address that a text means: https, but plain http on this machine or where `dicomweb+http://` says so.

        Raises:
            UsageError: it is malformed, or holds a password, a query or a fragment. The text is never repeated.
        """
        parts = _split(text)
        host, port = (parts.hostname or "").lower(), parts.port
        path = PATH.fullmatch(parts.path)
        if not HOST.fullmatch(host) or port == 0:
            raise _malformed("has no valid host and port")
        if not path or {".", ".."} & set(path["root"].split("/")):
            raise _malformed("has no path that ends in /studies/UID or /studies/UID/series/UID")
        if not all(is_uid(uid) for uid in (path["study"], path["series"]) if uid is not None):
            raise _malformed("names no valid UID of digits and dots after /studies/ or /series/")
        plain = parts.scheme == "dicomweb+http" or (parts.scheme == "dicomweb" and _is_loopback(host))
        return cls("http" if plain else "https", host, port, path["root"], path["study"], path["series"])

    @property
    def server(self) -> str:
        """Host and port, for people and URLs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def service(self) -> str:
        """URL that DICOMweb's own paths begin at."""
        return f"{self.scheme}://{self.server}{self.root}"

    @property
    def is_loopback(self) -> bool:
        """Whether the service is on this machine, so that nothing leaves it."""
        return _is_loopback(self.host)

    @property
    def may_carry_secrets(self) -> bool:
        """Whether a token or password can travel there unseen."""
        return self.scheme == "https" or self.is_loopback

    def __str__(self) -> str:
        part = f"/series-{_digest(self.series_uid)}" if self.series_uid else ""
        return f"{self.server}/study-{_digest(self.study_uid)}{part}"

    __repr__ = __str__


def is_dicomweb(text: str) -> bool:
    """Whether an input is meant as the address of a study, well-formed or not."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def is_uid(text: str) -> bool:
    """Whether a text is a UID by its form; PS3.5 section 9, but for leading zeros, which are about."""
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) is not None


def _split(text: str) -> SplitResult:
    """The parts of an address that holds nothing that is no part of one; its port is a number, or None."""
    if not is_dicomweb(text):
        raise _malformed("does not begin with dicomweb://")
    if re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise _malformed("holds a space, a backslash or a control character")
    if re.search(r"[?#]", text):
        raise _malformed("holds a query or a fragment, which often are secrets; leave out what follows ? or #")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise _malformed("has no valid host and port") from None
    if "@" in parts.netloc:
        raise _malformed(
            "holds a user or password, which would stay in the shell's history; put them in SCANLOOM_DICOMWEB_TOKEN "
            "or netrc"
        )
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _malformed(what: str) -> UsageError:
    return UsageError(f"the address of the study {what}. It must be {FORM}.")

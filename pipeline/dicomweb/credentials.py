"""Who asks a DICOMweb server, and whom it must be: a token or a password, and the authorities that are trusted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

from ..errors import UsageError
from .address import StudyAddress

TOKEN = "SCANLOOM_DICOMWEB_TOKEN"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name the file of trusted authorities; the first one wins."""

Sign = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Credentials(AuthBase):
    """What is sent to prove who asks: the token of the environment, else netrc's password, or nothing.

    Neither is sent where others could read it: over plain http to another machine.

    Attributes:
        source: the variable's name, "netrc", or "" for nothing.
    """

    def __init__(self, address: StudyAddress) -> None:
        self.address, self.source = address, ""
        self._sign: Sign = lambda request: request
        token = os.environ.get(TOKEN, "").strip()
        if not re.fullmatch(r"[!-~]*", token):
            raise UsageError(
                f"{TOKEN} holds a space or another character that no token has. Give the token alone, without Bearer."
            )
        if not address.may_carry_secrets:
            return
        if token:
            self._sign, self.source = _bearer(token), TOKEN
        elif login := get_netrc_auth(address.service):
            self._sign, self.source = HTTPBasicAuth(*login), "netrc"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return self._sign(request)

    def remedy(self) -> str:
        """What to do where the server refuses."""
        host = self.address.host
        if not self.address.may_carry_secrets:
            return "No token or password is sent over plain http: use dicomweb:// for https."
        if self.source == TOKEN:
            return f"Renew the token in {TOKEN}, or ask for the right to this study."
        if self.source:
            return f"Correct the entry of {host} in netrc, or ask for the right to this study."
        return f"Set {TOKEN}, or write 'machine {host} login USER password PASSWORD' into ~/.netrc."


def trusted_authorities() -> str | bool:
    """The file of trusted authorities that the environment names; True for the library's own.

    Raises:
        UsageError: it names one that is not there.
    """
    name = next((name for name in CERTIFICATES if os.environ.get(name)), None)
    if name is None:
        return True
    if not Path(os.environ[name]).exists():
        raise UsageError(f"{name} names a file that is not there. Correct it, or unset it.")
    return os.environ[name]


def _bearer(token: str) -> Sign:
    """RFC 6750 section 2.1."""

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign

"""TLS in both directions, and both sides with a certificate of the same authority.

Source: DICOM PS3.15 B.9 and B.12, the BCP 195 secure transport connection profiles: TLS 1.2 or later, forward secrecy
and authenticated encryption only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""For TLS 1.2; those of TLS 1.3 are all of this kind."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: of this node, with the certificates between it and the authority.
        key: its private key, without a password.
        authority: whose certificates are believed.
    """

    certificate: Path
    key: Path
    authority: Path


def tls_files(certificate: Path | None, key: Path | None, authority: Path | None) -> TlsFiles | None:
    """The three files of TLS; None where none is named.

    Raises:
        UsageError: some are named and some are not.
    """
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None or authority is None:
        raise UsageError("--tls-cert, --tls-key and --tls-ca belong together. Give all three, or none.")
    return TlsFiles(certificate, key, authority)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For listening: a client without a certificate of the authority is refused.

    Raises:
        UsageError: a file can not be read.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For forwarding: a server whose certificate is not of the authority, or of another host, is refused.

    Raises:
        UsageError: a file can not be read.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _read(lambda: context.load_verify_locations(files.authority), f"--tls-ca {files.authority}")
    where = f"--tls-cert {files.certificate}, --tls-key {files.key}"
    _read(lambda: context.load_cert_chain(files.certificate, files.key, password=_no_password), where)
    return context


def _read(load: Callable[[], None], where: str) -> None:
    try:
        load()
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{where}: can not be read ({reason}). Give PEM files that belong together.") from None


def _no_password() -> str:
    """Instead of OpenSSL's question on the terminal."""
    raise ValueError("the key has a password")

"""Certificates made on the fly, of an authority and of another one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scanloom.pipeline.pacs.tls import TlsFiles


def make_authority(folder: Path, name: str) -> Path:
    """An authority's certificate; its key lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = folder / f"{name}.pem"
    _openssl(
        *("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)),
    )
    return certificate


def make_files(authority: Path, name: str, host: str = "localhost") -> TlsFiles:
    """A certificate of the authority for a host, with its key."""
    certificate, key = (authority.with_name(f"{name}.{kind}") for kind in ("crt", "key"))
    request, extensions = authority.with_name(f"{name}.csr"), authority.with_name(f"{name}.ext")
    extensions.write_text(f"subjectAltName=DNS:{host},IP:127.0.0.1\n")
    _openssl(
        *("req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(authority), "-CAkey", str(authority.with_suffix(".key"))),
        *("-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(certificate)),
    )
    return TlsFiles(certificate, key, authority)


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=240)

"""Names of DICOM nodes as people write them: AET, AET@HOST, AET@HOST:PORT."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..errors import UsageError

LONGEST_AET = 16
"""Characters of an AE title. Source: DICOM PS3.5 table 6.2-1, VR AE; PS3.8 table 9-11."""
PORTS = range(1, 65536)


@dataclass(frozen=True)
class Destination:
    """A node that results are sent to.

    Attributes:
        aet: its AE title.
        host: name or address, looked up anew at each attempt.
        port: TCP port.
    """

    aet: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.aet}@{host}:{self.port}"


def check_aet(title: str, where: str) -> str:
    """The AE title without the spaces around it, which mean nothing.

    Args:
        title: 1 to 16 characters of ASCII, no backslash and no control character.
        where: the option that it came from, for the message.
    Raises:
        UsageError: it is none.
    """
    title = title.strip(" ")
    if not title or len(title) > LONGEST_AET or not title.isascii() or not title.isprintable() or "\\" in title:
        raise UsageError(
            f"{where} {title!r} is no AE title: write 1 to {LONGEST_AET} ASCII characters, without a backslash."
        )
    return title


def parse_destination(text: str, where: str = "--forward") -> Destination:
    """AET@HOST:PORT, an IPv6 address in square brackets.

    Raises:
        UsageError: it is not written so.
    """
    title, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not at or not colon or not host or not port.isascii() or not port.isdigit() or int(port) not in PORTS:
        raise UsageError(f"{where} {text}: write it as AET@HOST:PORT, for instance {where} PACS@pacs.local:104.")
    return Destination(check_aet(title, where), host, int(port))


def resolve(host: str, where: str) -> frozenset[IPv4Address | IPv6Address]:
    """Every address of a host's name; an address is its own.

    Raises:
        UsageError: the name is not known here.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UsageError(
            f"{where}: the host {host!r} is not known here. Check its name, or write its address."
        ) from None
    return frozenset(plain_address(str(entry[4][0])) for entry in found)


def address_of(host: str, where: str) -> str:
    """One address of a host's name, of IPv4 where it has one.

    Raises:
        UsageError: the name is not known here.
    """
    return str(min(resolve(host, where), key=lambda address: (address.version, int(address))))


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """The address, without a zone, and an IPv4 one that came mapped into IPv6 as itself."""
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address

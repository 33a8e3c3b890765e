"""Who may associate: AE titles, and the addresses that they must come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ..errors import UsageError
from .addresses import check_aet, plain_address, resolve

OPTION = "--allow-aet"


@dataclass(frozen=True)
class Allowed:
    """One that may associate.

    Attributes:
        aet: its AE title.
        addresses: those that it may come from; None for any.
    """

    aet: str
    addresses: frozenset[IPv4Address | IPv6Address] | None = None


@dataclass(frozen=True)
class AllowList:
    """All that may associate; an empty list lets in everybody who reaches the port, which is for loopback alone."""

    entries: tuple[Allowed, ...] = ()

    def permits(self, aet: str, address: str) -> bool:
        """Whether the node of this (calling) AE title and address is let in."""
        if not self.entries:
            return True
        place = plain_address(address)
        return any(entry.aet == aet and (entry.addresses is None or place in entry.addresses) for entry in self.entries)

    @property
    def titles(self) -> list[str]:
        """The AE titles, each once."""
        return list(dict.fromkeys(entry.aet for entry in self.entries))


def parse_allow_list(texts: Sequence[str], host: str) -> AllowList:
    """The list from AET and AET@HOST words; names of hosts are looked up here, once.

    Args:
        texts: of --allow-aet.
        host: where the node will listen.
    Raises:
        UsageError: a word is malformed, a host unknown, or nothing is allowed on a port that others can reach.
    """
    if not texts and not all(address.is_loopback for address in resolve(host, f"--host {host}")):
        raise UsageError(
            f"--host {host} can be reached by others: say who may send with {OPTION} AET@HOST, which may be repeated."
        )
    return AllowList(tuple(_parse(text) for text in texts))


def _parse(text: str) -> Allowed:
    title, at, host = text.rpartition("@") if "@" in text else (text, "", "")
    if at and not host:
        raise UsageError(f"{OPTION} {text}: write it as AET or AET@HOST.")
    return Allowed(check_aet(title, OPTION), resolve(host, f"{OPTION} {text}") if at else None)

"""Objects go to a destination by C-STORE, all of a study on one association."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from .addresses import Destination

CONNECT_S, ASSOCIATE_S, ANSWER_S, SILENCE_S = 15, 30, 300, 60
"""Patience for the connection, the association, the answer to an object (a PACS may compress it) and any byte."""
DUPLICATE = 0x0111
"""SOP instance that the destination has already. Source: DICOM PS3.7 C.5.7."""
PASSING = (0x0110, 0x0124, 0x0210, *range(0xA700, 0xA800))
"""Failures that may pass: processing, not authorised, duplicate invocation, out of resources. PS3.7 C, PS3.4 B.2.3."""


@dataclass
class Sent:
    """How an attempt at a destination ended.

    Attributes:
        stored: the files that the destination has now.
        refused: those that it will never take, with the reason in a few words.
        problem: what to wait out before the others are tried again; empty where there are none.
        was_reached: whether there was an association.
    """

    stored: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    problem: str = ""
    was_reached: bool = False


class Sender:
    """Sends files.

    Args:
        aet: our AE title.
        tls: for destinations that are spoken to by TLS; None for plain ones.
    """

    def __init__(self, aet: str, tls: ssl.SSLContext | None = None) -> None:
        self.aet, self.tls = aet, tls
        self._open: dict[str, Association] = {}
        self._closed = threading.Event()

    def send(self, destination: Destination, files: Sequence[Path]) -> Sent:
        """Try to store every file; whatever goes wrong is in the answer.

        Args:
            destination: where to.
            files: DICOM objects.
        """
        result = Sent()
        objects = {file: dcmread(file) for file in files}
        addresses = _addresses(destination)
        if not addresses:
            result.problem = "its host is not known here"
            return result
        connections: list[Event] = []

        def connected(event: Event) -> None:
            connections.append(event)
            event.assoc.dul.socket.socket.settimeout(
                SILENCE_S
            )  # pynetdicom would wait for ever for one that reads no more

        for address in addresses:
            association = self._associate(destination, address, list(objects.values()), connected)
            if connections:
                break
        if association.rejected_contexts and not association.accepted_contexts:
            result.was_reached = True
            result.refused = {file: _takes_not(content) for file, content in objects.items()}
            return result
        result.was_reached = association.is_established
        if not association.is_established:
            result.problem = _why_not(association) if connections else "can not be reached"
            return result
        try:
            self._open[str(destination)] = association
            if self._closed.is_set():
                association.abort()
                result.problem = "the node stops"
                return result
            for file, content in objects.items():
                if not _store(association, file, content, result):
                    break
        finally:
            del self._open[str(destination)]
            if association.is_established:
                association.release()
        return result

    def close(self) -> None:
        """Break off what is being sent, whose answer a destination may take minutes for; it is to be sent again."""
        self._closed.set()
        for association in list(self._open.values()):
            with suppress(OSError, AttributeError):  # it has ended in the meantime
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    def _associate(
        self, destination: Destination, address: str, objects: Sequence[Dataset], connected: Callable[[Event], None]
    ) -> Association:
        entity = AE(self.aet)
        entity.connection_timeout, entity.acse_timeout = CONNECT_S, ASSOCIATE_S
        entity.dimse_timeout, entity.network_timeout = ANSWER_S, SILENCE_S
        for sop_class, syntax in dict.fromkeys((o.SOPClassUID, o.file_meta.TransferSyntaxUID) for o in objects):
            for one in _syntaxes(syntax):
                entity.add_requested_context(sop_class, one)
        return entity.associate(
            address,
            destination.port,
            ae_title=destination.aet,
            tls_args=(self.tls, destination.host) if self.tls else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, connected)],
        )


def _addresses(destination: Destination) -> list[str]:
    """All of its host, to try one after the other: localhost may be ::1 first, and the PACS not listen there."""
    try:
        found = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _syntaxes(own: UID) -> list[UID]:
    """An object's own transfer syntax; an uncompressed one can be written as either kind of little endian."""
    if own.is_compressed:
        return [own]
    return list(dict.fromkeys([own, ExplicitVRLittleEndian, ImplicitVRLittleEndian]))


def _store(association: Association, file: Path, content: Dataset, result: Sent) -> bool:
    """One object; the answer decides whether it is stored, refused or to be tried again. Returns whether there was one:
    of an association that has ended pynetdicom may not know yet, and would wait for minutes for the next."""
    sop_class = UID(content.SOPClassUID).name
    try:
        answer = association.send_c_store(content)
    except ValueError:
        result.refused[file] = _takes_not(content)
        return True
    except RuntimeError:  # it ended between two objects
        result.problem = "the association ended"
        return False
    status = answer.get("Status")
    if status is None:
        result.problem = "no answer to C-STORE"
        return False
    if status in (0, DUPLICATE) or 0xB000 <= status <= 0xBFFF:
        result.stored.append(file)
    elif status in PASSING:
        result.problem = f"C-STORE status 0x{status:04X}"
    else:
        result.refused[file] = f"refuses {sop_class} with C-STORE status 0x{status:04X}"
    return True


def _takes_not(content: Dataset) -> str:
    return f"does not take {UID(content.SOPClassUID).name} in this transfer syntax"


def _why_not(association: Association) -> str:
    """Of an association that is not established, though there was a connection."""
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = (answer.result, answer.result_source, answer.diagnostic) if answer else ()
        return f"rejects the association (result, source, reason: {', '.join(map(str, reason))})"
    return "ends the connection before there is an association"

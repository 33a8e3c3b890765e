"""The storage SCP: who may associate, and what becomes of each instance. Source: DICOM PS3.4 annex B, PS3.7 9.3.1.

Its handlers run in pynetdicom's threads, one for each association.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode_file_meta
from pynetdicom.events import Event
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import Verification

from ..errors import PipelineError, UsageError, our_own
from .allowed import AllowList
from .arrivals import Arrivals
from .instance import InstanceName, NotAnInstanceError, OtherInstanceError, name_instance
from .metrics import Metrics
from .peers import WAITING_CONNECTIONS, InFlight, PeerHandler, PeerServer, Seats, break_off
from .spool import NoRoomError, Spool

SUCCESS, OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD, PROCESSING_FAILURE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0110
CALLED_UNKNOWN, CALLING_UNKNOWN, LIMIT_EXCEEDED = (1, 1, 7), (1, 1, 3), (2, 3, 2)
"""Result, source and reason of A-ASSOCIATE-RJ. Source: DICOM PS3.8 table 9-21."""
NOT_TAKEN = {
    "1.2.840.10008.1.2.1.99",  # deflated: a small one can blow up to fill the memory
    "1.2.840.10008.1.2.4.94",  # JPIP: the pixels are elsewhere
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
    "1.2.840.10008.1.2.7.1",  # SMPTE ST 2110: live video, no instance
    "1.2.840.10008.1.2.7.2",
    "1.2.840.10008.1.2.7.3",
}
"""Transfer syntaxes of pynetdicom's list that are not offered."""
TRANSFER_SYNTAXES = [syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in NOT_TAKEN]
HELLO_S, SILENCE_S = 15.0, 60.0
"""Patience for the association request of a new connection, and for anything on one that is established."""
PREAMBLE = b"\0" * 128 + b"DICM"


@dataclass(frozen=True)
class ReceivingOptions:
    """Where and whom to listen to.

    Attributes:
        aet: our AE title; an association must call it.
        host: address to listen on.
        port: of it; 0 for a free one.
        allowed: who may associate.
        tls: demands TLS and a certificate.
        max_associations: at a time.
        max_memory_bytes: of all instances that are being received.
        hello_s, silence_s: patience with a new connection, and with an association.
    """

    aet: str
    host: str
    port: int
    allowed: AllowList
    tls: ssl.SSLContext | None = None
    max_associations: int = 25
    max_memory_bytes: int = 4 * 2**30
    hello_s: float = HELLO_S
    silence_s: float = SILENCE_S


class Receiver:
    """Listens and spools.

    Args:
        options: where and whom.
        spool: keeps the instances.
        arrivals: told of each before it is kept.
        began: told of a study whose first instance has come.
        metrics, say: counters and log.
    Raises:
        UsageError: the port can not be listened on.
    """

    def __init__(
        self,
        options: ReceivingOptions,
        spool: Spool,
        arrivals: Arrivals,
        began: Callable[[str], None],
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._spool, self._arrivals = options, spool, arrivals
        self._began, self._metrics, self._say = began, metrics, say
        self._seats, self._in_flight = (
            Seats(options.max_associations),
            InFlight(options.max_memory_bytes, self._cut_off),
        )
        self._said: Counter[tuple[str, str]] = Counter()
        _silence_pynetdicom()
        self._entity = _entity(options)
        try:
            self._server = self._entity.make_server(
                (options.host, options.port),
                server_class=PeerServer,
                request_handler=PeerHandler,
                in_flight=self._in_flight,
                max_connections=options.max_associations + WAITING_CONNECTIONS,
                tls=options.tls,
                evt_handlers=[
                    (evt.EVT_REQUESTED, self._on_request),
                    (evt.EVT_DIMSE_RECV, self._on_message),
                    (evt.EVT_C_ECHO, self._on_echo),
                    (evt.EVT_C_STORE, self._on_store),
                ],
            )
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"can not listen on {options.host} port {options.port} "
                f"({getattr(error, 'strerror', None) or 'no such port'}). Choose another --host or --port."
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="listen", daemon=True)

    def start(self) -> None:
        """Take connections; until now they wait."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more, and end the associations there are; a sender learns that its instance has not arrived."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        else:
            self._server.server_close()
        for association in self._server.active_associations:
            if association.is_established:
                association.abort()
            else:
                break_off(association)

    @property
    def associations(self) -> int:
        """How many there are."""
        return self._seats.taken

    def forget_what_was_said(self) -> None:
        """Refusals are logged once for each reason and peer, and again after this."""
        self._said.clear()

    def _on_request(self, event: Event) -> None:
        """Reject at once whoever may not come in. Where this fails, pynetdicom still checks both AE titles."""
        association, request = event.assoc, event.assoc.requestor.primitive
        calling, address = str(request.calling_ae_title).strip(), event.assoc.requestor.address_info.address
        if str(request.called_ae_title).strip() != self._options.aet:
            self._reject(event, CALLED_UNKNOWN, "called-aet", "it calls another AE title")
        elif not self._options.allowed.permits(calling, address):
            self._reject(event, CALLING_UNKNOWN, "calling-aet", "its AE title and address are not allowed")
        elif not self._seats.take(association):
            self._reject(event, LIMIT_EXCEEDED, "limit", "too many associations at a time")
        else:
            self._metrics.associations.labels("accepted").inc()

    def _reject(self, event: Event, how: tuple[int, int, int], reason: str, line: str) -> None:
        self._metrics.associations.labels(f"rejected-{reason}").inc()
        self._say_once(reason, event.assoc, f"association rejected: {line}")
        event.assoc.acse.send_reject(*how)
        event.assoc.kill()  # waits until it is sent

    def _on_message(self, event: Event) -> None:
        self._in_flight.end_message(event.assoc)

    def _on_echo(self, event: Event) -> int:
        self._in_flight.forget(event.assoc)
        return SUCCESS

    def _on_store(self, event: Event) -> Dataset:
        """Keep the instance; the answer to the sender."""
        try:
            self._keep(event)
            return _answer(SUCCESS)
        except NoRoomError as error:
            return self._refuse(event, OUT_OF_RESOURCES, error.reason, str(error))
        except OtherInstanceError as error:
            return self._refuse(event, NO_MATCH, "mismatch", str(error))
        except PipelineError:
            return self._refuse(event, OUT_OF_RESOURCES, "disk", "the state of the study can not be written")
        except NotAnInstanceError as error:
            return self._refuse(event, NOT_UNDERSTOOD, "unreadable", str(error))
        except Exception as error:  # the outermost of this thread; pynetdicom would only log it
            return self._refuse(event, PROCESSING_FAILURE, "error", our_own(error))
        finally:
            self._in_flight.forget(event.assoc)

    def _keep(self, event: Event) -> None:
        request, syntax = event.request, UID(event.context.transfer_syntax)
        name = name_instance(
            request.DataSet, syntax, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        )
        head = PREAMBLE + encode_file_meta(event.file_meta)
        with self._arrivals.coming(name.study, event.assoc) as is_first:
            if is_first:
                self._began(name.study)
            is_new = self._spool.store(name, is_image(name), [head, request.DataSet.getbuffer()])
        (self._metrics.received if is_new else self._metrics.again).inc()

    def _refuse(self, event: Event, status: int, reason: str, line: str) -> Dataset:
        self._metrics.refused.labels(reason).inc()
        self._say_once(reason, event.assoc, f"instance refused with 0x{status:04X}: {line}")
        return _answer(status, line)

    def _cut_off(self, association: Association) -> None:
        self._metrics.refused.labels("memory").inc()
        self._say_once("memory", association, "association ended: too many bytes are being received")

    def _say_once(self, reason: str, association: Association, line: str) -> None:
        """A peer that is refused a thousand times makes one line."""
        address = association.requestor.address_info.address
        self._said[(reason, address)] += 1
        if self._said[(reason, address)] == 1:
            self._say(f"{address}: {line}")


def is_image(name: InstanceName) -> bool:
    """Whether an instance may be what a bundle labels. What was made from images is not: else results that a PACS sends
    back would call for new ones."""
    sop_class = UID(name.sop_class).name
    return "Image Storage" in sop_class or "Volume Storage" in sop_class


def _entity(options: ReceivingOptions) -> AE:
    entity = AE(options.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = options.allowed.titles
    entity.maximum_associations = options.max_associations + WAITING_CONNECTIONS  # `Seats` keeps the true limit
    entity.acse_timeout, entity.network_timeout, entity.dimse_timeout = (
        options.hello_s,
        options.silence_s,
        options.silence_s,
    )
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
    entity.add_supported_context(Verification)
    return entity


def _answer(status: int, comment: str = "") -> Dataset:
    """A C-STORE answer, with ErrorComment (0000,0902) where there is one."""
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment[:64]
    return answer


def _silence_pynetdicom() -> None:
    """It logs UIDs and whatever a broken message holds; its handlers for that also cost time."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

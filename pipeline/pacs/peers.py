"""Connections of peers, with the limits that pynetdicom leaves open: room, seats, and a TLS handshake that hangs."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from socketserver import BaseServer
from time import monotonic
from typing import Any

from pynetdicom.association import Association
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

LARGEST_PDU = 2**20
"""Bytes. We ask for much smaller ones; a longer one is no PDU of a peer that listened."""
WAITING_CONNECTIONS = 256
"""Connections beside the associations: those that are still to say who they are, and those being turned away."""
HANDSHAKE_S = 15.0
MESSAGE_BYTES = 2**14
"""What a message costs beside its own bytes, at most: who does not wait for answers can send many small ones."""


class InFlight:
    """The bytes of messages that are in memory, of all associations together.

    Args:
        limit_bytes: of them; an association that would pass it is ended.
        passed: told of each that is.
    """

    def __init__(self, limit_bytes: int, passed: Callable[[Association], None]) -> None:
        self.limit_bytes, self.passed = limit_bytes, passed
        self._held: dict[Association, deque[int]] = {}  # bytes of each message that waits, and of the one that comes
        self._total = 0
        self._lock = threading.Lock()

    def add(self, association: Association, count: int) -> bool:
        """Count bytes that an association is about to receive; returns whether there is room for them."""
        with self._lock:
            return self._count(association, count)

    def end_message(self, association: Association) -> None:
        """The association has received a message as a whole; what comes next is of another one."""
        with self._lock:
            self._count(association, MESSAGE_BYTES)
            self._held[association].append(0)

    def forget(self, association: Association) -> None:
        """The oldest message of the association is in memory no more; those that it sent in advance are."""
        with self._lock:
            held = self._held.get(association, deque())
            if len(held) > 1:
                self._total -= held.popleft()

    def _count(self, association: Association, count: int) -> bool:
        if association not in self._held or self._total + count > self.limit_bytes:
            for gone in [each for each in self._held if not each.is_alive()]:
                self._total -= sum(self._held.pop(gone))
        self._held.setdefault(association, deque([0]))[-1] += count
        self._total += count
        return self._total <= self.limit_bytes


class Seats:
    """How many may be associated at a time.

    Args:
        limit: of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: list[Association] = []
        self._lock = threading.Lock()

    def take(self, association: Association) -> bool:
        """A seat, until the association's thread ends; False where there is none."""
        with self._lock:
            self._taken = [each for each in self._taken if each.is_alive()]
            if len(self._taken) >= self.limit:
                return False
            self._taken.append(association)
            return True

    @property
    def taken(self) -> int:
        """How many are taken."""
        with self._lock:
            return sum(each.is_alive() for each in self._taken)


class PeerSocket(AssociationSocket):
    """Reads no PDU that is too long, or too long in coming, and no message for which there is no room."""

    in_flight: InFlight

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opened = monotonic()

    def recv(self, nr_bytes: int) -> bytearray:
        """As the base class, but that a peer which sends a byte now and then has no more time than a silent one.

        Raises:
            OSError: too much, or too slow; pynetdicom then closes the connection.
        """
        if nr_bytes > LARGEST_PDU:
            raise OSError("no PDU is as long")
        if not self.in_flight.add(self.assoc, nr_bytes):
            self.in_flight.passed(self.assoc)
            raise OSError("too much at a time")
        connection, content = self.socket, bytearray()
        assert connection is not None
        before = connection.gettimeout()
        end = self._end()
        try:
            while len(content) < nr_bytes:
                connection.settimeout(max(end - monotonic(), 0.001))
                piece = connection.recv(min(nr_bytes - len(content), 2**16))
                if not piece:
                    break
                content += piece
        finally:
            with suppress(OSError):
                connection.settimeout(before)
        return content

    def _end(self) -> float:
        """When what is being received must have come."""
        if self.assoc.is_established:
            return monotonic() + (self.assoc.network_timeout or HANDSHAKE_S)
        return self._opened + (self.assoc.acse_timeout or HANDSHAKE_S)

    def _shutdown_socket(self) -> None:
        """pynetdicom leaves a socket open, and with it a file descriptor, where the peer was first to end it."""
        connection = self.socket
        super()._shutdown_socket()
        if connection is not None:
            connection.close()


class PeerStates(StateMachine):
    """Ends an association whose peer does what no state allows; pynetdicom's thread would die of it, with a trace."""

    def do_action(self, event: str) -> None:
        """As the base class, but that it raises nothing."""
        try:
            super().do_action(event)
        except Exception:  # whatever a hostile peer makes pynetdicom raise; there is nothing to mend
            association = self.dul.assoc
            association.is_aborted, association.is_established = True, False
            self.dul.kill_dul()
            if self.dul.socket is not None:
                self.dul.socket.close()


def break_off(association: Association) -> None:
    """End a connection on which nobody is associated; `abort` would wait for a peer that has sent half a request."""
    association.dul.kill_dul()
    with suppress(OSError, AttributeError):  # it has ended in the meantime
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


class PeerServer(ThreadedAssociationServer):
    """Listens; a connection too many is closed at once. The TLS handshake is the business of the connection's thread.

    Args:
        in_flight: counts what all connections hold in memory.
        max_connections: of them, whatever they do.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self, *args: Any, in_flight: InFlight, max_connections: int, tls: ssl.SSLContext | None = None, **kwargs: Any
    ) -> None:
        self.in_flight, self.max_connections, self.tls = in_flight, max_connections, tls
        self.handshakes = threading.Semaphore(WAITING_CONNECTIONS)
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; nothing is read from it here, where others wait behind it."""
        connection, address = self.socket.accept()
        connection.settimeout(self.ae.network_timeout)
        if self.tls:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for it."""
        return len(self.active_associations) < self.max_connections

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news; the base class would print its trace."""

    def shutdown(self) -> None:
        """Stop listening. pynetdicom's own would also take it off a list that only its `start_server` fills."""
        BaseServer.shutdown(self)
        self.server_close()


class PeerHandler(RequestHandler):
    """Makes an association of a connection."""

    server: PeerServer

    def handle(self) -> None:
        """Shake hands where there is TLS, then go on as pynetdicom does.

        Raises:
            OSError: the handshake failed; the server then closes the connection.
        """
        if isinstance(self.request, ssl.SSLSocket):
            if not self.server.handshakes.acquire(blocking=False):
                raise ConnectionAbortedError("too many handshakes")
            try:
                self.request.settimeout(HANDSHAKE_S)
                self.request.do_handshake()
                self.request.settimeout(self.ae.network_timeout)
            finally:
                self.server.handshakes.release()
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        limited = PeerSocket(association, client_socket=self.request)
        association.dul.event_queue.get_nowait()  # of the two sockets that each announced the one connection
        limited.in_flight = self.server.in_flight
        association.dul.socket = limited
        association.dul.state_machine = PeerStates(association.dul)
        return association

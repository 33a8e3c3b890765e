"""What a node counts, as Prometheus reads it; a registry of its own, nothing of the patient and no UID in a label."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app

from ..errors import UsageError

SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
STUDY_STATES = ("receiving", "computing", "forwarding", "finished", "failed")
Application = Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]


class Metrics:
    """The counters; every one may be used from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"namespace": "scanloom", "registry": self.registry}
        self.associations = Counter("associations", "Associations by how they began.", ["outcome"], **common)
        self.received = Counter("instances_received", "Instances that are safe on disk.", **common)
        self.again = Counter("instances_received_again", "Instances that were there already.", **common)
        self.refused = Counter("instances_refused", "Instances not taken.", ["reason"], **common)
        self.runs = Counter("runs", "Computations by how they ended.", ["status"], **common)
        self.sent = Counter("objects_forwarded", "Result objects that a destination has stored.", ["to"], **common)
        self.not_sent = Counter("forward_failures", "Failed tries to forward.", ["to", "kind"], **common)
        self.run_seconds = Histogram("run_seconds", "A study's computation.", buckets=SECONDS, **common)
        self.forward_seconds = Histogram("forward_seconds", "A study's forwarding.", ["to"], buckets=SECONDS, **common)
        self.studies = Gauge("studies", "Studies by state.", ["state"], **common)
        self.open = Gauge("associations_open", "Associations that are open now.", **common)
        self.spool = Gauge("spool_bytes", "Instances and results on disk.", **common)
        self.free = Gauge("disk_free_bytes", "Free on the disk of the spool.", **common)
        self.reached = Gauge("destination_up", "1 where the last try reached the destination.", ["to"], **common)

    def value(self, name: str, **labels: str) -> int:
        """A counter or gauge, 0 where it was never used."""
        return int(self.registry.get_sample_value(f"scanloom_{name}", labels) or 0)

    def total(self, name: str) -> int:
        """A counter over all its labels."""
        families = self.registry.collect()
        return int(sum(s.value for family in families for s in family.samples if s.name == f"scanloom_{name}_total"))


class MetricsServer:
    """Serves /metrics and /health by HTTP until it is closed.

    Args:
        metrics: to serve.
        host: address to listen on.
        port: of it; 0 for a free one.
        health: one line that says how the node is; asking for it takes the gauges anew.
    Raises:
        UsageError: the port can not be used.
    """

    def __init__(self, metrics: Metrics, host: str, port: int, health: Callable[[], str]) -> None:
        try:
            self._server = make_server(host, port, _pages(metrics, health), _Server, _SilentHandler)
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"--metrics {port}: can not listen on {host} "
                f"({getattr(error, 'strerror', None) or 'no such address'}). Choose another port."
            ) from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pages(metrics: Metrics, health: Callable[[], str]) -> Application:
    counters = make_wsgi_app(metrics.registry)

    def page(environment: Mapping[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, text = environment.get("PATH_INFO"), [("Content-Type", "text/plain; charset=utf-8")]
        if path not in ("/metrics", "/health"):
            start("404 Not Found", text)
            return [b"/metrics or /health\n"]
        try:
            line = health()  # which takes the gauges anew, too
        except OSError as error:
            start("503 Service Unavailable", text)
            return [f"health: the spool can not be read ({error.strerror})\n".encode()]
        if path == "/metrics":
            return counters(environment, start)
        start("200 OK", text)
        return [f"{line}\n".encode()]

    return page


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is silent or goes away is no news; the base class would print a trace for each."""


class _SilentHandler(WSGIRequestHandler):
    timeout = 10  # of a client that connects and says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

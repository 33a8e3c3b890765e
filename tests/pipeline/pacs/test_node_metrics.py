"""What Prometheus reads."""

from __future__ import annotations

import socket
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from factories import PATIENT
from nodes import associated, fake_pacs, make_study, running_node, send, wait_for
from prometheus_client.parser import text_string_to_metric_families
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.pacs.metrics import Metrics, MetricsServer


def page(server: MetricsServer, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=240) as answer:
        return answer.read().decode()


def test_the_counters_tell_what_a_node_did_and_nothing_of_the_patient(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        server = MetricsServer(node.metrics, "127.0.0.1", 0, node.node.health)
        try:
            send(node.port, files)
            with associated(node.port, called="OTHER"):
                pass
            node.wait_to_say("sent to")
            text, health = page(server, "/metrics"), page(server, "/health")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                page(server, "/else")
        finally:
            server.close()
    samples = {
        (sample.name.removeprefix("scanloom_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    to = str(pacs.destination)
    assert samples[("instances_received_total",)] == len(files)
    assert samples[("associations_total", "accepted")] == samples[("associations_total", "rejected-called-aet")] == 1
    assert samples[("runs_total", "done")] == samples[("run_seconds_count",)] == 1
    assert samples[("objects_forwarded_total", to)] == 2 and samples[("destination_up", to)] == 1
    assert samples[("studies", "finished")] == 1 and samples[("studies", "failed")] == 0
    assert samples[("spool_bytes",)] > 0 and samples[("disk_free_bytes",)] > 0
    assert health.startswith("health: 0 associations; 8 instances received, 0 refused; studies: 1 finished")
    assert not any(word in text for word in (*PATIENT.values(), "1.2.826", "2.25."))


def test_two_nodes_in_one_process_count_apart() -> None:
    one, two = Metrics(), Metrics()
    one.refused.labels("disk").inc()
    one.refused.labels("unreadable").inc(2)
    assert one.total("instances_refused") == 3 and two.total("instances_refused") == 0
    assert one.value("instances_refused_total", reason="disk") == 1
    assert two.value("instances_refused_total", reason="disk") == 0


def test_a_port_that_is_taken_is_refused() -> None:
    server = MetricsServer(Metrics(), "127.0.0.1", 0, lambda: "")
    try:
        with pytest.raises(UsageError, match=r"--metrics \d+: can not listen on .* \(Address already in use\)"):
            MetricsServer(Metrics(), "127.0.0.1", server.port, lambda: "")
    finally:
        server.close()


def test_a_client_that_goes_away_leaves_no_trace_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    server = MetricsServer(Metrics(), "127.0.0.1", 0, lambda: "well")
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=240) as client:
            client.sendall(b"GET /hea")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        assert page(server, "/health") == "well\n"  # its turn came after the client's
        wait_for(lambda: not any("request" in each.name for each in threading.enumerate()), "the threads to end")
    finally:
        server.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path", ["/metrics", "/health"])
def test_a_disk_that_is_away_makes_the_node_unhealthy_without_a_trace(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def health() -> str:
        raise OSError(5, "Input/output error")

    server = MetricsServer(Metrics(), "127.0.0.1", 0, health)
    try:
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            page(server, path)
        assert caught.value.read() == b"health: the spool can not be read (Input/output error)\n"
        caught.value.close()
    finally:
        server.close()
    assert capfd.readouterr().err == ""

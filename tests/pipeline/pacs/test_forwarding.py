"""Results on their way to a PACS that is down, refuses, is slow or comes back."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pydicom
import pytest
from factories import edit_file
from nodes import (
    AET,
    SEG,
    SR,
    FakeCompute,
    fake_pacs,
    make_study,
    running_node,
    send,
    wait_for,
    write_object,
)
from pydicom.uid import JPEGLSLossless, RLELossless
from pynetdicom import AE, evt
from scanloom.pipeline.pacs import sending
from scanloom.pipeline.pacs.addresses import Destination
from scanloom.pipeline.pacs.forwarding import Forwarder
from scanloom.pipeline.pacs.ledger import Delivery, Ledger, Run
from scanloom.pipeline.pacs.metrics import Metrics
from scanloom.pipeline.pacs.sending import Sender, Sent

NOT_TAKEN = "does not take Segmentation Storage in this transfer syntax"


def objects(folder: Path) -> list[Path]:
    return [write_object(folder, SEG, "SEG", "1.2.3"), write_object(folder, SR, "SR", "1.2.3")]


def test_a_pacs_that_is_down_gets_everything_when_it_is_back_and_nobody_waits_for_it(tmp_path: Path) -> None:
    one, two, compute = make_study(tmp_path, "one"), make_study(tmp_path, "two"), FakeCompute()
    with fake_pacs() as pacs, fake_pacs(aet="OTHER") as other:
        destinations = [pacs.destination, other.destination]
        with running_node(tmp_path / "node", compute, destinations=destinations) as node:
            pacs.stop()
            send(node.port, one)
            node.wait_to_say(f"{pacs.destination}: can not be reached; tried again in")
            send(node.port, two)
            wait_for(lambda: len(other.stored) == 4, "both studies at the other destination")
            assert len(compute.sets) == 2
            assert node.metrics.value("destination_up", to=str(pacs.destination)) == 0
            assert all(node.spool.images(study) for study in node.spool.studies())
            pacs.start()
            node.wait_to_say(f"sent to {pacs.destination}", times=2)
            wait_for(lambda: not any(node.spool.images(study) for study in node.spool.studies()), "all to be cleared")
    assert {each.SOPInstanceUID for each in pacs.stored} == {each.SOPInstanceUID for each in other.stored}
    assert len(pacs.stored) == 4
    assert node.metrics.value("destination_up", to=str(pacs.destination)) == 1
    assert node.metrics.value("objects_forwarded_total", to=str(pacs.destination)) == 4


def test_pauses_grow_to_a_limit_and_the_destination_is_asked_for_one_study_at_a_time(tmp_path: Path) -> None:
    tried: list[str] = []
    lines: list[str] = []
    enough = threading.Event()

    class Away:
        def send(self, destination: Destination, files: list[Path]) -> Sent:
            tried.append(files[0].name)
            if len(tried) == 6:
                enough.set()
            return Sent(problem="can not be reached")

        def close(self) -> None:
            pass

    ledger = Ledger(lambda study: tmp_path / study)
    forwarder = Forwarder(
        Destination("PACS", "h", 1),
        Away(),
        ledger,
        lambda study, run: [Path(study)],
        lambda study: None,
        Metrics(),
        lines.append,
        0.01,
        0.05,
    )
    for study in ("one", "two"):
        run = Run("r", "b", [], "done", deliveries={"PACS@h:1": Delivery()})
        ledger.change(study, lambda state, run=run: state.runs.append(run))
        forwarder.add(study, "r")
        forwarder.add(study, "r")
    assert forwarder.waiting == 2
    forwarder.start()
    assert enough.wait(240)
    forwarder.stop()
    assert set(tried) == {"one", "two"}
    assert forwarder._pause(1) == 0.01 and forwarder._pause(2) == 0.02 and forwarder._pause(40) == 0.05


@pytest.mark.parametrize("status", [0xA700, 0x0110, 0x0124])
def test_a_failure_that_may_pass_is_tried_again_with_what_is_missing(tmp_path: Path, status: int) -> None:
    answers = iter([0, status, status])
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        pacs.answer = lambda data: next(answers, 0)
        send(node.port, make_study(tmp_path))
        node.wait_to_say("sent to")
    assert [each.Modality for each in pacs.stored] == ["SEG", "SR"]
    assert sum(f"C-STORE status 0x{status:04X}; tried again" in line for line in node.lines) == 2


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0117])
def test_an_object_that_is_refused_for_good_is_named_and_the_others_are_sent(tmp_path: Path, status: int) -> None:
    files = make_study(tmp_path)
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        pacs.answer = lambda data: status if data.Modality == "SEG" else 0
        send(node.port, files)
        node.wait_to_say(
            f"failed at {pacs.destination}: refuses Segmentation Storage with C-STORE status 0x{status:04X}"
        )
        assert node.state() == "failed"
        assert len(node.spool.images(node.study)) == len(files)
        pacs.answer = 0
        send(node.port, files)  # whoever sends it again wants it tried again
        node.wait_to_say("sent to")
    assert [each.Modality for each in pacs.stored] == ["SR", "SEG"]
    assert node.state() == "finished"


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0x0111])
def test_a_warning_and_what_the_pacs_has_already_count_as_sent(tmp_path: Path, status: int) -> None:
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        pacs.answer = status
        send(node.port, make_study(tmp_path))
        node.wait_to_say("sent to")
        assert node.state() == "finished"


def test_a_class_that_the_pacs_does_not_take_is_refused_for_good(tmp_path: Path) -> None:
    entity = AE("PACS")
    entity.add_supported_context(SR)
    stored: list[str] = []

    def store(event: evt.Event) -> int:
        stored.append(event.dataset.Modality)
        return 0

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        result = Sender(AET).send(
            Destination("PACS", "127.0.0.1", server.server_address[1]), files := objects(tmp_path)
        )
    finally:
        entity.shutdown()
    assert result == Sent([files[1]], {files[0]: NOT_TAKEN}, "", True)
    assert stored == ["SR"]


def test_an_association_that_is_rejected_is_tried_again_with_its_reason(tmp_path: Path) -> None:
    with fake_pacs() as pacs:
        pacs._entity.require_calling_aet = ["NOBODY"]
        result = Sender(AET).send(pacs.destination, objects(tmp_path))
    assert result.problem == "rejects the association (result, source, reason: 1, 1, 3)"
    assert not result.was_reached and not result.refused


def test_a_host_that_is_not_known_and_a_port_where_nobody_listens_are_waited_for(tmp_path: Path) -> None:
    files = objects(tmp_path)
    unknown = Sender(AET).send(Destination("PACS", "no.such.host.invalid", 1), files)
    assert unknown == Sent(problem="its host is not known here")
    assert Sender(AET).send(Destination("PACS", "127.0.0.1", 1), files).problem == "can not be reached"


def test_every_address_of_a_host_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(host: str, *words: object, **options: object) -> list:
        addresses = ("127.0.0.2", "127.0.0.1") if host == "pacs.local" else (host,)
        return [entry for address in addresses for entry in real(address, *words, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with fake_pacs() as pacs:
        result = Sender(AET).send(Destination("PACS", "pacs.local", pacs.port), objects(tmp_path))
    assert len(result.stored) == len(pacs.stored) == 2 and result.was_reached


def test_an_uncompressed_object_is_written_as_the_pacs_takes_it(tmp_path: Path) -> None:
    entity, syntaxes = AE("PACS"), []
    for sop_class in (SEG, SR):
        entity.add_supported_context(sop_class, "1.2.840.10008.1.2")

    def store(event: evt.Event) -> int:
        syntaxes.append(event.context.transfer_syntax)
        return 0

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        result = Sender(AET).send(Destination("PACS", "127.0.0.1", server.server_address[1]), objects(tmp_path))
    finally:
        entity.shutdown()
    assert len(result.stored) == 2 and syntaxes == ["1.2.840.10008.1.2"] * 2


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_object_goes_as_it_is_or_not_at_all(tmp_path: Path, syntax: str) -> None:
    (file, _) = objects(tmp_path)
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(file)
    with fake_pacs() as pacs:
        result = Sender(AET).send(pacs.destination, [file])
        assert result.refused == {file: NOT_TAKEN}


def test_results_that_somebody_removed_fail_their_delivery(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        pacs.stop()
        send(node.port, files)
        node.wait_to_say("can not be reached")
        for file in (tmp_path / "node").rglob("results-*/**/*.dcm"):
            file.unlink()
        pacs.start()
        node.wait_to_say("there are no result objects to send")
        assert node.state() == "failed"


def test_an_error_of_ours_while_sending_is_said_and_tried_again(tmp_path: Path) -> None:
    with fake_pacs() as pacs, running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
        pacs.stop()
        send(node.port, make_study(tmp_path))
        node.wait_to_say("can not be reached")
        (seg,) = (tmp_path / "node").rglob("results-*/**/seg.dcm")
        content = seg.read_bytes()
        seg.write_bytes(b"no DICOM")
        node.wait_to_say("InvalidDicomError in scanloom itself")
        seg.write_bytes(content)
        pacs.start()
        node.wait_to_say("sent to")
    assert len(pacs.stored) == 2


def test_a_pacs_that_reads_no_more_is_given_up_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SILENCE_S", 0.5)
    file, reads = write_object(tmp_path, SEG, "SEG", "1.2.3"), threading.Event()
    edit_file(file, EncapsulatedDocument=bytes(50_000_000))  # more than the buffers between the two hold

    def read(event: evt.Event) -> None:
        if event.data[:1] == b"\x04":  # P-DATA-TF
            reads.wait(240)

    with fake_pacs() as pacs:
        pacs._server.bind(evt.EVT_DATA_RECV, read)
        result = Sender(AET).send(pacs.destination, [file])
        reads.set()
    assert result == Sent(problem="no answer to C-STORE", was_reached=True)


def test_a_pacs_that_takes_its_time_to_answer_does_not_keep_the_node_from_ending(tmp_path: Path) -> None:
    asked, answers = threading.Event(), threading.Event()

    def answer(_: object) -> int:
        asked.set()
        answers.wait(240)
        return 0

    with fake_pacs() as pacs:
        pacs.answer = answer
        try:
            with running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
                send(node.port, make_study(tmp_path))
                assert asked.wait(240)
            (forwarder,) = node.node._forwarders.values()
            wait_for(lambda: not forwarder._thread.is_alive(), "the thread to end", 60.0)
            assert node.state() == "forwarding"
        finally:
            answers.set()
        pacs.answer = 0
        with running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
            node.wait_to_say("sent to")

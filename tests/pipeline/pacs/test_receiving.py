"""The storage SCP against pynetdicom, dcmtk and raw sockets: who comes in, what is taken, and what harms nobody."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from factories import PATIENT, edit_file
from nodes import AET, FakeCompute, associated, make_study, running_node, send, wait_for, write_object
from pydicom.data import get_testdata_file
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from scanloom.pipeline.pacs.allowed import parse_allow_list
from scanloom.pipeline.pacs.receiving import TRANSFER_SYNTAXES

REJECTED = b"\x03"
SLOW = {"options": {"quiet_s": 60.0}}


def reject_reason(port: int, *, aet: str = "SENDER", called: str = AET) -> tuple[int, int, int]:
    with associated(port, aet=aet, called=called) as association:
        assert association.is_rejected
        answer = association.acceptor.primitive
        return answer.result, answer.result_source, answer.diagnostic


def request_pdu(aet: str = "SENDER") -> bytes:
    """An A-ASSOCIATE-RQ for C-ECHO."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    context = item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH16s16s32x", 1, 0, AET.encode().ljust(16), aet.encode().ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\x01\0\0\0" + context) + item(0x50, user)
    return b"\x01\0" + struct.pack(">I", len(body)) + body


def first_byte(connection: socket.socket) -> bytes:
    """Of the answer; empty where the connection was closed without one."""
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""


def test_c_echo_is_answered(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node, associated(node.port) as association:
        assert association.send_c_echo().Status == 0


def test_an_association_must_call_our_ae_title(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        assert reject_reason(node.port, called="OTHER") == (1, 1, 7)
        node.wait_to_say("127.0.0.1: association rejected: it calls another AE title")
        assert node.metrics.value("associations_total", outcome="rejected-called-aet") == 1


@pytest.mark.parametrize("permitted", [["CT1"], ["SENDER@192.0.2.1"], ["sender"], ["CT1", "SENDER@192.0.2.1"]])
def test_who_is_not_allowed_is_rejected_and_stores_nothing(tmp_path: Path, permitted: list[str]) -> None:
    allowed = parse_allow_list(permitted, "127.0.0.1")
    with running_node(tmp_path / "node", allowed=allowed) as node:
        assert reject_reason(node.port) == (1, 1, 3)
        node.wait_to_say("association rejected: its AE title and address are not allowed")
        assert node.spool.studies() == []


@pytest.mark.parametrize("permitted", ["SENDER", "SENDER@127.0.0.1", "SENDER@localhost"])
def test_who_is_allowed_comes_in(tmp_path: Path, permitted: str) -> None:
    files, allowed = make_study(tmp_path), parse_allow_list([permitted], "127.0.0.1")
    with running_node(tmp_path / "node", allowed=allowed, **SLOW) as node:
        assert send(node.port, files[:1]) == [0]


def test_an_error_of_the_gate_keeps_strangers_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = parse_allow_list(["CT1"], "127.0.0.1")
    with running_node(tmp_path / "node", allowed=allowed) as node:
        monkeypatch.setattr(type(allowed), "permits", lambda *_: 1 / 0)
        assert reject_reason(node.port) == (1, 1, 3)


@pytest.mark.parametrize("name", ["JPEG2000", "MR_small_RLE", "MR_small_bigendian", "SC_rgb_jpeg_dcmtk"])
def test_an_instance_is_kept_to_the_byte_in_its_transfer_syntax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from pynetdicom import association as module

    file = Path(str(get_testdata_file(f"{name}.dcm")))
    content = file.read_bytes()[split_dataset(file)[1] :]
    monkeypatch.setattr(module, "encode", lambda *_: content)  # pynetdicom would write it anew
    with running_node(tmp_path / "node", **SLOW) as node:
        assert send(node.port, [file]) == [0]
        (kept,) = node.spool.study(node.study).glob("images/*.dcm")
        assert kept.read_bytes()[split_dataset(kept)[1] :] == content
        assert pydicom.dcmread(kept).file_meta.TransferSyntaxUID == pydicom.dcmread(file).file_meta.TransferSyntaxUID


def test_dcmtk_is_understood(tmp_path: Path) -> None:
    if not shutil.which("storescu"):
        pytest.skip("needs dcmtk: apt-get install dcmtk")
    file = Path(str(get_testdata_file("MR_small_RLE.dcm")))
    with running_node(tmp_path / "node", **SLOW) as node:
        words = ["storescu", "-xr", "-aet", "SENDER", "-aec", AET, "127.0.0.1", str(node.port), str(file)]
        subprocess.run(words, check=True, timeout=240)
        subprocess.run(["echoscu", "-aec", AET, "127.0.0.1", str(node.port)], check=True, timeout=240)
        wrong = ["echoscu", "-aec", "OTHER", "127.0.0.1", str(node.port)]
        assert subprocess.run(wrong, timeout=240, capture_output=True, check=False).returncode
        (kept,) = node.spool.study(node.study).glob("images/*.dcm")
        assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(file).PixelData
        assert pydicom.dcmread(kept).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"


def test_every_storage_class_is_taken_in_every_usual_syntax_but_not_deflated(tmp_path: Path) -> None:
    from pynetdicom.sop_class import _STORAGE_CLASSES

    classes = sorted(set(_STORAGE_CLASSES.values()))
    assert {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5"} < {*TRANSFER_SYNTAXES}
    with running_node(tmp_path / "node") as node:
        for some in (classes[:100], classes[100:]):
            entity = AE("SENDER")
            for sop_class in some:
                entity.add_requested_context(sop_class, TRANSFER_SYNTAXES)
            entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1.99")
            association = entity.associate("127.0.0.1", node.port, ae_title=AET)
            assert [cx.abstract_syntax for cx in association.accepted_contexts] == some
            assert [cx.transfer_syntax for cx in association.rejected_contexts] == [["1.2.840.10008.1.2.1.99"]]
            association.release()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_study_bytes": 4000}, "study-size"),
        ({"max_bytes": 4000}, "spool-size"),
        ({"min_free_bytes": 2**60}, "disk"),
    ],
)
def test_without_room_the_answer_is_out_of_resources(tmp_path: Path, limits: dict[str, int], reason: str) -> None:
    files = make_study(tmp_path)
    with running_node(tmp_path / "node", **SLOW, **limits) as node:
        statuses = send(node.port, files)
        assert set(statuses) <= {0, 0xA700} and statuses[-1] == 0xA700
        refused = node.metrics.value("instances_refused_total", reason=reason)
        assert refused == statuses.count(0xA700) == len(files) - node.metrics.value("instances_received_total")
        assert sum("refused with 0xA700" in line for line in node.lines) == 1
        assert len(list((tmp_path / "node").rglob("*.dcm"))) == statuses.count(0)


def test_a_data_set_that_is_none_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    file = make_study(tmp_path)[0]
    with running_node(tmp_path / "node", **SLOW) as node, associated(node.port, [file]) as association:
        edit_file(file, StudyInstanceUID=None)
        answer = association.send_c_store(file)
        assert answer.Status == 0xC000
        assert answer.ErrorComment == "the data set has no study, SOP class or SOP instance UID"
        assert node.metrics.value("instances_refused_total", reason="unreadable") == 1
        assert list((tmp_path / "node").rglob("*.dcm")) == []


def test_an_instance_other_than_announced_does_not_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynetdicom import association as module

    files = make_study(tmp_path)
    lying = pydicom.dcmread(files[1])
    with running_node(tmp_path / "node", **SLOW) as node, associated(node.port, files) as association:
        encode = module.encode
        monkeypatch.setattr(module, "encode", lambda _, *how: encode(lying, *how))
        assert association.send_c_store(pydicom.dcmread(files[0])).Status == 0xA900
        monkeypatch.setattr(module, "encode", lambda data, *how: encode(data, *how)[:-50])
        assert association.send_c_store(pydicom.dcmread(files[0])).Status == 0xC000
        monkeypatch.setattr(module, "encode", lambda data, *how: os.urandom(5000))
        assert association.send_c_store(pydicom.dcmread(files[0])).Status == 0xC000
        monkeypatch.setattr(module, "encode", encode)
        assert association.send_c_store(files[0]).Status == 0
        assert len(list((tmp_path / "node").rglob("*.dcm"))) == 1


def test_random_bytes_half_requests_and_silence_harm_nobody(tmp_path: Path) -> None:
    files, whole = make_study(tmp_path), request_pdu()
    garbage = [os.urandom(size) for size in (1, 5, 6, 100, 10_000)]
    garbage += [b"GET / HTTP/1.1\r\n\r\n", b"\x01\0\xff\xff\xff\xff" + b"x" * 1000, b"\x04\0\0\0\0\x10" + b"\0" * 16]
    garbage += [whole[:10], whole[:-1], whole[:6] + os.urandom(len(whole) - 6), whole + os.urandom(500), whole + whole]
    with running_node(tmp_path / "node", receiving={"hello_s": 1.0, "silence_s": 2.0}) as node:
        connections = [socket.create_connection(("127.0.0.1", node.port), timeout=240) for _ in range(2 * len(garbage))]
        try:
            for connection, content in zip(connections, garbage, strict=False):  # the other half says nothing at all
                connection.sendall(content)
            assert send(node.port, files) == [0] * len(files)
            for connection in connections:
                while first_byte(connection):
                    pass  # an abort or a rejection, then the end
        finally:
            for connection in connections:
                connection.close()
        node.wait_to_say("done")
        wait_for(lambda: not node.node.receiver._server.active_associations, "the threads to end")
        assert not node.says("scanloom itself")
        assert [file.name for file in (tmp_path / "node" / "incoming").iterdir()] == []


def test_an_association_that_goes_silent_is_ended(tmp_path: Path) -> None:
    with running_node(tmp_path / "node", receiving={"silence_s": 0.5, "max_associations": 1}) as node:
        with socket.create_connection(("127.0.0.1", node.port), timeout=240) as connection:
            connection.sendall(request_pdu())
            assert first_byte(connection) == b"\x02"
            assert reject_reason(node.port) == (2, 3, 2)
            while first_byte(connection):
                pass
        wait_for(lambda: node.node.receiver.associations == 0, "the seat")
        with associated(node.port) as association:
            assert association.is_established


def test_a_pdu_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        with socket.create_connection(("127.0.0.1", node.port), timeout=240) as connection:
            connection.sendall(b"\x01\0" + struct.pack(">I", 2**31))
            assert first_byte(connection) in (b"", b"\x07")
        with associated(node.port) as association:
            assert association.is_established


def test_what_would_fill_the_memory_is_cut_off_and_the_next_is_taken(tmp_path: Path) -> None:
    large, small = make_study(tmp_path, "large"), make_study(tmp_path, "small")
    edit_file(large[0], PixelData=bytes(3_000_000), Rows=1000, Columns=1500)
    with running_node(tmp_path / "node", receiving={"max_memory_bytes": 2_000_000}, **SLOW) as node:
        assert send(node.port, large[:1]) == [None]
        assert node.spool.studies() == []
        assert node.metrics.value("instances_refused_total", reason="memory") == 1
        node.wait_to_say("127.0.0.1: association ended: too many bytes are being received")
        assert send(node.port, small) == [0] * len(small)


@pytest.mark.slow
def test_of_two_hundred_associations_those_with_a_seat_are_served_and_the_others_told(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    outcomes: list[bytes] = []
    start = threading.Barrier(200)

    def associate() -> None:
        with socket.create_connection(("127.0.0.1", node.port), timeout=240) as connection:
            start.wait(240)
            connection.sendall(request_pdu())
            outcomes.append(first_byte(connection))
            if outcomes[-1] == b"\x02":
                everyone.wait(240)  # holds its seat until all have their answers

    everyone = threading.Event()
    with running_node(tmp_path / "node", compute, receiving={"max_associations": 10}) as node:
        threads = [threading.Thread(target=associate) for _ in range(200)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: len(outcomes) == 200, "all answers")
        finally:
            everyone.set()
            for thread in threads:
                thread.join()
        assert (outcomes.count(b"\x02"), outcomes.count(REJECTED)) == (10, 190)
        wait_for(lambda: node.node.receiver.associations == 0, "the seats")
        assert send(node.port, files) == [0] * len(files)
        node.wait_to_say("done")
    assert node.metrics.value("associations_total", outcome="rejected-limit") == 190
    assert sum("too many associations" in line for line in node.lines) == 1


def test_an_association_that_breaks_off_leaves_what_was_answered(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with running_node(tmp_path / "node", **SLOW) as node:
        with associated(node.port, files) as association:
            assert [association.send_c_store(file).Status for file in files[:2]] == [0, 0]
            association.abort()
        assert len(node.spool.images(node.study)) == 2


def test_nothing_of_the_patient_is_in_a_name_or_a_line(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    uids = [str(pydicom.dcmread(files[0]).get(key)) for key in ("StudyInstanceUID", "SOPInstanceUID")]
    with running_node(tmp_path / "node", options={"keeps_images": True}) as node:
        send(node.port, files)
        node.wait_to_say("done")
        names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "node").rglob("*")]
        states = [path.read_text() for path in (tmp_path / "node").rglob("*.json")]
    for word in (*PATIENT.values(), *uids):
        assert not any(word in text for text in (*names, *states, *node.lines))


def test_segmentations_and_reports_are_taken_but_call_for_no_computation(tmp_path: Path) -> None:
    compute = FakeCompute()
    made = write_object(tmp_path, "1.2.840.10008.5.1.4.1.1.66.4", "SEG", "1.2.3")
    with running_node(tmp_path / "node", compute) as node:
        assert send(node.port, [made]) == [0]
        wait_for(lambda: not node.spool.studies(), "what needs no computation to go")
    assert compute.sets == []


@pytest.mark.parametrize("is_associated", [False, True])
def test_who_sends_byte_by_byte_has_no_more_time_than_who_is_silent(tmp_path: Path, is_associated: bool) -> None:
    stopped = threading.Event()

    def drip(connection: socket.socket, content: bytes) -> None:
        with suppress(OSError):  # until the other side is gone
            for byte in content:
                connection.sendall(bytes([byte]))
                if stopped.wait(0.1):
                    return

    with (
        running_node(tmp_path / "node", receiving={"hello_s": 0.5, "silence_s": 0.5}) as node,
        socket.create_connection(("127.0.0.1", node.port), timeout=240) as connection,
    ):
        content = request_pdu()
        if is_associated:
            connection.sendall(content)
            assert first_byte(connection) == b"\x02"
            content = b"\x04\0" + struct.pack(">I", 10_000) + bytes(10_000)
        wait_for(lambda: node.node.receiver._server.active_associations, "the connection")
        thread = threading.Thread(target=drip, args=(connection, content))
        thread.start()
        try:
            wait_for(lambda: not node.node.receiver._server.active_associations, "the end", 5.0)
        finally:
            stopped.set()
            thread.join()


def test_stopping_does_not_wait_for_half_a_request(tmp_path: Path) -> None:
    with (
        running_node(tmp_path / "node") as node,  # which would wait for the rest of it for 15 s
        socket.create_connection(("127.0.0.1", node.port), timeout=240) as connection,
    ):
        connection.sendall(request_pdu()[:20])
        wait_for(lambda: node.node.receiver._server.active_associations, "the connection")
        time.sleep(0.2)  # the half is being read
        began = time.monotonic()
        node.node.receiver.stop()
        assert time.monotonic() - began < 5
        assert first_byte(connection) == b""


def test_messages_that_are_sent_ahead_of_their_answers_count_until_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, gate = make_study(tmp_path), threading.Semaphore(0)
    for file in files:
        edit_file(file, PixelData=bytes(400_000), Rows=400, Columns=500)
    with running_node(tmp_path / "node", receiving={"max_memory_bytes": 1_000_000}, **SLOW) as node:
        store = node.spool.store
        monkeypatch.setattr(node.spool, "store", lambda *words: gate.acquire(timeout=240) and store(*words))
        with associated(node.port, files[:1]) as association:
            for number, file in enumerate(files[:2]):
                send_ahead(association, file, number + 1)
            (peer,) = node.node.receiver._server.active_associations
            wait_for(lambda: peer.dimse.msg_queue.qsize() == 1, "the second message behind the first")
            gate.release()
            wait_for(lambda: peer.dimse.msg_queue.qsize() == 0, "the second message to be handled")
            for number, file in enumerate(files[2:4]):  # with the second that makes three, where there is room for two
                send_ahead(association, file, number + 3)
            node.wait_to_say("too many bytes are being received")
            gate.release(10)
        assert send(node.port, files[4:]) == [0] * 4


def send_ahead(association: Association, file: Path, number: int) -> None:
    """C-STORE without waiting for the answer."""
    data = pydicom.dcmread(file)
    request = C_STORE()
    request.MessageID, request.Priority = number, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    request.DataSet = BytesIO(file.read_bytes()[split_dataset(file)[1] :])
    (context,) = (each for each in association.accepted_contexts if each.abstract_syntax == data.SOPClassUID)
    association.dimse.send_msg(request, context.context_id)


def test_an_image_that_the_disk_is_slow_to_take_is_computed_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, compute, gate = make_study(tmp_path), FakeCompute(), threading.Event()
    with running_node(tmp_path / "node", compute, options={"quiet_s": 0.1}) as node:
        store, names = node.spool.store, []

        def store_last_slowly(*words: object) -> bool:
            names.append(words[0])
            return (len(names) < len(files) or gate.wait(240)) and store(*words)  # type: ignore[arg-type]

        monkeypatch.setattr(node.spool, "store", store_last_slowly)
        thread = threading.Thread(target=send, args=(node.port, files))
        thread.start()
        wait_for(lambda: len(names) == len(files), "the last image")
        assert not compute.entered.wait(1.5)  # fifteen times the quiet time, where an open association holds for ten
        gate.set()
        thread.join()
        node.wait_to_say("done")
    assert [len(each) for each in compute.sets] == [len(files)]

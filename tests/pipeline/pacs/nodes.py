"""For tests of the DICOM node: nodes in this process, senders, and a PACS that does as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from factories import PATIENT, write_mr_series
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket
from scanloom.pipeline.pacs.addresses import Destination
from scanloom.pipeline.pacs.allowed import AllowList
from scanloom.pipeline.pacs.computing import Labelled
from scanloom.pipeline.pacs.metrics import Metrics
from scanloom.pipeline.pacs.node import Node, NodeOptions
from scanloom.pipeline.pacs.receiving import ReceivingOptions
from scanloom.pipeline.pacs.sending import Sender
from scanloom.pipeline.pacs.spool import Spool

AET = "SCANLOOM"
SEG, SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33"
PATIENCE_S = 240.0
ANSWER_S = 30.0
"""Patience of senders; where a node is killed pynetdicom uses all of it."""


def _close_senders_sockets() -> None:
    """pynetdicom, as a sender, drops a socket without closing it where there is nobody or the other side ends it first.
    What drops the socket itself, in the middle of a later test or when all have ended, would fail that."""
    shut = AssociationSocket._shutdown_socket

    def shut_and_close(self: AssociationSocket) -> None:
        connection = self.socket
        shut(self)
        if connection is not None:
            connection.close()

    AssociationSocket._shutdown_socket = shut_and_close  # type: ignore[method-assign]


_close_senders_sockets()


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What the condition gives, as soon as it is true."""
    end = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)
    return found


def make_study(folder: Path, seed: str = "one", series: int = 1) -> list[Path]:
    """The files of a small MR study, with the identifiers that may appear nowhere."""

    def name(dataset: Dataset, _: int) -> None:
        dataset.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[seed])
        for keyword, value in PATIENT.items():
            setattr(dataset, keyword, value)

    return [
        file
        for number in range(1, series + 1)
        for file in write_mr_series(folder / f"{seed}-{number}", number=number, seed=f"{seed}-{number}", edit=name)
    ]


class FakeCompute:
    """Writes a SEG and an SR of a few elements, and remembers what it was given.

    Attributes:
        sets: of each call, the SOP instance UIDs of the images.
        answer: how the next calls end.
        gate: calls wait until it is set.
        entered: set by each call.
    """

    def __init__(self) -> None:
        self.sets: list[set[str]] = []
        self.answer = Labelled("done", "mr-00000000")
        self.error: BaseException | None = None
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, images: Path, output: Path) -> Labelled:
        read = [pydicom.dcmread(file) for file in images.iterdir()]
        self.sets.append({str(image.SOPInstanceUID) for image in read})
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        if self.answer.status in ("done", "held"):
            for sop_class, modality in ((SEG, "SEG"), (SR, "SR")):
                write_object(output / "mr-00000000", sop_class, modality, read[0].StudyInstanceUID)
        return self.answer


def write_object(folder: Path, sop_class: str, modality: str, study: str) -> Path:
    """A DICOM object that holds little more than its names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class, pydicom.uid.generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, pydicom.uid.generate_uid()
    made.Modality, made.PatientID, made.PatientName = modality, PATIENT["PatientID"], PATIENT["PatientName"]
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path = folder / f"{modality.lower()}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


class RunningNode:
    """A node that runs in a thread.

    Attributes:
        lines: of its log.
    """

    def __init__(
        self,
        folder: Path,
        compute: FakeCompute,
        options: NodeOptions,
        receiving: ReceivingOptions,
        sender: Sender,
        bundle: str,
        **limits: int,
    ) -> None:
        self.lines: list[str] = []
        self.metrics = Metrics()
        self.spool = Spool(folder, **{"min_free_bytes": 0, **limits})
        self.node = Node(options, receiving, self.spool, compute, bundle, sender, self.metrics, self.lines.append)
        self.port = self.node.receiver.port
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with suppress(SystemExit):  # as the signal to terminate raises it
            self.node.run()

    def says(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_to_say(self, text: str, times: int = 1) -> None:
        wait_for(lambda: sum(text in line for line in self.lines) >= times, f"{text!r} in {self.lines}")

    @property
    def study(self) -> str:
        (study,) = self.spool.studies()
        return study

    def state(self) -> str:
        return self.node.ledger.read(self.study).status

    def stop(self) -> None:
        self.node.stop()
        if self.thread.is_alive():
            self.thread.join(PATIENCE_S)
        self.node.close()
        assert not self.thread.is_alive()


@contextmanager
def running_node(
    folder: Path,
    compute: FakeCompute | None = None,
    *,
    destinations: Sequence[Destination] = (),
    allowed: AllowList | None = None,
    options: dict[str, Any] | None = None,
    receiving: dict[str, Any] | None = None,
    sender: Sender | None = None,
    bundle: str = "0" * 16,
    **limits: int,
) -> Iterator[RunningNode]:
    """A node on a free port of loopback; its study is quiet after a moment."""
    running = RunningNode(
        folder,
        compute or FakeCompute(),
        NodeOptions(destinations, **{"quiet_s": 0.3, "first_pause_s": 0.1, "longest_pause_s": 0.4, **(options or {})}),
        replace(ReceivingOptions(AET, "127.0.0.1", 0, allowed or AllowList()), **(receiving or {})),
        sender or Sender(AET),
        bundle,
        **limits,
    )
    running.thread.start()
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def associated(
    port: int, files: Sequence[Path] = (), *, aet: str = "SENDER", called: str = AET, tls: Any = None
) -> Iterator[Association]:
    """An association that proposes what the files need, and C-ECHO; the caller checks whether it is established."""
    entity = AE(aet)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER_S
    entity.add_requested_context("1.2.840.10008.1.1")
    for file in files:
        meta = pydicom.dcmread(file, stop_before_pixels=True).file_meta
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=(tls, "localhost") if tls else None)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send(port: int, files: Sequence[Path], **options: Any) -> list[int | None]:
    """The statuses of C-STORE, file by file, on one association; None where there was no answer."""
    with associated(port, files, **options) as association:
        assert association.is_established
        return [association.send_c_store(file).get("Status") for file in files]


class FakePacs:
    """A storage SCP.

    Attributes:
        aet: its AE title.
        stored: the data sets, in the order of their coming.
        answer: status of C-STORE, or what gives one for a data set.
        port: where it listens, also when it is started again.
    """

    def __init__(self, aet: str = "PACS", tls: Any = None) -> None:
        self.aet, self.stored, self.tls = aet, [], tls
        self.answer: int | Callable[[Dataset], int] = 0
        self.port, self._server = 0, None
        self.start()

    @property
    def destination(self) -> Destination:
        return Destination(self.aet, "localhost" if self.tls else "127.0.0.1", self.port)

    def start(self) -> None:
        self._entity = AE(self.aet)
        self._entity.add_supported_context(SEG)
        self._entity.add_supported_context(SR)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = self._entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self.tls
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        if self._server is not None:
            self._entity.shutdown()
            self._server = None

    def _store(self, event: Any) -> int:
        data = event.dataset
        status = self.answer(data) if callable(self.answer) else self.answer
        if status == 0:
            self.stored.append(data)
        return status


@contextmanager
def fake_pacs(**options: Any) -> Iterator[FakePacs]:
    """A PACS on loopback."""
    pacs = FakePacs(**options)
    try:
        yield pacs
    finally:
        pacs.stop()

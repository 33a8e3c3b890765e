"""A small DICOMweb server for the faults that a real one shows rarely: gives its files until told otherwise."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom

ROOT = "/dicom-web"
BOUNDARY = "parts-of-a-test"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


class Double:
    """What the server has, was asked, and does wrong.

    Attributes:
        fault: called with every request before it is answered; returns True where it has answered itself.
        asked: method, path and headers of every request.
        stored: bodies of the stores.
        store_answer: status and JSON that a store gets.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = {pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID: file for file in files}
        first = pydicom.dcmread(files[0], stop_before_pixels=True)
        self.study_uid, self.series_uid, self.modality = first.StudyInstanceUID, first.SeriesInstanceUID, first.Modality
        self.listed = list(self.files)
        self.counted: int | None = len(self.files)
        self.fault: Callable[[Any], bool] = lambda request: False
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.stored: list[bytes] = []
        self.store_answer: tuple[int, Any] = (200, {})
        self.port = 0

    @property
    def address(self) -> str:
        return f"dicomweb://127.0.0.1:{self.port}{ROOT}/studies/{self.study_uid}"

    def answer(self, request: Any) -> None:
        """As a server without faults does."""
        path = request.path.partition("?")[0]
        if path == f"{ROOT}/studies/{self.study_uid}/series":
            entry = {"0020000E": [self.series_uid], "00080060": [self.modality], "00201209": [self.counted]}
            request.say(200, as_json([entry]))
        elif path.endswith("/instances"):
            offset = int(request.path.partition("offset=")[2].partition("&")[0] or 0)
            request.say(200, as_json([{"00080018": [uid]} for uid in self.listed[offset:]]))
        elif (uid := path.rpartition("/")[2]) in self.files:
            request.say(200, multipart(self.files[uid].read_bytes()), MULTIPART)
        else:
            request.say(404, b"<html>no such thing</html>", "text/html")


def as_json(entries: Sequence[dict[str, Any]]) -> bytes:
    """DICOM JSON of elements that have values."""
    made = [{tag: {"vr": "UI", "Value": value} for tag, value in each.items() if value != [None]} for each in entries]
    return json.dumps(made).encode()


def multipart(*parts: bytes) -> bytes:
    """A whole body of `MULTIPART`."""
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


@contextmanager
def serving(double: Double, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Double]:
    """The server runs while the block does, over TLS where told."""

    class Request(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 2**16

        def say(self, status: int, body: bytes, content_type: str = "application/dicom+json", **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            double.asked.append(("GET", self.path, dict(self.headers)))
            if not double.fault(self):
                double.answer(self)

        def do_POST(self) -> None:
            double.asked.append(("POST", self.path, dict(self.headers)))
            double.stored.append(self.rfile.read(int(self.headers["Content-Length"])))
            if not double.fault(self):
                status, answer = double.store_answer
                self.say(status, json.dumps(answer).encode(), "application/dicom+json; charset=utf-8")

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    server = Server((host, 0), Request)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    double.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

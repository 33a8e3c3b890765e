"""A real Orthanc with its DICOMweb plugin on loopback ports of its own; skips where it is not installed.

    with running_orthanc(tmp_path, aet="PACS") as orthanc:
        orthanc.upload(file)
        orthanc.stop()   # the PACS is down ...
        orthanc.start()  # ... and back, with what it had, on the same ports

A test module that only wants one as it comes imports the fixture: `from orthanc import orthanc_fixture  # noqa: F401`,
and its tests ask for `orthanc`.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from ports import free_ports

PROGRAM = "Orthanc"
PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
READY_S = 240.0
STOPPED_S = 120.0
POLL_S = 0.02

Peer = tuple[str, str, int]
"""AE title, host and port of another DICOM node."""


class Orthanc:
    """A PACS of one test, started and stopped at will; what it stores outlives a stop.

    Attributes:
        aet: its AE title.
        http_port, dicom_port: where it listens, on every start the same.
        url: of its REST service and pages.
        dicomweb: of its DICOMweb service.
        credentials: user and password, None where it asks for none.
        log: the file of its log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        aet: str = "ORTHANC",
        peers: Mapping[str, Peer] | None = None,
        credentials: tuple[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare one; `start` runs it.

        Args:
            folder: a temporary one, for storage, configuration and log.
            aet: its AE title.
            peers: the nodes that it may send to (DicomModalities), by name.
            credentials: ask for this user and password.
            settings: more of Orthanc's own settings; they win over the helper's.
        """
        self.program, self.plugins = _program(), _plugins()
        self.folder, self.aet, self.peers, self.credentials = folder, aet, dict(peers or {}), credentials
        self.settings = dict(settings or {})
        self.http_port, self.dicom_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.dicomweb = f"{self.url}/dicom-web"
        self.log = folder / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, and return when it answers over HTTP and listens for DICOM."""
        assert self._process is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._config()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            ended, late = self._process.poll() is not None, time.monotonic() > deadline
            if ended or late:
                self.stop(kill=True)
                said = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"Orthanc {'ended' if ended else 'is not ready'}:\n{said}")
            time.sleep(POLL_S)

    def stop(self, *, kill: bool = False) -> None:
        """End it, gently (some seconds) or as a power cut would; nothing happens where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOPPED_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOPPED_S)

    def get(self, path: str) -> Any:
        """What its REST service says at `path`, such as "/studies", as JSON."""
        return self._request("GET", path).json()

    def upload(self, *files: Path) -> None:
        """Store DICOM files."""
        for file in files:
            self._request("POST", "/instances", data=file.read_bytes())

    def delete(self, path: str) -> None:
        """Delete what is at `path`."""
        self._request("DELETE", path)

    def studies(self) -> list[dict[str, Any]]:
        """Its studies, each with "ID" (its own), "MainDicomTags" and "Series"."""
        return self.get("/studies?expand")

    def series(self, modality: str | None = None) -> list[dict[str, Any]]:
        """Its series, each with "ID", "MainDicomTags", "Instances" and "ParentStudy"; of one modality, if named."""
        found = self.get("/series?expand")
        return [each for each in found if modality in (None, each["MainDicomTags"]["Modality"])]

    def instances(self) -> list[dict[str, Any]]:
        """Its instances, each with "ID", "MainDicomTags" and "ParentSeries"."""
        return self.get("/instances?expand")

    def instance(self, identity: str) -> bytes:
        """The DICOM file of an instance, by Orthanc's own ID for it."""
        return self._request("GET", f"/instances/{identity}/file").content

    def store(self, peer: str, *identities: str) -> None:
        """Send instances, series or studies by C-STORE to one of the peers, by their Orthanc IDs."""
        self._request("POST", f"/modalities/{peer}/store", data=json.dumps(identities))

    def _request(self, method: str, path: str, data: Any = None) -> requests.Response:
        response = requests.request(method, self.url + path, data=data, auth=self.credentials, timeout=240)
        response.raise_for_status()
        return response

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.dicom_port), timeout=1):
                return bool(self.get("/system"))
        except (OSError, requests.RequestException):
            return False

    def _config(self) -> dict[str, Any]:
        storage = str(self.folder / "storage")
        return {
            "Name": "test",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": self.aet,
            "DicomModalities": {name: list(peer) for name, peer in self.peers.items()},
            "DicomAlwaysAllowStore": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": self.credentials is not None,
            "RegisteredUsers": dict([self.credentials]) if self.credentials else {},
            "StableAge": 1,
            "Plugins": self.plugins,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **self.settings,
        }


@contextmanager
def running_orthanc(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """An Orthanc that runs while the block does; the options are those of `Orthanc`."""
    orthanc = Orthanc(folder / "orthanc", **options)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop(kill=True)  # its gentle way takes seconds, and nobody reads the storage again


@pytest.fixture(name="orthanc")
def orthanc_fixture(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty Orthanc of one test."""
    with running_orthanc(tmp_path) as orthanc:
        yield orthanc


def _program() -> str:
    """Orthanc's program; a user's PATH often lacks the folder where Debian puts it."""
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip("needs Orthanc: apt-get install orthanc orthanc-dicomweb")
    return found


def _plugins() -> list[str]:
    """The DICOMweb plugin, which must be there, and the web viewer, which may be."""
    dicomweb, viewer = _plugin("libOrthancDicomWeb"), _plugin("libOrthancWebViewer")
    if not dicomweb:
        pytest.skip("needs Orthanc's DICOMweb plugin: apt-get install orthanc-dicomweb")
    return [path for path in (dicomweb, viewer) if path]


def _plugin(name: str) -> str | None:
    found = (path for folder in PLUGIN_FOLDERS for path in sorted(Path(folder).glob(f"{name}.so*")))
    return next((str(path.resolve()) for path in found), None)

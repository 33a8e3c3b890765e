"""The command: what is wrong with its arguments is said in a line before anything is loaded; it ends gently."""

from __future__ import annotations

import signal
import socket
import stat
import urllib.request
from pathlib import Path

import pytest
from factories import make_bundle
from listening import listen, listening
from nodes import associated

BUNDLE = "hippocampus_mr_unet"
GIVEN = {"--aet": "SCANLOOM", "--port": "0", "-b": BUNDLE}


def words(folder: Path, **changes: str) -> list[str]:
    """Arguments that would listen, but for the changes."""
    named = {**GIVEN, "-o": str(folder / "node")} | {
        f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}": value for name, value in changes.items()
    }
    return [
        word for name, value in named.items() if value is not None for word in ((name, value) if value else (name,))
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"aet": "SEVENTEEN_LETTERS"}, "--aet 'SEVENTEEN_LETTERS' is no AE title: write 1 to 16 ASCII characters"),
        ({"forward": "PACS"}, "--forward PACS: write it as AET@HOST:PORT"),
        ({"forward": "PACS@h:1", "format": "nifti"}, "--forward sends DICOM objects: add --format dicom-seg."),
        ({"format": "docx"}, "format 'docx' is not known"),
        ({"host": "0.0.0.0"}, "--host 0.0.0.0 can be reached by others: say who may send with --allow-aet AET@HOST"),
        ({"host": "no.such.host.invalid"}, "--host: the host 'no.such.host.invalid' is not known here"),
        (
            {"host": "192.0.2.1", "allow_aet": "A"},
            "can not listen on 192.0.2.1 port 0 (Cannot assign requested address)",
        ),
        ({"allow_aet": "A@"}, "--allow-aet A@: write it as AET or AET@HOST."),
        ({"tls_cert": "none.pem"}, "--tls-cert, --tls-key and --tls-ca belong together"),
        ({"forward_tls": ""}, "--forward-tls needs --tls-cert, --tls-key and --tls-ca."),
        ({"tls_cert": "n.pem", "tls_key": "n.key", "tls_ca": "c.pem"}, "--tls-ca c.pem: can not be read"),
        ({"b": "no_such_bundle"}, "no_such_bundle"),
        ({"o": "/proc/node"}, "can not write to /proc/node"),
        ({"device": "cuda:77"}, "--device cuda:77: there is no such device here"),
    ],
)
def test_a_wrong_argument_is_a_line(tmp_path: Path, changes: dict[str, str], line: str) -> None:
    done = listen(*words(tmp_path, **changes))
    *others, said = done.stderr.strip().splitlines()
    assert said.startswith("scanloom: ") and line in said
    assert done.returncode in (1, 2)
    assert others == []


def test_a_port_in_use_is_a_line_and_the_bundle_is_not_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = listen(*words(tmp_path, port=str(port)))
        assert f"can not listen on 127.0.0.1 port {port} (Address already in use)" in done.stderr
        assert done.returncode == 2
        done = listen(*words(tmp_path, metrics=str(port)))
        assert f"--metrics {port}: can not listen on 127.0.0.1 (Address already in use)" in done.stderr
        assert done.returncode == 2


@pytest.mark.parametrize(
    ("module", "package"), [("pynetdicom", "pynetdicom"), ("prometheus_client", "prometheus-client")]
)
def test_a_missing_package_is_named(tmp_path: Path, module: str, package: str) -> None:
    code = "import importlib.util as util; find = util.find_spec; "
    code += f"util.find_spec = lambda name, *more: None if name == {module!r} else find(name, *more)"
    done = listen(*words(tmp_path), code=code)
    assert f'listen needs {package}, which is not installed: pip install "scanloom[pacs]"' in done.stderr
    assert done.returncode == 2


def test_a_bundle_of_a_stranger_is_not_run(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "strange").folder
    done = listen(*words(tmp_path, b=str(bundle)))
    assert done.returncode == 1 and "--trust-bundle" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_listens_says_so_keeps_to_itself_and_ends_gently(tmp_path: Path, number: int, status: int) -> None:
    with listening(tmp_path, "-b", BUNDLE, "--metrics", "0") as node:
        with associated(node.port) as association:
            assert association.send_c_echo().Status == 0
        url = node.wait_to_say(r"metrics at (http://127.0.0.1:\d+/)metrics").group(1)
        with urllib.request.urlopen(f"{url}health", timeout=240) as answer:
            assert answer.read().startswith(b"health: ")
        again = listen(*words(tmp_path))
        assert again.returncode == 1 and "another run is writing there" in again.stderr
        for path in (tmp_path / "node").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == ".scanloom.lock"
        node.process.send_signal(number)
        assert node.process.wait(240) == status
        assert "stops; what is not finished" in node.log.read_text()
        assert "Traceback" not in node.log.read_text()
    assert not (tmp_path / "node" / ".scanloom.lock").exists()

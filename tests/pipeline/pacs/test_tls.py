"""TLS in both directions: who has no certificate of our authority stays out."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from certificates import make_authority, make_files
from nodes import AET, associated, fake_pacs, make_study, running_node, send, wait_for
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.pacs.addresses import Destination
from scanloom.pipeline.pacs.sending import Sender
from scanloom.pipeline.pacs.tls import TlsFiles, client_context, server_context, tls_files

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make certificates")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_files(make_authority(tmp_path_factory.mktemp("ours"), "authority"), "node")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, ours: TlsFiles) -> TlsFiles:
    """A certificate of another authority, which itself believes ours."""
    files = make_files(make_authority(tmp_path_factory.mktemp("strange"), "stranger"), "stranger-node")
    return TlsFiles(files.certificate, files.key, ours.authority)


def test_a_study_comes_by_tls_and_its_results_go_by_tls(tmp_path: Path, ours: TlsFiles) -> None:
    files = make_study(tmp_path)
    with fake_pacs(tls=server_context(ours)) as pacs:
        with running_node(
            tmp_path / "node",
            destinations=[pacs.destination],
            receiving={"tls": server_context(ours)},
            sender=Sender(AET, client_context(ours)),
        ) as node:
            assert send(node.port, files, tls=client_context(ours)) == [0] * len(files)
            node.wait_to_say("sent to PACS@localhost")
        assert len(pacs.stored) == 2


def test_without_a_certificate_of_our_authority_nobody_comes_in(
    tmp_path: Path, ours: TlsFiles, strange: TlsFiles
) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(ours.authority)
    with running_node(tmp_path / "node", receiving={"tls": server_context(ours)}) as node:
        for context in (None, bare, client_context(strange)):
            with associated(node.port, tls=context) as association:
                assert not association.is_established
        with associated(node.port, tls=client_context(ours)) as association:
            assert association.send_c_echo().Status == 0
        assert node.metrics.total("associations") == 1


def test_old_tls_and_weak_ciphers_are_refused(tmp_path: Path, ours: TlsFiles) -> None:
    with running_node(tmp_path / "node", receiving={"tls": server_context(ours)}) as node:
        for words in (["-tls1_1"], ["-tls1_2", "-cipher", "AES128-SHA:AES256-SHA"]):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port}", *words]
            command += ["-cert", str(ours.certificate), "-key", str(ours.key)]
            done = subprocess.run(command, input=b"", capture_output=True, timeout=240, check=False)
            assert done.returncode, words


def test_handshakes_that_hang_hold_up_nobody(tmp_path: Path, ours: TlsFiles) -> None:
    with running_node(tmp_path / "node", receiving={"tls": server_context(ours)}) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
        try:
            silent[0].sendall(b"\x16\x03\x01")
            with associated(node.port, tls=client_context(ours)) as association:
                assert association.is_established
        finally:
            for each in silent:
                each.close()
        wait_for(lambda: node.node.receiver._server.handshakes._value == 256, "the handshakes to end")


def test_a_pacs_of_another_name_or_authority_gets_nothing(tmp_path: Path, ours: TlsFiles, strange: TlsFiles) -> None:
    from nodes import SEG, write_object

    file = write_object(tmp_path, SEG, "SEG", "1.2.3")
    elsewhere = make_files(ours.authority, "elsewhere", "pacs.invalid")
    for files in (strange, elsewhere):
        with fake_pacs(tls=server_context(files)) as pacs:
            destination = Destination(pacs.aet, "localhost", pacs.port)
            assert Sender(AET, client_context(ours)).send(destination, [file]).problem == "can not be reached"
            assert pacs.stored == []


def test_the_three_files_belong_together(tmp_path: Path) -> None:
    assert tls_files(None, None, None) is None
    for some in ((tmp_path, None, None), (tmp_path, tmp_path, None), (None, None, tmp_path)):
        with pytest.raises(UsageError, match="belong together"):
            tls_files(*some)


def test_files_that_can_not_be_read_are_named(tmp_path: Path, ours: TlsFiles) -> None:
    (tmp_path / "empty.pem").write_text("")
    encrypted = tmp_path / "encrypted.key"
    words = ["openssl", "ec", "-in", str(ours.key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted)]
    subprocess.run(words, check=True, capture_output=True, timeout=240)
    other = make_files(ours.authority, "other")
    for files, option in (
        (TlsFiles(tmp_path / "none.pem", ours.key, ours.authority), "--tls-cert"),
        (TlsFiles(ours.certificate, tmp_path / "empty.pem", ours.authority), "--tls-key"),
        (TlsFiles(ours.certificate, encrypted, ours.authority), "--tls-key"),
        (TlsFiles(ours.certificate, other.key, ours.authority), "--tls-key"),
        (TlsFiles(ours.certificate, ours.key, tmp_path / "empty.pem"), "--tls-ca"),
        (TlsFiles(ours.certificate, ours.key, tmp_path), "--tls-ca"),
    ):
        with pytest.raises(UsageError, match=rf"{option} .*can not be read \(.+\)\. Give PEM files"):
            server_context(files)

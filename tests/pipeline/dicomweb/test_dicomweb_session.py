"""What a conversation with a DICOMweb server gives away: nothing, to nobody but the server that was named."""

import http.client
import logging
import socket
import ssl
import subprocess
import sys
import threading
import traceback

import pytest
from dicomweb_double import MULTIPART, Double, serving
from factories import write_mr_series
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb import server as dicomweb_server
from scanloom.pipeline.dicomweb.fetch import fetch_study
from scanloom.pipeline.dicomweb.store import store_instances
from scanloom.pipeline.errors import PipelineError, UsageError

TOKEN = "hunter2-token"
PASSWORD = "hunter2-password"
BASIC = "Basic cmVhZGVyOmh1bnRlcjItcGFzc3dvcmQ="  # reader:hunter2-password


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    for name in ("SCANLOOM_DICOMWEB_TOKEN", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", (0.0,))


@pytest.fixture
def double(tmp_path):
    with serving(Double(write_mr_series(tmp_path / "source"))) as double:
        yield double


def write_netrc(tmp_path, monkeypatch, machine: str = "127.0.0.1") -> None:
    path = tmp_path / "netrc"
    path.write_text(f"machine {machine} login reader password {PASSWORD}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))


def sent(double: Double) -> set[str | None]:
    return {headers.get("Authorization") for _, _, headers in double.asked}


def refuses(status: int):
    def fault(request) -> bool:
        request.say(status, b"")
        return True

    return fault


def test_the_token_of_the_environment_is_sent_with_every_request(double, tmp_path, monkeypatch):
    monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", f"{TOKEN}\n")
    write_netrc(tmp_path, monkeypatch)
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert sent(double) == {f"Bearer {TOKEN}"}


def test_else_the_password_of_netrc_for_this_host(double, tmp_path, monkeypatch):
    write_netrc(tmp_path, monkeypatch)
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert sent(double) == {BASIC}


def test_else_nothing(double, tmp_path, monkeypatch):
    write_netrc(tmp_path, monkeypatch, machine="elsewhere.example")
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert sent(double) == {None}


@pytest.mark.parametrize("source", ["token", "netrc"])
def test_no_secret_goes_over_plain_http_to_another_machine(double, tmp_path, monkeypatch, source):
    """The other machine is this one by a name that the test makes up."""
    if source == "token":
        monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", TOKEN)
    write_netrc(tmp_path, monkeypatch, machine="pacs.example")
    there = lambda connection: socket.create_connection(("127.0.0.1", double.port))  # noqa: E731
    monkeypatch.setattr("urllib3.connection.HTTPConnection._new_conn", there)
    monkeypatch.setenv("NO_PROXY", "*")
    double.fault = refuses(401)
    address = double.address.replace("dicomweb://127.0.0.1", "dicomweb+http://pacs.example")
    with pytest.raises(UsageError, match="No token or password is sent over plain http: use dicomweb://"):
        fetch_study(StudyAddress.parse(address), tmp_path / "study")
    assert sent(double) == {None} and double.asked


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_neither_token_nor_study_goes_there(double, tmp_path, monkeypatch, status):
    monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", TOKEN)
    files = list(double.files.values())
    with serving(Double(files)) as other:

        def redirects(request) -> bool:
            request.say(status, b"", Location=f"http://localhost:{other.port}{request.path}?secret=hunter2")
            return True

        double.fault = redirects
        address = StudyAddress.parse(double.address)
        for attempt in (lambda: fetch_study(address, tmp_path / "study"), lambda: store_instances(address, files)):
            with pytest.raises(UsageError, match="sends us to another address") as caught:
                attempt()
            assert "hunter2" not in str(caught.value)
        assert other.asked == [] and other.stored == []


@pytest.mark.parametrize(
    ("source", "status", "remedy"),
    [
        ("token", 401, "Renew the token in SCANLOOM_DICOMWEB_TOKEN"),
        ("netrc", 403, "Correct the entry of 127.0.0.1 in netrc"),
        ("none", 401, "Set SCANLOOM_DICOMWEB_TOKEN, or write 'machine 127.0.0.1 login USER password PASSWORD'"),
    ],
)
def test_a_refusal_says_which_secret_to_mend_and_not_the_secret(double, tmp_path, monkeypatch, source, status, remedy):
    if source == "token":
        monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", TOKEN)
    if source == "netrc":
        write_netrc(tmp_path, monkeypatch)
    double.fault = refuses(status)
    with pytest.raises(UsageError, match=f"refuses \\({status}\\). {remedy}") as caught:
        fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert "hunter2" not in str(caught.value) and len(double.asked) == 1


@pytest.mark.parametrize("token", ["Bearer hunter2", "hunter2\r\nX-Evil: 1", "hünter2"])
def test_a_token_that_no_header_can_carry_is_refused_without_repeating_it(double, tmp_path, monkeypatch, token):
    monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", token)
    with pytest.raises(UsageError, match="Give the token alone, without Bearer") as caught:
        fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert "nter2" not in str(caught.value) and double.asked == []


@pytest.mark.parametrize("works", [True, False])
def test_neither_logs_nor_http_debugging_nor_a_trace_tells_secret_or_uid(
    double, tmp_path, monkeypatch, caplog, capsys, works
):
    monkeypatch.setenv("SCANLOOM_DICOMWEB_TOKEN", TOKEN)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 5)
    caplog.set_level(logging.DEBUG)
    trace = ""
    if not works:
        double.fault = lambda request: "/instances/" in request.path and refuses(500)(request)
    try:
        fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
        store_instances(StudyAddress.parse(double.address), [])
    except PipelineError:
        trace = traceback.format_exc()
    assert bool(trace) is not works
    output = capsys.readouterr()
    told = caplog.text + trace + output.out + output.err
    assert "hunter2" not in told and double.study_uid not in told and double.series_uid not in told
    assert not any(uid in told for uid in double.files)


def test_logging_and_debugging_of_others_are_as_before(double, tmp_path):
    before = [logging.getLogger(name).level for name in ("urllib3", "dicomweb_client", "pydicom")]
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert [logging.getLogger(name).level for name in ("urllib3", "dicomweb_client", "pydicom")] == before


def test_a_proxy_of_the_environment_does_not_come_between_this_machine_and_itself(double, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert len(list(fetch_study(StudyAddress.parse(double.address), tmp_path / "study").iterdir())) == len(double.files)


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://reader:hunter2@127.0.0.1:1", "not be reached through the proxy that the environment names"),
        ("socks9://127.0.0.1:1", r"not be asked \(InvalidSchema\)\. Correct .* proxies"),
    ],
)
def test_a_proxy_that_does_not_work_is_named_without_its_password(tmp_path, monkeypatch, proxy, reason):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(PipelineError, match=reason) as caught:
        fetch_study(StudyAddress.parse("dicomweb://pacs.example/studies/1.2.3"), tmp_path / "study")
    assert "hunter2" not in str(caught.value)


def test_a_server_on_this_machine_by_its_other_address_is_asked_like_any(double, tmp_path):
    files = list(double.files.values())
    try:
        with serving(Double(files), host="::1") as other:
            address = StudyAddress.parse(other.address.replace("127.0.0.1", "[::1]"))
            assert len(list(fetch_study(address, tmp_path / "study").iterdir())) == len(files)
            assert {headers["Host"] for _, _, headers in other.asked} == {f"[::1]:{other.port}"}
    except OSError as error:
        pytest.skip(f"needs IPv6 on loopback: {error.strerror}")


def test_images_are_not_deflated_on_the_way(double, tmp_path):
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert {headers["Accept-Encoding"] for _, _, headers in double.asked} == {"identity"}


def test_the_host_that_is_asked_is_named_with_its_port(double, tmp_path):
    fetch_study(StudyAddress.parse(double.address), tmp_path / "study")
    assert {headers["Host"] for _, _, headers in double.asked} == {f"127.0.0.1:{double.port}"}


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1 by nobody but itself, and its key."""
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return made, key


def test_a_certificate_is_trusted_where_the_environment_names_its_authority(double, tmp_path, monkeypatch, certificate):
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", (3600.0,))  # no second try makes it trusted
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(Double(list(double.files.values())), context) as secure:
        address = StudyAddress.parse(secure.address.replace("dicomweb://", "dicomweb+https://"))
        with pytest.raises(PipelineError, match=r"not trusted \(self.signed .*\)\. Name its authority's file in"):
            fetch_study(address, tmp_path / "study")
        for number, name in enumerate(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")):
            monkeypatch.setenv(name, str(certificate[0]))
            assert len(list(fetch_study(address, tmp_path / f"study{number}").iterdir())) == len(secure.files)
            monkeypatch.delenv(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(UsageError, match="SSL_CERT_FILE names a file that is not there"):
            fetch_study(address, tmp_path / "study")


def test_a_server_without_tls_is_not_blamed_for_its_certificate(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", (3600.0,))
    address = StudyAddress.parse(double.address.replace("dicomweb://", "dicomweb+https://"))
    with pytest.raises(PipelineError, match=r"speaks no TLS .*, give its address as dicomweb\+http://"):
        fetch_study(address, tmp_path / "study")


def test_a_connection_that_breaks_before_its_tls_stands_is_tried_again(tmp_path):
    connections: list[bytes] = []

    def breaks() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connections.append(connection.recv(2**16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=breaks)
        thread.start()
        address = StudyAddress.parse(f"dicomweb+https://127.0.0.1:{listener.getsockname()[1]}/studies/1.2.3")
        with pytest.raises(PipelineError, match="can not be reached"):
            fetch_study(address, tmp_path / "study")
        thread.join()
    assert len(connections) == 2


def test_a_connection_that_breaks_within_an_answer_over_tls_is_tried_again(double, tmp_path, monkeypatch, certificate):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    left = [1]

    def breaks_once(request) -> bool:
        if "/instances/" not in request.path or not left:
            return False
        left.pop()
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        request.wfile.write(b"x" * 50_000)
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_RDWR)  # as a cable would, without a word of TLS
        request.close_connection = True
        return True

    with serving(Double(list(double.files.values())), context) as secure:
        secure.fault = breaks_once
        address = StudyAddress.parse(secure.address.replace("dicomweb://", "dicomweb+https://"))
        assert len(list(fetch_study(address, tmp_path / "study").iterdir())) == len(secure.files)
    assert not left


def test_without_the_client_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['dicomweb_client'] = None\n"
        "from scanloom.pipeline.errors import UsageError\n"
        "try:\n    from scanloom.pipeline.dicomweb import fetch\n"
        "except UsageError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "scanloom[pacs]"' in done.stdout

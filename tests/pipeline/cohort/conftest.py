"""An S3 server on loopback, of moto, and what a program finds in its environment to reach it."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that keeps everything in memory."""
    pytest.importorskip("s3fs", reason='needs s3fs: pip install "scanloom[s3]"')
    server = pytest.importorskip("moto.server", reason="needs moto[s3]").ThreadedMotoServer(
        "127.0.0.1", 0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket; the environment holds what is needed to use it."""
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrNotAKeyOfAnybody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    files = s3fs.S3FileSystem()  # the same for every test that asks for it so, because it takes half a second to open
    files.mkdir("results")
    yield "results"
    if files.exists("results"):
        files.rm("results", recursive=True)

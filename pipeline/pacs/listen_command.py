"""The command `scanloom listen`: its options become a `Node`. Imports only typer, as `cli` does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from ..command import BundleOption, DevicesOption, PrecisionOption
from ..errors import UsageError

if TYPE_CHECKING:
    from ..bundle import Bundle
    from .addresses import Destination
    from .spool import Spool

GB = 10**9


def listen(
    aet: Annotated[str, typer.Option("--aet", help="Our AE title, which senders must call.")],
    bundle: BundleOption,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")],
    folder: Annotated[
        Path, typer.Option("--folder", "-o", help="Folder for what is received, and for the results.")
    ] = Path("listen"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-aet", metavar="AET[@HOST]", help="Who may send, from any host or that one; may be repeated."
        ),
    ] = None,
    forward: Annotated[
        list[str] | None,
        typer.Option("--forward", metavar="AET@HOST:PORT", help="Who gets the results; may be repeated."),
    ] = None,
    quiet: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a new image after which a study is complete.")
    ] = 30.0,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="dicom-seg, dicom-sr …, as for predict; both of these if none is given."),
    ] = None,
    device: DevicesOption = "auto",
    precision: PrecisionOption = "auto",
    engine: Annotated[
        Literal["torch", "openvino", "onnxruntime"], typer.Option(help="What runs the network.")
    ] = "torch",
    trust_bundle: Annotated[bool, typer.Option(help="Run a bundle that is not ours; its config is code.")] = False,
    hold_rejected: Annotated[
        bool, typer.Option("--hold-rejected", help="Hold results back whose verdict is reject.")
    ] = False,
    one_series: Annotated[
        bool, typer.Option("--one-series", help="Refuse studies in which several series fit the bundle.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate of this node: listen by TLS alone.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM without a password.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM certificate of whose senders and PACS are believed.")] = None,
    forward_tls: Annotated[bool, typer.Option("--forward-tls", help="Forward by TLS with the same files.")] = False,
    max_associations: Annotated[int, typer.Option(min=1, help="Senders at a time.")] = 25,
    max_memory_gb: Annotated[float, typer.Option(min=0.001, help="All images that are being received.")] = 4.0,
    max_study_gb: Annotated[float, typer.Option(min=0, help="Images of one study.")] = 8.0,
    max_spool_gb: Annotated[float, typer.Option(min=0, help="All images and results on disk.")] = 100.0,
    min_free_gb: Annotated[float, typer.Option(min=0, help="Free disk that is left to others.")] = 1.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the images of finished studies; those of failed ones are kept anyway.")
    ] = False,
    keep_days: Annotated[float, typer.Option(min=0, help="After so many days all of a study is removed.")] = 30.0,
    metrics: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics for Prometheus and /health on this port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for --metrics.")] = "127.0.0.1",
) -> None:
    """Be a DICOM node: take studies by C-STORE, segment them and send SEG and SR to a PACS."""
    _require_packages()
    _quiet_libraries()
    os.umask(0o077)  # whatever is written is for this user alone
    from ..outputs import check_formats
    from .addresses import address_of, check_aet
    from .allowed import parse_allow_list
    from .computing import BundleRun
    from .metrics import Metrics, MetricsServer
    from .node import Node, NodeOptions
    from .receiving import ReceivingOptions
    from .sending import Sender
    from .tls import client_context, server_context, tls_files

    title = check_aet(aet, "--aet")
    destinations = _destinations(forward or [])
    chosen = tuple(formats or ("dicom-seg", "dicom-sr"))
    check_formats(chosen)
    if destinations and not any(name.startswith(("dicom", "rtstruct")) for name in chosen):
        raise UsageError("--forward sends DICOM objects: add --format dicom-seg.")
    files = tls_files(tls_cert, tls_key, tls_ca)
    if forward_tls and not files:
        raise UsageError("--forward-tls needs --tls-cert, --tls-key and --tls-ca.")
    receiving = ReceivingOptions(
        title,
        address_of(host, "--host"),
        port,
        parse_allow_list(allow or [], host),
        server_context(files) if files else None,
        max_associations,
        int(max_memory_gb * GB),
    )
    sender = Sender(title, client_context(files) if files and forward_tls else None)
    found = _trusted(bundle, trust_bundle)
    from ..lock import locked
    from ..segment import PredictOptions

    options = PredictOptions(
        (),
        folder,
        formats=chosen,
        device=device,
        precision=precision,
        engine=engine,
        trust_bundle=trust_bundle,
        pages=False,
        only_predicts=not trust_bundle,
    )
    with _ended_gently(), locked(folder), ExitStack() as stack:
        spool = _spool(folder, max_spool_gb, max_study_gb, min_free_gb)
        compute, counters = BundleRun(found, options, hold_rejected, one_series), Metrics()
        node = Node(
            NodeOptions(destinations, quiet, keep, keep_days),
            receiving,
            spool,
            compute,
            compute.digest,
            sender,
            counters,
            _say,
        )
        stack.callback(node.close)
        if metrics is not None:
            server = MetricsServer(counters, metrics_host, metrics, node.health)
            stack.callback(server.close)
            _say(f"metrics at http://{metrics_host}:{server.port}/metrics")
        _check_device(device)
        _say(f"{title} listens on {host} port {node.receiver.port}{' by TLS' if files else ''} for {found.name}")
        stack.callback(_say, "stops; what is not finished goes on at the next start")
        node.run()


def _require_packages() -> None:
    from importlib.util import find_spec

    for module, package in (("pynetdicom", "pynetdicom"), ("prometheus_client", "prometheus-client")):
        if find_spec(module) is None:
            raise UsageError(f'listen needs {package}, which is not installed: pip install "scanloom[pacs]"')


def _quiet_libraries() -> None:
    """Warnings of libraries are for developers, and quote what images hold."""
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def _destinations(texts: list[str]) -> list[Destination]:
    from .addresses import parse_destination

    return list(dict.fromkeys(parse_destination(text) for text in texts))


def _trusted(name: str, trust_bundle: bool) -> Bundle:
    from ..bundle import find_bundle
    from ..trust import require_trust

    return require_trust(find_bundle(name), given=trust_bundle)


def _spool(folder: Path, max_spool_gb: float, max_study_gb: float, min_free_gb: float) -> Spool:
    from .spool import Spool

    return Spool(folder, int(max_spool_gb * GB), int(max_study_gb * GB), int(min_free_gb * GB))


def _check_device(names: str) -> None:
    """Before the first study comes; "auto" takes what there is, and torch is slow to import."""
    if names != "auto":
        from ..device import find_devices

        find_devices(names)


def _say(line: str) -> None:
    """A line on standard error, with the time in UTC; where nobody reads it any more, the work goes on."""
    with suppress(OSError, ValueError):
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}", file=sys.stderr, flush=True)


@contextmanager
def _ended_gently() -> Iterator[None]:
    """The signal to terminate is how a service is ended: exit status 0."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

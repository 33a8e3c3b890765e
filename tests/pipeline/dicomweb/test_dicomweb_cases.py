"""Cases that come from a server and go back to it: what lies where meanwhile, how it ends, and nothing stored twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_double import Double, serving
from factories import make_bundle, write_mr_series
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.cohort import labelling
from scanloom.pipeline.cohort.destination import destination_of
from scanloom.pipeline.cohort.finishing import finish_case
from scanloom.pipeline.cohort.job import Input, Job
from scanloom.pipeline.cohort.labelling import Labelled
from scanloom.pipeline.cohort.reading import CaseReader
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb import server as dicomweb_server
from scanloom.pipeline.errors import exit_status
from scanloom.pipeline.prediction import CaseResult
from scanloom.pipeline.progress import Report, silent
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.volume import Volume


class Labels:
    """Stands for a loaded network."""

    device_name, notices, confidence = "cpu", (), None
    facts: dict[str, Any] = {}  # noqa: RUF012
    surface_confidence: dict[int, float] = {}  # noqa: RUF012

    def __call__(self, volume: Volume, report: Report) -> np.ndarray:
        return (volume.array[0] > volume.array.mean()).astype(np.uint8)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", ())
    monkeypatch.setattr(labelling, "load_predictor", lambda job: Labels())


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's scratch folder, of this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with serving(Double(write_mr_series(tmp_path / "source"))) as double:
        double.fault = takes_all(double)
        yield double


def takes_all(double: Double) -> Callable[[Any], bool]:
    """A server that has what it is sent, and says so."""

    def fault(request: Any) -> bool:
        if request.command == "POST":
            double.store_answer = 200, {"00081199": {"vr": "SQ", "Value": [reference(double.stored[-1])]}}
        return False

    return fault


def breaks_at_the_second(double: Double) -> Callable[[Any], bool]:
    """A server that takes one file."""
    takes = takes_all(double)

    def fault(request: Any) -> bool:
        if request.command != "POST" or len(double.stored) < 2:
            return takes(request)
        request.say(500, b"")
        return True

    return fault


def sent(body: bytes) -> str:
    """SOPInstanceUID of what was stored."""
    return str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(body.partition(b"\r\n\r\n")[2])).SOPInstanceUID)


def reference(body: bytes) -> dict[str, Any]:
    return {"00081155": {"vr": "UI", "Value": [sent(body)]}}


def options(double: Double, tmp_path: Path, **settings: Any) -> PredictOptions:
    address = StudyAddress.parse(double.address)
    return PredictOptions([address], tmp_path / "out", trust_bundle=True, pages=False, **settings)


def run(bundle: Bundle, options: PredictOptions) -> CaseResult:
    (result,) = predict(bundle, options)
    return result


def test_a_study_lies_in_a_scratch_folder_that_names_us_while_it_comes(
    double: Double, bundle: Bundle, tmp_path: Path, scratch: Path
) -> None:
    """So that after a kill -9 who looks for scanloom-* finds it."""
    found: set[str] = set()

    def look(request: Any) -> bool:
        found.update(file.relative_to(scratch).parts[0] for file in scratch.rglob("*.dcm"))
        return False

    double.fault = look
    assert run(bundle, options(double, tmp_path)).status == "done"
    assert len(found) == 1 and found.pop().startswith("scanloom-")
    assert list(scratch.iterdir()) == []


def test_a_run_that_is_stopped_waits_for_no_study(double: Double, bundle: Bundle, tmp_path: Path) -> None:
    asked = options(double, tmp_path)
    with CaseReader(Job(bundle, (), asked, destination_of(asked.output))) as reader:

        def stop(request: Any) -> bool:
            if "/instances/" in request.path:
                reader.stop()
            return False

        double.fault = stop
        result, scan = reader(0, Input(asked.inputs[0]))
    assert scan is None and result.status == "failed"
    assert sum("/instances/" in path for _, path, _ in double.asked) == 1


def test_a_study_is_called_the_same_each_time(double: Double, bundle: Bundle, tmp_path: Path) -> None:
    once = run(bundle, options(double, tmp_path, names_of_source=True))
    again = run(bundle, options(double, tmp_path, names_of_source=True, skip_existing=True))
    assert (once.status, again.status) == ("done", "skipped") and once.case == again.case


def test_what_is_stored_already_is_not_stored_again(double: Double, bundle: Bundle, tmp_path: Path) -> None:
    asked = options(double, tmp_path, store=True, skip_existing=True)
    assert [run(bundle, asked).status for _ in range(2)] == ["done", "skipped"]
    assert len({sent(body) for body in double.stored}) == len(double.stored) == 2  # SEG and SR


def test_another_service_on_the_same_host_gets_it_too(double: Double, bundle: Bundle, tmp_path: Path) -> None:
    asked = options(double, tmp_path, store=True, skip_existing=True)
    run(bundle, asked)
    address = StudyAddress.parse(double.address)
    elsewhere = [replace(address, root="/other")]

    def at_the_other(request: Any) -> bool:
        request.path = request.path.replace("/other/", "/dicom-web/")
        return takes_all(double)(request)

    double.fault = at_the_other
    assert run(bundle, replace(asked, inputs=elsewhere)).status == "skipped"
    assert len(double.stored) == 4 and len({sent(body) for body in double.stored}) == 2


def test_what_a_server_did_not_take_is_sent_when_asked_again_and_is_the_same(
    double: Double, bundle: Bundle, tmp_path: Path
) -> None:
    double.fault = breaks_at_the_second(double)
    asked = options(double, tmp_path, store=True)
    failed = run(bundle, asked)
    assert failed.status == "failed" and exit_status([failed]) == 1
    assert json.loads((tmp_path / "out" / str(failed.case) / "report.json").read_text())["outputs"]
    double.fault = takes_all(double)
    assert run(bundle, replace(asked, skip_existing=True)).status == "skipped"
    assert len(double.stored) == 4 and len({sent(body) for body in double.stored}) == 2


def test_another_attempt_of_a_run_stores_the_same_and_another_run_its_own(
    double: Double, bundle: Bundle, tmp_path: Path
) -> None:
    """As when a process dies while it stores, or a cluster tries a case again that a server did not take."""
    asked = options(double, tmp_path, store=True)

    def attempt(job: Job) -> str:
        with CaseReader(job) as reader:
            result, scan = reader(0, Input(asked.inputs[0]))
        assert scan is not None
        labelled = Labelled(Labels()(scan.volume, silent), None, {}, "cpu", (), {}, {})
        return finish_case(result, scan, labelled, job).status

    stored: list[set[str]] = []
    for job in (Job(bundle, (), asked, destination_of(asked.output)) for _ in range(2)):
        double.stored.clear()
        double.fault = breaks_at_the_second(double)
        assert attempt(job) == "failed"
        double.fault = takes_all(double)
        assert attempt(job) == "done"
        stored.append({sent(body) for body in double.stored})
    assert [len(uids) for uids in stored] == [2, 2] and not stored[0] & stored[1]

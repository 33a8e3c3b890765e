"""Cohorts on a Ray cluster of several processes: whatever dies, every study ends done or named as failed, once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from factories import make_bundle, make_volume, write_mr_series, write_nifti
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import PipelineError, UsageError, exit_status
from scanloom.pipeline.segment import CaseResult, PredictOptions, predict

pytest.importorskip("ray", reason="needs Ray")
pytestmark = pytest.mark.slow

FAULTS = '''
"""What goes wrong with a scan while it is labelled, as files say; a scan is known by its brightest voxel."""
import os, signal, time
from pathlib import Path

FOLDER = Path(os.environ["SCANLOOM_TEST_FAULTS"])

def happen(image):
    scan = int(image.max())
    with (FOLDER / "labelled").open("a") as file:
        file.write(f"{scan}\\n")
    while (FOLDER / "hold").exists():
        time.sleep(0.02)
    once = FOLDER / f"kill-once-{scan}"
    if once.exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (FOLDER / f"kill-{scan}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (FOLDER / f"fail-{scan}").exists():
        raise RuntimeError("PHICANARY")
    return image
'''
COUNT = 6


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory, s3_server: str) -> Iterator[Path]:
    """The folder that says what goes wrong, known to every process of the cluster, as is a store."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "faults.py").write_text(FAULTS)
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # whose sockets want a short path
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setenv("SCANLOOM_TEST_FAULTS", str(folder))
        patch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
        patch.syspath_prepend(str(modules))
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrNotAKeyOfAnybody")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", s3_server)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "4")
        yield folder


@pytest.fixture(scope="module")
def cluster(faults: Path) -> Iterator[Any]:
    """A head and a second node, two processors each, every one a process of its own."""
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=size)
    made.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    made.wait_for_nodes()
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def no_faults(faults: Path) -> None:
    """Neither faults nor what a killed driver left on the nodes."""
    for path in faults.iterdir():
        path.unlink()
    for path in left_over():
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small bundle that lets the faults happen to what it is given."""
    steps = [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "scanloom.pipeline.studies.reader.StudyReader",
            "ensure_channel_first": True,
        },
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Lambdad", "keys": "image", "func": "$lambda image: __import__('faults').happen(image)"},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
    ]
    return make_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny",
        config={"preprocessing": {"_target_": "Compose", "transforms": steps}},
    )


def brightness(number: int) -> int:
    """Of the brightest voxel of a scan, by which the faults know it."""
    return 10000 + number


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Scans scan0, scan1, … in a folder."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    for number in range(COUNT):
        array, affine = make_volume((12, 13, 14))
        array[3, 3, 3] = brightness(number)
        write_nifti(folder / f"scan{number}.nii.gz", array, affine)
    return folder


def run(cluster: Any, bundle: Bundle, cohort: Path, out: Path | str, **settings: Any) -> dict[str, CaseResult]:
    """The results by case, told apart from how often each was told."""
    options = PredictOptions(
        [cohort], out, cohort=True, cluster=cluster.address, trust_bundle=True, pages=False, **settings
    )
    results = predict(bundle, options)
    names = Counter(str(result.case) for result in results)
    assert set(names.values()) == {1}
    return {str(result.case): result for result in results}


def statuses(results: dict[str, CaseResult]) -> dict[str, str]:
    return {name: result.status for name, result in sorted(results.items())}


def all_but(**others: str) -> dict[str, str]:
    return {f"scan{number}": "done" for number in range(COUNT)} | others


def labelled(faults: Path) -> Counter[int]:
    """How often each scan came to a device, by its number."""
    lines = (faults / "labelled").read_text().split()
    return Counter(int(line) - brightness(0) for line in lines)


def rows(out: Path) -> dict[str, str]:
    with (out / "summary.csv").open(newline="") as file:
        return {row["case"]: row["status"] for row in csv.DictReader(file)}


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def processes(title: str) -> list[psutil.Process]:
    """Those of the cluster that are called so, or run a module of that name; Ray calls them after what they work on."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith(title) for word in process.cmdline()):
                found.append(process)
    return found


def left_over() -> list[Path]:
    """Temporary files of ours on the nodes."""
    return list(Path(os.environ["TMPDIR"]).glob("scanloom-*"))


@pytest.fixture
def command(cluster: Any, bundle: Bundle, cohort: Path) -> list[str]:
    """The prediction as a process of its own, from the folder above the cohort."""
    words = [sys.executable, "-m", "scanloom.pipeline.cli", "predict", "-b", str(bundle.folder), "--trust-bundle"]
    return [*words, "-i", cohort.name, "-o", "out", "--cluster", cluster.address, "--skip-existing"]


def test_a_cluster_finds_what_one_machine_finds_and_leaves_the_same_trail(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    array, affine = make_volume((12, 13, 14))
    write_mr_series(cohort / "study", array, affine)
    spread = run(cluster, bundle, cohort, tmp_path / "spread")
    here = predict(bundle, PredictOptions([cohort], tmp_path / "here", cohort=True, trust_bundle=True, pages=False))
    assert statuses(spread) == {str(result.case): result.status for result in here}
    assert rows(tmp_path / "spread") == statuses(spread)
    for result in here:
        folders = [tmp_path / place / str(result.case) for place in ("spread", "here")]
        names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert names[0] == names[1]
        maps = [np.asarray(nib.load(folder / "labels.nii.gz").dataobj) for folder in folders]
        np.testing.assert_array_equal(*maps)
        reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
        for report in reports:
            report.pop("created")
            assert report.pop("seconds").keys() >= {"read", "predict", "verdict", "outputs"}
            del report["inference"], report["device"], report["files"]
        assert reports[0] == reports[1]
    assert "segmentation.dcm" in names[0] or any((tmp_path / "spread").glob("mr-*/segmentation.dcm"))
    assert left_over() == []


def test_a_scan_that_kills_its_device_is_tried_on_another_and_named_as_failed(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    (faults / f"kill-{brightness(2)}").touch()
    results = run(cluster, bundle, cohort, tmp_path / "out")
    assert statuses(results) == all_but(scan2="failed")
    assert rows(tmp_path / "out") == statuses(results)
    assert "scan2: the processes that worked on it ended" in str(results["scan2"].error)
    assert labelled(faults) == {number: 2 if number == 2 else 1 for number in range(COUNT)}
    assert exit_status(list(results.values())) == 4
    (faults / f"kill-{brightness(2)}").unlink()
    again = run(cluster, bundle, cohort, tmp_path / "out", skip_existing=True)
    assert statuses(again) == dict.fromkeys(all_but(), "skipped") | {"scan2": "done"}


def test_what_dies_or_fails_once_is_done_at_the_second_attempt(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    (faults / f"kill-once-{brightness(1)}").touch()
    results = run(cluster, bundle, cohort, tmp_path / "out")
    assert statuses(results) == all_but()
    assert labelled(faults)[1] == 2


def test_an_error_of_a_scan_is_tried_again_and_its_text_is_told_to_nobody(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    (faults / f"fail-{brightness(4)}").touch()
    results = run(cluster, bundle, cohort, tmp_path / "out")
    assert statuses(results) == all_but(scan4="failed")
    assert labelled(faults)[4] == 2
    assert "PHICANARY" not in (tmp_path / "out" / "summary.csv").read_text()


def test_a_refused_study_is_not_tried_again(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    (cohort / "scan5.nii.gz").write_bytes(b"no scan")
    results = run(cluster, bundle, cohort, tmp_path / "out")
    assert statuses(results) == all_but(scan5="refused")
    assert 5 not in labelled(faults)


def test_what_an_archive_held_is_removed_from_the_nodes(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    """As soon as it has been read, for a driver that is killed can remove nothing."""
    write_mr_series(tmp_path / "study", *make_volume((12, 13, 14)))
    shutil.make_archive(str(cohort / "study"), "zip", tmp_path / "study")
    (faults / "hold").touch()
    held: list[Path] = []

    def look() -> None:
        wait_for(lambda: (faults / "labelled").exists())
        held.extend(path for folder in left_over() for path in folder.rglob("*.dcm"))
        (faults / "hold").unlink()

    for scan in cohort.glob("*.nii.gz"):
        scan.unlink()
    looker = threading.Thread(target=look)
    looker.start()
    results = run(cluster, bundle, cohort, tmp_path / "out")
    looker.join()
    assert [result.status for result in results.values()] == ["done"]
    assert held == []
    assert left_over() == []


@pytest.mark.parametrize("title", ["ray::read_case", "ray::write_case", "scanloom.pipeline.studies.worker"])
def test_a_killed_reader_or_writer_loses_no_study(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, title: str
) -> None:
    killed: list[int] = []
    ended = threading.Event()

    def kill_one() -> None:
        while not killed and not ended.wait(0.01):
            for process in processes(title):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(process.pid)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        results = run(cluster, bundle, cohort, tmp_path / "out")
    finally:
        ended.set()
        killer.join()
    assert killed
    assert statuses(results) == all_but()


def test_a_node_that_leaves_takes_no_study_along(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, faults: Path
) -> None:
    leaving = cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    (faults / "hold").touch()

    def leave() -> None:
        wait_for(lambda: (faults / "labelled").exists() and len(labelled(faults)) == 3)  # each device has one
        cluster.remove_node(leaving, allow_graceful=False)
        (faults / "hold").unlink()

    leaver = threading.Thread(target=leave)
    leaver.start()
    results = run(cluster, bundle, cohort, tmp_path / "out")
    leaver.join()
    assert statuses(results) == all_but()
    assert rows(tmp_path / "out") == all_but()


def test_a_killed_driver_is_started_again_and_does_only_what_is_left(command: list[str], tmp_path: Path) -> None:
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_for(lambda: len(list((tmp_path / "out").glob("*/report.json"))) >= 2)
        driver.send_signal(signal.SIGKILL)
    finally:
        driver.kill()
        driver.communicate()
    wait_for(lambda: not processes("ray::Device") and not processes("ray::write_case"))
    left = [path.parent.name for path in (tmp_path / "out").glob("*/report.json")]
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    ended = {case["case"]: case["status"] for case in json.loads(again.stdout)["cases"]}
    assert ended == {name: "skipped" if name in left else "done" for name in all_but()}
    assert rows(tmp_path / "out") == ended
    assert not list((tmp_path / "out").rglob(".part-*"))
    for name in ended:
        assert nib.load(tmp_path / "out" / name / "labels.nii.gz").shape == (12, 13, 14)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_driver_that_is_told_to_end_says_so_and_leaves_nothing(
    command: list[str], tmp_path: Path, faults: Path, number: int, status: int
) -> None:
    (faults / "hold").touch()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it puts aside ignore it
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    try:
        wait_for(lambda: (faults / "labelled").exists())
        driver.send_signal(number)
        said = driver.communicate(timeout=240)[0]
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == status, said
    assert "SIGTERM" not in said
    assert not (tmp_path / "out" / ".scanloom.lock").exists()
    assert left_over() == []
    wait_for(lambda: not processes("ray::Device"))


def test_devices_that_never_become_ready_end_the_run(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying:
        def __init__(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def make_ready(self) -> str:
            return ""

    monkeypatch.setattr("scanloom.pipeline.cohort.devices.Device", Dying)
    monkeypatch.setattr("scanloom.pipeline.cohort.devices.STARTS", 1)
    with pytest.raises(PipelineError, match=r"no device became ready: \d processes ended .* the last by ActorDied"):
        run(cluster, bundle, cohort, tmp_path / "out")


def test_results_go_to_a_store_from_every_node_and_are_found_there_again(
    cluster: Any, bundle: Bundle, cohort: Path, bucket: str
) -> None:
    import s3fs

    results = run(cluster, bundle, cohort, f"s3://{bucket}/out")
    assert statuses(results) == all_but()
    files = s3fs.S3FileSystem()
    names = {path.rpartition("/")[2] for path in files.ls(f"{bucket}/out/scan0")}
    assert names >= {"labels.nii.gz", "measurements.csv", "preview.png", "report.json"}
    with files.open(f"{bucket}/out/summary.csv", "r", newline="") as file:
        assert {row["case"]: row["status"] for row in csv.DictReader(file)} == all_but()
    again = run(cluster, bundle, cohort, f"s3://{bucket}/out", skip_existing=True)
    assert statuses(again) == dict.fromkeys(all_but(), "skipped")


def test_an_address_where_nothing_listens_is_said_at_once(bundle: Bundle, cohort: Path, tmp_path: Path) -> None:
    for address, line in (("127.0.0.1:1", "nothing answers there"), ("nowhere", "must be auto, or HOST:PORT")):
        options = PredictOptions([cohort], tmp_path / "out", cohort=True, cluster=address, trust_bundle=True)
        with pytest.raises(UsageError, match=line):
            predict(bundle, options)


def test_what_was_lost_before_it_had_a_name_is_called_as_its_input_is() -> None:
    from ray.exceptions import WorkerCrashedError
    from scanloom.pipeline.cohort.on_ray import _Attempt, _lost

    assert _lost(3, _Attempt("input-12345678"), WorkerCrashedError()).case == "input-12345678"
    unnamed = _lost(3, _Attempt(None), WorkerCrashedError())
    assert (unnamed.case, unnamed.status) == (None, "failed")
    assert "input 4: the processes that worked on it ended, the last by WorkerCrashedError" in str(unnamed.error)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cpu,cpu"])
def test_devices_that_a_cluster_does_not_have_are_refused(
    cluster: Any, bundle: Bundle, cohort: Path, tmp_path: Path, device: str
) -> None:
    with pytest.raises(UsageError, match=f"--device {device}"):
        run(cluster, bundle, cohort, tmp_path / "out", device=device)

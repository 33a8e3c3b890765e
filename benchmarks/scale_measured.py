"""What a study, a listing, the driver's tables and a store cost on this machine; `scale.py` reckons with it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel
import numpy as np
import s3fs
from cohort import BUNDLE
from measure import status_mib
from moto.server import ThreadedMotoServer
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.cohort.destination import destination_of
from scanloom.pipeline.cohort.inputs import studies_in
from scanloom.pipeline.outputs import write_index, write_summary
from scanloom.pipeline.prediction import CaseResult
from scanloom.pipeline.studies.mr_series import write_mr_series
from scipy.ndimage import zoom

LARGE = (256, 256, 160)
"""Voxels of the large study, of 1 mm: a whole head."""
ROWS = (1_000, 10_000, 100_000)
LISTED = 20_000
PUBLISHED = 20
CASES, UNDER_WAY = 500, 8
"""Through Ray, and how many at a time."""


def measure_study(cohort: Path, out: Path) -> dict[str, Any]:
    """Seconds, CPU seconds and bytes of a study of the cohort; in a process of its own, which gives its peak memory."""
    code = "import sys, json, cohort; from pathlib import Path; from measure import status_mib\n"
    code += "found = cohort.run_serial(Path(sys.argv[1]), Path(sys.argv[2])) | {'peak_mib': status_mib('VmHWM')}\n"
    code += "print(json.dumps(found))"
    command = [sys.executable, "-c", code, str(cohort), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent)
    cases = [path.parent for path in out.glob("*/report.json")]
    return json.loads(done.stdout.splitlines()[-1]) | {
        "bytes_in": _bytes(cohort) // len(cases),
        "bytes_out": sum(map(_bytes, cases)) // len(cases),
        "files_out": sum(len(list(case.iterdir())) for case in cases) / len(cases),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_large(data: Path, folder: Path, count: int) -> Path:
    """A cohort of DICOM series of a whole head's size: a T1 crop, enlarged."""
    image = nibabel.load(sorted((data / "msd_hippocampus" / "images").glob("*.nii.gz"))[0])
    small = np.asarray(image.dataobj, dtype=np.float32)
    array = zoom(small, [new / old for new, old in zip(LARGE, small.shape, strict=True)], order=1).astype(np.int16)
    for number in range(count):
        write_mr_series(folder / f"study{number}", array, np.eye(4), series_description="T1", seed=f"{number}")
    return folder


def measure_listing(folder: Path) -> dict[str, float]:
    """Seconds to list so many files, and so many folders of a DICOM file each."""
    one = write_mr_series(folder / "one", np.zeros((8, 8, 1), np.int16), np.eye(4), series_description="T1", seed="1")
    content = one[0].read_bytes()
    for number in range(LISTED):
        (folder / "files").mkdir(exist_ok=True)
        (folder / "files" / f"{number}.nii.gz").touch()
        study = folder / "studies" / f"{number}"
        study.mkdir(parents=True)
        (study / "0001").write_bytes(content)
    return {name: _seconds(lambda name=name: studies_in(folder / name)) for name in ("files", "studies")}


def measure_tables(folder: Path) -> list[dict[str, float]]:
    """Of the tables of so many cases: seconds to write them, their bytes, and the memory that the rows take."""
    bundle, found = find_bundle(BUNDLE), []
    for rows in ROWS:
        before = status_mib("VmRSS")
        results = [_result(number) for number in range(rows)]
        memory = status_mib("VmRSS") - before
        table = [result.row for result in results]
        summary, index = folder / f"{rows}.csv", folder / f"{rows}.html"
        found.append(
            {
                "rows": rows,
                "results_mib": memory,
                "summary_s": _seconds(lambda path=summary, table=table: write_summary(path, table)),
                "index_s": _seconds(lambda path=index, table=table: write_index(path, table, bundle)),
                "summary_mb": summary.stat().st_size / 1e6,
                "index_mb": index.stat().st_size / 1e6,
            }
        )
    return found


def _result(number: int) -> CaseResult:
    """How a case ended, of the usual length."""
    files = ["labels.nii.gz", "measurements.json", "measurements.csv", "preview.png", "segmentation.dcm", "view.html"]
    return CaseResult(
        f"mr-{number:08x}",
        "T1 hippocampus sagittal",
        seconds=0.6,
        volumes_ml={"anterior": 1.5 + number % 7, "posterior": 1.25 + number % 5},
        files=[*files, "image.nii.gz", "view-data.js", "report.json"],
    )


def measure_store(case: Path) -> dict[str, Any]:
    """Requests and seconds of a case that goes to an S3 server on this machine, and of the look whether it is there."""
    weights = find_bundle(BUNDLE).weights_sha256
    with _s3_server() as requests:
        destination = destination_of("s3://results/out")

        def publish(name: str) -> None:
            with destination.case_folder(name) as folder:
                shutil.copytree(case, folder, dirs_exist_ok=True)

        publish("first")  # opens the store
        requests.clear()
        put_s = _seconds(lambda: [publish(f"case{number}") for number in range(PUBLISHED)]) / PUBLISHED
        put = {name: count / PUBLISHED for name, count in requests.items()}
        requests.clear()
        names = [f"case{number}" for number in range(PUBLISHED)]
        look_s = _seconds(lambda: [destination.whole_report(name, weights) for name in names]) / PUBLISHED
        look = {name: count / PUBLISHED for name, count in requests.items()}
    return {"put": put, "put_s": put_s, "look": look, "look_s": look_s}


def measure_ray() -> float:
    """Cases a second that one driver gets through the three stages where none of them does anything."""
    import asyncio

    import ray

    @ray.remote(num_cpus=0)
    def stage(value: int) -> int:
        return value

    @ray.remote(num_cpus=0)
    class Device:
        def label(self, value: int) -> int:
            return value

    async def case(number: int, device: Any, under_way: asyncio.Semaphore) -> None:
        async with under_way:
            await stage.remote(await device.label.remote(await stage.remote(number)))

    async def cases(count: int) -> None:
        under_way = asyncio.Semaphore(UNDER_WAY)
        await asyncio.gather(*(case(number, devices[number % 2], under_way) for number in range(count)))

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        devices = [Device.remote() for _ in range(2)]
        asyncio.run(cases(UNDER_WAY))
        return CASES / _seconds(lambda: asyncio.run(cases(CASES)))
    finally:
        ray.shutdown()


@contextmanager
def _s3_server() -> Iterator[Counter[str]]:
    """An S3 server with a bucket, named in the environment; yields how many requests of each kind it has got."""
    requests: Counter[str] = Counter()
    real = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *rest: Any, **options: Any) -> Any:
        requests[method] += 1
        return await real(self, method, *rest, **options)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    s3fs.S3FileSystem._call_s3 = counted
    try:
        host, port = server.get_host_and_port()
        os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
        s3fs.S3FileSystem().mkdir("results")
        yield requests
    finally:
        s3fs.S3FileSystem._call_s3 = real
        server.stop()


def _seconds(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start

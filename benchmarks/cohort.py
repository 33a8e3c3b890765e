"""How well a cohort keeps a machine busy: copies of real studies, one after the other, overlapped, and on Ray.

    python benchmarks/cohort.py [--data ../shared/data] [--studies 64] [--rounds 3] [--ways overlapped "ray 1" "ray 2"]

Half of the studies are DICOM (a T1 series and its scout, each copy with UIDs of its own), half are NIfTI files of as
many patients. Each round runs every way once, in turn, each in a process of its own, so that a slow minute slows them
all. Serial is the three stages of a case in one process, one case after the other, timed one by one; it gives

    slowest     seconds a study of the slowest stage, over those that do it: what no overlap can beat
    cores       CPU seconds a study, over the processors that were left: what nothing at all can beat here

and overlap is the larger of the two over the seconds a study that were measured. Those count from the end of the first
eighth of the cases to the end of the last, so that importing, loading and starting Ray are left out; "whole" is the
wall time of all of it. "left" is how many processors other programs left to the way while it ran. Medians, and ranges
in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import psutil
from measure import machine, spread, versions
from scanloom.pipeline.cohort.here import WRITERS

BUNDLE = "hippocampus_mr_unet"
STAGES = ("read", "label", "write")
SAMPLED_S = 0.5
KEPT_SERIES = (1, 2)
"""Of the DICOM study: the scout and the one T1 series that the bundle's rule takes."""


def write_cohort(data: Path, folder: Path, count: int) -> Path:
    """A cohort folder of `count` studies: the first half DICOM, the others NIfTI files of different patients."""
    import pydicom

    folder.mkdir()
    slices = [pydicom.dcmread(path) for path in sorted((data / "dicom" / "hippocampus_study").iterdir())]
    slices = [one for one in slices if one.SeriesNumber in KEPT_SERIES]
    for number in range(count // 2):
        study = folder / f"study{number:04d}"
        study.mkdir()
        for place, dataset in enumerate(slices):
            _rename(dataset, number)
            dataset.save_as(study / f"{place:04d}")
    files = sorted((data / "msd_hippocampus" / "images").glob("*.nii.gz"))
    for number in range(count - count // 2):
        patient = files[number % len(files)]
        (folder / f"{number:04d}_{patient.name}").write_bytes(patient.read_bytes())
    return folder


def _rename(dataset: Any, number: int) -> None:
    """Give a slice the UIDs of another copy."""
    from pydicom.uid import generate_uid

    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        dataset[keyword].value = generate_uid(entropy_srcs=[dataset[keyword].value, str(number)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def run_serial(cohort: Path, out: Path) -> dict[str, Any]:
    """The three stages of each case, one after the other, with seconds and CPU seconds of each."""
    from scanloom.pipeline.cohort.destination import destination_of
    from scanloom.pipeline.cohort.finishing import finish_case
    from scanloom.pipeline.cohort.job import Job, inputs_of
    from scanloom.pipeline.cohort.labelling import Labeller
    from scanloom.pipeline.cohort.reading import CaseReader
    from scanloom.pipeline.outputs import install_viewer

    options = _options(cohort, out)
    job = Job(_bundle(), inputs_of(options), options, destination_of(out))
    watch = _Watch()
    install_viewer(out)
    with CaseReader(job) as reader:
        label = Labeller(job, [])
        for number, given in enumerate(job.inputs):
            with watch("read"):
                result, scan = reader(number, given)
            assert scan is not None, result.error
            with watch("label"):
                labelled = label(result, scan)
            assert labelled is not None, result.error
            with watch("write"):
                finish_case(result, scan, labelled, job)
    return {"seconds": watch.means(watch.seconds), "cpu": watch.means(watch.cpu)}


class _Watch:
    """Seconds, and CPU seconds, of each stage of each case."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.cpu: dict[str, list[float]] = {stage: [] for stage in STAGES}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        cpu, start = _cpu_seconds(), perf_counter()
        yield
        self.seconds[stage].append(perf_counter() - start)
        self.cpu[stage].append(_cpu_seconds() - cpu)

    @staticmethod
    def means(stages: dict[str, list[float]]) -> dict[str, float]:
        """Of all cases but the first eighth, for which modules are imported and the bundle is loaded."""
        return {stage: statistics.mean(values[len(values) // 8 + 1 :]) for stage, values in stages.items()}


def _cpu_seconds() -> float:
    """Of this process and those it has started, which all live as long as it."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def run_whole(cohort: Path, out: Path, workers: int) -> dict[str, Any]:
    """`predict` on the cohort, here or with so many workers on Ray."""
    from scanloom.pipeline.segment import predict

    predict(_bundle(), _options(cohort, out, cluster="auto" if workers else None, workers=workers or None))
    return {}


WAYS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "serial": run_serial,
    "overlapped": lambda cohort, out: run_whole(cohort, out, 0),
    "ray 1": lambda cohort, out: run_whole(cohort, out, 1),
    "ray 2": lambda cohort, out: run_whole(cohort, out, 2),
}


def _options(cohort: Path, out: Path, **others: Any) -> Any:
    from scanloom.pipeline.prediction import PredictOptions

    return PredictOptions([cohort], out, cohort=True, only_predicts=True, **others)


def _bundle() -> Any:
    from scanloom.pipeline.bundle import find_bundle

    return find_bundle(BUNDLE)


def run_one(way: str, cohort: Path, out: Path) -> None:
    """In a process of its own: run, and print as JSON what was measured."""
    start = perf_counter()
    found = WAYS[way](cohort, out)
    whole = perf_counter() - start
    ends = sorted(path.stat().st_mtime for path in out.glob("*/report.json"))
    first = len(ends) // 8
    found |= {"done": len(ends), "whole": whole, "study": (ends[-1] - ends[first]) / (len(ends) - 1 - first)}
    print(json.dumps(found))


def run_rounds(cohort: Path, scratch: Path, ways: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Way -> what each round of it measured."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            command = [sys.executable, __file__, "--way", way, str(cohort), str(scratch / f"{way} {number}")]
            line, left = _run_watched(command)
            found[way].append(json.loads(line) | {"left": left})
            print(f"round {number + 1}, {way}: {found[way][-1]['study']:.3f} s a study", file=sys.stderr)
    return found


def _run_watched(command: list[str]) -> tuple[str, float]:
    """The last line that a command prints, and how many processors the machine's other programs left to it."""
    start, idle, own = perf_counter(), psutil.cpu_times().idle, {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(process.pid)
                for one in (root, *root.children(recursive=True)):
                    times = one.cpu_times()
                    own[one.pid] = times.user + times.system
            sleep(SAMPLED_S)
        assert process.stdout is not None
        line = process.stdout.read().splitlines()[-1]
    wall = perf_counter() - start
    return line, (sum(own.values()) + psutil.cpu_times().idle - idle) / wall


def show(found: dict[str, list[dict[str, Any]]], count: int) -> None:
    """Print the tables."""
    cores = os.cpu_count() or 1
    serial = found["serial"]
    print(f"{machine()}; {versions(['torch', 'monai', 'ray'])}\n{count} studies, {len(serial)} rounds\n")
    print("| stage | seconds a study | CPU seconds |\n|---|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {spread([one['seconds'][stage] for one in serial], 3)} ", end="")
        print(f"| {spread([one['cpu'][stage] for one in serial], 3)} |")
    seconds, cpu = _medians(serial, "seconds"), _medians(serial, "cpu")
    print(f"| sum | {sum(seconds.values()):.3f} | {sum(cpu.values()):.3f} |\n")
    print(
        "| | done | whole, s | seconds a study | studies an hour | slowest | left | cores | overlap |\n|---|"
        + 8 * "---|"
    )
    for way, rounds in found.items():
        slowest = max(seconds[stage] / hands for stage, hands in _hands(way, cores).items())
        study, left = ([one[key] for one in rounds] for key in ("study", "left"))
        bounds = [sum(cpu.values()) / one for one in left]
        done, whole = min(one["done"] for one in rounds), spread([one["whole"] for one in rounds])
        overlap = spread([max(slowest, bound) / one for bound, one in zip(bounds, study, strict=True)], 2)
        print(f"| {way} | {done} | {whole} | {spread(study, 3)} | {3600 / statistics.median(study):.0f} ", end="")
        print(f"| {slowest:.3f} | {statistics.median(left):.2f} | {statistics.median(bounds):.3f} | {overlap} |")


def _hands(way: str, cores: int) -> dict[str, int]:
    """Stage -> how many cases may be in it at a time: here two may be written, on Ray reading and writing are tasks."""
    if not way.startswith("ray"):
        return dict.fromkeys(STAGES, 1) | {"write": WRITERS if way == "overlapped" else 1}
    return {"read": cores, "label": int(way.split()[1]), "write": cores}


def _medians(rounds: list[dict[str, Any]], key: str) -> dict[str, float]:
    return {stage: statistics.median(one[key][stage] for one in rounds) for stage in STAGES}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", nargs=3, metavar=("WAY", "COHORT", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run_one(options.way[0], Path(options.way[1]), Path(options.way[2]))
        return
    ways = list(dict.fromkeys(["serial", *options.ways]))
    with tempfile.TemporaryDirectory() as name:
        cohort = write_cohort(options.data, Path(name) / "cohort", options.studies)
        show(run_rounds(cohort, Path(name), ways, options.rounds), options.studies)


if __name__ == "__main__":
    main()

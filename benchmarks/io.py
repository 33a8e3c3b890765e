"""What reading a CT series and writing a label map cost, beside other libraries.

    python benchmarks/io.py [--rounds 5] [--slices 300] [--size 512]

The series is made on the spot: int16 slices, explicit little-endian. Each reader runs in a process of its own, started
anew each round and in turn, so that a slow minute slows them all and no reader profits from another's memory: imports
are done before the clock starts, and the files are in the page cache. Milliseconds of wall time, and of CPU time (in
steps of 10) of the process and those it started, median and range; their peak resident memory above what they held
before (of a process that started and ended meanwhile it is not known); the ratio of the median wall times. The label
map is a 30 MiB uint8 volume of ellipsoids.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from scanloom.pipeline.studies.mr_series import write_mr_series

BASELINE = "pydicom + numpy.stack"

READERS = {
    "scanloom": """
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.studies import dicom, dicom_header, dicom_frames
def run(): return read_series(find_series(PATH)[0])
""",
    "scanloom, in its worker": """
from scanloom.pipeline.studies.isolation import StudyProcess
studies = StudyProcess(); studies.find(FEW)
def run(): return studies.read(studies.find(PATH)[0])
""",
    BASELINE: """
import pydicom, numpy as np, os
def run():
    slices = sorted((pydicom.dcmread(f.path) for f in os.scandir(PATH)), key=lambda d: float(d.ImagePositionPatient[2]))
    return np.stack([d.pixel_array for d in slices])
""",
    "MONAI PydicomReader": """
from monai.transforms import LoadImage
load = LoadImage(reader="PydicomReader", image_only=True)
def run(): return load(PATH)
""",
    "MONAI ITKReader": """
from monai.transforms import LoadImage
load = LoadImage(reader="ITKReader", image_only=True)
def run(): return load(PATH)
""",
    "SimpleITK": """
import SimpleITK as sitk
def run():
    reader = sitk.ImageSeriesReader(); reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(PATH))
    return sitk.GetArrayFromImage(reader.Execute())
""",
    "dcm2niix (writes .nii)": """
import dcm2niix, subprocess, tempfile
def run():
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([dcm2niix.bin, "-z", "n", "-o", out, PATH], check=True, stdout=subprocess.DEVNULL)
""",
}
"""Name -> what is imported, and the function that is timed."""

WRITERS = {
    "scanloom (isal), read again and checked": """
from scanloom.pipeline.nifti_writer import write_nifti_volume
from pathlib import Path
def run(): write_nifti_volume(Path(OUT), MAP, np.eye(4))
""",
    "nibabel": """
import nibabel as nib
def run(): nib.save(nib.Nifti1Image(MAP, np.eye(4)), OUT)
""",
    "nibabel, gzip level 6": """
import nibabel as nib, gzip
def run():
    with gzip.open(OUT, "wb", compresslevel=6) as file: file.write(nib.Nifti1Image(MAP, np.eye(4)).to_bytes())
""",
}
MAP_READERS = {
    "scanloom (isal)": """
import nibabel.nifti1, nibabel.nifti2, isal.igzip
from scanloom.pipeline.studies import find_series, read_series, nifti
def run(): return read_series(find_series(OUT)[0])
""",
    "nibabel": """
import nibabel as nib
def run(): return np.asarray(nib.load(OUT).dataobj)
""",
}

CHILD = """
import sys, json, time, resource, gc, os, numpy as np, psutil
PATH, FEW, OUT, MAP_FILE = sys.argv[1:]
MAP = np.load(MAP_FILE)
{code}
me = psutil.Process()
def status(name, pid="self"):
    lines = open(f"/proc/{{pid}}/status")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))
def cpu():
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [process.cpu_times() for process in [me, *me.children()]]
    return ended.ru_utime + ended.ru_stime + sum(times.user + times.system for times in running)
gc.collect()
pids = [str(process.pid) for process in [me, *me.children()]]
for pid in pids:
    open(f"/proc/{{pid}}/clear_refs", "w").write("5")
before, wall, used = sum(status("VmRSS", pid) for pid in pids), time.perf_counter(), cpu()
result = run()
wall, used = 1e3 * (time.perf_counter() - wall), 1e3 * (cpu() - used)
print(json.dumps([wall, used, sum(status("VmHWM", pid) for pid in pids) - before]))
"""


def once(code: str, places: list[str]) -> list[float]:
    """Wall and CPU milliseconds and peak MiB of one call in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD.format(code=code), *places], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def compare(cases: dict[str, str], places: list[str], rounds: int) -> dict[str, list[list[float]]]:
    """Each case's rounds, in turn; a case that can not run is left out and said."""
    found: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, code in cases.items():
            if name in found:
                try:
                    found[name].append(once(code, places))
                except RuntimeError as error:
                    print(f"{name}: left out ({error})", file=sys.stderr)
                    del found[name]
    return found


def show(title: str, found: dict[str, list[list[float]]], baseline: str) -> None:
    print(f"\n{title}\n\n| | wall ms | CPU ms | peak MiB | wall over {baseline} |\n|---|---|---|---|---|")
    reference = statistics.median(row[0] for row in found[baseline])
    for name, rows in found.items():
        wall, cpu, peak = ([row[column] for row in rows] for column in range(3))
        ratio = statistics.median(wall) / reference
        print(f"| {name} | {spread(wall)} | {spread(cpu)} | {statistics.median(peak):.0f} | {ratio:.2f} |")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def make_series(folder: Path, slices: int, size: int) -> Path:
    """A CT-like series of that many slices."""
    noise = np.random.default_rng(0).integers(0, 4096, (size, size, 1), dtype=np.int16)
    write_mr_series(folder, np.broadcast_to(noise, (size, size, slices)), np.diag([-0.8, -0.8, 1.0, 1.0]))
    return folder


def make_map(path: Path) -> Path:
    """A label map of nine ellipsoids."""
    grid = np.indices((320, 320, 308)).astype(np.float32)
    labels = np.zeros(grid.shape[1:], np.uint8)
    for value in range(1, 10):
        centre = np.random.default_rng(value).uniform(60, 240, 3)
        labels[sum(((grid[axis] - centre[axis]) / (20 + 5 * value)) ** 2 for axis in range(3)) < 1] = value
    np.save(path, np.asfortranarray(labels))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        series = make_series(folder / "series", options.slices, options.size)
        few = make_series(folder / "few", 2, 8)
        places = [str(series), str(few), str(folder / "labels.nii.gz"), str(make_map(folder / "map.npy"))]
        volume_mib = options.slices * options.size**2 * 2 / 2**20
        title = f"{options.slices} x {options.size} x {options.size} int16 series ({volume_mib:.0f} MiB)"
        show(title, compare(READERS, places, options.rounds), BASELINE)
        show("30 MiB label map, written", compare(WRITERS, places, options.rounds), "nibabel")
        once(WRITERS["nibabel"], places)
        show("30 MiB label map, read", compare(MAP_READERS, places, options.rounds), "nibabel")


if __name__ == "__main__":
    main()

"""Mutated studies: each must load, load with a warning, ask which series is meant, or be refused; nothing else.

    python tests/fuzz_studies.py [--mutants 2000] [--seed 0] [--keep FOLDER]

Seeds are small studies of every kind, made on the spot. A mutant flips, cuts, inserts, overwrites or repeats bytes or
elements of one of a seed's files, or leaves a file out. Each is found and read by `StudyProcess`, as the commands do,
in two processes side by side. A reader that ends, or is silent for 5 s, or takes more than 1 GB, or an answer that is
none of the four, is a failure: its mutant is kept where --keep says, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pydicom
import tifffile
from factories import make_affine, make_volume, write_ct_series, write_enhanced_mr, write_mr_series, write_nifti
from PIL import Image
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.studies import AmbiguousSeriesError, select_series
from scanloom.pipeline.studies.convert import ANY_SERIES
from scanloom.pipeline.studies.isolation import StudyProcess

PATIENCE_SECONDS = 20.0
MOST_BYTES = 10**9
PROCESSES = 2
GOOD = ("load", "load with a warning", "select", "refuse")


def write_seeds(folder: Path) -> list[Path]:
    """Small studies of every kind, a folder each."""
    array, affine = make_volume()
    writers = {
        "mr": lambda to: write_mr_series(to),
        "ct": lambda to: write_ct_series(to),
        "gap": lambda to: write_ct_series(to, gap_after=3),
        "tilt": lambda to: write_mr_series(to, array, make_affine(degrees=(10, 20, 30))),
        "implicit": lambda to: _rewritten(to, pydicom.uid.ImplicitVRLittleEndian),
        "big-endian": lambda to: _rewritten(to, pydicom.uid.ExplicitVRBigEndian),
        "deflated": lambda to: _rewritten(to, pydicom.uid.DeflatedExplicitVRLittleEndian),
        "rle": lambda to: _rewritten(to, pydicom.uid.RLELossless),
        "jpeg2000": lambda to: _rewritten(to, pydicom.uid.JPEG2000Lossless),
        "jpegls": lambda to: _rewritten(to, pydicom.uid.JPEGLSLossless),
        "enhanced": lambda to: write_enhanced_mr(to / "e.dcm", [array], affine),
        "4d": lambda to: write_enhanced_mr(to / "e.dcm", [array, array + 1], affine),
        "two": lambda to: (write_mr_series(to / "1"), write_mr_series(to / "2", number=2)),
        "nifti": lambda to: write_nifti(to / "x.nii", array, affine),
        "nifti-gz": lambda to: write_nifti(to / "x.nii.gz", array, affine),
        "nifti-float": lambda to: write_nifti(to / "x.nii", array.astype(np.float32), affine),
        "nrrd": lambda to: _with_itk(to / "x.nrrd", array),
        "mha": lambda to: _with_itk(to / "x.mha", array),
        "png": lambda to: Image.fromarray(array[..., 0].astype(np.uint16)).save(to / "x.png"),
        "tiff": lambda to: _pages(to / "x.tif", array),
        "tiff-lzw": lambda to: _pages(to / "x.tif", array, compression="tiff_lzw"),
        "tiff-ome": lambda to: tifffile.imwrite(to / "x.ome.tif", array.T.astype(np.uint8), compression="zlib"),
        "zip": _zipped,
        "tar": _tarred,
    }
    for name, write in writers.items():
        (folder / name).mkdir(parents=True)
        write(folder / name)
    return [folder / name for name in writers]


def _rewritten(folder: Path, syntax: pydicom.uid.UID) -> None:
    array, affine = make_volume((48, 40, 4))  # JPEG 2000 takes no smaller ones
    for file in write_mr_series(folder, array, affine):
        dataset = pydicom.dcmread(file)
        if syntax.is_compressed and syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
            if syntax == pydicom.uid.ExplicitVRBigEndian:
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        implicit, big = syntax == pydicom.uid.ImplicitVRLittleEndian, syntax == pydicom.uid.ExplicitVRBigEndian
        pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=not big)


def _pages(path: Path, array: np.ndarray, **options: str) -> None:
    pages = [Image.fromarray(page.astype(np.uint8)) for page in array.T]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)


def _with_itk(path: Path, array: np.ndarray) -> None:
    import itk

    itk.imwrite(itk.image_from_array(np.ascontiguousarray(array.T)), str(path))


def _zipped(folder: Path) -> None:
    files = write_mr_series(folder / "series")
    with zipfile.ZipFile(folder / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    shutil.rmtree(folder / "series")


def _tarred(folder: Path) -> None:
    write_mr_series(folder / "series")
    shutil.make_archive(str(folder / "study"), "gztar", folder / "series")
    shutil.rmtree(folder / "series")


def mutate(folder: Path, rng: np.random.Generator) -> str:
    """Changes the study in place; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[rng.integers(len(files))]
    content = bytearray(file.read_bytes())
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    kind = str(rng.choice(["flip", "header", "cut", "insert", "repeat", "zero", "element", "remove"]))
    if kind == "flip":
        for place in rng.integers(len(content), size=rng.integers(1, 9)):
            content[place] ^= 1 << rng.integers(8)
    elif kind == "header":
        for place in rng.integers(min(len(content), 2000), size=rng.integers(1, 5)):
            content[place] = rng.integers(256)
    elif kind == "cut":
        del content[start:]
    elif kind == "insert":
        content[start:start] = rng.bytes(length)
    elif kind == "repeat":
        content[start:start] = content[start : start + length]
    elif kind == "zero":
        content[start : start + length] = bytes(length)
    elif kind == "element":
        content = _with_odd_element(content, rng)
    else:
        file.unlink()
        return kind
    file.write_bytes(content)
    return kind


def _with_odd_element(content: bytearray, rng: np.random.Generator) -> bytearray:
    """The start of a random element again, somewhere else: twice, out of order, or of a wrong length."""
    tags = [place for place in range(132, len(content) - 12) if content[place : place + 2] in (b"\x28\0", b"\x20\0")]
    if not tags:
        return content
    place, target = rng.choice(tags), int(rng.choice(tags))
    content[target:target] = content[place : place + int(rng.integers(8, 24))]
    return content


def outcome(folder: Path, studies: StudyProcess) -> str:
    """Which of the four it is, or what else happened."""
    try:
        found = studies.find(folder)
        volume = studies.read(select_series(found, ANY_SERIES))
    except AmbiguousSeriesError:
        return "select"
    except StudyError as reason:
        return f"{reason.code}: {reason}" if reason.code in ("crash", "hang") else "refuse"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if volume.array.shape[1:] != volume.spatial_shape or not np.isfinite(volume.affine).all():
        return "a volume that contradicts itself"
    return "load with a warning" if volume.notices else "load"


def work(job: tuple[Path, int, int, Path | None]) -> tuple[Counter, list[str]]:
    """Every second mutant of the seeds; counts and failures."""
    seeds, first, mutants, keep = job
    counts: Counter = Counter()
    failures = []
    folders = sorted(seeds.iterdir())
    with tempfile.TemporaryDirectory() as scratch, StudyProcess(patience_seconds=PATIENCE_SECONDS) as studies:
        for number in range(first, mutants, PROCESSES):
            seed = folders[number % len(folders)]
            mutant = shutil.copytree(seed, Path(scratch) / f"{number}-{seed.name}")
            what = mutate(mutant, np.random.default_rng([SEED, number]))
            started = time.monotonic()
            result = outcome(mutant, studies)
            memory = psutil.Process(studies._worker.pid).memory_info().rss if studies._worker else 0
            if time.monotonic() - started > PATIENCE_SECONDS or memory > MOST_BYTES:
                result = f"{time.monotonic() - started:.1f} s, {memory / 1e6:.0f} MB"
            counts[result if result in GOOD else "failure"] += 1
            if result not in GOOD:
                failures.append(f"mutant {number} ({seed.name}, {what}): {result}")
                if keep:
                    shutil.copytree(mutant, keep / mutant.name, dirs_exist_ok=True)
            shutil.rmtree(mutant)
    return counts, failures


SEED = 0


def main() -> int:
    """Runs the mutants and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    globals()["SEED"] = options.seed
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        write_seeds(Path(scratch))
        jobs = [(Path(scratch), first, options.mutants, options.keep) for first in range(PROCESSES)]
        with ProcessPoolExecutor(PROCESSES) as pool:
            results = list(pool.map(work, jobs))
    counts = sum((each for each, _ in results), Counter())
    failures = [line for _, lines in results for line in lines]
    print(f"{options.mutants} mutants in {time.monotonic() - started:.0f} s: {dict(counts)}")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

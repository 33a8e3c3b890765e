"""What other readers make of real and defective studies whose truth is known, a row a study.

    python benchmarks/studies.py FOLDER [--only ID …] [--seconds 60]

FOLDER holds `index.json`, `cases/` and `check.py`, which knows how to compare a volume with the truth. Each reader runs
in a process of its own. What it did is one of

    right    each volume that is there is among what it wrote, at its place and with its values
    silent   the same, but the study has a defect that must be told, and this table can not see whether it was
    none     it wrote nothing
    wrong    it wrote something else: a volume at a wrong place or with wrong values, or one where there is none

Only DICOM studies are read, and of these only such as have a known volume, or none. scanloom's own row comes from
`check.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

MONAI = """
import nibabel as nib, numpy as np
from monai.transforms import LoadImage
def read(source, target):
    image = LoadImage(reader="{reader}", image_only=True)(source)
    volume = nib.Nifti1Image(np.asarray(image.array, np.float32), np.asarray(image.affine))
    nib.save(volume, target + "/volume.nii.gz")
"""
READERS = {
    "MONAI PydicomReader": MONAI.format(reader="PydicomReader"),
    "MONAI ITKReader": MONAI.format(reader="ITKReader"),
    "SimpleITK": """
import SimpleITK as sitk
def read(source, target):
    reader = sitk.ImageSeriesReader()
    for number, name in enumerate(reader.GetGDCMSeriesIDs(source)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(source, name))
        sitk.WriteImage(reader.Execute(), f"{target}/{number}.nii.gz")
""",
    "dcm2niix": """
import subprocess, dcm2niix
def read(source, target):
    subprocess.run([dcm2niix.bin, "-z", "y", "-o", target, source])
""",
    "dicom2nifti": """
import dicom2nifti
def read(source, target):
    dicom2nifti.convert_directory(source, target, compression=True, reorient=False)
""",
}
CHILD = """
import json, os, signal, sys
sys.stdout = sys.stderr = open(os.devnull, "w")
{code}
for source, target in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        signal.alarm({seconds})  # ends the process
        try:
            read(source, target)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""


def verdict(check: Any, case: dict, files: list[str]) -> str:
    """What files that a reader wrote for a case are worth."""
    if not files:
        return "none"
    expected = case["expect"]["outcome"]
    references = case.get("reference") or []
    if expected == "refuse":
        return "wrong"
    found = all(any(_follows(check, reference, file) for file in files) for reference in references)
    if not found:
        return "wrong"
    return "silent" if expected == "load_warn" else "right"


def _follows(check: Any, reference: dict, file: str) -> bool:
    try:
        return bool(check.follows(reference, file, True))
    except Exception:  # whatever is wrong with a file that another library wrote, it is not the reference
        return False


def run(code: str, pairs: list[tuple[str, str]], seconds: int) -> None:
    """Have a reader write the volumes of each study to a folder, a process a study that costs the others nothing."""
    child = CHILD.format(code=code, seconds=seconds)
    subprocess.run([sys.executable, "-W", "ignore", "-c", child], input=json.dumps(pairs), text=True, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("check", options.folder / "check.py")
    assert spec is not None and spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    cases = [case for case in json.loads((options.folder / "index.json").read_text())["cases"] if case["id"][0] in "rd"]
    cases = [case for case in cases if case["expect"]["outcome"] == "refuse" or case.get("reference")]
    cases = [case for case in cases if not options.only or case["id"] in options.only]
    found: dict[str, list[str]] = {}
    for name, code in READERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            pairs = [(str(_input(options.folder, case)), str(Path(scratch) / case["id"])) for case in cases]
            for _, target in pairs:
                Path(target).mkdir()
            run(code, pairs, options.seconds)
            written = [sorted(str(path) for path in Path(target).rglob("*.nii*")) for _, target in pairs]
            found[name] = [verdict(check, case, files) for case, files in zip(cases, written, strict=True)]
    print(f"| study | expected | {' | '.join(READERS)} |\n|---|---|{'---|' * len(READERS)}")
    for number, case in enumerate(cases):
        row = [verdicts[number] for verdicts in found.values()]
        print(f"| {case['title']} | {case['expect']['outcome']} | {' | '.join(row)} |")
    for name, verdicts in found.items():
        print(f"{name}: {dict(Counter(verdicts))}")


def _input(folder: Path, case: dict) -> Path:
    place = folder / "cases" / case["id"]
    return place / "in" if (place / "in").is_dir() else place


if __name__ == "__main__":
    main()

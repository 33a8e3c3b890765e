"""How long a user waits before anything happens: whole processes, interleaved, on this machine as it is.

    python benchmarks/startup.py [--rounds 5]

Each round runs every command once, in turn, so that a slow minute slows them all. Wall seconds; the median, and the
range in brackets. The study that `inspect` and `predict` read is made on the spot (the demo's, 36 slices of 52x36).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from scanloom.pipeline.demo import write_study

PYTHON = sys.executable


def commands(folder: Path) -> dict[str, list[str]]:
    """Name -> command line."""
    study = write_study(folder / "study")[0]
    cli = [PYTHON, "-m", "scanloom.pipeline.cli"]
    predict = [*cli, "predict", "-b", "hippocampus_mr_unet", "-i", str(study), "-o", str(folder / "out")]
    lean = "from scanloom.pipeline.inference.lean_import import import_monai_for_inference as f; import torch; f()"
    return {
        "scanloom --help": [*cli, "--help"],
        "scanloom predict (wrong option)": [*cli, "predict", "--nonsense"],
        "scanloom bundle list": [*cli, "bundle", "list"],
        "scanloom bundle info, the shipped bundle": [*cli, "bundle", "info", "hippocampus_mr_unet"],
        "scanloom inspect, a DICOM series": [*cli, "inspect", str(study)],
        "import torch": [PYTHON, "-c", "import torch"],
        "import scanloom.networks": [PYTHON, "-c", "import scanloom.networks"],
        "import torch, monai": [PYTHON, "-c", "import torch, monai"],
        "import torch, monai as predict does": [PYTHON, "-c", lean],
        "scanloom predict, a DICOM series, all outputs": predict,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        todo = commands(Path(name))
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(rounds + 1):
            for title, command in todo.items():
                start = perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
                seconds[title].append(perf_counter() - start)
    print(f"{rounds} rounds after a warm-up\n\n| | seconds |\n|---|---|")
    for title, values in seconds.items():
        kept = values[1:]
        print(f"| {title} | {statistics.median(kept):.2f} ({min(kept):.2f} to {max(kept):.2f}) |")


if __name__ == "__main__":
    main()

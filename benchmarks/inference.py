"""What sliding windows cost: ours, and those of MONAI, nnU-Net and torchio, on this machine as it is.

    python benchmarks/inference.py [--rounds 5] [--only machinery] [--passive] [--device cuda] [--plot FILE]

Prints Markdown; `inference_peers.py` lists the peers. The parts, each by itself with `--only`:

- machinery: 256^3, windows 96^3, overlap 0.25, Gaussian weights, a network that costs nothing; labels out.
- large: 512 x 512 x 300 with 100 classes, ours alone: the others hold 31 GB (float16: 15.7) of logits.
- network: the shipped hippocampus network on a scan of noise, `--size` voxels an axis; our machinery against its
  passes, and against MONAI's inferer on the same weights as they come.
- memory: the peak against the number of slices and of classes; `--plot` draws it.
- limit: 512 x 512 x 1200 from file to file in 2 GiB of address space beyond the libraries; and MONAI there.

Time: the cases of a table run once a round, in turn, in one process, each round beginning with another; CPU and wall
time of the call, its inputs made before. Medians, ranges in brackets; ratios are formed round by round. Wall time says
as much about the machine's neighbours as about the code: the gates are about ratios. Where other processes hold the
cores, CPU time does so too: OpenMP's threads spin while they wait for each other, which counts as work, and most where
there are many small steps, as in ours. `--passive` lets them sleep (OMP_WAIT_POLICY), for all cases alike; users get
the other. The heading says which it was, and the load before.

Memory: a fresh process a case, malloc as it comes, a first call on a tiny volume to load what is loaded late; VmHWM
less VmRSS before the call, so inputs do not count, and outputs do, but for the case whose labels go to an array that
is there before. Arrays in memory, as VmHWM counts the pages of mapped files, which the system can take back.
Linux only.

Cases that can not run here are left out and said so. The status is 0 whether the gates hold or not.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from inference_peers import PEERS, CostsNothing
from measure import Times, machine, measure, peak_mib, spread, versions
from torch import Tensor, nn

LIBRARIES = ("torch", "numpy", "monai", "nnunetv2", "torchio", "scanloom")
SIZE, WINDOW, OVERLAP = 256, (96, 96, 96), 0.25
GATES = {2: (0.25 / 1.81, 80), 10: (1.0 / 3.80, 300), 100: (8.5 / 25.6, 2800)}
"""Classes -> the most of MONAI's time, and the most MiB."""
LARGE = (512, 512, 300)
LARGE_MIB = 4096
SLICES, CLASSES = (128, 256, 512, 1024), (2, 5, 10, 20, 50, 100)
GIVEN = "ours, to an array given"
ROOM_MIB = 8192
"""The most that a peer's case may take to be tried."""
OVERHEAD, SPEEDUP, EQUAL = 1.02, 2.4, 0.999
LONG = (512, 512, 1200)
LIMIT_BYTES = 2 * 2**30


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passive", action="store_true", help="threads that wait sleep, see above")
    parser.add_argument("--size", type=int, default=SIZE, help="voxels an axis in the part network")
    parser.add_argument("--device", default="cpu", help="of the part network")
    parser.add_argument("--plot", type=Path, help="where the part memory draws its picture")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--limited", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.passive and not _is_passive():  # OpenMP reads it when torch is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    torch.set_num_threads(options.threads)
    if options.peak:
        name, classes, size = options.peak
        return print(f"{_peak_here(name, int(classes), tuple(map(int, size.split('x')))):.0f}")
    if options.limited:
        return _limited_here(options.limited[0], Path(options.limited[1]))
    print(f"# Sliding windows, {options.threads} threads\n\n{machine()}, {versions(LIBRARIES)}.")
    waits = "sleep (OMP_WAIT_POLICY=PASSIVE)" if _is_passive() else "spin, as they come"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"Threads that wait {waits}; load before: {load}.\nMedians, ranges in brackets.", flush=True)
    for part in options.only or PARTS:
        PARTS[part](options)


@torch.inference_mode()
def machinery(options: argparse.Namespace) -> None:
    """All peers with a network that costs nothing."""
    print(f"\n## Machinery: {SIZE}^3, windows {WINDOW[0]}^3, overlap {OVERLAP}, labels out\n")
    print(
        "| classes | | seconds | CPU s | its CPU / ours | peak MiB | gates |\n|---|---|---|---|---|---|---|", flush=True
    )
    volume = torch.randn(1, 1, SIZE, SIZE, SIZE)
    for classes, (share, most) in GATES.items():
        network = CostsNothing(classes, WINDOW)
        peaks = {name: peak(name, classes, (SIZE,) * 3) for name in PEERS if classes <= 10 or name in ("ours", "MONAI")}
        calls = {
            name: lambda run=PEERS[name], network=network: run(volume, network, WINDOW, OVERLAP)
            for name, found in peaks.items()
            if isinstance(found, float)
        }
        times = interleaved(calls, options.rounds if classes < 100 else min(options.rounds, 3))
        for name, found in peaks.items():
            if name not in times:
                print(f"| {classes} | {name} | not measured: {found} | | | | |", flush=True)
                continue
            gate = ""
            if name == "ours" and "MONAI" in times:
                shares = ratios(times["ours"].wall, times["MONAI"].wall)
                gate = f"{spread(shares, 3)} of MONAI's seconds, {limit_of(median(shares), share)}; "
                gate += f"MiB {limit_of(found, most)}"
            print(f"| {classes} | {name} | {_columns(times, name)} | {found:.0f} | {gate} |", flush=True)


@torch.inference_mode()
def large(options: argparse.Namespace) -> None:
    """Many classes on a large volume, where the others do not fit."""
    size, classes = "x".join(map(str, LARGE)), 100
    print(f"\n## {size} voxels, {classes} classes, labels out, the same windows\n")
    found = peak("ours", classes, LARGE)
    network, volume = CostsNothing(classes, WINDOW), torch.randn(1, 1, *LARGE)
    begin = perf_counter()
    PEERS["ours"](volume, network, WINDOW, OVERLAP)
    seconds = perf_counter() - begin
    print(f"ours: {seconds:.1f} s, peak {found} MiB, {limit_of(found, LARGE_MIB)}.")
    print(
        f"Logits alone, as MONAI holds them: {np.prod(LARGE) * classes * 4 / 1e9:.0f} GB; in float16, as nnU-Net: half."
    )


@torch.inference_mode()
def network(options: argparse.Namespace) -> None:
    """The shipped network: our machinery against its passes, and MONAI's inferer on the weights as they come."""
    from scanloom.pipeline.bundle import find_bundle
    from scanloom.pipeline.device import describe_device, find_device, has_bf16
    from scanloom.pipeline.inference import StreamingInferer
    from scanloom.pipeline.inference.predictor import Predictor
    from scanloom.pipeline.inference.ready import make_ready

    device = find_device(options.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def clock() -> float:
        synchronize()
        return process_time() if device.type == "cpu" else perf_counter()

    plain = Predictor(find_bundle("hippocampus_mr_unet"), options.device, precision="fp32").network.to(device)
    volume = smooth_noise((options.size,) * 3).to(device)
    window = volume[..., : WINDOW[0], : WINDOW[1], : WINDOW[2]].contiguous()
    print(f"\n## The hippocampus network on {options.size}^3, windows {WINDOW[0]}^3, overlap {OVERLAP}, no mirroring\n")
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if device.type == "cuda" else ""
    print(f"{describe_device(device)}{cuda}; MONAI runs the weights as they come, in fp32.")
    print("Ratios of CPU time; of wall time on a GPU.")
    print("The passes within are timed as they happen; those alone, of one window again and again, are shown for")
    print("comparison: malloc serves them otherwise, so that ours as a whole can take less.\n")
    print("| | seconds | CPU s | MONAI's / ours | ours / passes within | ours / passes alone | labels as MONAI's |")
    print("|---|---|---|---|---|---|---|", flush=True)
    expected = PEERS["MONAI"](volume, plain, WINDOW, OVERLAP)
    for precision in ["fp32", *(["bf16"] if has_bf16(device) else [])]:
        ready = make_ready(plain, device, precision, example_shape=window.shape)
        inferer = StreamingInferer(WINDOW, overlap=OVERLAP, mode="gaussian", output="labels")
        equal = float((inferer(volume, ready)[0, 0] == expected).float().mean())
        count = inferer.facts.windows

        def passes(ready: nn.Module = ready, count: int = count) -> None:
            for _ in range(count):
                ready(window)
            synchronize()

        timed, over = _Timed(ready, clock), []

        def run(inferer: StreamingInferer = inferer, timed: _Timed = timed, over: list[float] = over) -> None:
            begin, timed.spent = clock(), 0.0
            inferer(volume, timed)
            over.append((clock() - begin) / timed.spent)

        calls: dict[str, Callable[[], Any]] = {
            "ours": run,
            "passes": passes,
            "MONAI": lambda: (PEERS["MONAI"](volume, plain, WINDOW, OVERLAP), synchronize()),
        }
        times = interleaved(calls, options.rounds)
        row = _network_row(times, over[1:], device)  # the first warmed up
        print(f"| ours, {precision} | {row} | {equal:.4%}, {limit_of(equal, EQUAL, least=True)} |", flush=True)


def memory(options: argparse.Namespace) -> None:
    """Peaks against slices and classes."""
    names = (GIVEN, "ours", "MONAI")
    slices = {name: [peak(name, 2, (256, 256, n)) for n in SLICES] for name in names}
    classes = {name: [peak(name, n, (SIZE,) * 3) for n in CLASSES] for name in names}
    for title, heads, table in (
        ("256 x 256 x slices, 2 classes", SLICES, slices),
        (f"{SIZE}^3, classes", CLASSES, classes),
    ):
        print(f"\n## Peak MiB above the input, labels out: {title}\n\n| | {' | '.join(map(str, heads))} |")
        print("|---" * (len(heads) + 1) + "|")
        for name, row in table.items():
            words = [f"{each:.0f}" if isinstance(each, float) else each for each in row]
            print(f"| {name} | {' | '.join(words)} |", flush=True)
    if options.plot:
        _plot(options.plot, slices, classes)


def limit(options: argparse.Namespace) -> None:
    """A scan that does not fit, from file to file in a process of little address space."""
    shape = " x ".join(map(str, LONG))
    print(
        f"\n## {shape} int16, 2 GiB of address space beyond the libraries, a 3D U-Net of 8 and 16 channels, 3 classes\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        scan = write_scan(Path(folder) / "scan.nii", LONG)
        for name in ("ours", "MONAI"):
            begin = perf_counter()
            done = rerun(["--limited", name, str(scan)])
            said = (done.stdout.strip() if done.returncode == 0 else done.stderr.strip()).splitlines() or ["no word"]
            end = "finishes" if done.returncode == 0 else f"dies (status {done.returncode})"
            print(f"- {name} {end} after {perf_counter() - begin:.0f} s: {said[-1][:200]}", flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "machinery": machinery,
    "large": large,
    "network": network,
    "memory": memory,
    "limit": limit,
}


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """The times of calls, in turn; one of each warms up."""
    times = {name: Times() for name in calls}
    order = list(calls)
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name in order:
            measure(calls[name], times[name])
        order = order[1:] + order[:1]
    return times


def peak(name: str, classes: int, size: Sequence[int]) -> float | str:
    """MiB of a case in a process of its own, or why there is none."""
    logits = np.prod(size) * classes * 4 / 2**20
    if name not in ("ours", GIVEN) and logits > ROOM_MIB:
        return f"needs {logits / 1024:.0f} GiB"
    done = rerun(["--peak", name, str(classes), "x".join(map(str, size))])
    return float(done.stdout) if done.returncode == 0 else (done.stderr.strip().splitlines() or ["killed"])[-1][:120]


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def limit_of(value: float | str, bound: float, least: bool = False) -> str:
    """A gate and whether it is held."""
    yes = not isinstance(value, str) and (value >= bound if least else value <= bound)
    return f"{'at least' if least else 'at most'} {bound:.4g}, {'held' if yes else '**missed**'}"


def rerun(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """This script in a process of its own."""
    words = [sys.executable, "-W", "ignore", __file__, "--threads", str(torch.get_num_threads()), *arguments]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )


def smooth_noise(size: tuple[int, ...]) -> Tensor:
    """(1, 1, *size), like anatomy in its correlations: noise on a coarse grid, and some on the fine one."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, *[n // 8 for n in size], generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="trilinear")
    return smooth + 0.2 * torch.randn(smooth.shape, generator=generator)


def write_scan(path: Path, shape: tuple[int, int, int]) -> Path:
    """An uncompressed NIfTI file of noise, written plane by plane."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), code=1)
    noise = np.random.default_rng(0)
    with path.open("wb") as file:
        header.write_to(file)
        for _ in range(shape[2]):
            file.write(noise.integers(-1000, 1000, shape[0] * shape[1], dtype=np.int16).tobytes())
    return path


@torch.inference_mode()
def _peak_here(name: str, classes: int, size: tuple[int, ...]) -> float:
    """Of one case, in this process."""
    tiny = tuple(min(n, 2 * w) for n, w in zip(size, (8, 8, 8), strict=True))
    _call(name, tiny, classes, (8, 8, 8))()
    return peak_mib(_call(name, size, classes, WINDOW))[0]


def _call(name: str, size: tuple[int, ...], classes: int, window: tuple[int, ...]) -> Callable[[], Any]:
    """A case, its inputs made."""
    volume, cheap = torch.randn(1, 1, *size), CostsNothing(classes, window)
    if name != GIVEN:
        return lambda: PEERS[name](volume, cheap, window, OVERLAP)
    from scanloom.pipeline.inference import StreamingInferer
    from scanloom.pipeline.inference.scan import ArrayScan

    scan, labels = ArrayScan(volume[0].numpy()), np.full((1, *size), 255, np.uint8)  # written, so that it is there
    inferer = StreamingInferer(window, overlap=OVERLAP, mode="gaussian", output="labels")
    return lambda: inferer.stream(scan, cheap, labels)


@torch.inference_mode()
def _limited_here(name: str, path: Path) -> None:
    """Label the scan in this process, whose address space is limited once the libraries are there."""
    import nibabel as nib
    from monai.inferers import SlidingWindowInferer
    from scanloom.networks import UNet
    from scanloom.pipeline.inference import StreamingInferer
    from scanloom.pipeline.inference.nifti_file import stream_nifti

    torch.manual_seed(0)
    unet = UNet(out_channels=3, features=[8, 16], spatial_dims=3, padding="same", norm="batch").eval()
    unet(torch.zeros(1, 1, 16, 16, 16))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES,) * 2)
    begin = perf_counter()
    if name == "ours":
        inferer = StreamingInferer((128, 128, 128), overlap=0.25, mode="gaussian", output="labels")
        facts = stream_nifti(path, path.with_name("labels.nii"), unet, inferer, prepare=lambda region: region / 1000)
        done = f"{facts.windows} windows"
    else:
        image = torch.from_numpy(np.asarray(nib.load(path).dataobj, dtype=np.float32))[None, None].div_(1000)
        labels = SlidingWindowInferer((128, 128, 128), overlap=0.25, mode="gaussian")(image, unet).argmax(1)
        done = f"{tuple(labels.shape)} labels"
    print(f"{done} in {perf_counter() - begin:.0f} s")


class _Timed(nn.Module):
    """A network that adds up what its passes take."""

    def __init__(self, network: nn.Module, clock: Callable[[], float]) -> None:
        super().__init__()
        self.network, self.clock, self.spent = network, clock, 0.0

    def forward(self, windows: Tensor) -> Tensor:
        """The network's output."""
        begin = self.clock()
        output = self.network(windows)
        self.spent += self.clock() - begin
        return output


def _network_row(times: dict[str, Times], over: list[float], device: torch.device) -> str:
    """Seconds, CPU seconds, what MONAI takes of ours, and what we take of the passes, within and alone."""
    kind = "cpu" if device.type == "cpu" else "wall"
    mine, alone, theirs = (getattr(times[name], kind) for name in ("ours", "passes", "MONAI"))
    gain = ratios(theirs, mine)
    columns = [spread([value / 1e3 for value in values], 2) for values in (times["ours"].wall, times["ours"].cpu)]
    columns.append(f"{spread(gain, 2)}, {limit_of(median(gain), SPEEDUP, least=True)}")
    columns.append(f"{spread(over, 3)}, {limit_of(median(over), OVERHEAD)}")
    columns.append(spread(ratios(mine, alone), 3))
    return " | ".join(columns)


def _is_passive() -> bool:
    return os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"


def _columns(times: dict[str, Times], name: str) -> str:
    """Seconds, CPU seconds and the ratio to ours."""
    ratio = "" if name == "ours" else spread(ratios(times[name].cpu, times["ours"].cpu), 2)
    wall, cpu = ([value / 1e3 for value in values] for values in (times[name].wall, times[name].cpu))
    return f"{spread(wall, 2)} | {spread(cpu, 2)} | {ratio}"


def _plot(path: Path, slices: dict[str, list[Any]], classes: dict[str, list[Any]]) -> None:
    """Both tables as curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axes, table, heads, words in (
        (panels[0], slices, SLICES, "slices of 256 x 256; 2 classes"),
        (panels[1], classes, CLASSES, f"classes; {SIZE} x {SIZE} x {SIZE} voxels"),
    ):
        for (name, row), look in zip(table.items(), ("o-", "o--", "s-"), strict=True):
            points = [(head, value) for head, value in zip(heads, row, strict=True) if isinstance(value, float)]
            if points:
                axes.plot(*zip(*points, strict=True), look, label=name, color="grey" if name == "MONAI" else "#5b8def")
        axes.set(xlabel=words, ylabel="peak above the input (MiB)", xscale="log", yscale="log")
        axes.set_xticks(heads, map(str, heads))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.suptitle("Labels out, windows 96 x 96 x 96, overlap 0.25", fontsize=11)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

"""What random transforms cost, ours and those of MONAI, torchio and batchgeneratorsv2, at one thread.

    python benchmarks/transforms.py [--rounds 7] [--size 128] [--only blur] [--default | --tuned] [--device cuda]

Prints Markdown. `peers.py` lists the rows, the peers' settings and the gates. Fresh pages are the hidden cost of large
arrays and malloc decides how often they are paid, so everything runs twice, in two processes: as malloc comes, and
with it told to keep what it was given back (`--default` or `--tuned` for one of them).

Time: every case of a row is called once a round, in turn, each round beginning with another; CPU and wall time of the
call alone, its inputs and seeds prepared before, its output freed after, no garbage collection within. Two calls of
each warm up. Medians, and the range over the rounds in brackets; ratios are formed round by round. CPU time is what
the gates are about: on a shared machine wall time says as much about the neighbours.

Memory: a fresh process a case, untuned, because peaks of one hide those of another. After a call on a tiny sample
(libraries load their code) free memory is handed back with malloc_trim, the kernel's record of the peak is reset
through /proc/self/clear_refs, and one call is made: VmHWM after it less VmRSS before, so the inputs do not count and
the outputs and whatever a transform keeps for its next call do. Linux only.

GPU (`--device cuda`): our transforms of a batch of 9 volumes that lie there already, against one training step of a
3D U-Net on that batch; wall time with the device synchronised, fp32 convolutions as torch sets them (TF32).

Cases that cannot run (a peer that is not installed) are left out and said so. The status is 0 whether the gates hold
or not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from measure import Times, machine, measure, peak_mib, spread, versions
from peers import ALL_ON, CASES, ELASTIC_2D, ELASTIC_BATCH, MOST_MEMORY_MIB, PAIR, Case, Sample, ours_batched
from torch import Tensor
from torch.nn import functional

GATED_SIZE = 128
PATCH = (40, 56, 40)
PATCHES = 4
WARM_UPS = 2
GPU_BATCH = 9
LIBRARIES = ("torch", "numpy", "scipy", "SimpleITK", "monai", "torchio", "batchgeneratorsv2", "scanloom")
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**30),
}
"""Larger blocks still come fresh, such as the convolutions of MONAI's Rand3DElasticd at 128^3 (up to 1.3 GiB)."""


def make_sample(size: tuple[int, ...], seed: int) -> Sample:
    """Smooth anatomy with noise, and four classes cut out of it at quantiles, like organs in a background."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 1, *[6] * len(size), generator=generator)
    mode = "trilinear" if len(size) == 3 else "bilinear"
    smooth = functional.interpolate(coarse, size=size, mode=mode, align_corners=True)[0]
    thresholds = coarse.flatten().quantile(torch.tensor([0.6, 0.75, 0.9]))
    label = torch.bucketize(smooth, thresholds).float()
    return Sample(smooth + 0.1 * torch.randn(smooth.shape, generator=generator), label)


def inputs(row: str, size: int) -> tuple[Sample, tuple[int, ...]]:
    """The row's sample and its spatial size."""
    if row == ELASTIC_BATCH:
        return make_batch(PATCH, PATCHES), PATCH
    shape = (4 * size,) * 2 if row == ELASTIC_2D else (size,) * 3
    return make_sample(shape, 0), shape


def make_batch(size: tuple[int, ...], count: int) -> Sample:
    """Different samples, stacked."""
    samples = [make_sample(size, seed) for seed in range(count)]
    return Sample(torch.stack([each.image for each in samples]), torch.stack([each.label for each in samples]))


def check(sample: Sample, output: Any) -> None:
    """Raises where the work was not done: every part is drawn, so the image must come back, and not as it was."""
    image = output if isinstance(output, Tensor) else output["image"]
    image = image if isinstance(image, Tensor) else image.data
    if image.shape != sample.image.shape or image.dtype != torch.float32:
        raise ValueError(f"the output is {image.dtype} {tuple(image.shape)}")
    if not image.isfinite().all() or torch.equal(image, sample.image):
        raise ValueError("the image came back unchanged or not finite")


def build(cases: Sequence[Case], sample: Sample, shape: tuple[int, ...]) -> dict[Case, Any]:
    """The transforms, warmed up and checked; what cannot run is reported and left out."""
    ready = {}
    before = Sample(sample.image.clone(), sample.label.clone())
    for case in cases:
        try:
            transform = case.build(shape)
            for seed in range(WARM_UPS):
                check(before, case.prepare(transform, sample, seed)())
            if not (torch.equal(sample.image, before.image) and torch.equal(sample.label, before.label)):
                sample.image.copy_(before.image)
                sample.label.copy_(before.label)
                raise ValueError("it changed its inputs")
            ready[case] = transform
        except Exception as error:
            print(f"| {case.name} | not measured: {type(error).__name__}: {error} | | | |", flush=True)
    return ready


def time_row(cases: Sequence[Case], size: int, rounds: int) -> dict[Case, Times]:
    """The times of a row's cases, interleaved."""
    sample, shape = inputs(cases[0].row, size)
    ready = build(cases, sample, shape)
    times = {case: Times() for case in ready}
    order = list(ready)
    for index in range(rounds):
        for case in order:
            measure(case.prepare(ready[case], sample, WARM_UPS + index), times[case])
        order = order[1:] + order[:1]
    return times


def verdict(held: bool, size: int) -> str:
    """What is written behind a gate, which is set for one size only."""
    if size != GATED_SIZE:
        return f", judged at {GATED_SIZE} only"
    return ", held" if held else ", **missed**"


def print_row(times: Mapping[Case, Times], ours: Case, size: int, tuned: bool) -> None:
    """A row's lines; the ratios are to `ours`, the first of its cases."""
    for case, mine in times.items():
        ratio, gate, held = "", "", ""
        if ours in times and case is not ours:
            ratios = [peer / own for peer, own in zip(mine.cpu, times[ours].cpu, strict=True)]
            ratio = spread(ratios, 2)
            held = verdict(case.gate is not None and statistics.median(ratios) >= case.gate.least(tuned), size)
        if case.gate:
            gate = f"at least {case.gate.least(tuned):g}{held}"
        print(f"| {case.name} | {spread(mine.cpu)} | {spread(mine.wall)} | {ratio} | {gate} |", flush=True)


def print_times(cases: Sequence[Case], size: int, rounds: int, tuned: bool) -> None:
    """The tables of times with one malloc setting, in this process."""
    torch.set_num_threads(1)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n## Time, {'tuned' if tuned else 'default'} malloc\n")
    print(f"Volumes {size}^3, images {4 * size}^2, patches {PATCH}; {rounds} rounds; load before: {load}.")
    for row, group in groupby(cases, key=lambda case: case.row):
        same = list(group)
        print(f"\n| {row} | CPU ms | wall ms | its CPU / ours | gate |\n|---|---|---|---|---|", flush=True)
        print_row(time_row(same, size, rounds), same[0], size, tuned)


def peak_of(case: Case, size: int) -> float:
    """Peak memory above the inputs of one call, see above; for a process of its own."""
    torch.set_num_threads(1)
    tiny, shape = inputs(case.row, 24)
    case.prepare(case.build(shape), tiny, 0)()
    sample, shape = inputs(case.row, size)
    peak, output = peak_mib(case.prepare(case.build(shape), sample, 1))
    check(sample, output)
    return peak


def print_peaks(cases: Sequence[Case], size: int) -> None:
    """The table of peak memory, for the rows with a limit on ours."""
    print(f"\n## Peak memory above the inputs, {size}^3")
    for row, group in groupby((case for case in cases if case.row in MOST_MEMORY_MIB), key=lambda case: case.row):
        print(f"\n| {row} | MiB | gate |\n|---|---|---|")
        for case in group:
            arguments = ["--size", str(size), "--peak", str(CASES.index(case))]
            run = rerun(arguments, {}, capture_output=True, text=True)
            failure = (run.stderr.splitlines() or ["no message"])[-1]
            peak, gate = run.stdout.strip() if run.returncode == 0 else f"not measured: {failure}", ""
            if run.returncode == 0 and case.name.startswith("ours"):
                gate = f"at most {MOST_MEMORY_MIB[row]:g}{verdict(float(peak) <= MOST_MEMORY_MIB[row], size)}"
            print(f"| {case.name} | {peak} | {gate} |", flush=True)


def training_step(batch: Sample, bf16: bool) -> Callable[[], Any]:
    """A step of a 3D U-Net with Adam and cross-entropy, channels last."""
    from scanloom.networks import UNet

    features = [16, 32, 64, 128]
    network = UNet(in_channels=1, out_channels=3, features=features, spatial_dims=3, padding="same", norm="batch")
    network = network.to(batch.image.device, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(network.parameters())
    image, label = batch.image.contiguous(memory_format=torch.channels_last_3d), batch.label[:, 0].long().clamp(max=2)

    def step() -> None:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(network(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def print_gpu(device: str, size: int, rounds: int) -> None:
    """The table of a batch on the GPU against one training step there."""
    print("\n## On a GPU\n")
    if device == "cuda" and not torch.cuda.is_available():
        return print("Skipped: torch finds no GPU.")
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        print(f"{torch.cuda.get_device_name()}; ", end="")
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    batch = make_batch((size,) * 3, GPU_BATCH)
    batch = Sample(batch.image.to(device), batch.label.to(device))
    pair = {"image": batch.image, "label": batch.label}
    deform = ours_batched("RandSpatialDeformationd", keys=PAIR)(batch.image.shape[2:]).set_random_state(seed=0)
    change = ours_batched("RandIntensityd", keys=["image"], **ALL_ON)(batch.image.shape[2:]).set_random_state(seed=1)
    calls: dict[str, Callable[[], Any]] = {
        "training step, bf16 autocast": training_step(batch, True),
        "training step, fp32": training_step(batch, False),
        "ours, elastic + affine": lambda: deform(pair),
        "ours, nnU-Net's whole intensity set": lambda: change(pair),
    }
    times = {name: Times() for name in calls}
    for _ in range(rounds + WARM_UPS):
        for name, call in calls.items():
            synchronize()
            measure(lambda call=call: (call(), synchronize()), times[name])
    step = times["training step, bf16 autocast"].wall[WARM_UPS:]
    print(f"{GPU_BATCH} x {size}^3, {rounds} rounds.\n\n| | wall ms | of a bf16 step |\n|---|---|---|")
    for name, mine in times.items():
        wall = mine.wall[WARM_UPS:]
        print(f"| {name} | {spread(wall)} | {spread([a / b for a, b in zip(wall, step, strict=True)], 3)} |")


def rerun(arguments: list[str], environment: dict[str, str], **options: Any) -> subprocess.CompletedProcess:
    """This script in a process of its own, at one thread, malloc as it comes unless told otherwise."""
    kept = {key: value for key, value in os.environ.items() if key not in TUNED}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, env={**kept, **threads, **environment}, check=False, **options)


def print_heading() -> None:
    """The machine and the versions."""
    print(
        f"# Random transforms, one thread\n\n{machine()}, {versions(LIBRARIES)}.\nMedians, ranges in brackets.",
        flush=True,
    )


def main() -> None:
    """Print the tables, each malloc setting and each peak from a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=GATED_SIZE, help="edge of the volumes")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name contains this")
    malloc = parser.add_mutually_exclusive_group()
    malloc.add_argument("--default", dest="malloc", action="store_const", const=["default"], help="malloc as it comes")
    malloc.add_argument("--tuned", dest="malloc", action="store_const", const=["tuned"], help="malloc keeping memory")
    parser.add_argument("--device", default="cpu", help="cuda: also a batch against one training step on the GPU")
    parser.add_argument("--within", choices=("default", "tuned", "gpu"), help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.row]
    if options.within == "gpu":
        return print_gpu(options.device, options.size, options.rounds)
    if options.within:
        return print_times(cases, options.size, options.rounds, options.within == "tuned")
    if options.peak is not None:
        return print(f"{peak_of(CASES[options.peak], options.size):.1f}")
    print_heading()
    shared = ["--rounds", str(options.rounds), "--size", str(options.size), "--only", options.only]
    for setting in options.malloc or ["default", "tuned"]:
        rerun([*shared, "--within", setting], TUNED if setting == "tuned" else {})
    if any(case.row in MOST_MEMORY_MIB for case in cases):
        print_peaks(cases, options.size)
    if options.device == "cpu":
        return print("\nGPU: not asked for (--device cuda).")
    rerun([*shared, "--device", options.device, "--within", "gpu"], {})


if __name__ == "__main__":
    main()

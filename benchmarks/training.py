"""What a training step costs by how its patches are augmented: by our batched transforms, by MONAI's, not at all.

    python benchmarks/training.py [-d DATASET] [--rounds 7] [--cases 16] [--device cuda] [--workers 0]

The step is that of a bundle's own train config: cached cases, a random crop of each, augmentation, forward and backward
pass, optimiser, schedule and moving average; validation is left out. MONAI's counterparts stand in the loader, matched
to the config's ranges and probabilities: RandFlipd, RandAffined and Rand3DElasticd for the deformation, and one
transform for each part of the intensities; what it can not draw apart (rotation and scaling) comes together, as often
as one of ours. A last row has a teacher, an ensemble of five networks like the student's, beside our augmentation.

Every case runs an epoch of the same cases a round, in turn, each round beginning with another, in one process at one
thread. CPU time is what counts: on a shared machine wall time says as much about the neighbours. Medians, ranges over
the rounds in brackets; ratios are formed round by round. Without -d the cases are made up, of the hippocampus crops'
size. With --workers the loader's CPU time is in other processes and not counted: look at wall time then.

On CUDA the share of the time that the device waits, too: one less the time in which any kernel or copy runs, of an
epoch under torch's profiler, by the median wall time of the epochs without it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from measure import Times, machine, measure, spread, versions
from monai.bundle import ConfigParser
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.training.distilled_config import distilled_config
from scanloom.pipeline.training.ensemble_bundle import make_ensemble

from transforms import make_sample

CROP = (36, 52, 36)
TEACHERS = 5
NONE, OURS, MONAI, TAUGHT = "no augmentation", "ours, batched", "MONAI's, in the loader", "ours, taught by 5 networks"
PAIR = ["image", "label"]
ELASTIC_STD = 0.006
"""Of MONAI's magnitude, what its smoothing with sigma 5 to 7 leaves as the standard deviation of the displacement."""
DEFAULTS: dict[str, Any] = {
    "brightness": [0.75, 1.25],
    "contrast": [0.75, 1.25],
    "low_resolution": [0.5, 1.0],
    "blur_sigma": [0.5, 1.0],
    "gamma": [0.7, 1.5],
    "prob_brightness": 0.15,
    "prob_contrast": 0.15,
}
"""Of our RandIntensityd, where the config leaves them."""


def write_cases(folder: Path, count: int) -> Path:
    """A Decathlon dataset of made-up crops with labels 0 to 2."""
    listed = []
    for number in range(count):
        sample = make_sample(CROP, number)
        entry = {key: f"{key}s/case_{number:03d}.nii.gz" for key in PAIR}
        for key, values in (("image", 100 * sample.image), ("label", sample.label.clamp(max=2).byte())):
            (folder / entry[key]).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values[0].numpy(), np.eye(4)), folder / entry[key])
        listed.append(entry)
    description = {"training": listed, "labels": {"0": "background", "1": "anterior", "2": "posterior"}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def monai_counterparts(spatial: Mapping[str, Any], intensity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """MONAI's transforms of single patches for the settings of our two."""
    on = {**DEFAULTS, **intensity}
    modes = {"keys": PAIR, "mode": ["bilinear", "nearest"], "padding_mode": "border"}
    either = 1 - (1 - spatial["prob_rotation"]) * (1 - spatial["prob_scaling"])
    low, high = spatial["scaling"]
    smooth = {f"sigma_{axis}": on["blur_sigma"] for axis in "xyz"}
    gamma = {"gamma": on["gamma"], "retain_stats": True}
    brightness: dict[str, Any] = {"_target_": "RandShiftIntensityd", "offsets": on.get("shift", 0)}
    if on["brightness"] != 1:
        brightness = {"_target_": "RandScaleIntensityd", "factors": half_width(on["brightness"])}
    parts = [
        {"_target_": "RandGaussianNoised", "prob": on["prob_noise"], "std": on["noise_std"][1]},
        {"_target_": "RandGaussianSmoothd", "prob": on["prob_blur"], **smooth},
        {**brightness, "prob": on["prob_brightness"]},
        {
            "_target_": "RandScaleIntensityFixedMeand",
            "prob": on["prob_contrast"],
            "factors": half_width(on["contrast"]),
            "preserve_range": True,
        },
        {
            "_target_": "RandSimulateLowResolutiond",
            "prob": on["prob_low_resolution"],
            "zoom_range": on["low_resolution"],
        },
        {"_target_": "RandAdjustContrastd", "prob": on["prob_inverted_gamma"], **gamma, "invert_image": True},
        {"_target_": "RandAdjustContrastd", "prob": on["prob_gamma"], **gamma},
    ]
    return [
        *({"_target_": "RandFlipd", "keys": PAIR, "prob": 0.5, "spatial_axis": axis} for axis in spatial["flip_axes"]),
        {
            "_target_": "RandAffined",
            **modes,
            "prob": either,
            "rotate_range": [math.radians(spatial["rotation"])] * 3,
            "scale_range": [[low - 1, high - 1]] * 3,
        },
        {
            "_target_": "Rand3DElasticd",
            **modes,
            "prob": spatial["prob_elastic"],
            "sigma_range": [5, 7],
            "magnitude_range": [each / ELASTIC_STD for each in spatial["displacement"]],
        },
        *({**part, "keys": "image"} for part in parts if part["prob"]),
    ]


def half_width(limits: Sequence[float]) -> float:
    """Of a range about 1."""
    low, high = limits
    return (high - low) / 2


def make_trainer(name: str, bundle: Bundle, dataset: Path, folder: Path, options: argparse.Namespace) -> Any:
    """The trainer of the bundle's config, without validation, its patches augmented as the case's name says."""
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle.config("train"))))
    if name == TAUGHT:
        teacher = make_ensemble([bundle] * TEACHERS, folder / "teacher")
        parser.set(distilled_config(parser.get(), bundle, teacher))
    parser.update(
        {
            "bundle_root": str(bundle.folder),
            "dataset_dir": str(dataset),
            "output_dir": str(folder),
            "device": f"$torch.device({options.device!r})",
            "precision": options.precision,
            "fold": None,
            "folds": 2,
            "epochs": 10**6,
            "train#dataset#dataset#data": f"$@split.training[:{options.cases}]",
            "train#dataloader#num_workers": options.workers,
        }
    )
    parser["train#handlers"] = [each for each in parser["train#handlers"] if "ValidationHandler" not in str(each)]
    if name == MONAI:
        ours = [each["transform"] for each in parser["train#augmentation"]]
        parser["train#random_crop"] = [*parser["train#random_crop"], *monai_counterparts(*ours)]
    if name in (MONAI, NONE):
        parser["train#augmentation"] = []
    torch.manual_seed(0)
    return parser.get_parsed_content("train#trainer")


def run_epoch(trainer: Any) -> None:
    """One more epoch, to the end of what it started on the device."""
    trainer.state.max_epochs = trainer.state.epoch + 1
    trainer.run()
    if trainer.state.device.type == "cuda":
        torch.cuda.synchronize()


def samples_of(trainer: Any) -> int:
    """Samples an epoch."""
    return len(trainer.data_loader) * trainer.data_loader.batch_size


def busy_ms(trainer: Any) -> float:
    """Milliseconds of an epoch in which the GPU computes or copies anything."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run_epoch(trainer)
    spans = [each.time_range for each in profiler.events() if each.device_type == DeviceType.CUDA]
    return union_length([(each.start, each.end) for each in spans]) / 1e3


def union_length(spans: Sequence[tuple[float, float]]) -> float:
    """Length of what is covered by any of the spans."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def time_cases(trainers: Mapping[str, Any], rounds: int) -> dict[str, Times]:
    """The times of an epoch of each, interleaved, after one to warm up."""
    times = {name: Times() for name in trainers}
    order = list(trainers)
    for name in order:
        run_epoch(trainers[name])
    for _ in range(rounds):
        for name in order:
            measure(lambda trainer=trainers[name]: run_epoch(trainer), times[name])
        order = order[1:] + order[:1]
    return times


def print_table(trainers: Mapping[str, Any], times: Mapping[str, Times]) -> None:
    """A line a case."""
    print("\n| augmentation | CPU ms a sample | wall ms a sample | samples a second | its CPU / none's |")
    print("|---|---|---|---|---|")
    for name, mine in times.items():
        count = samples_of(trainers[name])
        cpu, wall = ([each / count for each in part] for part in (mine.cpu, mine.wall))
        ratios = [one / other for one, other in zip(mine.cpu, times[NONE].cpu, strict=True)]
        rates = [1e3 / each for each in wall]
        print(f"| {name} | {spread(cpu)} | {spread(wall)} | {spread(rates)} | {spread(ratios, 2)} |")
    for name in (OURS, MONAI):
        added = [(a - b) / samples_of(trainers[name]) for a, b in zip(times[name].cpu, times[NONE].cpu, strict=True)]
        print(f"\n{name}: adds {spread(added)} ms of CPU time to a sample.")
    steps = [one / other for one, other in zip(times[TAUGHT].cpu, times[OURS].cpu, strict=True)]
    print(f"\nA step with a teacher of {TEACHERS} networks takes {spread(steps, 2)} times the CPU time of one without.")


def print_waiting(trainers: Mapping[str, Any], times: Mapping[str, Times]) -> None:
    """On CUDA, how much of an epoch its device waits."""
    print("\n## The device\n")
    if next(iter(trainers.values())).state.device.type != "cuda":
        return print("Skipped: no GPU was asked for (--device cuda).")
    print(f"{torch.cuda.get_device_name()}\n\n| augmentation | share of the time that the device waits |\n|---|---|")
    for name, trainer in trainers.items():
        share = 1 - busy_ms(trainer) / statistics.median(times[name].wall)
        print(f"| {name} | {max(share, 0.0):.1%} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--dataset", type=Path, help="a Decathlon or nnU-Net raw dataset; made up if not given")
    parser.add_argument("-b", "--bundle", default="hippocampus_mr_unet")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", type=int, default=16, help="of the dataset, an epoch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return print("Skipped: torch finds no GPU.")
    torch.set_num_threads(1)
    bundle = find_bundle(options.bundle)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"# A training step, one thread\n\n{machine()}, {versions(('torch', 'monai', 'scanloom'))}.")
    print(f"{bundle.name}, {options.cases} cases an epoch, {options.rounds} rounds; load before: {load}.", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = options.dataset or write_cases(folder / "dataset", options.cases)
        names = (OURS, MONAI, NONE, TAUGHT)
        trainers = {name: make_trainer(name, bundle, dataset.resolve(), folder, options) for name in names}
        times = time_cases(trainers, options.rounds)
        print_table(trainers, times)
        print_waiting(trainers, times)


if __name__ == "__main__":
    main()

"""Which verdicts good and spoilt cases get: the held-out cases of a fold, as they are and spoilt in many ways.

    python benchmarks/verdicts.py -b BUNDLE -d DATASET [--fold 0] [--spoilt 21] [--only KIND …] [--json FILE]

BUNDLE must not have seen the cases of the fold: one that `scanloom train --fold 0` wrote. Prints Markdown: a row a way
of spoiling, with the number of cases, the share that is ok, check and reject, and the commonest reasons. --spoilt is
how many cases are spoilt, --only a kind of spoiling. Other organs are other regions of the MNI152 template's head,
which nilearn ships, and the pictures that scikit-image ships.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import torch
import typer
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.dataset import split_dataset
from scanloom.pipeline.verdicts import Judge
from scanloom.pipeline.volume import Volume
from scipy import ndimage

AXES = ("left-right", "posterior-anterior", "inferior-superior")
OTHERS = 42
TEMPLATE = Path("datasets", "data", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
HIPPOCAMPI = np.array([[27.0, -22.0, -16.0], [-27.0, -22.0, -16.0]])

Spoil = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def flipped(axis: int) -> Spoil:
    return lambda array, random: np.flip(array, axis)


def shifted(axis: int, share: float) -> Spoil:
    """Anatomy moved towards the higher end or, where the share is negative, the lower; what comes in is empty."""

    def spoil(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return np.moveaxis(_shift(np.moveaxis(array, axis, 0), round(share * array.shape[axis])), 0, axis)

    return spoil


def rolled(axis: int, share: float) -> Spoil:
    """As shifted; what leaves at one end comes in at the other."""
    return lambda array, random: np.roll(array, round(share * array.shape[axis]), axis)


def noised(share: float) -> Spoil:
    """Normal noise of a share of the scan's deviation."""
    return lambda array, random: array + random.normal(0, share * array.std(), array.shape)


def blurred(voxels: float) -> Spoil:
    return lambda array, random: ndimage.gaussian_filter(array, voxels)


def cropped(axis: int, share: float) -> Spoil:
    """A share of the scan taken away at the lower end of an axis, or, where it is negative, at the higher."""

    def spoil(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
        cut = round(abs(share) * array.shape[axis])
        part = slice(cut, None) if share > 0 else slice(0, array.shape[axis] - cut)
        return array[(slice(None),) * axis + (part,)]

    return spoil


def inverted(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return array.max() - array


def hounsfield(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same picture on the scale of CT."""
    return (array - array.min()) / np.ptp(array) * 2000 - 1000


def turned(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.swapaxes(array, 1, 2)


def ways() -> dict[str, dict[str, Spoil]]:
    """Kind -> name -> how a case is spoilt."""
    ends = [(axis, share) for axis in range(3) for share in (0.25, -0.25, 0.5, -0.5)]
    return {
        "good": {"as it is": lambda array, random: array},
        "flipped": {f"{name}": flipped(axis) for axis, name in enumerate(AXES)},
        "shifted": {f"{share:+.0%} {AXES[axis]}": shifted(axis, share) for axis, share in ends},
        "rolled": {f"{share:+.0%} {AXES[axis]}": rolled(axis, share) for axis, share in ends},
        "noised": {f"{share:g} deviations": noised(share) for share in (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)},
        "blurred": {f"{voxels:g} voxels": blurred(voxels) for voxels in (1, 2, 3)},
        "cropped": {
            f"{abs(share):.0%} off {AXES[axis]} at the {'lower' if share > 0 else 'higher'} end": cropped(axis, share)
            for axis in range(3)
            for share in (0.33, -0.33, 0.5, -0.5)
        },
        "intensities": {"inverted": inverted, "scale of CT": hounsfield},
        "axes swapped": {"posterior-anterior and inferior-superior": turned},
    }


def main(
    bundle: Annotated[str, typer.Option("--bundle", "-b")],
    dataset: Annotated[Path, typer.Option("--dataset", "-d")],
    fold: int = 0,
    folds: int = 5,
    spoilt: int = 1000,
    only: Annotated[list[str] | None, typer.Option()] = None,
    threads: int = 1,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    found = find_bundle(bundle)
    bench = Bench(Predictor(found, "cpu"), Judge(found))
    items = split_dataset(dataset, fold, folds).validation
    volumes = [replace(read_scan(Path(item["image"])), case=item["case"]) for item in items]
    wanted = {*(only or [*ways(), "spacing", "other organs"])}
    for kind, named in ways().items():
        for name, spoil in named.items() if kind in wanted else ():
            for number, volume in enumerate(volumes if kind == "good" else volumes[:spoilt]):
                array = spoil(volume.array[0].astype(np.float32), np.random.default_rng(number))
                bench.judge(kind, name, replace(volume, array=np.ascontiguousarray(array, np.float32)[np.newaxis]))
    for factor in (0.5, 2.0) if "spacing" in wanted else ():
        for volume in volumes[:spoilt]:
            affine = volume.affine @ np.diag([factor] * 3 + [1.0])
            bench.judge("spacing", f"times {factor:g}", replace(volume, affine=affine))
    shapes = [volume.spatial_shape for volume in volumes]
    for name, volume in others(shapes) if "other organs" in wanted else ():
        bench.judge("other organs", name, volume)
    bench.print()
    if json_file:
        json_file.write_text(json.dumps(bench.rows, indent=1), encoding="utf-8")


class Bench:
    """Judges and counts."""

    def __init__(self, predictor: Predictor, judge: Judge) -> None:
        self.predictor, self.judge_case = predictor, judge
        self.rows: list[dict[str, object]] = []
        self.seconds = {"predict": 0.0, "verdict": 0.0}

    def judge(self, kind: str, name: str, volume: Volume) -> None:
        """One case."""
        began = perf_counter()
        volume = volume.measured()
        labels = self.predictor(volume)
        predicted = perf_counter()
        verdict = self.judge_case(volume, labels, self.predictor.surface_confidence)
        self.seconds["verdict"] += perf_counter() - predicted
        self.seconds["predict"] += predicted - began
        reasons = [[reason.code, reason.severity, reason.message] for reason in verdict.reasons]
        self.rows.append(
            {"kind": kind, "name": name, "case": volume.case, "verdict": verdict.status, "reasons": reasons}
        )

    def print(self) -> None:
        """The rows, those of a kind together."""
        print("| input | cases | ok | check | reject | flagged | commonest reasons |\n|---|---|---|---|---|---|---|")
        by_kind: defaultdict[str, defaultdict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            by_kind[str(row["kind"])][str(row["name"])].append(row)
        for kind, named in by_kind.items():
            everything = [row for rows in named.values() for row in rows]
            print(_line(f"**{kind}**", everything))
            if len(named) > 1:
                for name, rows in named.items():
                    print(_line(f"{kind}: {name}", rows))
        each = {name: 1000 * seconds / len(self.rows) for name, seconds in self.seconds.items()}
        print(f"\nA case: predicted in {each['predict']:.0f} ms, judged in {each['verdict']:.0f} ms.")


def others(shapes: list[tuple[int, int, int]]) -> Iterator[tuple[str, Volume]]:
    """Scans of something else, of the sizes of the cases."""
    import nibabel as nib

    random = np.random.default_rng(0)
    package = find_spec("nilearn")
    assert package is not None and package.origin is not None, "the template needs nilearn: pip install nilearn"
    image = nib.load(Path(package.origin).parent / TEMPLATE)
    head = np.asarray(image.dataobj, dtype=np.float32)
    number = 0
    while number < OTHERS:
        shape = np.array(shapes[number % len(shapes)])
        start = random.integers(0, np.array(head.shape) - shape)
        part = head[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
        centre = nib.affines.apply_affine(image.affine, start + shape / 2)
        far = np.linalg.norm(HIPPOCAMPI - centre, axis=1).min() > 25
        if far and (part > 0.1 * head.max()).mean() > 0.8:
            number += 1
            yield "elsewhere in a head", Volume(part[np.newaxis], np.diag([1.0, 1, 1, 1]), f"region {number}")
    yield "a whole head", Volume(head[np.newaxis], image.affine, "head")
    for name, picture in _pictures():
        for shape in shapes[:3]:
            if min(picture.shape) > max(shape):
                plane = picture[: shape[0], : shape[1], np.newaxis].astype(np.float32)
                stack = np.repeat(plane, shape[2], axis=2) + random.normal(0, 3, shape).astype(np.float32)
                yield "photographs", Volume(stack[np.newaxis], np.eye(4), name)
    for shape in shapes[:21]:
        grid = np.indices(shape) - (np.array(shape) / 2 - 0.5).reshape(3, 1, 1, 1)
        ball = (np.linalg.norm(grid, axis=0) < random.uniform(5, 14)) * 100 + random.normal(100, 20, shape)
        yield "balls", Volume(ball.astype(np.float32)[np.newaxis], np.eye(4), "ball")
        yield "noise", Volume(random.normal(100, 20, (1, *shape)).astype(np.float32), np.eye(4), "noise")


def _pictures() -> Iterator[tuple[str, np.ndarray]]:
    from skimage import io

    package = find_spec("skimage")
    assert package is not None and package.origin is not None
    for path in sorted((Path(package.origin).parent / "data").glob("*.*")):
        if path.suffix in (".png", ".jpg", ".tif", ".tiff"):
            picture = io.imread(path)
            yield path.stem, picture if picture.ndim == 2 else picture[..., :3].mean(axis=-1)


def _shift(array: np.ndarray, voxels: int) -> np.ndarray:
    """Along the first axis."""
    moved = np.full_like(array, array.min())
    if voxels > 0:
        moved[voxels:] = array[:-voxels]
    else:
        moved[:voxels] = array[-voxels:]
    return moved


def _line(name: str, rows: list[dict]) -> str:
    counts = Counter(row["verdict"] for row in rows)
    shares = [f"{100 * counts[status] / len(rows):.0f} %" for status in ("ok", "check", "reject")]
    codes = Counter(reason[0] for row in rows for reason in row["reasons"])
    words = ", ".join(code for code, _ in codes.most_common(3))
    flagged = f"{100 * (1 - counts['ok'] / len(rows)):.1f} %"
    return f"| {name} | {len(rows)} | {' | '.join(shares)} | {flagged} | {words} |"


if __name__ == "__main__":
    typer.run(main)

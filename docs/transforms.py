"""Makes the pictures of transforms.md.

    python docs/transforms.py [--image FILE] [--output docs/images]

Without `--image`, the MNI152 T1 template that nilearn ships (`pip install 'scanloom[demo]'`; Fonov 2011, NeuroImage
54): a mean of 152 brains, nobody's scan. With it, any 3D NIfTI. Labels are thresholds of the smoothed image.

Slices are shown in neurological convention: the patient's right on the right, anterior (or superior) up. All seeds are
fixed, so the same image gives the same pictures.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from matplotlib.font_manager import findfont
from monai.data import MetaTensor
from monai.transforms import CropForegroundd
from PIL import Image, ImageDraw, ImageFont
from scanloom.transforms import (
    Batched,
    Blur,
    BrightnessContrast,
    Change,
    Deformation,
    Gamma,
    HistogramShift,
    LowResolution,
    Noise,
    RandBiasField,
    RandElasticDeformation,
    RandIntensity,
    RandIntensityd,
    RandSpatialDeformationd,
    change_intensity,
)
from torch.nn import functional

Window = tuple[float, float]
Pair = dict[str, torch.Tensor]
"""image: (1, *spatial), z-scored; label: (1, *spatial), uint8: 0 background, then dark, middle, bright."""

KEYS = ("image", "label")
AXIAL, CORONAL, SAGITTAL = 2, 1, 0
"""The axis that a slice is taken across."""
OUTLINES = {1: "#ff8c00", 3: "#00c8ff"}
"""Around all voxels of this label or a higher one: the brain, the white matter."""
GRID, GRID_MM = "#fff176", 15.0
MARGIN_MM = 14.0
INCHES, DPI = 11.0, 100
GREYS, COLOURS = 44, 20
"""Of a picture."""
NO_PART = {"prob": 1, "prob_rotation": 0, "prob_scaling": 0, "prob_elastic": 0}
"""Settings with which `RandSpatialDeformation` draws nothing; a panel adds the part that it shows."""
PARTS = {
    "rotation": {"rotation": (25, 25)},
    "scaling": {"scaling": (1.3, 1.3)},
    "axis_scaling": {"axis_scaling": [(1.3, 1.3), (0.8, 0.8)]},
    "shear": {"shear": [(0.3, 0.3), (0, 0)]},
    "translation": {"translation": [(25, 25), (-15, -15)]},
    "flip": {"flip_axes": [0]},
    "elastic": {"displacement": 8, "control_points": 4},
}
ALL_PARTS = {f"prob_{part}": 1 for part in PARTS if part != "flip"}

STRONGER = ((25, 3), (10, 5), (1000, 3), (1000, 9))
"""Displacements in pixels and control points of an axis."""
CHANGES: tuple[Change, ...] = (
    Gamma(0.5),
    Gamma(0.5, inverted=True),
    BrightnessContrast(brightness=0.6),
    BrightnessContrast(contrast=1.5),
    BrightnessContrast(shift=0.5),
    HistogramShift((0.0, 0.1, 0.4, 0.85, 1.0)),
    Noise(0.3, seed=0),
    Noise(0.3, seed=0, rician=True),
    Blur((2.5, 2.5)),
    LowResolution((0.2, 0.2)),
)
RAND_INTENSITY_SEEDS = (9, 10)
VOLUME_SEED = 9


class Sheet:
    """A picture of slices in rows, all on one grey scale.

    Args:
        rows: number of rows.
        lengths: width and height in mm of the slice in each column.
        heading: above all of it.
        window: the values shown black and white.
    """

    def __init__(self, rows: int, lengths: Sequence[Sequence[float]], heading: str, window: Window) -> None:
        widths, heights = zip(*lengths, strict=True)
        slice_height, title, header = INCHES * max(heights) / sum(widths), 0.37, 0.1 + 0.18 * len(heading.splitlines())
        height = rows * (slice_height + title) + header
        self.figure, axes = plt.subplots(
            rows, len(lengths), figsize=(INCHES, height), dpi=DPI, squeeze=False, width_ratios=widths
        )
        top = 1 - (header + title) / height
        self.figure.subplots_adjust(0.003, 0.003, 0.997, top, wspace=0.03, hspace=title / slice_height)
        self.figure.suptitle(heading, fontsize=10, y=1 - 0.06 / height, va="top")
        self.letters = int(18 * INCHES / len(lengths))
        self.free, self.window = iter(axes.flat), window
        for each in axes.flat:
            each.set_axis_off()

    def add(
        self,
        title: str,
        pair: Pair,
        spacing: Sequence[float],
        grid: np.ndarray | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        """Show a 2D pair, the outlines of its label if it has one, and grid lines.

        Args:
            spacing: mm of a voxel; not read from the pair, whose affine has followed the deformation.
            grid: (2, *size): the place in mm that every voxel came from, nan where there was no image.
            interpolation: of the display.
        """
        axes, (low, high) = next(self.free), self.window
        image = np.asarray(pair["image"])[0]
        places = [(np.arange(count) + 0.5) * step for count, step in zip(image.shape, spacing, strict=True)]
        extent = (0, image.shape[0] * spacing[0], 0, image.shape[1] * spacing[1])
        axes.imshow(image.T, "gray", origin="lower", extent=extent, vmin=low, vmax=high, interpolation=interpolation)
        if "label" in pair:
            label = np.asarray(pair["label"])[0].T
            for lowest, colour in OUTLINES.items():
                axes.contour(*places, label >= lowest, levels=[0.5], colors=colour, linewidths=0.8)
        for coordinate in () if grid is None else grid:
            levels = np.arange(GRID_MM, np.nanmax(coordinate) - GRID_MM / 5, GRID_MM)
            axes.contour(*places, coordinate.T, levels=levels, colors=GRID, linewidths=0.5)
        lines = [line for given in title.splitlines() for line in textwrap.wrap(given, self.letters)]
        axes.set_title("\n".join(lines), fontsize=8, pad=3, linespacing=1.1)

    def save(self, path: Path) -> None:
        """Write a PNG of few greys and colours."""
        memory = io.BytesIO()
        self.figure.savefig(memory, dpi=DPI)
        plt.close(self.figure)
        of_few_colours(Image.open(memory).convert("RGB")).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def of_few_colours(picture: Image.Image) -> Image.Image:
    """The picture with a palette: greys stay grey, colours get the nearest of a few."""
    values = np.asarray(picture).astype(int)
    coloured = np.ptp(values, axis=2) > 8
    numbers = np.rint(values.mean(axis=2) * (GREYS - 1) / 255).astype(np.uint8)
    palette = np.repeat(np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8), 3)
    if coloured.any():
        few = Image.fromarray(values[coloured][None].astype(np.uint8)).quantize(COLOURS, dither=Image.Dither.NONE)
        numbers[coloured] = np.asarray(few)[0] + GREYS
        palette = np.append(palette, np.array(few.getpalette(), dtype=np.uint8))
    result = Image.fromarray(numbers, mode="P")
    result.putpalette(palette.tobytes())
    return result


def load(path: Path | None) -> Pair:
    """The volume: axes to the right, anterior and superior, z-scored, cut to a margin around what is not background."""
    if path is None:
        from nilearn.datasets import load_mni152_template

        scan = load_mni152_template(resolution=1)
    else:
        scan = nib.load(path)
    scan = nib.as_closest_canonical(scan)
    values = torch.from_numpy(scan.get_fdata(dtype=np.float32))[None]
    image = MetaTensor((values - values.mean()) / values.std(), affine=scan.affine)
    margin = np.ceil(MARGIN_MM / image.pixdim.numpy()).astype(int).tolist()
    crop = CropForegroundd(KEYS, source_key="label", margin=margin, allow_smaller=True)
    cut = crop({"image": image, "label": thresholded(image)})
    return {key: cut[key] for key in KEYS}


def thresholded(image: MetaTensor) -> MetaTensor:
    """Four classes, dark to bright, of the image smoothed by 1 mm; thresholds half-way between means (k-means)."""
    smooth = change_intensity(image, [[Blur((1.0, 1.0, 1.0))]]).numpy()
    sample = smooth.ravel()[:: max(1, smooth.size // 500_000)]
    means = np.linspace(sample.min(), sample.max(), 4)
    for _ in range(50):
        nearest = np.abs(sample[:, None] - means).argmin(axis=1)
        groups = [sample[nearest == index] for index in range(4)]
        means = np.array([group.mean() if group.size else mean for group, mean in zip(groups, means, strict=True)])
    label = np.digitize(smooth, (means[1:] + means[:-1]) / 2).astype(np.uint8)
    return MetaTensor(torch.from_numpy(label), affine=image.affine)


def plane(pair: Pair, axis: int, place: float = 0.5) -> Pair:
    """The slice across an axis at a place from 0 to 1, as 2D images that know their spacing."""
    order = [*(each for each in range(3) if each != axis), axis]
    slices = {}
    for key, volume in pair.items():
        index = round(place * (volume.shape[axis + 1] - 1))
        affine = volume.affine.numpy().copy()
        affine[:3, 3] += affine[:3, axis] * index
        affine[:, :3] = affine[:, order]
        slices[key] = MetaTensor(volume.as_tensor().select(axis + 1, index).clone(), affine=affine)
    return slices


def thick(pair: Pair, count: int) -> Pair:
    """The 2D pair with every `count` voxels along the second axis made one, as thick slices have them."""
    thicker = {}
    for key, image in pair.items():
        columns = image.as_tensor()[..., : image.shape[2] // count * count].unflatten(2, (-1, count))
        affine = image.affine.numpy() @ np.diag([1.0, count, 1.0, 1.0])
        affine[:3, 3] += image.affine.numpy()[:3, 1] * (count - 1) / 2
        thicker[key] = MetaTensor(columns.mean(3) if key == "image" else columns[..., count // 2], affine=affine)
    return thicker


def marked(pair: Pair, letter: str = "R") -> Pair:
    """The 2D pair with a letter in the upper right corner of the image, as on a film, that shows flips."""
    font = ImageFont.truetype(findfont("DejaVu Sans:bold"), round(0.12 * pair["image"].shape[2]))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    stamp = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(stamp).text((-left, -top), letter, fill=255, font=font)
    ink = torch.from_numpy(np.array(stamp, dtype=np.float32) / 255).flip(0).T
    image = pair["image"].clone()
    corner = image[0, -len(ink) - 8 : -8, -ink.shape[1] - 8 : -8]
    corner += ink * (image.max() - corner)
    return pair | {"image": image}


def spacing_of(pair: Pair) -> list[float]:
    """Mm of a voxel along each axis."""
    image = pair["image"]
    return np.linalg.norm(image.affine.numpy()[:3, : image.ndim - 1], axis=0).tolist()


def lengths_of(pair: Pair) -> np.ndarray:
    """Mm of the image along each axis."""
    return np.array(pair["image"].shape[1:]) * spacing_of(pair)


def deformed(pair: Pair, seed: int = 0, **settings: Any) -> tuple[Pair, Deformation]:
    """The pair deformed by `RandSpatialDeformationd`, and its draw."""
    transform = RandSpatialDeformationd(KEYS, **settings).set_random_state(seed=seed)
    return transform(pair), transform.deformation


def grid_of(pair: Pair, deformation: Deformation | None = None) -> np.ndarray:
    """(n, *output_size): the place in mm in the pair that every voxel comes from, nan where that lies outside."""
    size = tuple(pair["image"].shape[1:])
    column = (-1, *(1,) * len(size))
    coordinates = (deformation or Deformation(size, size, np.eye(len(size) + 1))).coordinates().double().numpy()
    inside = (coordinates >= 0) & (coordinates <= np.array(size).reshape(column) - 1)
    return np.where(inside.all(axis=0), (coordinates + 0.5) * np.array(spacing_of(pair)).reshape(column), np.nan)


def least_jacobian(deformation: Deformation) -> float:
    """The smallest determinant of the Jacobian of the coordinates, by their differences."""
    gradients = [np.stack(np.gradient(each), axis=-1) for each in deformation.coordinates().double().numpy()]
    return float(np.linalg.det(np.stack(gradients, axis=-2)).min())


def words(settings: Mapping[str, Any]) -> str:
    """Arguments as they are written in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def call_of(change: Change) -> str:
    """A change as it is written, defaults left out."""
    given = {field.name: getattr(change, field.name) for field in fields(change)}
    defaults = {field.name: field.default for field in fields(change)}
    return (
        f"{type(change).__name__}({words({name: value for name, value in given.items() if value != defaults[name]})})"
    )


def elastic(pair: Pair, window: Window) -> Sheet:
    """The U-Net paper's defaults in 2D, 512 x 512, and what stronger ones become."""
    image = zoomed(pair["image"].as_tensor(), 512, window[0])
    for line in range(16, 512, 32):
        image[:, line : line + 2] = image[:, :, line : line + 2] = window[1]
    heading = "RandElasticDeformation of a slice of 512 x 512 pixels (no spacing) with lines drawn on it"
    sheet = Sheet(2, [(1, 1)] * 4, heading, window)
    sheet.add("before", {"image": image}, (1, 1))
    cases = [({}, 0), ({}, 1), ({}, 2)]
    cases += [({"displacement": displacement, "control_points": points}, 0) for displacement, points in STRONGER]
    for settings, seed in cases:
        transform = RandElasticDeformation(prob=1, **settings).set_random_state(seed=seed)
        result = transform(image)
        name = words(settings) if settings else "defaults: displacement=10, control_points=3"
        title = f"{name}\nseed {seed}; least Jacobian {least_jacobian(transform.deformation):.2f}"
        sheet.add(title, {"image": result}, (1, 1))
    return sheet


def zoomed(image: torch.Tensor, length: int, value: float) -> torch.Tensor:
    """A (1, x, y) image padded to a square by a value, then brought to (1, length, length)."""
    longest = max(image.shape)
    room = [longest - size for size in image.shape[:0:-1]]
    padding = [part for each in room for part in (each // 2, each - each // 2)]
    square = functional.pad(image, padding, value=value)
    return functional.interpolate(square[None], (length, length), mode="bicubic")[0]


def spatial(pair: Pair, window: Window) -> Sheet:
    """Each part alone, then all together."""
    pair, spacing = marked(pair), spacing_of(pair)
    heading = (
        "RandSpatialDeformationd of image and label: each part alone, at a fixed strength, then draws of all parts"
    )
    sheet = Sheet(2, [lengths_of(pair)] * 5, heading, window)
    sheet.add("before: R is the patient's right,\nanterior up, lines 15 mm apart", pair, spacing, grid_of(pair))
    for part, settings in PARTS.items():
        result, deformation = deformed(pair, **(NO_PART | settings | {f"prob_{part}": 1}))
        sheet.add(f"{words(settings)}\nprob_{part}=1", result, spacing, grid_of(pair, deformation))
    for seed in (1, 4):
        result, deformation = deformed(pair, seed, prob=1, flip_axes=[0], **ALL_PARTS)
        sheet.add(f"defaults, all prob_*=1,\nflip_axes=[0], seed {seed}", result, spacing, grid_of(pair, deformation))
    return sheet


def volume(pair: Pair, window: Window) -> Sheet:
    """A 3D draw in three planes."""
    after, deformation = deformed(pair, VOLUME_SEED, prob=1)
    spacing, lengths = np.array(spacing_of(pair)), lengths_of(pair)
    heading = f"RandSpatialDeformationd(['image', 'label'], prob=1) of a volume: the defaults, seed {VOLUME_SEED}"
    views = {AXIAL: "axial, lines 15 mm apart", CORONAL: "coronal", SAGITTAL: "sagittal, anterior on the right"}
    sheet = Sheet(2, [np.delete(lengths, axis) for axis in views], heading, window)
    for name, each, grid in (("before", pair, grid_of(pair)), ("after", after, grid_of(pair, deformation))):
        for axis, view in views.items():
            place = 0.4 if axis == SAGITTAL else 0.5
            kept = [other for other in range(3) if other != axis]
            index = round(place * (each["image"].shape[axis + 1] - 1))
            sheet.add(f"{name}, {view}", plane(each, axis, place), spacing[kept], np.take(grid, index, axis + 1)[kept])
    return sheet


def anisotropic(pair: Pair, window: Window) -> Sheet:
    """Thick slices: rotation in mm and in voxels, and low resolution."""
    width, height = spacing_of(pair)
    pair = thick(pair, max(1, round(5 * width / height)))
    image, spacing = pair["image"], spacing_of(pair)
    turn = NO_PART | {"rotation": (25, 25), "prob_rotation": 1}
    heading = f"A coronal slice whose voxels are {spacing[0]:.3g} mm wide and {spacing[1]:.3g} mm high"
    sheet = Sheet(1, [lengths_of(pair)] * 5, heading, window)
    sheet.add("before: lines 15 mm apart", pair, spacing, grid_of(pair), "nearest")
    result, deformation = deformed(pair, **turn)
    title = "rotation=(25, 25) of a MetaTensor:\nrigid in mm"
    sheet.add(title, result, spacing, grid_of(pair, deformation), "nearest")
    result, deformation = deformed({key: value.as_tensor() for key, value in pair.items()}, **turn)
    title = "the same of a plain tensor:\nrigid in voxels, so sheared"
    sheet.add(title, result, spacing, grid_of(pair, deformation), "nearest")
    for change in (LowResolution((0.3, 0.3)), LowResolution((0.3, 0.3), keep_thick_axis=False)):
        sheet.add(call_of(change), {"image": change_intensity(image, [[change]])}, spacing, None, "nearest")
    return sheet


def border(pair: Pair, window: Window) -> Sheet:
    """A patch, cut before or while deforming, and what can lie outside."""
    spacing, size = spacing_of(pair), [length // 2 for length in pair["image"].shape[1:]]
    settings = NO_PART | {"rotation": (25, 25), "scaling": (0.75, 0.75), "prob_rotation": 1, "prob_scaling": 1}
    heading = "A patch with rotation=(25, 25), scaling=(0.75, 0.75): cut before, and cut while it is deformed"
    patch, _ = deformed(pair, prob=0, output_size=size)
    sheet = Sheet(1, [lengths_of(patch)] * 5, heading, window)
    sheet.add(f"prob=0, output_size={size}:\nthe middle", patch, spacing)
    for mode in ("border", "reflection"):
        result, _ = deformed(patch, padding_mode=mode, **settings)
        sheet.add(f"cut, then deformed:\npadding_mode='{mode}'", result, spacing)
    value = round(window[0], 2)
    result, _ = deformed(patch, padding_mode="constant", padding_value=[value, 0], **settings)
    sheet.add(f"cut, then deformed: 'constant',\npadding_value=[{value}, 0]", result, spacing)
    result, _ = deformed(pair, output_size=size, **settings)
    sheet.add(f"cut while deforming:\noutput_size={size}", result, spacing)
    return sheet


def intensity(pair: Pair, window: Window) -> Sheet:
    """Every change of intensities at a fixed strength, and draws of all together."""
    image, spacing, lowest = pair["image"], spacing_of(pair), window[0]
    heading = (
        "Intensity on one grey scale: fixed changes, stronger than the defaults draw; then RandIntensity as it draws"
    )
    sheet = Sheet(3, [lengths_of(pair)] * 5, heading, (lowest, lowest + 1.2 * (window[1] - lowest)))
    sheet.add("before", {"image": image}, spacing)
    for change in CHANGES:
        sheet.add(call_of(change), {"image": change_intensity(image, [[change]])}, spacing)
    kept = change_intensity(image, [[Noise(0.3, 0)]], background=lowest)
    sheet.add("Noise(std=0.3, seed=0),\nbackground=its value", {"image": kept}, spacing)
    bias = RandBiasField(prob=1, coefficient=0.5).set_random_state(seed=4)
    sheet.add("RandBiasField(coefficient=0.5),\nseed 4", {"image": bias(image)}, spacing)
    for seed in RAND_INTENSITY_SEEDS:
        transform = RandIntensity().set_random_state(seed=seed)
        result = transform(image)
        drawn = ", ".join(type(change).__name__ for change in transform.changes[0])
        sheet.add(f"RandIntensity(), seed {seed}: {drawn}", {"image": result}, spacing)
    return sheet


def batch(pair: Pair, window: Window) -> Sheet:
    """Four slices as a batch, before and after."""
    slices = [plane(pair, AXIAL, place) for place in (0.35, 0.45, 0.55, 0.7)]
    spacing = spacing_of(slices[0])
    before = {key: torch.stack([each[key].as_tensor() for each in slices]) for key in KEYS}
    deform = Batched(RandSpatialDeformationd(KEYS, prob=1, spacing=spacing)).set_random_state(seed=0)
    change = Batched(RandIntensityd("image", prob_noise=1, noise_std=0.2, prob_gamma=1)).set_random_state(seed=3)
    after = change(deform(before))
    heading = "A batch (4, 1, x, y): Batched(RandSpatialDeformationd(['image', 'label'], prob=1)), then\n"
    heading += "Batched(RandIntensityd('image', prob_noise=1, noise_std=0.2, prob_gamma=1))"
    sheet = Sheet(2, [lengths_of(each) for each in slices], heading, window)
    for name, each in (("before", before), ("after", after)):
        for index in range(len(slices)):
            sheet.add(f"{name}, sample {index}", {key: each[key][index] for key in KEYS}, spacing)
    return sheet


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a 3D NIfTI in place of the MNI152 template")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    scan = load(options.image)
    window = (float(scan["image"].min()), float(np.quantile(scan["image"].numpy(), 0.999)))
    axial, coronal = plane(scan, AXIAL), plane(scan, CORONAL)
    slices = {elastic: axial, spatial: axial, border: axial, anisotropic: coronal, intensity: axial}
    for make, pair in {**slices, volume: scan, batch: scan}.items():
        make(pair, window).save(options.output / f"{make.__name__}.png")


if __name__ == "__main__":
    main()

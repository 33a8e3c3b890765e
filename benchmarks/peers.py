"""What `transforms.py` compares: for every row our transform, its peers with like parameters, and the gates.

Every transform is drawn with probability one, all parts of it: rotation by up to 30 degrees about each axis, scaling
by 0.7 to 1.4, elastic displacements of a few voxels, and nnU-Net's ranges of intensity. Peers are fed as their users
feed them: MONAI float32 tensors, torchio a `Subject`, batchgeneratorsv2 ("bg2") an int16 segmentation, and, because
it changes images in place, a copy of the image whose cost is not counted.

Libraries are imported by the functions that need them, so that one that is missing costs only its own lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Build = Callable[[tuple[int, ...]], Any]
Prepare = Callable[[Any, "Sample", int], Callable[[], Any]]

PAIR = ("image", "label")
LINEAR = ("bilinear", "nearest")
RADIANS = (math.pi / 6,) * 3
SCALES = ((-0.3, 0.4),) * 3
"""MONAI adds one to these."""
GAMMA = (0.7, 1.5)


@dataclass(frozen=True)
class Sample:
    """An image and its label map of four classes, both float32, (1, *spatial) or, a batch, (B, 1, *spatial)."""

    image: Tensor
    label: Tensor


@dataclass(frozen=True)
class Gate:
    """How many times our CPU time a peer's must be at least, as malloc comes and tuned (None: the same)."""

    default: float
    tuned: float | None = None

    def least(self, tuned: bool) -> float:
        return self.tuned if tuned and self.tuned else self.default


@dataclass(frozen=True)
class Case:
    """One library's way to do a row's work.

    Args:
        row: the work.
        name: who does it.
        build: from the spatial size to the transform.
        prepare: from the transform, a sample and a seed to the call to time; copies, casts and seeds are made here.
        gate: what our transform must reach against this peer; None where nothing is asked.
    """

    row: str
    name: str
    build: Build
    prepare: Prepare
    gate: Gate | None = None


def as_pair(transform: Any, sample: Sample, seed: int) -> Callable[[], Any]:
    """For dictionary transforms, MONAI's and ours."""
    transform.set_random_state(seed=seed)
    return lambda: transform({"image": sample.image, "label": sample.label})


def as_integer_pair(transform: Any, sample: Sample, seed: int) -> Callable[[], Any]:
    """The same with an int16 label, as bg2 gets it."""
    return as_pair(transform, Sample(sample.image, sample.label.to(torch.int16)), seed)


def as_image(transform: Any, sample: Sample, seed: int) -> Callable[[], Any]:
    """For array transforms, MONAI's and ours."""
    transform.set_random_state(seed=seed)
    return lambda: transform(sample.image)


def as_subject(transform: Any, sample: Sample, seed: int) -> Callable[[], Any]:
    """For torchio, which draws from torch's global generator."""
    import torchio

    torch.manual_seed(seed)
    label = torchio.LabelMap(tensor=sample.label)
    subject = torchio.Subject(image=torchio.ScalarImage(tensor=sample.image), label=label)
    return lambda: transform(subject)


def as_bg2(transform: Any, sample: Sample, seed: int) -> Callable[[], Any]:
    """For bg2, which draws from NumPy's and torch's global generators and changes the image in place."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    data = {"image": sample.image.clone(), "segmentation": sample.label.to(torch.int16)}
    return lambda: transform(**data)


def one_by_one(prepare: Prepare) -> Prepare:
    """A batch through a transform of single samples, then stacked, as a DataLoader does."""

    def prepare_all(transform: Any, batch: Sample, seed: int) -> Callable[[], Any]:
        samples = [Sample(image, label) for image, label in zip(batch.image, batch.label, strict=True)]
        calls = [prepare(transform, sample, seed + index) for index, sample in enumerate(samples)]

        def call() -> dict[str, Tensor]:
            outputs = [call() for call in calls]
            return {key: torch.stack([output[key] for output in outputs]) for key in outputs[0]}

        return call

    return prepare_all


def ours(name: str, **settings: Any) -> Build:
    """Builds `scanloom.transforms.<name>`."""

    def build(size: tuple[int, ...]) -> Any:
        import scanloom.transforms

        return getattr(scanloom.transforms, name)(**{"prob": 1, **settings})

    return build


def ours_batched(name: str, **settings: Any) -> Build:
    """The same for whole batches, each sample by its own draw."""

    def build(size: tuple[int, ...]) -> Any:
        from scanloom.transforms import Batched

        return Batched(ours(name, **settings)(size))

    return build


def monai(name: str, **settings: Any) -> Build:
    """Builds `monai.transforms.<name>`."""

    def build(size: tuple[int, ...]) -> Any:
        import monai.transforms

        return getattr(monai.transforms, name)(**{"prob": 1, **settings})

    return build


def monai_spatial(name: str, modes: tuple[Any, Any] = LINEAR, **settings: Any) -> Build:
    """MONAI's affine and elastic dictionary transforms, in 2D with the first of the angles and two of the scales."""

    def build(size: tuple[int, ...]) -> Any:
        angles, scales = RADIANS[: 1 if len(size) == 2 else 3], SCALES[: len(size)]
        ranges = {"rotate_range": angles, "scale_range": scales, "padding_mode": "border", "mode": modes}
        return monai(name, keys=PAIR, **ranges, **settings)(size)

    return build


def monai_elastic(modes: tuple[Any, Any] = LINEAR) -> Build:
    """Rand3DElasticd: smoothing leaves about 0.006 of the magnitude as the displacement's standard deviation."""
    return monai_spatial("Rand3DElasticd", modes, sigma_range=(5, 7), magnitude_range=(200, 500))


MONAI_INTENSITY = {
    "noise": monai("RandGaussianNoise", std=0.1),
    "blur": monai("RandGaussianSmooth", sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
    "brightness": monai("RandScaleIntensity", factors=0.25),
    "contrast": monai("RandScaleIntensityFixedMean", factors=0.25, preserve_range=True),
    "low resolution": monai("RandSimulateLowResolution", zoom_range=(0.5, 1)),
    "inverted gamma": monai("RandAdjustContrast", gamma=GAMMA, invert_image=True, retain_stats=True),
    "gamma": monai("RandAdjustContrast", gamma=GAMMA, retain_stats=True),
}
"""In nnU-Net's order."""


def monai_intensities(*names: str) -> Build:
    """MONAI's parts, one after the other."""

    def build(size: tuple[int, ...]) -> Any:
        from monai.transforms import Compose

        return Compose([MONAI_INTENSITY[name](size) for name in names])

    return build


def bg2_spatial(p_elastic: float = 1, **settings: Any) -> Build:
    """bg2's SpatialTransform as nnU-Net builds it, with the elastic part that nnU-Net leaves out."""

    def build(size: tuple[int, ...]) -> Any:
        from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

        elastic = {"elastic_deform_scale": (0.05, 0.15), "elastic_deform_magnitude": (3, 8)}
        rotation = {"p_rotation": 1, "rotation": (-math.pi / 6, math.pi / 6)}
        scaling = {"p_scaling": 1, "scaling": (0.7, 1.4), "p_synchronize_scaling_across_axes": 1}
        where = {"patch_center_dist_from_border": 0, "random_crop": False}
        return SpatialTransform(size, **where, p_elastic_deform=p_elastic, **elastic, **rotation, **scaling, **settings)

    return build


def bg2_intensities(*names: str) -> Build:
    """The parts of nnU-Net's `get_training_transforms` (v2), but drawn every time, in its order."""

    def build(size: tuple[int, ...]) -> Any:
        from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
        from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
        from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
        from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
        from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
        from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
        from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

        factor, gamma = BGContrast((0.75, 1.25)), BGContrast(GAMMA)
        parts = {
            "noise": GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True),
            "blur": GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=1, benchmark=True),
            "brightness": MultiplicativeBrightnessTransform(factor, False, p_per_channel=1),
            "contrast": ContrastTransform(factor, True, False, p_per_channel=1),
            "low resolution": SimulateLowResolutionTransform((0.5, 1), False, True, None, p_per_channel=1),
            "inverted gamma": GammaTransform(gamma, 1, False, p_per_channel=1, p_retain_stats=1),
            "gamma": GammaTransform(gamma, 0, False, p_per_channel=1, p_retain_stats=1),
        }
        if "blur" in names:
            _probe_blur(parts["blur"], size)
        return ComposeTransforms([parts[name] for name in names])

    return build


def _probe_blur(blur: Any, size: tuple[int, ...]) -> None:
    """Lets bg2 choose FFT or convolution now, for both kernels of the range, and not within a round."""
    for sigma in (0.5, 1.0):
        blur.blur_sigma = sigma
        blur(image=torch.rand(1, *size))
    blur.blur_sigma = (0.5, 1.0)


def torchio(name: str, **settings: Any) -> Build:
    """Builds `torchio.<name>`; SimpleITK, which resamples for it, gets one thread as torch does."""

    def build(size: tuple[int, ...]) -> Any:
        import SimpleITK
        import torchio

        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        return getattr(torchio, name)(**settings)

    return build


def torchio_elastic(interpolation: str = "linear") -> Build:
    """torchio's own control points and displacements, one resampling."""
    affine = {"scales": (0.7, 1.4), "degrees": 30, "image_interpolation": interpolation}
    elastic = {"num_control_points": 7, "max_displacement": 7.5, "image_interpolation": interpolation}
    return torchio("RandomAffineElasticDeformation", affine_kwargs=affine, elastic_kwargs=elastic)


ELASTIC = "elastic + affine, image + label"
ELASTIC_2D = "elastic + affine, 2D image + label"
ELASTIC_BATCH = "elastic + affine, a batch of 4 patches"
AFFINE = "affine alone, image + label"
CUBIC = "elastic + affine, image cubic, label nearest"
FOUR = "gamma + brightness + contrast + noise"
BLUR = "blur, sigma 0.5 to 1"
BIAS = "bias field, degree 3"
GAMMA_ALONE = "gamma, mean and std kept"
NOISE = "noise"
LOW_RESOLUTION = "low resolution"
HISTOGRAM = "histogram shift"
NNUNET = "nnU-Net's whole intensity set"

DEFORMATION = ours("RandSpatialDeformationd", keys=PAIR)
AFFINE_ONLY = ours("RandSpatialDeformationd", keys=PAIR, prob_elastic=0)
CUBIC_IMAGE = ours("RandSpatialDeformationd", keys=PAIR, mode=["cubic", "nearest"])
FOUR_PARTS = ("noise", "brightness", "contrast", "gamma")
ALL_ON = {f"prob_{part.replace(' ', '_')}": 1 for part in MONAI_INTENSITY}
FOUR_ON = {name: int(name.removeprefix("prob_") in FOUR_PARTS) for name in ALL_ON}
MONAI_2D = monai_spatial("Rand2DElasticd", spacing=(64, 64), magnitude_range=(3, 8))
BG2_NEAREST = bg2_spatial(mode_seg="nearest")

CASES = (
    Case(ELASTIC, "ours", DEFORMATION, as_pair),
    Case(ELASTIC, "ours, int16 label", DEFORMATION, as_integer_pair),
    Case(ELASTIC, "MONAI Rand3DElasticd", monai_elastic(), as_pair, Gate(40, tuned=12)),
    Case(ELASTIC, "torchio RandomAffineElasticDeformation", torchio_elastic(), as_subject, Gate(25)),
    Case(ELASTIC, "bg2 SpatialTransform, label nearest", BG2_NEAREST, as_bg2, Gate(6, tuned=5)),
    Case(ELASTIC, "bg2 SpatialTransform, its default label", bg2_spatial(), as_bg2, Gate(8)),
    Case(ELASTIC_2D, "ours", DEFORMATION, as_pair),
    Case(ELASTIC_2D, "MONAI Rand2DElasticd", MONAI_2D, as_pair, Gate(7)),
    Case(ELASTIC_2D, "bg2 SpatialTransform, label nearest", BG2_NEAREST, as_bg2, Gate(7)),
    Case(FOUR, "ours", ours("RandIntensity", **FOUR_ON), as_image),
    Case(FOUR, "MONAI, composed", monai_intensities(*FOUR_PARTS), as_image, Gate(3)),
    Case(FOUR, "bg2, composed", bg2_intensities(*FOUR_PARTS), as_bg2, Gate(1)),
    Case(BLUR, "ours", ours("RandBlur", sigma=(0.5, 1.0)), as_image),
    Case(BLUR, "MONAI RandGaussianSmooth", MONAI_INTENSITY["blur"], as_image, Gate(2.5)),
    Case(BLUR, "torchio RandomBlur", torchio("RandomBlur", std=(0.5, 1)), as_subject, Gate(2.5)),
    Case(BLUR, "bg2 GaussianBlurTransform", bg2_intensities("blur"), as_bg2, Gate(2.5)),
    Case(BIAS, "ours", ours("RandBiasField", degree=3), as_image),
    Case(BIAS, "MONAI RandBiasField", monai("RandBiasField", degree=3), as_image, Gate(5)),
    Case(BIAS, "torchio RandomBiasField", torchio("RandomBiasField", order=3), as_subject, Gate(5)),
    Case(AFFINE, "ours", AFFINE_ONLY, as_pair),
    Case(AFFINE, "MONAI RandAffined", monai_spatial("RandAffined"), as_pair),
    Case(AFFINE, "torchio RandomAffine", torchio("RandomAffine", scales=(0.7, 1.4), degrees=30), as_subject),
    Case(AFFINE, "bg2 SpatialTransform, label nearest", bg2_spatial(0, mode_seg="nearest"), as_bg2),
    Case(CUBIC, "ours", CUBIC_IMAGE, as_pair),
    Case(CUBIC, "MONAI Rand3DElasticd, order 3", monai_elastic((3, "nearest")), as_pair),
    Case(CUBIC, "torchio RandomAffineElasticDeformation, bspline", torchio_elastic("bspline"), as_subject),
    Case(GAMMA_ALONE, "ours", ours("RandGamma"), as_image),
    Case(GAMMA_ALONE, "MONAI RandAdjustContrast", MONAI_INTENSITY["gamma"], as_image),
    Case(GAMMA_ALONE, "torchio RandomGamma (not kept)", torchio("RandomGamma", log_gamma=(-0.36, 0.41)), as_subject),
    Case(GAMMA_ALONE, "bg2 GammaTransform", bg2_intensities("gamma"), as_bg2),
    Case(NOISE, "ours", ours("RandNoise"), as_image),
    Case(NOISE, "MONAI RandGaussianNoise", MONAI_INTENSITY["noise"], as_image),
    Case(NOISE, "torchio RandomNoise", torchio("RandomNoise", std=(0, 0.1)), as_subject),
    Case(NOISE, "bg2 GaussianNoiseTransform", bg2_intensities("noise"), as_bg2),
    Case(LOW_RESOLUTION, "ours", ours("RandSimulateLowResolution"), as_image),
    Case(LOW_RESOLUTION, "MONAI RandSimulateLowResolution", MONAI_INTENSITY["low resolution"], as_image),
    Case(LOW_RESOLUTION, "bg2 SimulateLowResolutionTransform", bg2_intensities("low resolution"), as_bg2),
    Case(HISTOGRAM, "ours", ours("RandHistogramShift"), as_image),
    Case(HISTOGRAM, "MONAI RandHistogramShift", monai("RandHistogramShift"), as_image),
    Case(NNUNET, "ours", ours("RandIntensityd", keys=["image"], **ALL_ON), as_pair),
    Case(NNUNET, "MONAI, composed", monai_intensities(*MONAI_INTENSITY), as_image),
    Case(NNUNET, "bg2, composed", bg2_intensities(*MONAI_INTENSITY), as_bg2),
    Case(ELASTIC_BATCH, "ours, Batched", ours_batched("RandSpatialDeformationd", keys=PAIR), as_pair),
    Case(ELASTIC_BATCH, "ours, one by one", DEFORMATION, one_by_one(as_pair)),
    Case(ELASTIC_BATCH, "MONAI Rand3DElasticd, one by one", monai_elastic(), one_by_one(as_pair)),
    Case(ELASTIC_BATCH, "bg2 SpatialTransform, one by one", BG2_NEAREST, one_by_one(as_bg2)),
)
"""Row by row; the first of a row is what its ratios are to."""

MOST_MEMORY_MIB = {ELASTIC: 48.0}
"""Row -> what our peak above the inputs may be."""

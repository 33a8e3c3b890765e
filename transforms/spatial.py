"""Random rotation, scaling, shear, translation, flips and elastic deformation, as one interpolation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms.inverse import InvertibleTransform, TraceableTransform
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils import TraceKeys, ensure_tuple_rep

from . import ranges
from .affine import spacing_of
from .deformation import Deformation
from .ranges import AxisSetting, Setting
from .resample import resample
from .sampling import Sampling
from .spatial_settings import SpatialSettings
from .tensors import as_kind_of, as_plain, check_channel_first

LABEL_NAMES = ("label", "seg", "mask")
"""Keys that begin so are labels: interpolated by nearest unless told otherwise."""


def deform(
    image: Any,
    deformation: Deformation,
    mode: str = "linear",
    padding_mode: str = "border",
    padding_value: float = 0.0,
) -> Any:
    """An image (C, *deformation.size) deformed by a draw that was kept; see `RandSpatialDeformation` for the modes.

    Returns:
        (C, *deformation.output_size), of the image's type and kind; a `MetaTensor`'s affine follows the affine part.
    Raises:
        ValueError: the image has another size, a mode is not known.
    """
    return _deform_all([image], [Sampling(mode, padding_mode, padding_value)], deformation)[0]


class RandSpatialDeformation(RandomizableTransform, InvertibleTransform):
    """Deform an image by a random affine map and a random smooth displacement, interpolated once.

    Lengths are mm where the image is a `MetaTensor` with an affine or `spacing` is given, else voxels; rotations are
    rigid in mm, so that thick slices do not shear. Each part is drawn with its own probability. A setting is a value or
    a (low, high) range; where "an axis" is said, also a list of one setting an axis, and each axis is drawn for itself.

    The elastic part: Gaussian displacements at the points of a coarse grid that spans the output, interpolated by the
    natural cubic B-spline through them. Draws that could fold space are scaled down: see
    `deformation.strongest_compression` for the bound that keeps the determinant of the Jacobian positive everywhere.

    Args:
        prob: of deforming at all; the parts' probabilities are within this.
        rotation: degrees about each axis (3D) or in the plane (2D), from the first axis to the second; v means -v to v.
        scaling: magnification of all axes alike; v means 1/v to v; drawn in the logarithm.
        axis_scaling: the same an axis, on top.
        shear: mm along an axis for each mm along the next, an axis; v means -v to v.
        translation: of the content, mm, an axis; v means -v to v.
        flip_axes: spatial axes that are each mirrored with probability `prob_flip`.
        displacement: standard deviation of the displacements at the grid points, mm, an axis; 0 to v if (0, v).
        control_points: of the grid, one number or one an axis, at least 2.
        control_spacing: mm between grid points, one or one an axis, in place of `control_points`; rounded so that the
            grid spans the output.
        prob_rotation, prob_scaling, prob_axis_scaling, prob_shear, prob_translation, prob_flip, prob_elastic: of each
            part, drawn separately.
        output_size: spatial size of the result, cut around the middle of the image; None: the image's.
        random_center: cut it anywhere within the image instead.
        mode: "linear", "nearest" or "cubic"; MONAI's "bilinear" and "bicubic" mean the same. Labels need "nearest".
        padding_mode: what lies outside the image: "border", "reflection", "zeros" or "constant".
        padding_value: what "constant" puts there.
        spacing: mm of a voxel along each axis, for images without an affine.

    Raises:
        ValueError: a range is impossible, a mode not known; in a call: a setting does not fit the image's axes.

    Source: Ronneberger 2015, section 3.1 (3x3 points, 10 pixels, cubic); Isensee 2021, Nature Methods 18,
        supplementary note 2 (rotation and scaling).
    """

    def __init__(
        self,
        prob: float = 0.1,
        rotation: AxisSetting = 30.0,
        scaling: Setting = (0.7, 1.4),
        axis_scaling: AxisSetting = 1.2,
        shear: AxisSetting = 0.1,
        translation: AxisSetting = 10.0,
        flip_axes: Sequence[int] = (),
        displacement: AxisSetting = 10.0,
        control_points: int | Sequence[int] = 3,
        control_spacing: float | Sequence[float] | None = None,
        prob_rotation: float = 1.0,
        prob_scaling: float = 1.0,
        prob_axis_scaling: float = 0.0,
        prob_shear: float = 0.0,
        prob_translation: float = 0.0,
        prob_flip: float = 0.5,
        prob_elastic: float = 1.0,
        output_size: Sequence[int] | None = None,
        random_center: bool = False,
        mode: str = "linear",
        padding_mode: str = "border",
        padding_value: float = 0.0,
        spacing: Sequence[float] | None = None,
    ) -> None:
        RandomizableTransform.__init__(self, ranges.probability("prob", prob))
        self.settings = SpatialSettings(
            rotation=ranges.an_axis(ranges.symmetric, "rotation", rotation),
            scaling=ranges.factor("scaling", scaling),
            axis_scaling=ranges.an_axis(ranges.factor, "axis_scaling", axis_scaling),
            shear=ranges.an_axis(ranges.symmetric, "shear", shear),
            translation=ranges.an_axis(ranges.symmetric, "translation", translation),
            displacement=ranges.an_axis(ranges.non_negative, "displacement", displacement),
            flip_axes=tuple(flip_axes),
            control_points=control_points,
            control_spacing=control_spacing,
            output_size=None if output_size is None else tuple(output_size),
            random_center=random_center,
            probabilities={
                "rotation": prob_rotation,
                "scaling": prob_scaling,
                "axis_scaling": prob_axis_scaling,
                "shear": prob_shear,
                "translation": prob_translation,
                "flip": prob_flip,
                "elastic": prob_elastic,
            },
        )
        self.sampling = Sampling(mode, padding_mode, padding_value)
        self.spacing = spacing
        self.deformation: Deformation | None = None

    def __call__(self, img: Any, randomize: bool = True) -> Any:
        """The image (C, *spatial) deformed; its type, device and kind (array, tensor, `MetaTensor`) stay.

        Args:
            randomize: False applies the last draw again.
        """
        if randomize:
            self.randomize(img)
        return _deform_all([img], [self.sampling], self.last_draw(), self)[0]

    def randomize(self, data: Any) -> None:
        """Draw for an image (C, *spatial): `deformation` holds the draw."""
        check_channel_first(data)
        super().randomize(None)
        size = tuple(data.shape[1:])
        spacing = spacing_of(data, self.spacing)
        self.deformation = self.draw(size, spacing) if self._do_transform else self.settings.draw_nothing(size, self.R)

    def draw(self, size: Sequence[int], spacing: Sequence[float] | None = None) -> Deformation:
        """A deformation to keep, and to `deform` any image of this size by; drawn whatever `prob` says.

        Args:
            size: spatial size, n numbers.
            spacing: mm of a voxel along each axis; None: lengths are voxels.
        """
        return self.settings.draw(size, spacing or (1.0,) * len(size), self.R)

    def last_draw(self) -> Deformation:
        """What the last image was deformed by.

        Raises:
            ValueError: there was none yet.
        """
        if self.deformation is None:
            raise ValueError("nothing has been drawn yet; call the transform once with randomize=True.")
        return self.deformation

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Undo the deformation that a `MetaTensor` remembers; exact for flips, else one interpolation.

        Raises:
            ValueError: it was elastic.
        """
        return _undo(data, self.pop_transform(data))


class RandSpatialDeformationd(MapTransform, RandomizableTransform, InvertibleTransform):
    """`RandSpatialDeformation` for the images of a dictionary: one draw, each interpolated once.

    Args:
        keys: the images (C, *spatial), all of one spatial size.
        mode: one for all keys, or one a key. None: "nearest" for keys that begin with label, seg or mask, "linear" for
            the others. Labels need "nearest", so that no class can appear that was not there.
        padding_mode, padding_value: one for all keys, or one a key.
        allow_missing_keys: keys that are not there are passed over.
        arguments: those of `RandSpatialDeformation`.

    Raises:
        ValueError: as there; in a call: the images differ in size.
    """

    array: type[RandSpatialDeformation] = RandSpatialDeformation

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        mode: str | Sequence[str] | None = None,
        padding_mode: str | Sequence[str] = "border",
        padding_value: float | Sequence[float] = 0.0,
        allow_missing_keys: bool = False,
        **arguments: Any,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = self.array(prob=prob, **arguments)
        RandomizableTransform.__init__(self, prob)
        count = len(self.keys)
        modes = [_default_mode(key) for key in self.keys] if mode is None else ensure_tuple_rep(mode, count)
        paddings, values = ensure_tuple_rep(padding_mode, count), ensure_tuple_rep(padding_value, count)
        self.samplings = {key: Sampling(*each) for key, *each in zip(self.keys, modes, paddings, values, strict=True)}

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSpatialDeformationd:
        """Seed the draws."""
        self.transform.set_random_state(seed, state)
        return self

    @property
    def deformation(self) -> Deformation | None:
        """The last draw."""
        return self.transform.deformation

    def __call__(self, data: Mapping[Hashable, Any], randomize: bool = True) -> dict[Hashable, Any]:
        """The dictionary with the keyed images deformed; types, devices and kinds stay.

        Args:
            randomize: False applies the last draw again.
        """
        keys = list(self.key_iterator(data))
        if not keys:
            return dict(data)
        if randomize:
            self.transform.randomize(data[keys[0]])
        self._do_transform = self.transform._do_transform
        images = [data[key] for key in keys]
        for key, image in zip(keys, images, strict=True):
            if image.shape[1:] != images[0].shape[1:]:
                raise ValueError(
                    f"{key} has size {tuple(image.shape[1:])} but {keys[0]} {tuple(images[0].shape[1:])}; "
                    "images deformed alike need one size."
                )
        samplings = [self.samplings[key] for key in keys]
        deformed = _deform_all(images, samplings, self.transform.last_draw(), self)
        return {**data, **dict(zip(keys, deformed, strict=True))}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the deformation that the keyed `MetaTensor`s remember; exact for flips, else one interpolation.

        Raises:
            ValueError: it was elastic.
        """
        return {**data, **{key: _undo(data[key], self.pop_transform(data[key])) for key in self.key_iterator(data)}}


def _default_mode(key: Hashable) -> str:
    return "nearest" if str(key).lower().startswith(LABEL_NAMES) else "linear"


def _deform_all(
    images: Sequence[Any],
    samplings: Sequence[Sampling],
    deformation: Deformation,
    tracer: TraceableTransform | None = None,
) -> list[Any]:
    """The images deformed, their affines moved along, and the draw noted in those that keep such notes."""
    results = [
        as_kind_of(values, image)
        for values, image in zip(
            resample([as_plain(image) for image in images], samplings, deformation), images, strict=True
        )
    ]
    for result, sampling in zip(results, samplings, strict=True):
        if isinstance(result, MetaTensor):
            _note(result, sampling, deformation, tracer)
    return results


def _note(image: MetaTensor, sampling: Sampling, deformation: Deformation, tracer: TraceableTransform | None) -> None:
    """Move the image's affine along, and note what was done if there is a tracer that can undo it."""
    if tracer is None:
        image.copy_meta_from(TraceableTransform.track_transform_meta(image, affine=deformation.matrix))
        return
    # MONAI's Invertd looks for "mode" and may set it to "nearest"
    drawn = {
        "matrix": deformation.matrix,
        "elastic": not deformation.is_affine,
        "mode": "bilinear" if sampling.mode == "linear" else sampling.mode,
        "padding_mode": sampling.padding_mode,
        "padding_value": sampling.padding_value,
    }
    tracer.push_transform(image, orig_size=deformation.size, affine=deformation.matrix, extra_info=drawn)


def _undo(image: MetaTensor, note: Mapping[Hashable, Any]) -> MetaTensor:
    drawn = note[TraceKeys.EXTRA_INFO]
    if drawn["elastic"]:
        raise ValueError("an elastic deformation can not be inverted; use prob_elastic=0 where inversion is needed.")
    deformation = Deformation(tuple(note[TraceKeys.ORIG_SIZE]), tuple(image.shape[1:]), np.asarray(drawn["matrix"]))
    back = deformation.inverse()
    return deform(image, back, drawn["mode"], drawn["padding_mode"], float(drawn["padding_value"]))

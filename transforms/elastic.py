"""Random elastic deformation alone."""

from __future__ import annotations

from collections.abc import Sequence

from .ranges import AxisSetting
from .spatial import RandSpatialDeformation, RandSpatialDeformationd


class RandElasticDeformation(RandSpatialDeformation):
    """Deform an image by a random smooth displacement: the elastic part of `RandSpatialDeformation`.

    The defaults are the U-Net paper's for 2D images without spacing: Gaussian displacements of 10 pixels at the points
    of a 3x3 grid, interpolated by cubic splines.

    Args:
        prob: of deforming.
        displacement: standard deviation of the displacements at the grid points, mm (voxels without spacing): a value,
            a (low, high) range, or a list of one an axis.
        control_points: of the grid that spans the output, one number or one an axis, at least 2.
        control_spacing: mm between grid points instead, one or one an axis.
        output_size, random_center, mode, padding_mode, padding_value, spacing: see `RandSpatialDeformation`.

    Raises:
        ValueError: as there.

    Source: Ronneberger 2015, section 3.1.
    """

    def __init__(
        self,
        prob: float = 0.1,
        displacement: AxisSetting = 10.0,
        control_points: int | Sequence[int] = 3,
        control_spacing: float | Sequence[float] | None = None,
        output_size: Sequence[int] | None = None,
        random_center: bool = False,
        mode: str = "linear",
        padding_mode: str = "border",
        padding_value: float = 0.0,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            prob=prob,
            displacement=displacement,
            control_points=control_points,
            control_spacing=control_spacing,
            prob_rotation=0.0,
            prob_scaling=0.0,
            output_size=output_size,
            random_center=random_center,
            mode=mode,
            padding_mode=padding_mode,
            padding_value=padding_value,
            spacing=spacing,
        )


class RandElasticDeformationd(RandSpatialDeformationd):
    """`RandElasticDeformation` for the images of a dictionary; for `mode` see `RandSpatialDeformationd`."""

    array = RandElasticDeformation

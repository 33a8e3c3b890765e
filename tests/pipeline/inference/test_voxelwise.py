"""Preprocessing by windows: equal to preprocessing the whole, or refused with the step that stands in the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import make_volume
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ShiftIntensityd,
    Spacingd,
    ThresholdIntensityd,
)
from scanloom.pipeline.inference.prepare import canonical, prepare
from scanloom.pipeline.inference.voxelwise import NeedsWholeScan, voxelwise
from scanloom.pipeline.volume import Volume

RAS = Orientationd("image", axcodes="RAS", labels=None)
CT = ScaleIntensityRanged("image", a_min=-50, a_max=150, b_min=0, b_max=1, clip=True)


def scan(spacing=(1.0, 1.0, 1.0)) -> Volume:
    array, affine = make_volume((9, 8, 7), spacing=spacing)
    return canonical(Volume(array[None].astype(np.float32), affine, "case"))


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [LoadImaged("image"), EnsureChannelFirstd("image"), RAS],
        [CT],
        [RAS, Compose([CT, EnsureTyped("image")])],
        [
            ShiftIntensityd("image", 3.0),
            ThresholdIntensityd("image", 20.0, cval=20.0),
            CastToTyped("image", torch.float32),
        ],
        [Spacingd("image", (1.0, 1.0, 1.0)), NormalizeIntensityd("image")],
        [CT, NormalizeIntensityd("image"), ShiftIntensityd("image", 1.0)],
        [NormalizeIntensityd("image", channel_wise=True)],
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps) or "none",
)
def test_a_region_is_prepared_as_in_the_whole(steps):
    volume, preprocessing = scan(), Compose(steps)
    prepared = prepare(volume, preprocessing)["image"].as_tensor()
    how = voxelwise(preprocessing, volume)
    assert not isinstance(how, NeedsWholeScan)
    region = (slice(None), slice(2, 7), slice(0, 3), slice(6, 7))
    torch.testing.assert_close(how(torch.from_numpy(volume.array[region])), prepared[region], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "spacing"),
    [
        (Spacingd("image", (1.0, 1.0, 2.0)), (1.0, 1.0, 1.0)),
        (Spacingd("image", (1.0, 1.0, 1.0)), (1.0, 1.0, 1.01)),
        (Orientationd("image", axcodes="LPS", labels=None), (1.0, 1.0, 1.0)),
        (ScaleIntensityd("image"), (1.0, 1.0, 1.0)),
        (NormalizeIntensityd("image", nonzero=True), (1.0, 1.0, 1.0)),
        (CropForegroundd("image", source_key="image", allow_smaller=True), (1.0, 1.0, 1.0)),
    ],
    ids=["coarser", "a little finer", "other order", "range", "z-score of what is not zero", "crop"],
)
def test_what_needs_the_whole_scan_says_so_by_name(step, spacing):
    assert voxelwise(Compose([RAS, step, CT]), scan(spacing)) == NeedsWholeScan(type(step).__name__)


def test_a_sheared_scan_is_resampled_even_where_its_spacing_is_right():
    volume = scan()
    sheared = volume.affine.copy()
    sheared[1, 2] = 0.3
    sheared[:3, 2] /= np.linalg.norm(sheared[:3, 2])
    how = voxelwise(Compose([Spacingd("image", (1.0, 1.0, 1.0))]), replace(volume, affine=sheared))
    assert how == NeedsWholeScan("Spacingd")


def test_a_constant_scan_has_a_z_score_of_zero():
    volume = scan()
    volume = replace(volume, array=np.full_like(volume.array, 7))
    how = voxelwise(Compose([NormalizeIntensityd("image")]), volume)
    assert not isinstance(how, NeedsWholeScan)
    assert (how(torch.from_numpy(volume.array)) == 0).all()

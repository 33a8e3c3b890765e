"""From any array order to the network's and back, to the voxel."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from factories import make_affine, make_volume, reorient
from monai.transforms import (
    Compose,
    CropForegroundd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
    SpatialPadd,
)
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.inference.prepare import (
    after_loader,
    canonical,
    labels_on_grid,
    prepare,
    spacing_step_mm,
    straightened,
    to_source_order,
)
from scanloom.pipeline.volume import Volume
from scipy.ndimage import map_coordinates

ORDERS = [*product(permutations(range(3)), product((False, True), repeat=3))]
RAS = Orientationd(keys="image", axcodes="RAS", labels=None)


def volume(array, affine):
    return Volume(np.asarray(array, np.float32)[None], affine, "case")


def one_hot(labels, classes):
    return torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).movedim(-1, 0).float()


@pytest.mark.parametrize("degrees", [(0, 0, 0), (6, -4, 10), (20, 15, -25)])
def test_all_48_orders_of_a_scan_become_one_and_return(degrees):
    array, affine = make_volume((4, 5, 6), degrees=degrees)
    for axes, flips in ORDERS:
        source = volume(*reorient(array, affine, axes, flips))
        turned = canonical(source)
        np.testing.assert_array_equal(turned.array[0], array)
        np.testing.assert_allclose(turned.affine, affine, atol=1e-9)
        assert turned.array.flags.c_contiguous
        assert turned.array.dtype == np.float32
        labels = np.arange(array.size, dtype=np.uint16).reshape(array.shape)
        expected, _ = reorient(labels, affine, axes, flips)
        back = to_source_order(labels, source)
        np.testing.assert_array_equal(back, expected)
        assert back.flags.c_contiguous
        assert back.dtype == labels.dtype


def test_canonical_volumes_have_axes_nearest_to_right_anterior_superior():
    array, affine = make_volume(degrees=(30, -20, 10))
    for axes, flips in ORDERS:
        directions = canonical(volume(*reorient(array, affine, axes, flips))).affine[:3, :3]
        assert (np.abs(directions / np.linalg.norm(directions, axis=0)).argmax(axis=0) == [0, 1, 2]).all()
        assert (directions.diagonal() > 0).all()


def test_a_volume_keeps_its_other_attributes_and_channels():
    array, affine = make_volume((4, 5, 6))
    source = Volume(np.stack([array, array + 1]), affine, "mr-12345678", "MR", series_sha256="0" * 64)
    turned = canonical(source)
    assert (turned.case, turned.modality, turned.series_sha256) == ("mr-12345678", "MR", "0" * 64)
    np.testing.assert_array_equal(turned.array[1], array + 1)


def test_the_loader_is_left_out_and_the_rest_stays_in_order():
    normalise = NormalizeIntensityd(keys="image")
    steps = after_loader(Compose([LoadImaged(keys="image"), RAS, normalise]))
    assert [*steps.transforms] == [RAS, normalise]


def test_a_loader_inside_a_nested_compose_is_left_out_too():
    nested = Compose([Compose([LoadImaged(keys="image"), RAS]), NormalizeIntensityd(keys="image")])
    array, affine = make_volume((4, 5, 6))
    assert prepare(volume(array, affine), nested)["image"].shape == (1, 4, 5, 6)


def test_preparing_runs_the_bundles_steps_on_the_scan_in_memory():
    array, affine = make_volume((4, 5, 6))
    image = prepare(volume(array, affine), Compose([LoadImaged(keys="image"), RAS, NormalizeIntensityd(keys="image")]))
    expected = (array - array.mean(dtype=float)) / array.std(dtype=float)
    np.testing.assert_allclose(image["image"].numpy()[0], expected, atol=1e-5)


def test_the_scan_itself_is_not_changed():
    array, affine = make_volume((4, 5, 6))
    source = canonical(volume(array, affine))
    before = source.array.copy()
    prepare(source, Compose([NormalizeIntensityd(keys="image")]))
    np.testing.assert_array_equal(source.array, before)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR"])
def test_labels_come_back_exactly_where_nothing_was_resampled(axcodes):
    array, affine = make_volume((7, 8, 9), degrees=(6, 0, -8))
    labels = (array % 3).astype(np.uint8)
    steps = Compose(
        [
            Orientationd(keys="image", axcodes=axcodes, labels=None),
            SpatialPadd(keys="image", spatial_size=(16, 16, 16)),
        ]
    )
    scan = canonical(volume(labels, affine))
    prepared = prepare(scan, steps)
    assert prepared["image"].shape == (1, 16, 16, 16)
    result, _ = labels_on_grid(one_hot(prepared["image"].numpy()[0], 3), prepared, steps, scan)
    np.testing.assert_array_equal(result, labels)
    assert result.dtype == np.uint8


def test_what_lay_outside_a_crop_is_background():
    array = np.zeros((8, 8, 8), np.float32)
    array[2:5, 3:6, 2:7] = 1
    steps = Compose([CropForegroundd(keys="image", source_key="image", allow_smaller=True)])
    scan = canonical(volume(array, make_affine()))
    prepared = prepare(scan, steps)
    assert prepared["image"].shape == (1, 3, 3, 5)
    result, _ = labels_on_grid(one_hot(np.ones((3, 3, 5)), 2), prepared, steps, scan)
    np.testing.assert_array_equal(result, array.astype(np.uint8))


@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, -5, 8)])
def test_labels_of_a_resampled_scan_lie_where_linear_interpolation_puts_them(degrees):
    """Of a ball that the network would draw on a 1 mm grid, against scipy's interpolation of its logits."""
    spacing, shape = (0.8, 1.5, 2.5), (30, 18, 11)
    affine = make_affine(spacing, degrees)
    steps = Compose([RAS, Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0), mode="bilinear")])
    scan = canonical(volume(np.zeros(shape), affine))
    prepared = prepare(scan, steps)
    step = prepared["image"].affine.numpy()  # of a scan that lies straight
    np.testing.assert_allclose(step, np.eye(4), atol=1e-6)
    fine = affine @ np.diag([*1 / np.array(spacing), 1]) @ step

    def distance(size, grid):
        centre = affine @ [*(np.array(shape) - 1) / 2, 1]
        voxels = np.stack([*np.indices(size), np.ones(size)]).reshape(4, -1)
        return np.linalg.norm((grid @ voxels - centre[:, None])[:3], axis=0).reshape(size)

    logit = 8.0 - distance(prepared["image"].shape[1:], fine)
    result, _ = labels_on_grid(torch.from_numpy(np.stack([0 * logit, logit])), prepared, steps, scan)
    voxels = np.stack([*np.indices(shape), np.ones(shape)]).reshape(4, -1)
    places = (np.linalg.inv(fine) @ affine @ voxels)[:3]
    interpolated = map_coordinates(logit, places, order=1, mode="nearest").reshape(shape)
    sure = np.abs(interpolated) > 0.01  # nearer to the border, float32 may fall on either side
    np.testing.assert_array_equal(result[sure], (interpolated > 0)[sure])
    exact = distance(shape, affine) < 8.0
    assert 2 * (exact & (result > 0)).sum() / (exact.sum() + (result > 0).sum()) > 0.98


def test_one_channel_is_the_logit_of_a_mask():
    array, affine = make_volume((4, 5, 6))
    steps, scan = Compose([RAS]), canonical(volume(array, affine))
    logits = torch.randn(1, 4, 5, 6)
    result, _ = labels_on_grid(logits, prepare(scan, steps), steps, scan)
    np.testing.assert_array_equal(result, logits[0].numpy() > 0)
    assert result.dtype == np.uint8


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_the_smallest_type_holds_the_largest_label(classes, dtype):
    array, affine = make_volume((2, 2, 2))
    steps, scan = Compose([RAS]), canonical(volume(array, affine))
    logits = torch.zeros(classes, 2, 2, 2)
    logits[-1] = 1
    result, _ = labels_on_grid(logits, prepare(scan, steps), steps, scan)
    assert result.dtype == dtype
    assert (result == classes - 1).all()


def test_preprocessing_that_can_not_be_undone_is_refused():
    class Halved:
        def __call__(self, data):
            return {"image": data["image"][:, ::2, ::2, ::2]}

    steps = Compose([RAS, Halved()])
    array, affine = make_volume((4, 6, 8))
    scan = canonical(volume(array, affine))
    with pytest.raises(BundleError, match=r"leads from \(4, 6, 8\) voxels back to \(2, 3, 4\).*only invertible"):
        labels_on_grid(torch.zeros(2, 2, 3, 4), prepare(scan, steps), steps, scan)


def test_rounding_in_a_header_does_not_move_the_networks_grid():
    """MONAI aligns corners or centres, as the axes lean by less or more than 1e-8, and rounds 8.5 voxels to 8 or 9."""
    array, affine = make_volume((16, 17, 13), spacing=(0.5, 1.1, 1.7), degrees=(6, -4, 3))
    rounded = affine.astype(np.float32).astype(np.float64)
    steps = Compose([RAS, Spacingd(keys="image", pixdim=(1.0, 1.0, 1.0), mode="bilinear")])
    one, other = (prepare(volume(array, each), steps)["image"] for each in (affine, rounded))
    np.testing.assert_array_equal(other.numpy(), one.numpy())


@pytest.mark.parametrize("order", ORDERS[::7])
def test_only_the_spacing_reaches_the_preprocessing(order):
    _, affine = reorient(*make_volume(spacing=(0.46875, 0.46875, 1.2), degrees=(6, -4, 3)), *order)
    spacing = np.diagonal(straightened(affine.astype(np.float32).astype(np.float64)))
    np.testing.assert_allclose(spacing[:3], np.linalg.norm(affine[:3, :3], axis=0), atol=1e-5)
    assert sum(spacing[:3] == 0.46875) == 2


def test_shear_is_left_for_the_preprocessing_to_undo():
    affine = make_affine(degrees=(6, 0, 0))
    affine[:3, 2] += 0.01 * affine[:3, 1]
    np.testing.assert_array_equal(straightened(affine), affine)


@pytest.mark.parametrize("finest", [5e-7, 4e-6, 1e-3, 0.015, 2.0**-6, 0.3, 1.0])
def test_the_spacing_of_a_microscope_survives_being_rounded(finest):
    spacing = np.array([finest, finest, finest * 12.5])
    found = np.diag(straightened(np.diag([*spacing, 1.0])))[:3]
    np.testing.assert_allclose(found, spacing, rtol=1e-3)
    np.testing.assert_array_equal(found / spacing_step_mm(spacing), np.round(found / spacing_step_mm(spacing)))
    assert spacing_step_mm(np.array([2.0**-6, 1, 1])) == spacing_step_mm(np.array([3.0, 1, 1])) == 2.0**-16

"""Random spatial deformation of batches: against rot90 and flip, label sets, seeds, types."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import BatchRandSpatialDeformation

SIZES = [(12, 9), (9, 8, 7)]
NEVER = {"prob_rotation": 0.0, "prob_scaling": 0.0, "prob_elastic": 0.0}
ALWAYS = {"prob_rotation": 1.0, "prob_scaling": 1.0, "prob_elastic": 1.0}


def deformation(seed=0, keys=("image", "label"), modes=("bilinear", "nearest"), **options):
    return BatchRandSpatialDeformation(keys, modes, **options).set_random_state(seed=seed)


def batch(size, count=2, labels=(0, 1, 2)):
    chosen = torch.tensor(labels)[torch.randint(len(labels), (count, 1, *size))]
    return {"image": torch.rand(count, 2, *size), "label": chosen, "case": ["a", "b"]}


@pytest.mark.parametrize("size", SIZES)
def test_a_draw_of_nothing_changes_nothing(size):
    data = batch(size)
    changed = deformation(**NEVER)(data)
    torch.testing.assert_close(changed["image"], data["image"], rtol=0, atol=1e-5)
    assert torch.equal(changed["label"], data["label"])


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_is_torchs(size, drawing_the_largest):
    data = batch(size)
    for axes in [(0,), (1,), (0, len(size) - 1)]:
        changed = drawing_the_largest(deformation(flip_axes=axes, **dict.fromkeys(NEVER, -1.0)))(data)
        dims = [axis + 2 for axis in axes]
        torch.testing.assert_close(changed["image"], data["image"].flip(dims), rtol=0, atol=1e-5)
        assert torch.equal(changed["label"], data["label"].flip(dims))


def test_a_quarter_turn_is_rot90(drawing_the_largest):
    data = batch((9, 9))
    transform = deformation(rotation_degrees=90, prob_rotation=1, prob_scaling=-1, prob_elastic=-1)
    changed = drawing_the_largest(transform)(data)
    torch.testing.assert_close(changed["image"], data["image"].rot90(-1, (2, 3)), rtol=0, atol=1e-5)


def test_quarter_turns_in_three_planes_are_rot90s(drawing_the_largest):
    data = batch((8, 8, 8))
    transform = deformation(rotation_degrees=90, prob_rotation=1, prob_scaling=-1, prob_elastic=-1)
    changed = drawing_the_largest(transform)(data)
    expected = data["image"]
    for plane in [(3, 4), (2, 4), (2, 3)]:
        expected = expected.rot90(-1, plane)
    torch.testing.assert_close(changed["image"], expected, rtol=0, atol=1e-5)


def test_angles_are_right_where_the_sides_differ(drawing_the_largest):
    bar = torch.zeros(1, 1, 15, 9)
    bar[:, :, 4:11, 4] = 1
    transform = deformation(keys=["image"], modes=["nearest"], rotation_degrees=90, prob_rotation=1)
    transform.prob_scaling = transform.prob_elastic = -1.0
    turned = drawing_the_largest(transform)({"image": bar})["image"]
    assert torch.equal(turned[0, 0].nonzero(), torch.tensor([[7, column] for column in range(1, 8)]))


@pytest.mark.parametrize("size", [(33, 41), (21, 25, 31)])
def test_a_scaling_above_one_magnifies(size, drawing_the_largest):
    box = torch.zeros(1, 1, *size)
    box[(slice(None), slice(None), *(slice(length // 2 - 4, length // 2 + 5) for length in size))] = 1
    transform = deformation(keys=["image"], modes=["bilinear"], scaling=(0.5, 1.5), prob_scaling=1)
    transform.prob_rotation = transform.prob_elastic = -1.0
    grown = drawing_the_largest(transform)({"image": box})["image"]
    # along an axis the box is 1 up to 4 voxels from the centre and 0 from 5: magnified, 13 ones and 1/3 at both ends
    assert grown.sum().item() == pytest.approx((13 + 2 / 3) ** len(size), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from(SIZES))
def test_labels_stay_within_the_set_that_there_was(seed, size):
    data = batch(size, labels=(0, 3, 200))
    changed = deformation(seed, flip_axes=(0, 1), elastic_voxels=6, **ALWAYS)(data)
    assert set(changed["label"].unique().tolist()) <= {0, 3, 200}


@pytest.mark.parametrize("size", SIZES)
def test_keys_are_deformed_by_the_same_draw(size):
    image = torch.rand(3, 1, *size)
    changed = deformation(modes=("bilinear", "bilinear"), **ALWAYS)({"image": image, "label": image})
    assert torch.equal(changed["image"], changed["label"])


@pytest.mark.parametrize("part", ["rotation", "scaling", "elastic"])
def test_each_sample_has_a_draw_of_its_own(part):
    data = {"image": torch.rand(1, 1, 9, 8, 7).repeat(3, 1, 1, 1, 1)}
    chances = {f"prob_{name}": float(name == part) for name in ("rotation", "scaling", "elastic")}
    first, second, third = deformation(keys=["image"], modes=["bilinear"], **chances)(data)["image"]
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(second, third, atol=1e-3)


def test_same_seed_same_result_and_another_seed_another():
    data = batch((9, 8, 7))
    one, same, other = (deformation(seed, flip_axes=(0,), **ALWAYS)(data) for seed in (1, 1, 2))
    assert torch.equal(one["image"], same["image"])
    assert torch.equal(one["label"], same["label"])
    assert not torch.equal(one["image"], other["image"])


@pytest.mark.parametrize("size", [(32, 24), (16, 14, 12)])
def test_no_draw_of_the_transform_folds_space(size):
    grids = deformation(elastic_voxels=50, prob_rotation=0, prob_scaling=0, prob_elastic=1).draw(6, size)
    for axis, length in enumerate(size):
        steps = grids.diff(dim=axis + 1)[..., len(size) - 1 - axis]
        assert steps.min() > 0, f"steps back along axis {axis} of {length} voxels"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_types_and_shapes_stay(dtype):
    data = batch((9, 8, 7)) | {"label": torch.randint(3, (2, 1, 9, 8, 7)).to(dtype)}
    changed = deformation(**ALWAYS)(data)
    assert changed["label"].dtype == dtype
    assert changed["image"].dtype == torch.float32
    assert {key: changed[key].shape for key in ("image", "label")} == {
        key: data[key].shape for key in ("image", "label")
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_sampled_where_full_ones_are(dtype):
    """A grid in half precision would be off by half a voxel in 256 of them."""
    image = torch.rand(1, 1, 300, 9).to(dtype)
    changed = deformation(keys=["image"], modes=["nearest"], **NEVER)({"image": image})["image"]
    assert changed.dtype == dtype
    assert torch.equal(changed, image)


def test_integers_sampled_linearly_are_rounded():
    image = torch.full((1, 1, 9, 9), 7, dtype=torch.int16)
    changed = deformation(keys=["image"], modes=["bilinear"], prob_rotation=1, prob_elastic=1)({"image": image})
    assert torch.equal(changed["image"], image)


def test_what_is_not_named_and_the_input_itself_stay():
    data = batch((12, 9))
    before = {key: value.clone() for key, value in data.items() if key != "case"}
    changed = deformation(keys=["image"], modes=["bilinear"], **ALWAYS)(data)
    assert changed["label"] is data["label"]
    assert changed["case"] is data["case"]
    assert torch.equal(data["image"], before["image"])


def test_zeros_padding_shows_what_came_from_outside(drawing_the_largest):
    transform = deformation(keys=["image"], modes=["bilinear"], scaling=(0.5, 0.5), padding_mode="zeros")
    transform.prob_rotation = transform.prob_elastic = -1.0
    changed = drawing_the_largest(transform)({"image": torch.ones(1, 1, 17, 17)})["image"]
    assert changed[0, 0, 0, 0] == 0
    assert changed[0, 0, 8, 8] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": ["image"], "modes": ["bilinear", "nearest"]}, "1 keys but 2 modes; give one mode a key"),
        ({"keys": [], "modes": []}, "no keys; name the tensors to deform"),
        ({"modes": ("bilinear", "linear")}, "modes is .*'linear'.*'bilinear' or 'nearest'"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap'; it must be 'border', 'reflection' or 'zeros'"),
        ({"control_points": 3}, "control_points is 3; a cubic B-spline needs at least 4"),
        ({"scaling": (0.0, 1.0)}, r"scaling is \(0.0, 1.0\); it must be two positive factors, the smaller first"),
        ({"scaling": (1.2, 0.8)}, "scaling is .* the smaller first"),
        ({"elastic_voxels": -1.0}, "elastic_voxels is -1.0; it must not be negative"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        BatchRandSpatialDeformation(**({"keys": ["image", "label"], "modes": ["bilinear", "nearest"]} | options))


def test_tensors_of_different_sizes_are_refused():
    data = {"image": torch.rand(2, 1, 9, 8), "label": torch.zeros(2, 1, 8, 9)}
    with pytest.raises(
        ValueError, match=r"label is \(2, 1, 8, 9\) but image \(2, 1, 9, 8\); .* batch and spatial size"
    ):
        deformation()(data)

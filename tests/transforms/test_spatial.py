"""Random spatial deformation: what each part does, label safety, MONAI's contract, replay and inversion."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, TestTimeAugmentation
from monai.transforms import Compose, EnsureChannelFirstd, allow_missing_keys_mode
from scanloom.transforms import RandSpatialDeformation, RandSpatialDeformationd, deform

SIZES = [(12, 9), (9, 8, 7)]
NEVER = dict.fromkeys(("prob_rotation", "prob_scaling", "prob_elastic"), 0.0)
ALWAYS = {
    f"prob_{part}": 1.0 for part in ("rotation", "scaling", "axis_scaling", "shear", "translation", "flip", "elastic")
}


def array(seed=0, **options):
    return RandSpatialDeformation(**({"prob": 1} | options)).set_random_state(seed=seed)


def dictionary(seed=0, keys=("image", "label"), **options):
    return RandSpatialDeformationd(keys, **({"prob": 1} | options)).set_random_state(seed=seed)


def study(size, labels=(0, 1, 2), affine=None):
    chosen = torch.tensor(labels)[torch.randint(len(labels), (1, *size))]
    data = {"image": torch.rand(2, *size), "label": chosen, "case": "a"}
    if affine is not None:
        data |= {key: MetaTensor(data[key], affine=affine) for key in ("image", "label")}
    return data


def blob(size, center, width=4.0):
    """A smooth spot, so that places can be measured to a fraction of a voxel."""
    places = torch.stack(torch.meshgrid(*[torch.arange(length).float() for length in size], indexing="ij"))
    away = places - torch.tensor(center).float().reshape(-1, *[1] * len(size))
    return torch.exp(-away.square().sum(0) / (2 * width**2))[None]


def center_of(image):
    places = torch.stack(torch.meshgrid(*[torch.arange(length).float() for length in image.shape[1:]], indexing="ij"))
    return ((places * image).flatten(1).sum(1) / image.sum()).tolist()


def places(size, affine):
    """(3, *size): where each voxel lies, in mm."""
    index = np.stack(np.meshgrid(*[np.arange(length, dtype=float) for length in size], indexing="ij"))
    return np.einsum("ij,j...->i...", affine[:3, :3], index) + affine[:3, 3].reshape(3, 1, 1, 1)


def deform_at_knots(coefficients):
    """The displacements at the grid points, from B-spline coefficients: weights 1/6, 4/6, 1/6 along each axis."""
    for axis in range(coefficients.ndim - 1):
        values = np.moveaxis(coefficients, axis, 0)
        coefficients = np.moveaxis((values[:-2] + 4 * values[1:-1] + values[2:]) / 6, 0, axis)
    return coefficients


@pytest.mark.parametrize("size", SIZES)
def test_with_no_argument_but_prob_it_draws_rotation_scaling_and_elastic(size):
    data = study(size)
    transform = dictionary()
    changed = transform(data)
    linear = transform.deformation.matrix[:-1, :-1]
    singular = np.linalg.svd(linear)[1]
    np.testing.assert_allclose(singular, singular[0])  # a rotation times one factor
    assert not np.allclose(linear, np.diag(linear.diagonal()))
    assert not np.isclose(singular[0], 1)
    assert transform.deformation.displacements is not None
    assert changed["image"].shape == data["image"].shape
    assert set(changed["label"].unique().tolist()) <= {0, 1, 2}  # nearest, without being told
    assert len(changed["image"].unique()) > len(data["image"].unique()) / 2  # linear


def test_keys_named_as_labels_are_nearest_and_others_linear_unless_told_otherwise():
    keys = ("image", "t2", "label", "label_left", "seg", "Mask")
    modes = [sampling.mode for sampling in dictionary(keys=keys).samplings.values()]
    assert modes == ["linear", "linear", "nearest", "nearest", "nearest", "nearest"]
    assert [s.mode for s in dictionary(mode=["nearest", "cubic"]).samplings.values()] == ["nearest", "cubic"]
    assert {s.mode for s in dictionary(mode="bilinear").samplings.values()} == {"linear"}


@pytest.mark.parametrize("size", SIZES)
def test_prob_0_changes_nothing_and_no_part_changes_nothing(size):
    data = study(size)
    for changed in (dictionary(prob=0)(data), dictionary(**NEVER)(data)):
        assert torch.equal(changed["image"], data["image"])
        assert torch.equal(changed["label"], data["label"])


@pytest.mark.parametrize("part", ["rotation", "scaling", "axis_scaling", "shear", "translation", "flip", "elastic"])
def test_each_part_has_a_probability_of_its_own(part):
    options = {name: float(name == f"prob_{part}") for name in ALWAYS}
    drawn = array(flip_axes=[0], **options).draw((20, 20))
    changed = {
        "flip": np.linalg.det(drawn.matrix) < 0,
        "translation": np.allclose(drawn.matrix[:2, :2], np.eye(2)) and not np.allclose(drawn.matrix, np.eye(3)),
        "elastic": drawn.displacements is not None,
    }
    changed["matrix"] = not np.allclose(np.abs(drawn.matrix[:2, :2]), np.eye(2))
    expected = part if part in changed else "matrix"
    assert {name for name, happened in changed.items() if happened} == {expected}


def test_parts_are_drawn_as_often_as_their_probability_says():
    transform = array(prob_rotation=0.3, prob_scaling=0, prob_elastic=0)
    turned = [not np.allclose(transform.draw((9, 9)).matrix, np.eye(3)) for _ in range(1000)]
    assert np.mean(turned) == pytest.approx(0.3, abs=0.05)  # three standard deviations


def test_a_quarter_turn_is_rot90():
    image = torch.rand(2, 9, 9)
    turned = array(rotation=(90, 90), prob_scaling=0, prob_elastic=0)(image)
    torch.testing.assert_close(turned, image.rot90(1, (1, 2)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axis", "plane"), [(0, (2, 3)), (1, (3, 1)), (2, (1, 2))])
def test_a_quarter_turn_about_an_axis_is_rot90_in_its_plane(axis, plane):
    image = torch.rand(1, 8, 8, 8)
    angles = [(90, 90) if each == axis else (0, 0) for each in range(3)]
    turned = array(rotation=angles, prob_scaling=0, prob_elastic=0)(image)
    torch.testing.assert_close(turned, image.rot90(1, plane), rtol=0, atol=1e-5)


def test_a_rotation_is_rigid_in_millimetres_where_voxels_are_not_cubes():
    spot = MetaTensor(blob((81, 41), (60, 20)), affine=np.diag([1.0, 2.0, 1.0, 1.0]))  # 20 mm from the middle
    turned = array(rotation=(90, 90), prob_scaling=0, prob_elastic=0)(spot)
    assert center_of(turned.as_tensor()) == pytest.approx([40, 30], abs=0.05)


@pytest.mark.parametrize("size", [(33, 41), (21, 25, 31)])
def test_a_scaling_above_one_magnifies_about_the_middle(size):
    middle = [(length - 1) / 2 for length in size]
    small, grown = blob(size, middle, 2.0), array(scaling=(1.5, 1.5), prob_rotation=0, prob_elastic=0)
    torch.testing.assert_close(grown(small), blob(size, middle, 3.0), rtol=0, atol=0.08)  # linear interpolation


def test_axis_scaling_stretches_each_axis_for_itself():
    image = blob((41, 41), (25, 25), 2.0)
    stretched = array(axis_scaling=[(2, 2), (1, 1)], prob_axis_scaling=1, **NEVER)(image)
    assert center_of(stretched) == pytest.approx([30, 25], abs=0.1)


def test_shear_moves_an_axis_along_the_next():
    image = blob((61, 61), (30, 40))
    sheared = array(shear=[(0.5, 0.5), (0, 0)], prob_shear=1, **NEVER)(image)
    assert center_of(sheared) == pytest.approx([35, 40], abs=0.1)


def test_a_translation_is_in_millimetres():
    image = MetaTensor(blob((41, 61), (20, 20)), affine=np.diag([1.0, 0.5, 1.0, 1.0]))
    moved = array(translation=[(3, 3), (10, 10)], prob_translation=1, **NEVER)(image)
    assert center_of(moved.as_tensor()) == pytest.approx([23, 40], abs=0.05)


def test_spacing_may_be_given_where_there_is_no_affine():
    moved = array(translation=[(3, 3), (10, 10)], prob_translation=1, spacing=(1, 0.5), **NEVER)
    assert center_of(moved(blob((41, 61), (20, 20)))) == pytest.approx([23, 40], abs=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_is_exact_in_every_mode(size):
    image = torch.rand(2, *size)
    for mode in ("linear", "cubic", "nearest"):
        flipped = array(flip_axes=(0, -1), prob_flip=1, mode=mode, **NEVER)(image)
        assert torch.equal(flipped, image.flip(1, -1))


def test_displacements_have_the_standard_deviation_they_claim():
    transform = array(displacement=2.0, prob_rotation=0, prob_scaling=0, spacing=(1.0, 2.0))
    at_knots = []
    for _ in range(400):
        drawn = transform.draw((101, 101), (1.0, 2.0))
        field = drawn.coordinates().numpy() - np.stack(np.meshgrid(*[np.arange(101.0)] * 2, indexing="ij"))
        at_knots.append(field[:, ::50, ::50])
    stds = np.std(at_knots, axis=(0, 2, 3))
    assert stds == pytest.approx([2.0, 1.0], rel=0.05)  # 3,600 draws: 1.2 % each; voxels of 2 mm along the second


@pytest.mark.parametrize(("size", "points", "std"), [((128, 128, 128), 3, 10.0), ((32, 48, 32), 5, 0.9)])
def test_displacements_in_3d_keep_the_deviation_they_claim_but_for_the_few_that_could_fold(size, points, std):
    transform = array(displacement=std, control_points=points)
    drawn = [transform.draw(size).displacements for _ in range(30)]
    at_knots = [deform_at_knots(each) for each in drawn]
    assert np.std(at_knots) == pytest.approx(std, rel=0.15)


def test_a_range_of_displacements_draws_the_deviation():
    transform = array(displacement=(0.0, 4.0), prob_rotation=0, prob_scaling=0, control_points=8)
    stds = [np.std(transform.draw((800, 800)).displacements) for _ in range(200)]
    assert min(stds) < 0.5
    assert max(stds) > 3.5


def test_control_spacing_says_how_far_points_lie_apart():
    transform = array(control_spacing=[10.0, 30.0], spacing=(1.0, 3.0), prob_rotation=0)
    assert transform.draw((41, 41), (1.0, 3.0)).displacements.shape == (5 + 2, 5 + 2, 2)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(24, 17), (13, 16, 11), (40, 40, 4)]),
    points=st.integers(2, 5),
    displacement=st.sampled_from([0.5, 3.0, 30.0, 1000.0]),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
)
def test_no_draw_folds_space(seed, size, points, displacement, spacing):
    """The determinant of the Jacobian, by differences of neighbouring voxels, is positive in every cell."""
    n = len(size)
    transform = array(seed, displacement=displacement, control_points=points)
    coordinates = transform.draw(size, spacing[:n]).coordinates().double()
    cells = (slice(None), *[slice(0, length - 1) for length in size])
    columns = []
    for axis in range(n):
        keep = list(cells)
        keep[axis + 1] = slice(None)
        columns.append(coordinates.diff(dim=axis + 1)[tuple(keep)])
    determinants = torch.linalg.det(torch.stack(columns, dim=1).movedim((0, 1), (-2, -1)))
    assert determinants.min() > 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from(SIZES),
    classes=st.sets(st.integers(0, 300), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.int16, torch.int64, torch.float32]),
)
def test_label_sets_never_grow(seed, size, classes, dtype):
    data = study(size, tuple(classes))
    data["label"] = data["label"].to(dtype)
    changed = dictionary(seed, flip_axes=[0], **ALWAYS)(data)
    assert set(changed["label"].unique().tolist()) <= classes
    assert changed["label"].dtype == dtype


@pytest.mark.parametrize("size", SIZES)
def test_image_and_label_are_moved_alike(size):
    data = study(size)
    data["image"] = data["label"].float()
    changed = dictionary(mode="nearest", **ALWAYS)(data)
    assert torch.equal(changed["image"], changed["label"].float())


def test_an_output_of_another_size_is_the_middle_of_the_whole():
    image = torch.rand(1, 20, 17, 12)
    whole, patch = (array(3, output_size=size, prob_elastic=0) for size in (None, (8, 7, 6)))
    torch.testing.assert_close(patch(image), whole(image)[:, 6:14, 5:12, 3:9], rtol=0, atol=1e-5)


def test_a_patch_without_deformation_is_a_crop_even_where_nothing_is_drawn():
    image = torch.rand(1, 20, 17)
    assert torch.equal(array(prob=0, output_size=(8, 7))(image), image[:, 6:14, 5:12])


def test_a_patch_larger_than_the_image_is_padded():
    image = torch.rand(1, 6, 7)
    padded = array(prob=0, output_size=(10, 7), padding_mode="constant", padding_value=-1.0)(image)
    torch.testing.assert_close(padded[:, 2:8], image, rtol=0, atol=1e-5)
    assert (padded[:, :2] == -1).all()


def test_a_random_center_lies_anywhere_in_the_image_and_never_outside():
    image = torch.arange(30.0).repeat(1, 4, 1)
    transform = array(output_size=(4, 10), random_center=True, **NEVER)
    starts = [int(transform(image)[0, 0, 0]) for _ in range(300)]
    assert set(starts) == set(range(21))


def test_a_patch_is_cut_anywhere_whether_it_is_deformed_or_not():
    image = torch.arange(30.0).repeat(1, 4, 1)
    transform = array(prob=0, output_size=(4, 10), random_center=True)
    assert len({int(transform(image)[0, 0, 0]) for _ in range(100)}) > 15


@pytest.mark.parametrize("size", SIZES)
def test_same_seed_same_result_and_another_seed_another(size):
    data = study(size)
    one, same, other = (dictionary(seed, **ALWAYS)(data)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("size", SIZES)
def test_array_and_dictionary_are_the_same_transform(size):
    data = study(size)
    assert torch.equal(dictionary(7)(data)["image"], array(7)(data["image"]))


@pytest.mark.parametrize("size", SIZES)
def test_a_draw_can_be_kept_and_replayed_on_other_arrays(size):
    transform, data = array(**ALWAYS), study(size)
    first = transform(data["image"])
    kept = transform.deformation
    other = transform(data["image"])
    assert not torch.equal(first, other)
    assert torch.equal(deform(data["image"], kept), first)
    assert torch.equal(transform(data["image"], randomize=False), other)
    assert set(deform(data["label"], kept, mode="nearest").unique().tolist()) <= {0, 1, 2}


def test_there_is_nothing_to_repeat_before_the_first_draw():
    for transform, data in ((array(), torch.rand(1, 9, 9)), (dictionary(), study((9, 9)))):
        with pytest.raises(ValueError, match="nothing has been drawn yet; call the transform once with randomize=True"):
            transform(data, randomize=False)


def test_a_dictionary_can_repeat_its_draw():
    transform, data = dictionary(), study((12, 9))
    first = transform(data)
    assert torch.equal(transform(data, randomize=False)["image"], first["image"])


def test_a_true_affine_follows_every_affine_draw():
    """An image of its own places in mm shows, at every voxel, the place that the new affine says."""
    affine = np.array([[0.0, -2.0, 0.3, 10], [1.5, 0, 0, -7], [0.1, 0, 3.0, 4], [0, 0, 0, 1]])
    image = MetaTensor(torch.from_numpy(places((25, 21, 15), affine)), affine=affine)
    moved = array(flip_axes=[0, 1, 2], output_size=(20, 22, 18), **(ALWAYS | {"prob_elastic": 0}))(image)
    expected = places((20, 22, 18), moved.affine.numpy())
    source = np.linalg.inv(affine) @ np.vstack([expected.reshape(3, -1), np.ones(expected[0].size)])
    inside = ((source[:3] >= 0) & (source[:3] <= np.array([[24], [20], [14]]))).all(axis=0)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(moved.numpy().reshape(3, -1)[:, inside], expected.reshape(3, -1)[:, inside], atol=1e-3)


def test_a_patch_knows_where_it_was_cut():
    image = MetaTensor(torch.rand(1, 20, 18, 16), affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    patch = array(prob=0, output_size=(8, 8, 8))(image)
    np.testing.assert_allclose(patch.affine[:3, 3], [6, 10, 12])


def test_metadata_stays_and_plain_tensors_and_arrays_stay_what_they_are():
    image = MetaTensor(torch.rand(1, 9, 9), meta={"patient_position": "HFS"})
    assert array()(image).meta["patient_position"] == "HFS"
    assert type(array()(torch.rand(1, 9, 9))) is torch.Tensor
    assert isinstance(array()(np.random.rand(1, 9, 9).astype(np.float32)), np.ndarray)


def test_the_input_is_not_changed_and_no_memory_is_shared_with_it():
    image = torch.rand(1, 9, 9)
    before = image.clone()
    for transform in (array(), array(prob=0), array(flip_axes=[0], prob_flip=1, **NEVER)):
        transform(image).add_(1)
        assert torch.equal(image, before)


@pytest.mark.parametrize("size", SIZES)
def test_flips_are_inverted_exactly(size):
    data = study(size, affine=np.eye(4))
    transform = dictionary(flip_axes=range(len(size)), **NEVER)
    there = transform(data)
    back = transform.inverse(there)
    for key in ("image", "label"):
        assert torch.equal(back[key].as_tensor(), data[key].as_tensor())
        np.testing.assert_allclose(back[key].affine, data[key].affine, atol=1e-9)
        assert back[key].applied_operations == []


def test_rotations_are_inverted_inside_the_border():
    image = MetaTensor(blob((41, 41), (20, 24)))
    transform = array(rotation=180.0, scaling=(0.8, 1.2), prob_elastic=0)
    back = transform.inverse(transform(image))
    torch.testing.assert_close(back.as_tensor(), image.as_tensor(), rtol=0, atol=0.03)  # interpolated twice


def test_a_crop_is_inverted_to_the_size_it_came_from():
    image = MetaTensor(torch.rand(1, 20, 18))
    transform = array(prob=0, output_size=(8, 8), padding_mode="zeros")
    back = transform.inverse(transform(image))
    assert back.shape == image.shape
    torch.testing.assert_close(back[:, 6:14, 5:13].as_tensor(), image[:, 6:14, 5:13].as_tensor(), rtol=0, atol=1e-5)
    assert back[0, 0, 0] == 0


def test_an_elastic_deformation_is_not_inverted_silently():
    transform = array()
    moved = transform(MetaTensor(torch.rand(1, 9, 9)))
    with pytest.raises(ValueError, match=r"elastic deformation can not be inverted; .* prob_elastic=0"):
        transform.inverse(moved)


def test_monais_test_time_augmentation_brings_predictions_back():
    """Flipping, segmenting by a threshold and flipping back is segmenting by a threshold."""
    image = MetaTensor(torch.rand(1, 8, 6, 4))
    transform = Compose([dictionary(keys=["image"], flip_axes=[0, 1, 2], **NEVER)])
    augmentation = TestTimeAugmentation(
        transform, 2, 0, lambda x: (x > 0.5).float(), "cpu", orig_key="image", progress=False, return_full_data=True
    )
    found = augmentation({"image": image}, num_examples=4)
    for each in found:
        assert torch.equal(torch.as_tensor(each), (image > 0.5).float().as_tensor())


def test_it_is_composed_seeded_and_inverted_by_monai():
    data = study(SIZES[1], affine=np.eye(4))
    compose = Compose([EnsureChannelFirstd(["image"], channel_dim=0), dictionary(flip_axes=[0], **NEVER)])
    compose.set_random_state(seed=3)
    first = compose(data)
    compose.set_random_state(seed=3)
    assert torch.equal(compose(data)["image"], first["image"])
    assert torch.equal(compose.inverse(first)["image"].as_tensor(), data["image"].as_tensor())


@pytest.mark.parametrize("workers", [0, 2])
def test_same_seed_same_batches_across_dataloader_workers(workers):
    data = [{"image": torch.full((1, 9, 9), float(case)) + torch.arange(9.0)} for case in range(4)]

    def epoch(seed):
        transform = Compose([dictionary(keys=["image"])]).set_random_state(seed=seed)
        torch.manual_seed(seed)
        loader = DataLoader(Dataset(data, transform), batch_size=2, num_workers=workers)
        return torch.cat([batch["image"] for batch in loader])

    first = epoch(5)
    assert torch.equal(first, epoch(5))
    assert not torch.equal(first, epoch(6))
    flat = (first - torch.arange(4.0).reshape(4, 1, 1, 1)).flatten(1)
    assert len(flat.unique(dim=0)) == 4  # a draw of its own each


def test_a_bundles_config_can_name_it():
    config = {"_target_": "scanloom.transforms.RandSpatialDeformationd", "keys": ["image"], "prob": 1, "shear": 0.2}
    assert isinstance(ConfigParser({"transform": config}).get_parsed_content("transform"), RandSpatialDeformationd)


def test_missing_keys_are_refused_or_passed_over():
    data = {"image": torch.rand(1, 9, 9)}
    with pytest.raises(KeyError, match="label"):
        dictionary()(data)
    assert dictionary(allow_missing_keys=True)(data)["image"].shape == (1, 9, 9)
    with allow_missing_keys_mode(transform := dictionary()):
        assert transform({"case": "a"}) == {"case": "a"}


def test_what_is_not_named_stays():
    data = study((12, 9))
    changed = dictionary(keys=["image"])(data)
    assert changed["label"] is data["label"]
    assert changed["case"] is data["case"]


def test_images_of_different_sizes_are_refused():
    data = {"image": torch.rand(1, 9, 8), "label": torch.zeros(1, 8, 9)}
    with pytest.raises(ValueError, match=r"label has size \(8, 9\) but image \(9, 8\); images deformed alike"):
        dictionary()(data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prob": 1.5}, "prob is 1.5; it must lie in 0 to 1"),
        ({"prob_shear": -0.1}, "prob_shear is -0.1; it must lie in 0 to 1"),
        ({"rotation": (30, -30)}, r"rotation is \(30, -30\); .* the smaller first"),
        ({"rotation": [(0, 5), (5, 0), 1]}, r"rotation\[1\] is \(5, 0\)"),
        ({"scaling": (0.0, 1.0)}, "scaling is .*; factors must be positive"),
        ({"displacement": -1.0}, "displacement is -1.0; it must not be negative"),
        ({"control_points": 1}, "control_points is 1; a grid needs at least 2 points"),
        ({"control_spacing": 0.0}, "control_spacing is 0.0; it must be positive"),
        ({"output_size": (4, 0)}, r"output_size is \(4, 0\); every axis needs at least one voxel"),
        ({"mode": "wavy"}, "mode is 'wavy'"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap'"),
    ],
)
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        array(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip_axes": [2]}, r"flip_axes is \(2,\), the image has 2 spatial axes, 0 to 1"),
        ({"translation": [1, 2, 3], "prob_translation": 1}, "translation has 3 settings, the image 2 axes"),
        ({"control_points": (3, 3, 3)}, r"control_points is \(3, 3, 3\), the image has 2 spatial axes"),
        ({"output_size": (4, 4, 4)}, r"output_size is \(4, 4, 4\), the image has 2 spatial axes"),
        ({"spacing": (1, 1, 1)}, r"spacing is \(1, 1, 1\), the image has 2 spatial axes"),
    ],
)
def test_settings_that_do_not_fit_the_image_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        array(**options)(torch.rand(1, 9, 8))


def test_images_without_a_channel_axis_are_refused():
    with pytest.raises(ValueError, match=r"shape \(9, 8\); it must be \(C, H, W\) or \(C, D, H, W\): .*Batched"):
        array()(torch.rand(9, 8))


def test_every_argument_is_documented():
    for name in inspect.signature(RandSpatialDeformation).parameters:
        assert name in RandSpatialDeformation.__doc__

"""Batches: every sample is what the single transform makes of it."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import decollate_batch, list_data_collate
from monai.transforms import Compose, Flip, RandFlip
from scanloom.transforms import (
    Batched,
    RandBiasField,
    RandBlur,
    RandBlurd,
    RandGamma,
    RandIntensity,
    RandIntensityd,
    RandNoise,
    RandNoised,
    RandSpatialDeformation,
    RandSpatialDeformationd,
)

ALL = {
    f"prob_{part}": 1.0
    for part in ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
}
SIZES = [(17, 12), (9, 8, 7)]
SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (1.0, 1.0, 4.0)]


def make_batch(size=(9, 8, 7), count=3, channels=2):
    return torch.randn(count, channels, *size)


def make_samples(size=(9, 8, 7)):
    """Dictionaries as a loader collates them: images and labels with affines that differ, and other things."""
    samples = []
    for number, spacing in enumerate(SPACINGS):
        affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
        image = MetaTensor(torch.randn(2, *size), affine=affine)
        label = MetaTensor(torch.randint(0, 3, (1, *size)), affine=affine)
        samples.append({"image": image, "label": label, "case": f"case {number}", "age": 40 + number})
    return samples


def assert_same(one, other):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: RandIntensity(**ALL),
        lambda: RandGamma(prob=0.5),
        lambda: RandNoise(prob=1, kind="rician"),
        lambda: RandBiasField(prob=1, channel_wise=True),
        lambda: RandSpatialDeformation(prob=1),
    ],
    ids=["intensity", "gamma", "noise", "bias field", "deformation"],
)
def test_each_sample_is_what_the_single_transform_makes_of_it(size, make):
    batch = make_batch(size, count=5)
    changed = Batched(make()).set_random_state(3)(batch)
    single = make().set_random_state(3)
    assert changed.shape == batch.shape
    for before, after in zip(batch, changed, strict=True):
        assert_same(after, single(before))


@pytest.mark.parametrize("size", SIZES)
def test_each_sample_of_a_dictionary_is_what_the_single_transform_makes_of_it(size):
    batch = {"image": make_batch(size), "label": make_batch(size, channels=1)}

    def make():
        return RandIntensityd(["image", "label"], **ALL).set_random_state(3)

    changed, single = Batched(make())(batch), make()
    for number in range(3):
        expected = single({key: batch[key][number] for key in batch})
        for key in batch:
            assert_same(changed[key][number], expected[key])


def test_samples_have_draws_of_their_own():
    batch = make_batch(count=1).expand(3, -1, -1, -1, -1)
    first, second, third = Batched(RandGamma(prob=1))(batch)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_same_seed_same_result_and_another_seed_another():
    batch = make_batch()
    one, same, other = (Batched(RandIntensity(**ALL)).set_random_state(seed)(batch) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_composition_seeds_it_and_may_be_within_it():
    batch = make_batch()

    def outside(seed):
        return Compose([Batched(RandGamma(prob=1)), Batched(RandNoise(prob=1))]).set_random_state(seed)(batch)

    def within(seed):
        return Batched(Compose([RandGamma(prob=1), RandNoise(prob=1)])).set_random_state(seed)(batch)

    for composed in (outside, within):
        assert torch.equal(composed(1), composed(1))
        assert not torch.equal(composed(1), composed(2))


def test_transforms_of_others_work_too_with_and_without_draws():
    batch = make_batch()
    assert torch.equal(Batched(Flip(0)).set_random_state(0)(batch), batch.flip(2))
    assert torch.equal(Batched(RandFlip(1.0, 1)).set_random_state(0)(batch), batch.flip(3))


@pytest.mark.parametrize(
    "make", [lambda: RandBlurd("image", prob=1), lambda: RandIntensityd("image", **ALL)], ids=["blur", "intensity"]
)
def test_a_collated_batch_uses_the_affine_of_each_sample(make):
    samples = make_samples()
    changed, single = Batched(make().set_random_state(3))(list_data_collate(samples)), make().set_random_state(3)
    expected = [single(sample) for sample in samples]
    assert isinstance(changed["image"], MetaTensor)
    for after, sample in zip(changed["image"], expected, strict=True):
        assert_same(after, sample["image"])
    torch.testing.assert_close(changed["image"].affine, torch.stack([sample["image"].affine for sample in samples]))


def test_a_batch_tensor_with_affines_is_changed_alike():
    collated = list_data_collate(make_samples())["image"]
    changed = Batched(RandBlur(prob=1, sigma=1.0))(collated)
    for after, values, affine in zip(changed, collated.as_tensor(), collated.affine, strict=True):
        assert_same(after, RandBlur(prob=1, sigma=1.0)(MetaTensor(values, affine=affine)))


def test_one_affine_may_hold_for_all_samples():
    batch = make_batch()
    affine = torch.diag(torch.tensor([0.5, 1.0, 2.0, 1.0]))
    changed = Batched(RandBlur(prob=1, sigma=1.0))(MetaTensor(batch, affine=affine))
    assert_same(changed, Batched(RandBlur(prob=1, sigma=1.0, spacing=(0.5, 1, 2)))(batch))
    torch.testing.assert_close(changed.affine, affine.expand(3, -1, -1).double(), check_dtype=False)


def test_a_changed_batch_can_be_taken_apart_with_its_affines():
    changed = Batched(RandNoised("image", prob=1))(list_data_collate(make_samples()))
    apart = decollate_batch(changed["image"])
    assert [tuple(sample.affine.diagonal()[:3].tolist()) for sample in apart] == SPACINGS
    for sample, values in zip(apart, changed["image"].as_tensor(), strict=True):
        assert_same(sample, values)


@pytest.mark.parametrize("size", SIZES)
def test_images_and_labels_are_deformed_together(size):
    batch = {"image": make_batch(size), "label": torch.randint(0, 3, (3, 1, *size)), "case": ["a", "b", "c"]}

    def make():
        return RandSpatialDeformationd(["image", "label"], prob=1, flip_axes=[0]).set_random_state(3)

    changed, single = Batched(make())(batch), make()
    for number in range(3):
        expected = single({key: batch[key][number] for key in ("image", "label")})
        assert_same(changed["image"][number], expected["image"])
        assert_same(changed["label"][number], expected["label"])
    assert changed["label"].dtype == batch["label"].dtype
    assert set(changed["label"].unique().tolist()) <= {0, 1, 2}


def test_a_deformation_moves_the_affines_of_its_samples():
    samples = make_samples()

    def make():
        return RandSpatialDeformationd(["image", "label"], prob=1, prob_elastic=0).set_random_state(3)

    changed, single = Batched(make())(list_data_collate(samples)), make()
    for number, sample in enumerate(samples):
        expected = single(sample)
        for key in ("image", "label"):
            assert_same(changed[key].as_tensor()[number], expected[key])
            torch.testing.assert_close(changed[key].affine[number], expected[key].affine)
        assert not torch.allclose(changed["image"].affine[number], sample["image"].affine)


def test_the_input_and_what_is_no_tensor_or_no_key_stay():
    batch = list_data_collate(make_samples())
    before = batch["image"].clone()
    changed = Batched(RandIntensityd("image", **ALL))(batch)
    assert changed is not batch
    for key in ("label", "case", "age"):
        assert changed[key] is batch[key]
    assert_same(batch["image"], before)
    assert not torch.equal(changed["image"].as_tensor(), before.as_tensor())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64])
def test_types_stay(dtype):
    batch = (100 + 20 * make_batch()).to(dtype)
    assert Batched(RandIntensity(**ALL))(batch).dtype == dtype


def test_a_batch_of_one_is_a_batch():
    batch = make_batch(count=1)
    changed = Batched(RandGamma(prob=1)).set_random_state(0)(batch)
    assert_same(changed[0], RandGamma(prob=1).set_random_state(0)(batch[0]))


def test_different_numbers_of_samples_are_refused():
    batch = {"image": make_batch(count=3), "label": make_batch(count=2)}
    with pytest.raises(ValueError, match=r"different numbers of samples: \{'image': 3, 'label': 2\}"):
        Batched(RandGamma(prob=1))(batch)


def test_the_message_about_batches_names_what_helps():
    with pytest.raises(ValueError, match="wrap the transform in Batched for a batch"):
        RandGamma(prob=1)(make_batch())


def test_a_dictionary_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match=r"no \(B, C, \*spatial\) tensor among the keys \['case'\]"):
        Batched(RandNoised(["image"], prob=1))({"case": ["a", "b"]})


def test_what_a_transform_adds_is_there_for_all_samples():
    added = Batched(lambda sample: {**sample, "double": 2 * sample["image"], "name": "x"})
    batch = {"image": torch.rand(3, 1, 4, 5)}
    assert torch.equal(added(batch)["double"], 2 * batch["image"])
    assert added(batch)["name"] == ["x"] * 3

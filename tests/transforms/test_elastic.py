"""Elastic deformation alone, with the U-Net paper's defaults."""

import inspect

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scanloom.transforms import RandElasticDeformation, RandElasticDeformationd


def test_the_defaults_in_2d_are_those_of_the_u_net_paper():
    transform = RandElasticDeformation(prob=1).set_random_state(seed=0)
    drawn = [transform.draw((512, 512)) for _ in range(200)]
    assert all(np.array_equal(each.matrix, np.eye(3)) for each in drawn)
    assert drawn[0].displacements.shape == (3 + 2, 3 + 2, 2)  # a 3x3 grid, and what a spline needs around it
    middle = [each.displacements[1:-1, 1:-1] for each in drawn]
    identity = np.stack(np.meshgrid(*[np.arange(0, 512, 1.0)] * 2, indexing="ij"))
    at_points = [(each.coordinates().numpy() - identity)[:, [0, 511]][:, :, [0, 511]] for each in drawn]
    assert np.std(at_points) == pytest.approx(10, rel=0.08)  # 1,600 draws: 1.8 %
    assert np.isfinite(middle).all()


@pytest.mark.parametrize("size", [(20, 18), (9, 10, 8)])
def test_a_displacement_of_zero_is_identity(size):
    image = torch.rand(2, *size)
    still = RandElasticDeformation(prob=1, displacement=0.0)(image)
    torch.testing.assert_close(still, image, rtol=0, atol=1e-5)


def test_the_affine_stays():
    image = MetaTensor(torch.rand(1, 9, 10, 8), affine=np.diag([1.0, 2.0, 3.0, 1.0]))
    np.testing.assert_array_equal(RandElasticDeformation(prob=1)(image).affine, image.affine)


def test_image_and_label_of_a_dictionary_are_moved_alike():
    label = torch.randint(0, 3, (1, 30, 28))
    changed = RandElasticDeformationd(["image", "label"], prob=1, mode="nearest", displacement=3.0)(
        {"image": label.float(), "label": label}
    )
    assert torch.equal(changed["image"], changed["label"].float())
    assert not torch.equal(changed["label"], label)


def test_labels_are_nearest_by_default():
    transform = RandElasticDeformationd(["image", "label"])
    assert [sampling.mode for sampling in transform.samplings.values()] == ["linear", "nearest"]
    assert isinstance(transform.transform, RandElasticDeformation)


def test_every_argument_is_documented():
    for name in inspect.signature(RandElasticDeformation).parameters:
        assert name in RandElasticDeformation.__doc__

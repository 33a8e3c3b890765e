"""Plans: valid for any data, nnU-Net's own where its budget is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.networks import UNet
from scanloom.pipeline.fingerprint import Fingerprint, Intensities, LabelSize, Spread
from scanloom.pipeline.training.plan import (
    BUDGETS,
    Plan,
    describe_plan,
    inference_windows,
    plan_training,
    target_spacing,
)
from scanloom.pipeline.training.topology import feature_values, plan_topology

GPU, CPU = BUDGETS["gpu"], BUDGETS["cpu"]
HU = Intensities(mean=99.4, std=39.4, least=-1000, p00_5=-41, median=101, p99_5=176, most=900)


def same(value: float) -> Spread:
    return Spread(*[float(value)] * 5)


def make_fingerprint(
    spacing: Sequence[float] = (1, 1, 1),
    size: Sequence[int] = (35, 50, 35),
    cases: int = 208,
    modality: str | None = "MR",
    names: Sequence[str] = ("head", "body"),
    foreground: Intensities = HU,
    nonzero: float = 1.0,
) -> Fingerprint:
    """Of scans that are all alike; `spacing` and `size` along R, A and S."""
    return Fingerprint(
        cases=cases,
        modality=modality,
        spacing_mm=tuple(map(same, spacing)),
        size_voxels=tuple(map(same, size)),
        extent_mm=tuple(same(n * mm) for n, mm in zip(size, spacing, strict=True)),
        nonzero_share=same(nonzero),
        foreground=foreground,
        image_levels={50.0: same(1)},
        labels={value: LabelSize(name, cases, same(1)) for value, name in enumerate(names, start=1)},
    )


PLAUSIBLE = st.builds(
    make_fingerprint,
    spacing=st.tuples(*[st.floats(0.2, 12)] * 3),
    size=st.tuples(*[st.integers(2, 1200)] * 3),
    cases=st.integers(1, 2000),
    modality=st.sampled_from(["CT", "MR", None]),
    names=st.lists(st.text("abc", min_size=1), min_size=1, max_size=40),
)


def network_of(plan: Plan) -> UNet:
    with torch.device("meta"):
        return UNet(
            features=plan.features,
            strides=plan.strides,
            kernel_sizes=plan.kernel_sizes,
            spatial_dims=3,
            padding="same",
            norm="batch",
        )


@settings(max_examples=150, deadline=None)
@given(PLAUSIBLE, st.sampled_from([GPU, CPU]))
def test_any_data_has_a_valid_plan(fingerprint: Fingerprint, budget) -> None:
    plan = plan_training(fingerprint, budget)
    levels = len(plan.features)
    assert len(plan.strides) == levels - 1 and len(plan.kernel_sizes) == levels
    assert all(n % d == 0 and n >= 1 for n, d in zip(plan.patch_size, plan.size_divisor, strict=True))
    bound = [-(-n // d) * d for n, d in zip(plan.median_size, plan.size_divisor, strict=True)]
    assert all(n <= most for n, most in zip(plan.patch_size, bound, strict=True))
    assert all(a <= b for a, b in pairwise(plan.features)) and plan.features[-1] <= budget.most_features
    assert all({*stride} <= {1, 2} and 2 in stride for stride in plan.strides)
    assert all({*kernel} <= {1, 3} for kernel in plan.kernel_sizes) and plan.kernel_sizes[-1] == (3, 3, 3)
    assert plan.batch_size >= 1 and plan.epochs >= 1 and 1 <= plan.validate_every <= plan.epochs
    assert 0 <= plan.cache_rate <= 1 and len(plan.spacing_mm) == 3
    values = feature_values(plan_topology(plan.spacing_mm, plan.patch_size), plan.features, len(fingerprint.labels) + 1)
    assert values <= budget.values or plan.patch_size == plan.size_divisor
    mode, window = inference_windows(plan, fingerprint, None)
    assert (mode, window) == ("gaussian", plan.patch_size)


@settings(max_examples=25, deadline=None)
@given(PLAUSIBLE, st.sampled_from([GPU, CPU]))
def test_any_plan_is_a_network_that_pools_its_patch_evenly(fingerprint: Fingerprint, budget) -> None:
    plan = plan_training(fingerprint, budget)
    network = network_of(plan)
    assert network.size_divisor == plan.size_divisor
    assert network.output_size(plan.patch_size) == plan.patch_size


@pytest.mark.parametrize(
    ("spacing", "size", "cases", "patch", "batch"),
    [  # in the order of the plans' files, z y x
        ((1, 1, 1), (36, 50, 35), 260, (40, 56, 40), 9),  # Task04 hippocampus
        ((1.6, 0.79, 0.79), (187, 512, 512), 41, (64, 192, 160), 2),  # Task09 spleen
        ((2.5, 0.8, 0.8), (96, 512, 512), 281, (40, 224, 224), 2),  # Task07 pancreas
        ((1.24, 0.78, 0.78), (252, 512, 512), 63, (80, 192, 160), 2),  # Task06 lung
        ((1.37, 1.25, 1.25), (115, 320, 232), 20, (80, 192, 160), 2),  # Task02 heart
        ((1, 0.77, 0.77), (482, 512, 512), 131, (128, 128, 128), 2),  # Task03 liver
        ((3.6, 0.625, 0.625), (20, 320, 319), 32, (20, 320, 256), 2),  # Task05 prostate
    ],
)
def test_nnunet_s_published_plans_come_out_of_its_budget(spacing, size, cases, patch, batch) -> None:
    """Source: Isensee 2021, Nature Methods 18:203, supplementary table of 3D full resolution plans."""
    plan = plan_training(make_fingerprint(spacing, size, cases), GPU)
    assert (plan.patch_size, plan.batch_size) == (patch, batch)
    assert plan.features[:2] == (32, 64)


def test_the_hippocampus_network_is_nnunet_s() -> None:
    plan = plan_training(make_fingerprint((1, 1, 1), (36, 50, 35), 260), GPU)
    assert plan.spacing_mm == (1, 1, 1)
    assert plan.features == (32, 64, 128, 256) and plan.strides == ((2, 2, 2),) * 3
    assert plan.kernel_sizes == ((3, 3, 3),) * 4 and plan.normalisation.kind == "z-score"


def test_a_batch_sees_no_more_than_a_twentieth_of_the_data_and_of_a_fold_s_cases() -> None:
    assert plan_training(make_fingerprint(cases=100), GPU).batch_size == 3
    assert plan_training(make_fingerprint(cases=30), GPU).batch_size == 2
    assert plan_training(make_fingerprint(cases=2), GPU).batch_size == 1


def test_the_processor_s_budget_is_smaller() -> None:
    plan = plan_training(make_fingerprint((2.5, 0.8, 0.8), (96, 512, 512)), CPU)
    assert prod(plan.patch_size) < 150_000 and plan.features[0] == 16


def test_a_thick_axis_is_neither_pooled_nor_convolved_until_it_is_no_thicker_than_the_others() -> None:
    plan = plan_training(make_fingerprint((0.6, 0.6, 5), (400, 400, 24)), GPU)
    assert plan.strides[:3] == ((2, 2, 1),) * 3 and plan.strides[3][2] == 2
    assert [kernel[2] for kernel in plan.kernel_sizes[:4]] == [1, 1, 1, 3]
    assert plan.thick_axis == 2


def test_a_thick_axis_takes_the_finer_tenth_of_its_spacings() -> None:
    thick = make_fingerprint((0.6, 0.6, 5), (400, 400, 24))
    axis = Spread(least=0.5, p10=2.0, median=5.0, p90=6.0, most=7.0)
    assert target_spacing(replace(thick, spacing_mm=(*thick.spacing_mm[:2], axis))) == (0.6, 0.6, 2.0)
    finer = replace(axis, p10=0.4)  # but no finer than the others
    assert target_spacing(replace(thick, spacing_mm=(*thick.spacing_mm[:2], finer))) == (0.6, 0.6, 0.6)


@pytest.mark.parametrize(("spacing", "size"), [((1, 1, 2.9), (400, 400, 24)), ((0.6, 0.6, 5), (400, 400, 200))])
def test_without_thick_slices_or_with_many_the_median_is_taken(spacing, size) -> None:
    few = make_fingerprint(spacing, size)
    axis = replace(few.spacing_mm[2], p10=1.0)
    assert target_spacing(replace(few, spacing_mm=(*few.spacing_mm[:2], axis))) == spacing


def test_ct_is_clipped_and_scaled_by_the_foreground_of_all_cases() -> None:
    how = plan_training(make_fingerprint(modality="CT"), GPU).normalisation
    assert (how.kind, how.low, how.high, how.mean, how.std) == ("clip", -41, 176, 99.4, 39.4)


@pytest.mark.parametrize("modality", ["MR", "PT", None])
def test_other_scans_are_z_scored_each(modality) -> None:
    assert plan_training(make_fingerprint(modality=modality), GPU).normalisation.kind == "z-score"


def test_ct_of_one_value_in_the_foreground_is_z_scored() -> None:
    flat = replace(HU, p00_5=1, p99_5=1, std=0)
    assert plan_training(make_fingerprint(modality="CT", foreground=flat), GPU).normalisation.kind == "z-score"


def test_scans_that_are_mostly_zero_are_z_scored_where_they_are_not() -> None:
    assert plan_training(make_fingerprint(nonzero=0.6), GPU).normalisation.nonzero
    assert not plan_training(make_fingerprint(nonzero=0.8), GPU).normalisation.nonzero


@pytest.mark.parametrize(
    ("names", "gpu", "cpu"),
    [
        (("liver", "bright spot"), (0, 1, 2), (0,)),
        (("left lung", "right lung"), (1, 2), ()),
        (("kidney_R",), (1, 2), ()),
    ],
)
def test_labels_named_after_a_side_are_not_mirrored_across_it(names, gpu, cpu) -> None:
    fingerprint = make_fingerprint(names=names)
    assert plan_training(fingerprint, GPU).mirror_axes == gpu
    assert plan_training(fingerprint, CPU).mirror_axes == cpu


def test_foreground_is_oversampled_where_a_patch_is_a_part_of_a_scan() -> None:
    assert not plan_training(make_fingerprint(), GPU).oversampled
    assert plan_training(make_fingerprint(size=(300, 300, 300)), GPU).oversampled


def test_what_does_not_fit_into_memory_is_not_cached() -> None:
    assert plan_training(make_fingerprint(), CPU).cache_rate == 1
    assert plan_training(make_fingerprint(size=(500, 500, 500), cases=100), CPU).cache_rate == 0.08


def test_the_steps_of_a_training_do_not_depend_on_the_number_of_cases() -> None:
    for cases in (10, 50, 1000):
        plan = plan_training(make_fingerprint(cases=cases), CPU)
        assert plan.epochs * (int(cases * 0.8) // plan.batch_size) == pytest.approx(5000, rel=0.15)


def test_windows_are_without_seams_where_one_holds_the_largest_scan_or_twice_the_halo() -> None:
    small = make_fingerprint()
    plan = plan_training(small, CPU)
    assert inference_windows(plan, small, (113, 113, 113)) == ("seamless", (144, 144, 144))
    large = make_fingerprint(size=(300, 300, 300))
    plan = replace(plan_training(large, CPU), strides=((2, 2, 2),) * 2)
    assert inference_windows(plan, large, (61, 61, 61)) == ("seamless", (120, 120, 120))
    assert inference_windows(plan, large, (301, 301, 301)) == ("gaussian", plan.patch_size)


def test_feature_maps_are_counted_as_a_network_makes_them() -> None:
    topology = plan_topology((1, 1, 3), (32, 24, 8))
    features = [4, 8, 16, 16][: len(topology.kernel_sizes)]
    network = UNet(
        features=features,
        strides=topology.strides,
        kernel_sizes=topology.kernel_sizes,
        spatial_dims=3,
        padding="same",
        out_channels=5,
    )
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.register_forward_hook(lambda module, args, output: counted.append(output.numel()))
    network.eval()(torch.zeros(1, 1, *topology.patch_size))
    assert sum(counted) == feature_values(topology, features, 5)


def test_the_plan_in_words_and_in_json() -> None:
    fingerprint = make_fingerprint((0.8, 0.8, 2.5), (512, 512, 96), 281, "CT")
    plan = plan_training(fingerprint, GPU)
    words = describe_plan(plan, fingerprint)
    assert words["spacing"] == "0.8 x 0.8 x 2.5 mm" and words["patch"] == "224 x 224 x 40 voxels, 2 a batch"
    assert words["intensities"] == "clipped to -41 and 176, less 99.4, divided by 39.4"
    values = plan.to_json()
    assert values["strides"][0] == [2, 2, 1] and values["normalisation"]["low"] == -41
    masked = make_fingerprint(modality=None, nonzero=0.5, names=("left",), size=(3, 3, 3))
    words = describe_plan(plan_training(masked, CPU), masked)
    assert words["intensities"] == "z-score of each scan where it is not 0" and words["modality"] == "not known"
    assert words["mirrored axes"] == "none" and words["strides"] == "none"
    assert np.isfinite(plan.cache_rate)

"""Bundles in the layout of MONAI's Model Zoo give the labels that MONAI's own run of them gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from factories import write_mr_series, write_nifti
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.segment import CaseResult, PredictOptions, predict
from scanloom.pipeline.volume import Volume
from scipy.ndimage import gaussian_filter, label
from zoo import NETWORK, SOFTMAX_FIRST, make_zoo_bundle

pytestmark = pytest.mark.filterwarnings(r"ignore:.*Orientationd\.__init__:FutureWarning")  # the zoo does so

SAME = 0.999
"""Share of voxels with MONAI's label: windows are added up in another order, which decides ties another way."""
AFFINE = np.diag([-1.0, -1.0, 2.5, 1.0])
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1, 2], "is_onehot": False}
SOFTMAX, INVERT, ARGMAX = SOFTMAX_FIRST
NEAREST = {**INVERT, "nearest_interp": True}


def make_image(shape: tuple[int, int, int] = (30, 28, 17), seed: int = 0) -> np.ndarray:
    """Blobs of several sizes on air, with a margin of zeros to crop."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, 2.5)
    image = np.clip(500 + 400 * smooth / smooth.std() + 30 * noise, 1, 1000)
    image[:4], image[:, -5:], image[..., :2] = 0, 0, 0
    return image.round().astype(np.float32)


def ours(bundle: Bundle, scan: Path, out: Path) -> tuple[np.ndarray, CaseResult]:
    (result,) = predict(bundle, PredictOptions([scan], out, trust_bundle=True, pages=False))
    assert result.error is None, result.error
    assert result.folder is not None
    return np.asarray(nib.load(result.folder / "labels.nii.gz").dataobj), result


def monais(bundle: Bundle, scan: Path, out: Path) -> np.ndarray:
    """The bundle as its author runs it: `python -m monai.bundle run`."""
    from monai.bundle import ConfigWorkflow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow = ConfigWorkflow(
            str(bundle.config("inference")),
            str(bundle.folder / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            bundle_root=str(bundle.folder),
            dataset_dir=str(scan.parent),
            output_dir=str(out),
        )
        workflow.initialize()
        workflow.run()
    (file,) = out.glob("*.nii.gz")
    return np.asarray(nib.load(file).dataobj).reshape(np.asarray(nib.load(scan).dataobj).shape)


@pytest.mark.parametrize(
    ("spacing", "crop", "steps"),
    [
        pytest.param((1.5, 1.5, 2.0), False, SOFTMAX_FIRST, id="as most of the zoo"),
        pytest.param((1.5, 1.5, 2.0), True, SOFTMAX_FIRST, id="cropped"),
        pytest.param((1.0, 1.0, 2.5), False, SOFTMAX_FIRST, id="not resampled"),
        pytest.param((1.0, 1.0, 2.5), True, [INVERT, ARGMAX], id="cropped, not resampled"),
        pytest.param((1.5, 1.5, 2.0), False, [INVERT, ARGMAX], id="logits interpolated"),
        pytest.param((1.5, 1.5, 2.0), False, [ARGMAX, NEAREST], id="labels resampled"),
        pytest.param((1.5, 1.5, 2.0), False, [SOFTMAX, NEAREST, ARGMAX], id="nearest probabilities"),
        pytest.param((1.5, 1.5, 2.0), False, [*SOFTMAX_FIRST, LARGEST], id="largest component"),
        pytest.param((1.0, 1.0, 2.5), False, [*SOFTMAX_FIRST, LARGEST], id="largest component, not resampled"),
        pytest.param((1.5, 1.5, 2.0), True, [ARGMAX, LARGEST, NEAREST], id="largest component before inverting"),
    ],
)
def test_the_labels_are_monais(
    tmp_path: Path, spacing: Sequence[float], crop: bool, steps: Sequence[Mapping[str, Any]]
) -> None:
    bundle = make_zoo_bundle(tmp_path / "bundle", spacing=spacing, crop=crop, postprocessing=steps)
    scan = write_nifti(tmp_path / "scans" / "case.nii.gz", make_image(), AFFINE)
    found, _ = ours(bundle, scan, tmp_path / "ours")
    expected = monais(bundle, scan, tmp_path / "monais")
    assert set(np.unique(expected)) == {0, 1, 2}
    assert min(np.mean(expected == value) for value in (0, 1, 2)) > 0.005  # there is something to be wrong about
    assert np.mean(found == expected) >= SAME


def test_either_separator_of_ids_does(tmp_path: Path) -> None:
    size = {"_target_": "SlidingWindowInferer", "roi_size": "@window", "sw_batch_size": 2, "overlap": 0.5}
    scan = write_nifti(tmp_path / "case.nii.gz", make_image(), AFFINE)
    labels = []
    for separator in ("#", "::"):
        config = {"inferer": size, "sizes": {"window": [16, 16, 16]}, "window": f"@sizes{separator}window"}
        bundle = make_zoo_bundle(tmp_path / f"bundle{len(labels)}", config=config)
        labels.append(ours(bundle, scan, tmp_path / f"out{len(labels)}")[0])
    assert np.array_equal(*labels)


def test_what_others_would_take_for_small_matters_is_not(tmp_path: Path) -> None:
    """Without the softmax before the interpolation, or without the largest component, the labels are others."""
    scan = write_nifti(tmp_path / "scans" / "case.nii.gz", make_image(), AFFINE)
    kinds = {"whole": [*SOFTMAX_FIRST, LARGEST], "logits": [INVERT, ARGMAX], "softmax": SOFTMAX_FIRST}
    found = {
        name: ours(make_zoo_bundle(tmp_path / name, postprocessing=steps), scan, tmp_path / f"{name}-out")[0]
        for name, steps in kinds.items()
    }
    assert np.mean(found["logits"] == found["softmax"]) < SAME
    assert np.mean(found["whole"] == found["softmax"]) < SAME
    assert [label(found["whole"] == value, np.ones((3, 3, 3)))[1] for value in (1, 2)] == [1, 1]


def test_a_dicom_study_becomes_a_segmentation_object(tmp_path: Path) -> None:
    bundle = make_zoo_bundle(tmp_path / "bundle", channels={"0": "background", "1": "spleen", "2": "Blob of Test"})
    write_mr_series(tmp_path / "study", make_image().astype(np.uint16), AFFINE)
    (result,) = predict(bundle, PredictOptions([tmp_path / "study"], tmp_path / "out", trust_bundle=True, pages=False))
    assert result.error is None, result.error
    assert result.folder is not None
    segmentation = hd.seg.segread(result.folder / "segmentation.dcm")
    spleen, blob = (segmentation.get_segment_description(number) for number in (1, 2))
    assert spleen.segmented_property_type == pydicom.sr.codedict.codes.SCT.Spleen
    assert spleen.segmented_property_category == pydicom.sr.codedict.codes.SCT.AnatomicalStructure
    assert blob.segmented_property_type.scheme_designator == "99SCANLOOM"
    assert blob.segmented_property_type.meaning == "Blob of Test"
    assert blob.segmented_property_category == pydicom.sr.codedict.codes.SCT.Tissue
    (notice,) = [each["message"] for each in result.warnings if each["code"] == "label-codes"]
    assert notice == "no DICOM code is known for Blob of Test: their codes in DICOM objects are private ones"
    labels = np.asarray(nib.load(result.folder / "labels.nii.gz").dataobj)
    assert result.volumes_ml["spleen"] == pytest.approx(np.sum(labels == 1) * 2.5 / 1000, rel=1e-3)


def test_scripts_of_a_bundle_are_imported(tmp_path: Path) -> None:
    network = {**NETWORK, "_target_": "scripts.own_networks.OwnUNet"}
    code = "import monai.networks.nets as nets\n\n\nclass OwnUNet(nets.UNet):\n    pass\n"
    bundle = make_zoo_bundle(
        tmp_path / "bundle", config={"imports": ["$import glob", "$import scripts"], "network_def": network}
    )
    (bundle.folder / "scripts").mkdir()
    (bundle.folder / "scripts" / "__init__.py").write_text("from .own_networks import OwnUNet\n")
    (bundle.folder / "scripts" / "own_networks.py").write_text(code)
    scan = write_nifti(tmp_path / "case.nii.gz", make_image(), AFFINE)
    found, _ = ours(bundle, scan, tmp_path / "out")
    plain, _ = ours(make_zoo_bundle(tmp_path / "plain"), scan, tmp_path / "plain-out")
    assert np.array_equal(found, plain)


def single(folder: Path, *steps: Mapping[str, Any], **words: Any) -> Bundle:
    network = {**NETWORK, "out_channels": 1}
    return make_zoo_bundle(folder, postprocessing=steps, network=network, channels={"0": "lesion"}, **words)


def test_a_mask_of_one_channel_is_monais(tmp_path: Path) -> None:
    steps = (
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        INVERT,
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    )
    bundle = single(tmp_path / "bundle", *steps)
    scan = write_nifti(tmp_path / "scans" / "case.nii.gz", make_image(), AFFINE)
    found, result = ours(bundle, scan, tmp_path / "ours")
    expected = monais(bundle, scan, tmp_path / "monais")
    assert 0.05 < expected.mean() < 0.95
    assert np.mean(found == expected) >= SAME
    assert list(result.volumes_ml) == ["lesion"]


def volume() -> Volume:
    return Volume(make_image()[None], AFFINE, "case")


def refused(bundle: Bundle, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        Predictor(bundle, "cpu")(volume())
    assert "\n" not in str(caught.value)


def test_masks_that_may_overlap_are_refused(tmp_path: Path) -> None:
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        INVERT,
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    bundle = make_zoo_bundle(tmp_path, postprocessing=steps)
    refused(bundle, r"inference\.json: postprocessing compares each channel with a threshold, .*one label here\. Take")
    metadata = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    del metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    refused(Bundle(bundle.folder, metadata), r"gives 3 masks that may overlap, .*Let it take the largest")


def test_several_images_a_case_are_refused(tmp_path: Path) -> None:
    bundle = make_zoo_bundle(tmp_path)
    bundle.metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 4
    refused(bundle, r"its network takes 4 channels, case has 1\. Cases of several series are not supported")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([SOFTMAX, INVERT, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: 1 / 0"}], "fails at Lambdad: "),
        ([SOFTMAX, INVERT, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[:1]"}], "are no labels"),
        (
            [INVERT, ARGMAX, {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[:, 1:]"}],
            "leads to .* voxels",
        ),
        ([{"_target_": "NoSuchStepd", "keys": "pred"}], r"inference\.json can not be built: "),
    ],
)
def test_a_postprocessing_that_gives_no_labels_is_told(tmp_path: Path, steps: list[Any], words: str) -> None:
    refused(make_zoo_bundle(tmp_path, postprocessing=steps), words)


def test_one_hot_labels_are_labels(tmp_path: Path) -> None:
    one_hot = [SOFTMAX, INVERT, {**ARGMAX, "to_onehot": 3}]
    labels = [
        Predictor(make_zoo_bundle(tmp_path / name, postprocessing=steps), "cpu")(volume())
        for name, steps in {"one": one_hot, "two": SOFTMAX_FIRST}.items()
    ]
    assert np.array_equal(*labels)


def test_labels_left_on_the_networks_grid_come_back(tmp_path: Path) -> None:
    left = Predictor(make_zoo_bundle(tmp_path / "left", postprocessing=[SOFTMAX, ARGMAX]), "cpu")(volume())
    brought = Predictor(make_zoo_bundle(tmp_path / "back", postprocessing=[ARGMAX, NEAREST]), "cpu")(volume())
    assert np.array_equal(left, brought)


def test_a_bundle_that_does_not_orient_says_so(tmp_path: Path) -> None:
    bundle = make_zoo_bundle(tmp_path)
    config = json.loads(bundle.config("inference").read_text())
    config["preprocessing"]["transforms"] = [
        each for each in config["preprocessing"]["transforms"] if each["_target_"] != "Orientationd"
    ]
    bundle.config("inference").write_text(json.dumps(config))
    predictor = Predictor(bundle, "cpu")
    predictor(volume())
    assert any("does not say in which order it wants the axes" in each.message for each in predictor.notices)
    predictor(Volume(make_image()[None], np.diag([1.0, 1.0, 2.5, 1.0]), "case"))
    assert predictor.notices == ()


def test_logits_without_room_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scanloom.pipeline.errors import PipelineError
    from scanloom.pipeline.inference import predictor as module

    predictor = Predictor(make_zoo_bundle(tmp_path), "cpu")
    room = 4 * 30 * 28 * 17 * 4
    monkeypatch.setattr(module, "available_bytes", lambda device: room)
    with pytest.raises(PipelineError, match=r"needs the logits of the whole scan, .* of memory, where .* can be had"):
        predictor(volume())

"""A bundle made ready: what is refused, and the same labels for every order of the same scan."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_bundle, make_volume, reorient, write_mr_series, write_nifti
from monai.bundle import ConfigParser
from scanloom.networks import UNet
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.inference import StreamingInferer, estimate
from scanloom.pipeline.inference import predictor as predictor_module
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.inference.regrid import GridMap
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.volume import Volume

ORDERS = {
    "axial": ((0, 1, 2), (True, True, False)),
    "coronal": ((0, 2, 1), (True, True, False)),
    "sagittal": ((1, 2, 0), (True, True, False)),
    "reversed axial": ((0, 1, 2), (True, True, True)),
    "reversed sagittal": ((1, 2, 0), (False, True, True)),
}


def read(path: Path) -> Volume:
    (series,) = find_series(path)
    return read_series(series)


def in_order(labels: np.ndarray, axes, flips) -> np.ndarray:
    return reorient(labels, np.eye(4), axes, flips)[0]


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)], ids=["as it is", "1 mm"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (6, -4, 3)], ids=["straight", "oblique"])
def test_every_order_of_slices_gives_the_same_labels_to_the_voxel(tmp_path, spacing, degrees):
    predictor = Predictor(make_bundle(tmp_path / "bundle", spacing=spacing, mirror_axes=(0,)))
    array, affine = make_volume((15, 17, 13), spacing=(0.9, 1.1, 1.7), degrees=degrees)
    array = np.cumsum(array - array.mean(), axis=1).round().astype(np.int16)  # smooth along one axis, so not all noise
    reference = predictor(Volume(array[None].astype(np.float32), affine, "reference"))
    assert len(np.unique(reference)) == 3
    for name, (axes, flips) in ORDERS.items():
        expected = in_order(reference, axes, flips)
        scan = reorient(array, affine, axes, flips)
        dicom = predictor(read(write_mr_series(tmp_path / f"{name} dicom", *scan, shuffle_names=True)[0].parent))
        nifti = predictor(read(write_nifti(tmp_path / f"{name}.nii.gz", *scan)))
        differing = {"dicom": (_read_order(dicom, scan, tmp_path / f"{name} dicom") != expected).sum()}
        differing["nifti"] = (nifti != expected).sum()
        assert differing == {"dicom": 0, "nifti": 0}, name


def _read_order(labels, scan, folder):
    """Labels on the array order of the scan that was written: a reader may order slices the other way."""
    volume = read(folder)
    direction = volume.affine[:3, 2] @ scan[1][:3, 2]
    return labels if direction > 0 else labels[:, :, ::-1]


def test_labels_are_on_the_volumes_own_grid(tmp_path):
    predictor = Predictor(make_bundle(tmp_path, spacing=(2.0, 2.0, 2.0)))
    array, affine = make_volume((9, 14, 11), degrees=(5, 5, 5))
    labels = predictor(Volume(array[None].astype(np.float32), affine, "case"))
    assert labels.shape == (9, 14, 11)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_the_labels_are_those_of_the_network_alone(tmp_path):
    """Nothing resampled, one window: the largest logit of a plain pass over the z-scored scan."""
    bundle = make_bundle(tmp_path)
    array, affine = make_volume((12, 12, 12))
    image = torch.from_numpy((array - array.mean(dtype=float)) / array.std(dtype=float)).float()[None, None]
    network = UNet(out_channels=3, features=[4, 8], spatial_dims=3, padding="same").eval()
    network.load_state_dict(torch.load(bundle.weights, weights_only=True))
    expected = network(image).argmax(dim=1)[0].numpy()
    labels = Predictor(bundle)(Volume(array[None].astype(np.float32), affine, "case"))
    assert (labels != expected).mean() < 1e-3  # float32 ties


def test_a_network_of_one_channel_gives_a_mask(tmp_path):
    array, affine = make_volume((10, 11, 12))
    labels = Predictor(make_bundle(tmp_path, out_channels=1))(Volume(array[None].astype(np.float32), affine, "case"))
    assert set(np.unique(labels)) == {0, 1}


def scan_of(shape, spacing=(1.0, 1.0, 1.0)) -> Volume:
    array, affine = make_volume(shape, spacing=spacing)
    return Volume(array[None].astype(np.float32), affine, "case")


def inferer_of(mode="gaussian", **settings):
    return {"inferer": {"_target_": "scanloom.pipeline.inference.StreamingInferer", "mode": mode, **settings}}


@pytest.mark.parametrize("spacing", [None, (2.0, 1.3, 0.8)], ids=["as it is", "resampled"])
@pytest.mark.parametrize("mode", ["gaussian", "seamless"])
def test_streamed_labels_are_those_of_whole_logits_brought_back_by_monai(tmp_path, monkeypatch, spacing, mode):
    config = inferer_of(mode, roi_size=[22, 22, 22], overlap=0.5)
    predictor = Predictor(make_bundle(tmp_path, spacing=spacing, config=config))
    volume = scan_of((31, 26, 22), (1.1, 0.9, 1.7))
    streamed = predictor(volume)
    assert predictor.facts["windows"] > 1
    monkeypatch.setattr(GridMap, "between", lambda *_: None)
    whole = predictor(volume)
    assert "windows" not in predictor.facts
    assert {*np.unique(whole)} == {0, 1, 2}
    assert (streamed != whole).sum() <= 1  # a tie of float32


def test_a_scan_that_was_cropped_gets_its_surroundings_back_as_background(tmp_path):
    bundle = make_bundle(tmp_path)
    config = json.loads(bundle.config("inference").read_text())
    crop = {"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": [10, 10, 10]}
    config["preprocessing"]["transforms"].append(crop)
    bundle.config("inference").write_text(json.dumps(config))
    labels = Predictor(bundle)(scan_of((20, 20, 20)))
    assert labels.shape == (20, 20, 20)
    assert not labels[:5].any() and not labels[15:].any() and labels[5:15].any()


def test_monais_sliding_window_becomes_ours(tmp_path):
    inferer = Predictor(make_bundle(tmp_path)).inferer
    assert isinstance(inferer, StreamingInferer)
    assert (inferer.roi_size, inferer.overlap, inferer.mode) == ([12, 12, 12], 0.5, "gaussian")


def test_any_other_inferer_is_taken_as_it_is(tmp_path):
    volume = scan_of((12, 12, 12))
    ours = Predictor(make_bundle(tmp_path / "a"))(volume)
    theirs = Predictor(make_bundle(tmp_path / "b", config={"inferer": {"_target_": "SimpleInferer"}}))
    assert (theirs(volume) != ours).mean() < 1e-3
    assert "windows" not in theirs.facts


def test_the_facts_tell_windows_seconds_precision_and_memory(tmp_path):
    predictor = Predictor(make_bundle(tmp_path, mirror_axes=(0,)), precision="fp32")
    predictor(scan_of((20, 18, 12)))
    facts = predictor.facts
    assert facts["windows"] == 3 * 2
    assert (facts["mode"], facts["precision"]) == ("gaussian", "fp32")
    assert facts["seconds"] > 0
    assert 0 <= facts["tile_disagreement"] <= 1
    assert facts["peak_memory"]["host_bytes"] > 2**20
    assert facts["estimated_bytes"]["host"] > 2**20
    assert json.loads(json.dumps(facts)) == facts


def test_progress_is_told_while_windows_run(tmp_path):
    told = []
    Predictor(make_bundle(tmp_path))(scan_of((24, 24, 24)), lambda line, done=None: told.append((line, done)))
    assert told[0][0].startswith("case: 27 windows, about ")
    assert "left" in "".join(line or "" for line, _ in told)
    assert [done for line, done in told if line is None] == sorted(done for line, done in told if line is None)
    assert told[-1] == (None, 1.0)


def test_what_does_not_fit_is_refused_before_a_window_is_computed(tmp_path, monkeypatch):
    predictor = Predictor(make_bundle(tmp_path))
    monkeypatch.setattr(predictor, "_network_for", lambda *_: pytest.fail("it was computed"))
    monkeypatch.setattr(estimate, "available_bytes", lambda device: 2**20)
    with pytest.raises(
        PipelineError, match=r"case: 1 windows? need about .*iB of memory on cpu, where 1\.0 MiB can be"
    ):
        predictor(scan_of((12, 12, 12)))
    monkeypatch.setattr(predictor_module, "available_bytes", lambda device: 2**10)
    with pytest.raises(
        PipelineError, match=r"case: its preprocessing takes about 20 KiB of memory, where 1\.0 KiB can"
    ):
        predictor(scan_of((12, 12, 12)))


def test_an_inferer_that_does_not_fit_the_network_is_the_bundles_fault(tmp_path):
    network = {"_target_": "scanloom.networks.UNet", "out_channels": 3, "features": [4, 8], "spatial_dims": 3}
    config = {"network_def": {**network, "padding": "same", "norm": "instance"}} | inferer_of(
        "seamless", roi_size=[40] * 3
    )
    bundle = make_bundle(tmp_path, config=config)
    torch.save(ConfigParser(config["network_def"]).get_parsed_content("").state_dict(), bundle.weights)
    with pytest.raises(
        BundleError, match=r'bundle tiny: its inferer does not fit case: mode "seamless" can not be had'
    ):
        Predictor(bundle)(scan_of((12, 12, 12)))


def test_bf16_is_taken_unasked_only_where_the_bundle_says_that_it_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr("scanloom.pipeline.inference.precision.has_bf16", lambda device: True)
    assert Predictor(make_bundle(tmp_path)).precision == "fp32"
    harmless = make_bundle(tmp_path, measured_dice={"fp32": 0.9, "bf16": 0.8999})
    assert Predictor(harmless).precision == "bf16"
    assert Predictor(harmless, precision="fp32").precision == "fp32"
    assert Predictor(make_bundle(tmp_path, measured_dice={"fp32": 0.9, "bf16": 0.89})).precision == "fp32"


def test_a_slow_precision_is_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setattr("scanloom.pipeline.inference.precision.has_bf16", lambda device: False)
    predictor = Predictor(make_bundle(tmp_path), precision="bf16")
    predictor(scan_of((12, 12, 12)))
    assert [(notice.code, "emulated" in notice.message) for notice in predictor.notices] == [("precision", True)]


class Failing(torch.nn.Module):
    """Logits of three classes whose last is NaN at one voxel in bf16, or in every precision."""

    def __init__(self, everywhere=False):
        super().__init__()
        self.everywhere = everywhere
        self.unused = torch.nn.Conv3d(1, 1, 1)

    def forward(self, x):
        logits = torch.cat([x, 0.5 * x + 0.1, -x], dim=1)
        if self.everywhere or x.dtype == torch.bfloat16:
            logits[:, 2, 0, 0, 0] = torch.nan
        return logits


def failing(folder, inferer, **settings):
    bundle = make_bundle(folder, config={"network_def": {"_target_": f"{__name__}.Failing", **settings}} | inferer)
    torch.save(Failing().state_dict(), bundle.weights)
    return bundle


INFERERS = [{}, {"inferer": {"_target_": "monai.inferers.SimpleInferer"}}]


@pytest.mark.parametrize("inferer", INFERERS, ids=["windows", "whole"])
def test_nan_in_bf16_is_computed_again_in_fp32_and_that_is_said(tmp_path, inferer):
    bundle, scan = failing(tmp_path, inferer), scan_of((12, 13, 12))
    expected = Predictor(bundle, "cpu", precision="fp32")(scan)
    predictor = Predictor(bundle, "cpu", precision="bf16", confidence=True)
    said = []
    assert np.array_equal(predictor(scan, lambda words, share: said.append(words)), expected)
    assert predictor.facts["precision"] == "fp32"
    assert [notice.message for notice in predictor.notices] == ["the network gave NaN in bf16, so fp32 was used"]
    assert any(words and "gives NaN in" in words and words.endswith("Computing in fp32") for words in said)
    assert predictor.confidence is not None and predictor.surface_confidence
    assert np.array_equal(predictor(scan), expected)  # the next scan is not tried in bf16 again
    assert (predictor.notices, predictor.facts["precision"]) == ((), "fp32")


@pytest.mark.parametrize("inferer", INFERERS, ids=["windows", "whole"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nan_in_fp32_is_refused_and_never_becomes_background(tmp_path, inferer, precision):
    predictor = Predictor(failing(tmp_path, inferer, everywhere=True), "cpu", precision=precision)
    words = r"case: the network of bundle tiny gives NaN in \d of \d windows in fp32\. Look at the scan's values"
    with pytest.raises(PipelineError, match=words) as caught:
        predictor(scan_of((12, 13, 12)))
    assert "\n" not in str(caught.value)


def test_labels_of_nan_are_warned_of_by_the_inferer_itself(caplog):
    inferer = StreamingInferer((12, 12, 12), output="labels")
    inferer(torch.zeros(1, 1, 12, 12, 12), Failing(everywhere=True))
    assert inferer.facts.not_numbers == 1
    assert "the network gave NaN in 1 of 1 windows, which labels do not show" in caplog.text


def test_a_wrong_engine_or_precision_is_refused_before_the_weights_are_read(tmp_path):
    bundle = make_bundle(tmp_path)
    bundle.weights.unlink()
    with pytest.raises(UsageError, match="--engine steam: there is no such engine"):
        Predictor(bundle, engine="steam")
    with pytest.raises(UsageError, match="--precision fp8: there is no such precision"):
        Predictor(bundle, precision="fp8")


def mapped(volume: Volume, path: Path) -> Volume:
    """The same scan in a file, in the order that files have."""
    array = np.memmap(path, np.int16, "w+", shape=volume.spatial_shape, order="F")
    array[:] = volume.array[0]
    return replace(volume, array=array[None])


def test_a_mapped_scan_gets_the_labels_of_one_in_memory(tmp_path):
    """Its mean and deviation are summed in another order: the voxels apart are ties of float32."""
    predictor = Predictor(
        make_bundle(tmp_path / "bundle", spacing=(1.0, 1.0, 1.0), config=inferer_of(roi_size=[16] * 3))
    )
    array, affine = reorient(*make_volume((31, 26, 22), spacing=(1.0, 1.0, 1.0)), (2, 0, 1), (True, False, True))
    volume = Volume(array[None].astype(np.float32), affine, "case")
    expected = predictor(volume)
    assert (predictor(mapped(volume, tmp_path / "voxels")) != expected).mean() < 1e-3
    assert predictor.facts["windows"] > 1


def test_a_mapped_scan_that_must_be_resampled_is_read_as_a_whole_and_that_is_said(tmp_path, monkeypatch):
    predictor = Predictor(make_bundle(tmp_path / "bundle", spacing=(2.0, 2.0, 2.0)))
    volume = scan_of((20, 18, 16))
    expected, lines = predictor(volume), []
    labels = predictor(mapped(volume, tmp_path / "voxels"), lambda line, done=None: lines.append(line))
    assert (labels == expected).all()
    assert lines[0] == "case: preprocessing (Spacingd needs the whole scan) takes about 68 KiB"
    assert predictor.facts["whole_scan_for"] == "Spacingd"
    monkeypatch.setattr(predictor_module, "available_bytes", lambda device: 2**10)
    with pytest.raises(PipelineError, match=r"case: its preprocessing \(Spacingd needs the whole scan\) takes about"):
        predictor(mapped(volume, tmp_path / "voxels"))


def test_weights_may_lie_under_the_key_model(tmp_path):
    bundle = make_bundle(tmp_path)
    plain = Predictor(bundle).network.state_dict()
    torch.save({"model": plain, "epoch": 3}, bundle.weights)
    assert all(torch.equal(value, plain[key]) for key, value in Predictor(bundle).network.state_dict().items())


def test_the_network_is_in_evaluation_mode(tmp_path):
    assert not Predictor(make_bundle(tmp_path)).network.training


@pytest.mark.parametrize("name", ["network_def", "preprocessing", "inferer"])
def test_a_config_without_a_needed_id_is_refused(tmp_path, name):
    bundle = make_bundle(tmp_path, config={name: None})
    with pytest.raises(BundleError, match=rf"bundle tiny: inference\.yaml has no {name}\. Add what is missing"):
        Predictor(bundle)


def test_a_bundle_without_an_inference_config_is_refused(tmp_path):
    bundle = make_bundle(tmp_path)
    bundle.config("inference").unlink()
    with pytest.raises(BundleError, match=r"bundle tiny: no inference\.yaml or inference\.json in"):
        Predictor(bundle)


@pytest.mark.parametrize("text", ["network_def: [1, 2", "- a list\n- of words\n", "", "\x00"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path, text):
    bundle = make_bundle(tmp_path)
    bundle.config("inference").write_text(text)
    _refused(
        bundle, r"bundle tiny: inference\.yaml (can not be read: .+ It must be a mapping|has no network_def, preproc)"
    )


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"network_def": {"_target_": "scanloom.networks.NoSuchNet"}}, "can not be built: .*NoSuchNet"),
        ({"network_def": {"_target_": "scanloom.networks.UNet", "spatial_dims": 4}}, "can not be built: spatial_dims"),
        ({"network_def": "$1 / 0"}, "can not be built: division by zero"),
        ({"network_def": "$'a word'"}, "network_def is a str. Make it a Module"),
        ({"inferer": {"_target_": "StreamedInferer"}}, "can not be built: .*StreamedInferer"),
        ({"preprocessing": {"_target_": "Identity"}}, "preprocessing is a Identity. Make it a Compose"),
    ],
)
def test_a_config_that_can_not_be_built_is_refused_with_the_cause(tmp_path, config, words):
    _refused(make_bundle(tmp_path, config=config), words)


def _refused(bundle: Bundle, words: str) -> str:
    """The message, which is one line."""
    with pytest.raises(BundleError, match=words) as caught:
        Predictor(bundle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UNFIT = r"bundle tiny: models/model\.pt \(SHA-256 [0-9a-f]{8}…\) does not fit network_def: "


def test_weights_of_another_architecture_are_refused(tmp_path):
    bundle = make_bundle(tmp_path)
    torch.save(UNet(out_channels=3, features=[4, 6], spatial_dims=3).state_dict(), bundle.weights)
    _refused(bundle, UNFIT + ".*size mismatch")
    torch.save(UNet(out_channels=3, features=[4, 8, 16], spatial_dims=3).state_dict(), bundle.weights)
    _refused(bundle, UNFIT)


@pytest.mark.parametrize("keep", [0, 100, 0.9])
def test_a_truncated_weights_file_is_refused(tmp_path, keep):
    bundle = make_bundle(tmp_path)
    whole = bundle.weights.read_bytes()
    bundle.weights.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    _refused(bundle, UNFIT)


def test_weights_that_are_no_state_dict_are_refused(tmp_path):
    bundle = make_bundle(tmp_path)
    torch.save(torch.zeros(3), bundle.weights)
    _refused(bundle, r"bundle tiny: models/model\.pt holds a Tensor\. It must be a state dict")


class _Payload:
    """Unpickles by writing a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload))])
def test_code_in_a_weights_file_does_not_run(tmp_path, save):
    bundle, trace = make_bundle(tmp_path), tmp_path / "it-ran"
    save(_Payload(trace), bundle.weights)
    _refused(bundle, r"bundle tiny: models/model\.pt holds more than tensors")
    assert not trace.exists()


def test_missing_weights_are_refused(tmp_path):
    bundle = make_bundle(tmp_path)
    bundle.weights.unlink()
    _refused(bundle, r"bundle tiny: no readable weights at .*model\.pt \(No such file or directory\)")


@pytest.mark.slow
def test_the_predictor_leaves_out_of_monai_what_training_needs():
    code = """
import sys
from scanloom.pipeline.inference.lean_import import FOR_TRAINING, import_monai_for_inference
import_monai_for_inference()
from scanloom.pipeline.inference.predictor import Predictor
print([name for name in FOR_TRAINING if name in sys.modules])
import ignite, pandas
print(ignite.__name__, pandas.__name__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "ignite pandas"]

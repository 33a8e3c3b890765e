"""A bundle made ready: what is refused, and the same labels for every order of the same scan."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_bundle, make_volume, reorient, write_mr_series, write_nifti
from scanloom.networks import UNet
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.inference.predictor import Predictor
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
        ({"inferer": {"_target_": "MirroredInferer"}}, "can not be built: .*MirroredInferer"),
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
    _refused(bundle, UNFIT)


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
    assert "models/model.pt" in _refused(bundle, UNFIT)
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

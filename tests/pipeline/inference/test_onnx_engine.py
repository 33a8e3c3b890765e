"""ONNX Runtime computes what PyTorch does, for windows of any shape, and the same labels on a real scan."""

import importlib.metadata
import sys

import numpy as np
import pytest
import torch
from scanloom.networks import ResNetUNet, UNet
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.inference import onnx_engine
from scanloom.pipeline.inference.engine import SHAPES_KEPT
from scanloom.pipeline.inference.onnx_engine import OnnxRuntimeEngine
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.studies import find_series, read_series
from torch import nn

CPU = torch.device("cpu")
onnxruntime = pytest.importorskip("onnxruntime", reason='the engine needs pip install "scanloom[onnx]"')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def tiny(**settings):
    return UNet(features=4, depth=1, padding="same", **settings).eval().requires_grad_(False)


class Structured(nn.Module):
    def forward(self, x):
        return {"logits": (x + 1, [2 * x]), "labels": x.argmax(1)}


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: tiny(spatial_dims=3, norm="instance"), [(1, 1, 6, 5, 7), (2, 1, 6, 5, 7), (1, 1, 4, 4, 4)]),
        (lambda: tiny(norm="group"), [(3, 1, 8, 9), (1, 1, 8, 9)]),
        (lambda: UNet(features=4, depth=1), [(1, 1, 28, 28)]),
        pytest.param(
            lambda: ResNetUNet(2, pretrained=False, depth=18, in_channels=1, decoder_features=(4,) * 5).eval(),
            [(2, 1, 64, 40)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["3D", "2D", "valid", "resnet"],
)
def test_windows_of_any_shape_give_what_the_network_gives(make, shapes):
    network = make().requires_grad_(False)
    engine = OnnxRuntimeEngine(network, CPU)
    for shape in [*shapes, shapes[0]]:
        windows = torch.randn(shape)
        expected = network(windows)
        torch.testing.assert_close(engine(windows), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert list(engine._models) == [*shapes[1:], shapes[0]]


def test_windows_need_not_be_contiguous_and_may_be_made_for_inference_only():
    network = tiny()
    engine = OnnxRuntimeEngine(network, CPU)
    with torch.inference_mode():
        windows = torch.randn(1, 1, 9, 8).transpose(2, 3)
        torch.testing.assert_close(engine(windows), network(windows), rtol=0, atol=1e-4)


def test_no_later_call_writes_into_a_result():
    engine = OnnxRuntimeEngine(tiny(), CPU)
    first = engine(torch.randn(1, 1, 8, 8))
    kept = first.clone()
    engine(torch.randn(1, 1, 8, 8))
    assert torch.equal(first, kept)


def test_a_structure_of_outputs_is_kept():
    windows = torch.randn(2, 3, 4, 4)
    outputs, expected = OnnxRuntimeEngine(Structured(), CPU)(windows), Structured()(windows)
    assert torch.equal(outputs["logits"][0], expected["logits"][0])
    assert torch.equal(outputs["logits"][1][0], expected["logits"][1][0])
    assert torch.equal(outputs["labels"].long(), expected["labels"])


def test_few_shapes_are_kept():
    engine = OnnxRuntimeEngine(nn.Conv2d(1, 1, 1), CPU)
    for size in range(1, SHAPES_KEPT + 3):
        engine(torch.randn(1, 1, size, 2))
    assert [shape[2] for shape in engine._models] == list(range(3, SHAPES_KEPT + 3))


def test_the_threads_are_pytorchs_and_the_facts_tell_version_and_provider():
    engine = OnnxRuntimeEngine(nn.Conv2d(1, 1, 1), CPU)
    assert engine._options.intra_op_num_threads == torch.get_num_threads()
    assert engine.facts == {
        "engine_version": onnxruntime.__version__,
        "engine_provider": "CPUExecutionProvider",
    }


def test_the_gpus_package_has_its_own_version(monkeypatch):
    def version(package):
        if package == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(package)
        return "9.9"

    monkeypatch.setattr(onnx_engine, "version", version)
    assert onnx_engine._version() == "9.9"
    monkeypatch.setattr(onnx_engine, "PACKAGES", ("onnxruntime",))
    assert onnx_engine._version() == "unknown"


def test_a_device_that_the_installed_one_does_not_know_is_refused(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=r"does not run on cuda:1\. Install onnxruntime-gpu in its place, use"):
        OnnxRuntimeEngine(nn.Identity(), torch.device("cuda:1"))


def test_a_network_that_asks_for_values_is_refused():
    class Deciding(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum().item() > 0 else x

    with pytest.raises(
        UsageError, match=r"onnxruntime: it can not take Deciding on windows \(1, 1, 3, 3\): .*--engine"
    ):
        OnnxRuntimeEngine(Deciding(), CPU)(torch.randn(1, 1, 3, 3))


def test_an_output_that_is_no_tensor_is_refused():
    class Telling(nn.Module):
        def forward(self, x):
            return x + 1, "done"

    with pytest.raises(UsageError, match="Use --engine torch"):
        OnnxRuntimeEngine(Telling(), CPU)(torch.randn(1, 1, 3, 3))


def test_a_model_that_computes_something_else_is_refused(monkeypatch):
    engine = OnnxRuntimeEngine(nn.Conv2d(1, 1, 1), CPU)
    monkeypatch.setattr(onnx_engine._Session, "__call__", lambda self, windows: windows + 1)
    with pytest.raises(UsageError, match=r"Conv2d differs by .* from PyTorch, 1e-03 is allowed\. Use --engine"):
        engine(torch.randn(1, 1, 3, 3))


def test_half_precision_is_refused():
    with pytest.raises(UsageError, match="--precision bf16: the engine onnxruntime has fp32 only"):
        OnnxRuntimeEngine(nn.Identity(), CPU, "bf16")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError, match=rf"--engine onnxruntime: {package} is not installed\. pip install 'scanloom\[onnx"
    ):
        OnnxRuntimeEngine(nn.Identity(), CPU)


def test_the_precision_that_nobody_asked_for_is_fp32(monkeypatch):
    monkeypatch.setattr("scanloom.pipeline.inference.precision.has_bf16", lambda device: True)
    bundle = find_bundle("hippocampus_mr_unet")
    assert Predictor(bundle, "cpu").precision == "bf16"
    assert Predictor(bundle, "cpu", engine="onnxruntime").precision == "fp32"
    with pytest.raises(UsageError, match="--precision bf16: the engine onnxruntime has fp32 only"):
        Predictor(bundle, "cpu", engine="onnxruntime", precision="bf16")


@pytest.mark.data
def test_a_real_scan_gets_the_labels_that_pytorch_gives_it(data_folder):
    (scan, *_) = sorted((data_folder / "msd_hippocampus" / "images").glob("*.nii.gz"))
    (series,) = find_series(scan)
    volume = read_series(series)
    bundle = find_bundle("hippocampus_mr_unet")
    expected = Predictor(bundle, "cpu", precision="fp32")(volume)
    predictor = Predictor(bundle, "cpu", engine="onnxruntime")
    found = predictor(volume)
    assert predictor.facts["engine"] == "onnxruntime" and predictor.facts["precision"] == "fp32"
    for label in (1, 2):
        one, other = expected == label, found == label
        # sums in another order move logits by 1e-5: only ties change
        assert 2 * np.sum(one & other) / (one.sum() + other.sum()) >= 0.999
        assert one.sum() > 500

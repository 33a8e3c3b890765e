"""OpenVINO computes what PyTorch does, for windows of any shape, and tells nobody."""

import logging
import subprocess
import sys

import pytest
import torch
from scanloom.networks import UNet
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.inference import openvino_engine
from scanloom.pipeline.inference.engine import SHAPES_KEPT
from scanloom.pipeline.inference.openvino_engine import OpenVinoEngine
from torch import nn


@pytest.fixture
def openvino():
    with openvino_engine.hidden(openvino_engine.TELEMETRY):
        return pytest.importorskip("openvino", reason='the engine needs pip install "scanloom[openvino]"')


def tiny(**settings):
    return UNet(features=4, depth=1, padding="same", **settings).eval().requires_grad_(False)


class Structured(nn.Module):
    def forward(self, x):
        return {"logits": (x + 1, [2 * x]), "labels": x.argmax(1)}


class Telling(nn.Module):
    """Returns a word beside its tensor."""

    def forward(self, x):
        return x + 1, "done"


def test_windows_of_any_shape_give_what_the_network_gives(openvino):
    for network, shapes in (
        (tiny(spatial_dims=3, norm="instance"), [(1, 1, 6, 5, 7), (2, 1, 6, 5, 7), (1, 1, 4, 4, 4)]),
        (tiny(norm="group"), [(3, 1, 8, 9), (1, 1, 8, 9)]),
    ):
        engine = OpenVinoEngine(network)
        for shape in [*shapes, shapes[0]]:
            windows = torch.randn(shape)
            expected = network(windows)
            torch.testing.assert_close(engine(windows), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_windows_need_not_be_contiguous_and_may_be_made_for_inference_only(openvino):
    network = tiny()
    engine = OpenVinoEngine(network)
    with torch.inference_mode():
        windows = torch.randn(1, 1, 9, 8).transpose(2, 3)
        torch.testing.assert_close(engine(windows), network(windows), rtol=0, atol=1e-4)


def test_no_later_call_writes_into_a_result(openvino):
    engine = OpenVinoEngine(tiny())
    first = engine(torch.randn(1, 1, 8, 8))
    kept = first.clone()
    engine(torch.randn(1, 1, 8, 8))
    assert torch.equal(first, kept)


def test_a_structure_of_outputs_is_kept(openvino):
    windows = torch.randn(2, 3, 4, 4)
    outputs, expected = OpenVinoEngine(Structured())(windows), Structured()(windows)
    assert torch.equal(outputs["logits"][0], expected["logits"][0])
    assert torch.equal(outputs["logits"][1][0], expected["logits"][1][0])
    assert torch.equal(outputs["labels"].long(), expected["labels"])


def test_few_shapes_are_kept(openvino):
    engine = OpenVinoEngine(nn.Conv2d(1, 1, 1))
    for size in range(1, SHAPES_KEPT + 3):
        engine(torch.randn(1, 1, size, 2))
    assert [shape[2] for shape in engine._models] == list(range(3, SHAPES_KEPT + 3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_and_the_threads_are_set(openvino, precision):
    engine = OpenVinoEngine(nn.Conv2d(1, 1, 1), precision)
    assert engine._options["INFERENCE_PRECISION_HINT"] == {"fp32": "f32", "bf16": "bf16"}[precision]
    assert engine._options["INFERENCE_NUM_THREADS"] == torch.get_num_threads()
    assert engine(torch.randn(1, 1, 3, 3)).dtype == torch.float32


def test_the_logging_of_the_program_is_left_alone(openvino):
    root = logging.getLogger()
    before = (root.level, [*root.handlers], [*root.filters])
    OpenVinoEngine(nn.Conv2d(1, 1, 1))(torch.randn(1, 1, 3, 3))
    with pytest.raises(UsageError):  # OpenVINO sets a level where it can not convert
        OpenVinoEngine(Telling())(torch.randn(1, 1, 3, 3))
    assert (root.level, root.handlers, root.filters) == before


def test_no_statistics_of_use_are_sent(openvino):
    code = (
        "import sys, torch; from scanloom.pipeline.inference.openvino_engine import OpenVinoEngine; "
        "OpenVinoEngine(torch.nn.Conv2d(1, 1, 1))(torch.randn(1, 1, 3, 3)); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_network_that_asks_for_values_is_refused(openvino):
    class Deciding(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum().item() > 0 else x

    with pytest.raises(UsageError, match=r"can not take Deciding on windows \(1, 1, 3, 3\): .*Use --engine torch"):
        OpenVinoEngine(Deciding())(torch.randn(1, 1, 3, 3))


def test_an_output_that_is_no_tensor_is_refused(openvino):
    with pytest.raises(UsageError, match="Use --engine torch"):
        OpenVinoEngine(Telling())(torch.randn(1, 1, 3, 3))


def test_a_model_that_computes_something_else_is_refused(openvino, monkeypatch):
    engine = OpenVinoEngine(nn.Conv2d(1, 1, 1))
    monkeypatch.setattr(openvino_engine._CompiledModel, "__call__", lambda self, windows: windows + 1)
    with pytest.raises(UsageError, match=r"Conv2d differs by .* from PyTorch, 1e-03 is allowed\. Use --engine"):
        engine(torch.randn(1, 1, 3, 3))


def test_fp16_is_refused():
    with pytest.raises(UsageError, match="--precision fp16: the engine openvino has fp32 and bf16 only"):
        OpenVinoEngine(nn.Identity(), "fp16")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r'OpenVINO is not installed. pip install "scanloom\[openvino\]"'):
        OpenVinoEngine(nn.Identity())

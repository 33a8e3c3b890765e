"""A network made ready computes what it did before, in every form, and can be asked and copied as before."""

import copy
import sys
from importlib.metadata import version

import pytest
import torch
from scanloom.networks import ResNetUNet, UNet
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.inference.ready import ReadyNetwork, check_engine, make_ready
from torch import nn

CPU = torch.device("cpu")
SHAPE = (1, 1, 8, 9, 10)


def tiny(norm="batch", **settings):
    return UNet(**{"features": 4, "depth": 1, "spatial_dims": 3, "padding": "same", "norm": norm} | settings).eval()


@pytest.mark.parametrize(
    ("make", "shape", "memory_format"),
    [
        (lambda: tiny(), SHAPE, "channels_last_3d"),
        (lambda: tiny("group"), SHAPE, "channels_last_3d"),
        (lambda: tiny("instance"), SHAPE, "contiguous"),
        (lambda: tiny(spatial_dims=2, padding="valid"), (2, 1, 28, 28), "channels_last"),
        (lambda: ResNetUNet(2, pretrained=False, depth=18, decoder_features=(8,) * 5), (1, 3, 65, 40), "channels_last"),
    ],
    ids=["batch", "group", "instance", "2D valid", "resnet"],
)
def test_it_computes_what_the_network_did(make, shape, memory_format):
    network = make().eval()
    ready = make_ready(network, CPU, "fp32", example_shape=shape)
    assert ready.description["memory_format"] == memory_format
    for batch in (1, 3):
        windows = torch.randn(batch, *shape[1:])
        with torch.inference_mode():
            expected, actual = network(windows), ready(windows)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_the_description_says_what_was_done():
    assert make_ready(tiny(), CPU, "fp32", example_shape=SHAPE).description == {
        "precision": "fp32",
        "engine": "torch",
        "folded_norms": 6,
        "memory_format": "channels_last_3d",
        "compiled": False,
    }


def test_the_network_itself_is_left_as_it_is():
    network = tiny().train()
    before = copy.deepcopy(network.state_dict())
    ready = make_ready(network, CPU, "bf16", example_shape=SHAPE)
    assert network.training and not ready.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_what_inference_reads_off_the_network_is_there():
    network = tiny(padding="valid", spatial_dims=2)
    ready = make_ready(network, CPU, "fp32", example_shape=(1, 1, 28, 28))
    assert ready.padding == "valid"
    assert ready.size_divisor == (2, 2)
    assert ready.receptive_field_voxels == network.receptive_field_voxels
    assert ready.output_size((28, 28)) == network.output_size((28, 28))
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = ready.colour


def test_bf16_has_bf16_weights_and_float32_at_both_ends():
    network = tiny()
    ready = make_ready(network, CPU, "bf16", example_shape=SHAPE)
    windows = torch.randn(SHAPE)
    with torch.inference_mode():
        expected, actual = network(windows), ready(windows)
    assert {parameter.dtype for parameter in ready.parameters()} == {torch.bfloat16}
    assert actual.dtype == torch.float32
    # bf16 has eight bits: errors of 2^-8 of each of a dozen layers' outputs.
    assert float((actual - expected).abs().max() / expected.abs().max()) < 0.05


def test_a_structure_of_outputs_is_kept_and_made_float32():
    class Structured(nn.Module):
        def forward(self, x):
            return {"logits": (x, [x.bfloat16()]), "labels": x.argmax(1)}

    outputs = make_ready(Structured(), CPU, "bf16", example_shape=(1, 2, 4, 4))(torch.randn(1, 2, 4, 4))
    assert outputs["logits"][0].dtype == outputs["logits"][1][0].dtype == torch.float32
    assert outputs["labels"].dtype == torch.int64


def test_autocast_serves_where_the_weights_stay_float32():
    description = {"compiled": False}
    ready = ReadyNetwork(nn.Conv2d(1, 1, 1).requires_grad_(False), precision="bf16", description=description)
    seen = []
    ready.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert ready(torch.randn(1, 1, 3, 3)).dtype == torch.float32
    assert seen == [torch.bfloat16]


def test_it_can_be_copied_and_moved():
    ready = make_ready(tiny(), CPU, "fp32", example_shape=SHAPE)
    twin = copy.deepcopy(ready).to("cpu")
    windows = torch.randn(SHAPE)
    with torch.inference_mode():
        assert torch.equal(twin(windows), ready(windows))
    assert twin.size_divisor == ready.size_divisor
    assert twin.network is not ready.network
    assert {parameter.device.type for parameter in twin.to("meta").parameters()} == {"meta"}


def test_compiling_is_of_the_network_and_of_its_copies(monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: calls.append((type(self), settings)))
    ready = make_ready(tiny(), CPU, "fp32", compile=True, example_shape=SHAPE)
    copy.deepcopy(ready)
    assert ready.description["compiled"] is True
    assert calls == [(UNet, {"dynamic": False})] * 2


@pytest.mark.slow
def test_a_compiled_network_computes_the_same():
    network = tiny()
    ready = make_ready(network, CPU, "fp32", compile=True, example_shape=SHAPE)
    windows = torch.randn(SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(ready(windows), network(windows), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "facts"),
    [("openvino", {}), ("onnxruntime", {"engine_provider": "CPUExecutionProvider"})],
)
def test_another_engine_runs_the_folded_network(engine, facts):
    pytest.importorskip(engine, reason="the engine is not installed")
    network = tiny()
    ready = make_ready(network, CPU, "fp32", engine=engine, example_shape=SHAPE)
    windows = torch.randn(SHAPE)
    with torch.inference_mode():
        expected, actual = network(windows), ready(windows)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert ready.description == {
        "precision": "fp32",
        "engine": engine,
        "engine_version": version(engine),
        "folded_norms": 6,
        "memory_format": "contiguous",
        "compiled": False,
        **facts,
    }
    assert ready.size_divisor == (2, 2, 2)


def test_another_engine_runs_on_one_device():
    with pytest.raises(UsageError, match=r"--engine onnxruntime: it runs on one device\. Name one with --device"):
        check_engine("onnxruntime", [torch.device("cuda:0"), torch.device("cuda:1")], False)


def test_a_missing_openvino_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r'pip install "scanloom\[openvino\]"'):
        make_ready(tiny(), CPU, "fp32", engine="openvino", example_shape=SHAPE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tensorrt"}, "--engine tensorrt: there is no such engine. Use one of torch, openvino, onnxruntime"),
        ({"engine": "openvino", "device": torch.device("cuda")}, "engine openvino: it does not run on cuda. Use --dev"),
        ({"engine": "onnxruntime", "device": torch.device("mps")}, "engine onnxruntime: it does not run on mps"),
        ({"engine": "onnxruntime", "compile": True}, "onnxruntime: it compiles by itself"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "the engine onnxruntime has fp32 only. Use that, or auto"),
        ({"engine": "openvino", "compile": True}, "it compiles by itself. Leave --compile out"),
        ({"precision": "fp16"}, "a processor does not compute in fp16"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(settings, message):
    settings = {"device": CPU, "precision": "fp32", "example_shape": SHAPE} | settings
    with pytest.raises(UsageError, match=message):
        make_ready(tiny(), **settings)

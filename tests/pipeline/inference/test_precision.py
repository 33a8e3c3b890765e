"""The precision that is taken, asked for by name or not."""

import pytest
import torch
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.inference import precision
from scanloom.pipeline.inference.precision import choose_precision, precision_notice

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture(params=[True, False], ids=["bf16 units", "no bf16 units"])
def units(request, monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: request.param and device.type != "mps")
    return request.param


@pytest.mark.parametrize("cost", [None, 0.001, 0.2, float("nan")])
@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
def test_auto_is_fp32_where_bf16_may_cost_accuracy(units, device, cost):
    assert choose_precision("auto", device, cost) == "fp32"


@pytest.mark.parametrize("cost", [0.0009, 0.0, -0.01])
def test_auto_is_bf16_where_it_costs_nothing_and_the_device_computes_in_it(units, cost):
    for device in (CPU, CUDA):
        assert choose_precision("auto", device, cost) == ("bf16" if units else "fp32")
    assert choose_precision("auto", MPS, cost) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_is_asked_for_by_name_is_taken(units, name):
    for device in (CPU, CUDA, MPS):
        assert choose_precision(name, device, None) == name
    assert choose_precision("fp16", CUDA, None) == "fp16"


def test_emulated_bf16_comes_with_a_notice(units):
    notice = precision_notice("bf16", CPU)
    assert (notice is None) if units else ("emulated on cpu" in notice and "\n" not in notice)
    assert precision_notice("fp32", CPU) is None


def test_fp16_on_a_processor_is_refused():
    with pytest.raises(UsageError, match=r"--precision fp16: a processor does not compute in fp16\. Use auto"):
        choose_precision("fp16", CPU, 0.0)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match=r"--precision int8: there is no such precision\. Use one of auto, fp32"):
        choose_precision("int8", CPU, None)

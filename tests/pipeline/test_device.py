"""Devices by name, in words, and what they compute in."""

import pytest
import torch
from scanloom.pipeline import device as device_module
from scanloom.pipeline.device import describe_device, find_device, find_devices, has_bf16
from scanloom.pipeline.errors import UsageError


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "tpu:0", "meta"])
def test_an_unknown_device_is_a_wrong_argument(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device {name}: there is no such device here") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


def test_auto_is_a_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == expected


def test_several_devices_of_one_kind_are_named_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices("cpu") == (torch.device("cpu"),)
    assert find_devices("cpu, cpu") == (torch.device("cpu"),)
    monkeypatch.setattr(device_module, "find_device", torch.device)
    assert find_devices("cuda:0,cuda:1") == (torch.device("cuda:0"), torch.device("cuda:1"))
    with pytest.raises(UsageError, match="--device cpu,cuda:0: devices that share a scan must be of one kind"):
        find_devices("cpu,cuda:0")


def test_a_device_is_described_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_device(torch.device("cpu")) == f"cpu ({torch.get_num_threads()} threads)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (a card)"


def test_bf16_is_a_fact_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert has_bf16(torch.device("cpu")) is amx
    assert has_bf16(torch.device("meta")) is False
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert has_bf16(torch.device("cuda")) is True

"""What a computation runs on: the device of a name, its name in words, whether it computes in bf16."""

from __future__ import annotations

import torch

from .errors import UsageError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        UsageError: it is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"--device {name}: there is no such device here. `scanloom doctor` lists them; auto takes what there is."
        ) from None
    return device


def find_devices(names: str) -> tuple[torch.device, ...]:
    """The devices of those names, with commas between: "cuda:0,cuda:1"; no name twice.

    Raises:
        UsageError: one is not here, or they are of several kinds.
    """
    devices = tuple(dict.fromkeys(find_device(name.strip()) for name in names.split(",")))
    if len({device.type for device in devices}) > 1:
        raise UsageError(f"--device {names}: devices that share a scan must be of one kind, such as cuda:0,cuda:1.")
    return devices


def describe_device(device: torch.device) -> str:
    """The device in words, for reports: "cuda:0 (NVIDIA H200)", "cpu (2 threads)"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()

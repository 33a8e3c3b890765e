"""What memory there is, what was used, and what a network's forward pass will need.

Nothing here raises for what a system does not tell: such an answer is None.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PROCESS = Path("/proc/self")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 2**30  # larger blocks go back to the system all the same
UNLIMITED = 2**60  # version 1 writes about 2**63 where there is no limit

FLOAT_BYTES = 4

HOST_FACTOR = 1.25
"""On a processor, times the bytes of the activations: oneDNN copies the input of a convolution while it runs."""
HOST_EXTRA_BYTES = 320 * 2**20
"""On a processor, added to that: freed blocks that glibc keeps (up to 110 MiB more than 128 MiB where it is told to by
`keep_freed_memory`), buffers of small convolutions."""

log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back; whether its allocator can be told so.

    A network's activations are freed and taken again in every pass, and each page that comes fresh from the system is
    a fault to be served and zeros to be written. On 2 cores the hippocampus network took 1.5 times as long at 96^3
    voxels without this, and a small one 1.7 times at 128^3; the process held 110 to 240 MiB more with it.
    It is a wish: where the heap can not grow in place glibc maps large blocks all the same, which differs by process.
    Source: mallopt(3), glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, such as musl
        return False
    return all([mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) == 1, mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1])


def available_bytes(device: torch.device) -> int | None:
    """Bytes that this process may still take on the device, as of now; None where it does not tell.

    On the host the least of what the system has available, what the control groups of the process leave, and what
    its limit of address space leaves. On a GPU what is free and what PyTorch's allocator holds unused; the latter may
    lie in pieces.
    Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux, for the names of the files.
    """
    if device.type == "cpu":
        known = [each for each in (_system_left(), *_cgroups_left(), _address_space_left()) if each is not None]
        return min(known, default=None)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):
        return max(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), 0)
    return None


def peak_bytes(device: torch.device) -> int | None:
    """The most memory in use at once so far: since the last `PeakMemory` began, or else since the process did.

    On the host the resident memory of the process, libraries included; on a CUDA device what tensors and their
    computations took of it; None elsewhere.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    kib = _field(PROCESS / "status", "VmHWM")  # first, as ru_maxrss begins with what the parent process had
    if kib is not None:
        return kib * 1024
    if resource is not None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return _process_memory("peak_wset")  # Windows


class PeakMemory:
    """Measures the peak of a block of code: `with PeakMemory(device) as peak: ...`, then `peak.host_bytes`.

    The peak is set back at the start where the system lets it (Linux, CUDA); elsewhere it is that of the process so
    far. Blocks do not nest: an inner one sets back the outer one's peak.

    Args:
        device: that the block computes on.

    Attributes:
        host_bytes: `peak_bytes` of the host, after the block.
        device_bytes: `peak_bytes` of the device, after the block; None for the host.
        added_bytes: what the block took at its peak beyond what there was at its start, on the device; None where
            that is not known.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_bytes: int | None = None
        self.device_bytes: int | None = None
        self.added_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        self._was_reset = _reset_peak(self.device)
        self._start = _bytes_now(self.device)
        self._peak_at_start = peak_bytes(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        self.host_bytes = peak_bytes(torch.device("cpu"))
        self.device_bytes = None if self.device.type == "cpu" else peak_bytes(self.device)
        peak = self.host_bytes if self.device.type == "cpu" else self.device_bytes
        if peak is None or self._start is None or self._peak_at_start is None:
            return
        if self._was_reset or peak > self._peak_at_start:
            self.added_bytes = max(peak - self._start, 0)


@dataclass(frozen=True)
class ForwardNeeds:
    """What a forward pass in evaluation takes and gives.

    Attributes:
        activation_bytes: the largest sum of tensors alive at once.
        channels: of its outputs, each (B, channels, …).
    """

    activation_bytes: int
    channels: tuple[int, ...]


def forward_needs(
    network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> ForwardNeeds | None:
    """What a forward pass in evaluation takes and gives, or None where it can not be told.

    Input and output count, parameters and buffers do not; what an operator needs inside itself is not seen. Nothing
    is computed: a copy of the network runs on the meta device, which has shapes and no values. None for what is
    scripted or compiled or not a module, and for what does not run there: operators of one's own, a path that depends
    on the values, constants that are no buffers. Then measure.

    On a processor in fp32 the process takes at most `HOST_FACTOR` times as much and `HOST_EXTRA_BYTES` more: the
    hippocampus network took 1.07 to 1.25 times as much at 96^3 voxels and 1.01 to 1.02 at 160^3, with its batch norms
    folded 1.36 and 1.16. This does not hold for bf16 without units for it (8 times: convolutions unfold their input),
    and was not measured on a GPU. The first call imports for about 1.5 s.

    Args:
        network: on any device; left as it is. Autocast is not seen.
        shape: of the input, (B, C, *spatial).
        dtype: of the input.
    """
    if not isinstance(network, nn.Module) or any(map(_is_compiled, network.modules())):
        return None
    try:
        with torch.no_grad():  # not inference mode, in which composite operators arrive whole
            copied = _meta_copy(network)
            with _LiveStorages(copied) as live:
                output = copied(torch.empty(shape, dtype=dtype, device="meta"))
    except Exception as error:  # a network is anyone's code: what is wrong with it shows again where it really runs
        log.debug("can not tell what memory %s takes: %s", type(network).__name__, error)
        return None
    outputs = [each for each in tree_leaves(output) if isinstance(each, Tensor)]
    if not all(each.is_meta for each in outputs):
        return None
    return ForwardNeeds(live.peak, tuple(each.shape[1] for each in outputs if each.dim() > 1))


def human_bytes(n: int) -> str:
    """The size in words, of two digits or more: "1.3 GiB", "80 MiB", "512 B"."""
    size, units = float(n), ["B", "KiB", "MiB", "GiB", "TiB"]
    while round(size) >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.1f} {units[0]}" if size < 9.95 and units[0] != "B" else f"{size:.0f} {units[0]}"


class _LiveStorages(TorchDispatchMode):
    """Follows, while it is entered, the storages of what operators return until nothing refers to them.

    Attributes:
        peak: the most bytes alive at once, the parameters and buffers of `network` left out.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self._own = WeakIdKeyDictionary(
            {each.untyped_storage(): 0 for each in (*network.parameters(), *network.buffers())}
        )
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage() not in self._own:
                self._alive[each.untyped_storage()] = each.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


def _is_compiled(module: nn.Module) -> bool:
    """Whether it is a module of TorchScript or of `torch.compile`, which would compile anew."""
    return isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod")


def _meta_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares no tensor and has no memory for its own."""

    def on_meta(tensor: Tensor) -> Tensor:
        empty = torch.empty_like(tensor, device="meta")
        return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

    memo = {id(each): on_meta(each) for each in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, memo).eval()


def _reset_peak(device: torch.device) -> bool:
    """Begin anew with the peaks of the host and the device; whether the latter was possible."""
    try:
        (PROCESS / "clear_refs").write_text("5")  # man 5 proc_pid_clear_refs: sets VmHWM to what is resident
        host = True
    except OSError:
        host = False
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    return host and device.type == "cpu"


def _bytes_now(device: torch.device) -> int | None:
    """What `peak_bytes` is the peak of."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _process_memory("rss") if device.type == "cpu" else None


def _process_memory(name: str) -> int | None:
    """A figure of psutil's about this process; None where there is no such one."""
    try:
        return getattr(psutil.Process().memory_info(), name, None)
    except (OSError, psutil.Error):  # no /proc
        return None


def _system_left() -> int | None:
    try:
        return psutil.virtual_memory().available
    except (OSError, RuntimeError, psutil.Error):  # no /proc
        return None


def _address_space_left() -> int | None:
    if resource is None or not hasattr(resource, "RLIMIT_AS"):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _process_memory("vms")
    return None if limit == resource.RLIM_INFINITY or used is None else max(limit - used, 0)


def _cgroups_left() -> Iterator[int]:
    """What each control group that the process is in leaves: its own, and those that hold it.

    In a container the path may be that outside of it; the group itself is then the root of what is seen.
    """
    for line in _read(PROCESS / "cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (CGROUPS / "memory", CGROUP_V1) if controllers else (CGROUPS, CGROUP_V2)
        folder = root / path.lstrip("/")
        for each in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            left = _cgroup_left(each, *names)
            if left is not None:
                yield left


def _cgroup_left(folder: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    """The limit less what is in use; the page cache counts as in use, and its inactive part makes room when asked."""
    limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
    if not limit.isdigit() or not used.isdigit() or int(limit) >= UNLIMITED:
        return None
    return max(int(limit) - int(used) + (_field(folder / "memory.stat", cache_name) or 0), 0)


def _field(path: Path, name: str) -> int | None:
    """The number after a name in a file of one name and number a line."""
    for words in map(str.split, _read(path).splitlines()):
        if len(words) > 1 and words[0].rstrip(":") == name and words[1].isdigit():
            return int(words[1])
    return None


def _read(path: Path) -> str:
    """The text of a file of the system; empty where it can not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

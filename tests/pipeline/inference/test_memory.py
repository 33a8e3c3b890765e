"""What memory there is, what was used, and what a network will need."""

import platform
import resource
import subprocess
import sys
import types

import psutil
import pytest
import torch
from scanloom.networks import UNet
from scanloom.pipeline.inference import memory
from scanloom.pipeline.inference.memory import (
    PeakMemory,
    _LiveStorages,
    available_bytes,
    forward_needs,
    human_bytes,
    keep_freed_memory,
    peak_bytes,
)
from torch import nn

CPU, CUDA, MPS, META = (torch.device(name) for name in ("cpu", "cuda", "mps", "meta"))
MIB = 2**20


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes the files of a made-up system of 1,000 MiB, without limits but for those of its files."""
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1000 * MIB))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return lambda files: write(**files)


def v2_group(folder, limit, used, cache=None):
    files = {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{used}\n"}
    return files if cache is None else {**files, f"{folder}/memory.stat": f"anon 5\ninactive_file {cache}\n"}


def v1_group(folder, limit, used, cache=0):
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {cache}\n",
    }


def test_without_limits_what_the_system_has_is_available(system):
    assert available_bytes(CPU) == 1000 * MIB


def test_a_group_of_version_2_limits_and_its_inactive_page_cache_makes_room(system):
    system({"proc/cgroup": "0::/user/job\n", **v2_group("cgroup/user/job", 500 * MIB, 300 * MIB, 50 * MIB)})
    assert available_bytes(CPU) == 250 * MIB


def test_a_group_that_holds_the_own_one_limits_too(system):
    system({"proc/cgroup": "0::/user/job\n", **v2_group("cgroup/user/job", "max", 300 * MIB)})
    assert available_bytes(CPU) == 1000 * MIB
    system(v2_group("cgroup/user", 400 * MIB, 300 * MIB))
    assert available_bytes(CPU) == 100 * MIB


def test_in_a_container_that_does_not_see_its_path_the_root_limits(system):
    system({"proc/cgroup": "0::/docker/0123\n", **v2_group("cgroup", 200 * MIB, 150 * MIB)})
    assert available_bytes(CPU) == 50 * MIB


def test_a_group_of_version_1_limits_by_its_hierarchical_figures(system):
    system({"proc/cgroup": "5:cpu,cpuacct:/job\n4:hugetlb,memory:/job\n0::/\n"})
    system(v1_group("cgroup/memory/job", 600 * MIB, 400 * MIB, 30 * MIB))
    system(v1_group("cgroup/memory", 9223372036854771712, 800 * MIB))
    assert available_bytes(CPU) == 230 * MIB


def test_a_group_above_its_limit_leaves_nothing(system):
    system({"proc/cgroup": "0::/\n", **v2_group("cgroup", 100 * MIB, 101 * MIB)})
    assert available_bytes(CPU) == 0


def test_files_that_say_nothing_limit_nothing(system):
    system({"proc/cgroup": "0::/\nnot a group\n\n", "cgroup/memory.max": "lots\n", "cgroup/memory.current": ""})
    assert available_bytes(CPU) == 1000 * MIB


def test_the_limit_of_address_space_counts(system, monkeypatch):
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + 500 * MIB, resource.RLIM_INFINITY))
    assert 400 * MIB < available_bytes(CPU) <= 600 * MIB
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (MIB, MIB))
    assert available_bytes(CPU) == 0


def test_where_nothing_tells_what_is_available_it_is_none(system, monkeypatch):
    def fail():
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    monkeypatch.setattr(memory, "resource", None)
    assert available_bytes(CPU) is None


def test_without_any_proc_nothing_raises(system, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "missing"))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**40, 2**40))
    assert available_bytes(CPU) is None
    with PeakMemory(CPU) as peak:
        pass
    assert peak.host_bytes > MIB and peak.added_bytes is None


def test_this_machine_has_memory():
    assert 0 < available_bytes(CPU) <= psutil.virtual_memory().total
    assert MIB < peak_bytes(CPU) <= psutil.virtual_memory().total


def test_on_a_cuda_device_what_the_allocator_holds_unused_is_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    assert available_bytes(CUDA) == 350


def test_mps_leaves_what_it_recommends_less_what_is_taken(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 300, raising=False)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 100, raising=False)
    assert available_bytes(MPS) == 200
    monkeypatch.delattr(torch.mps, "recommended_max_memory")
    assert available_bytes(MPS) is None


def test_a_device_that_does_not_tell_has_no_figures():
    assert available_bytes(META) is None and peak_bytes(META) is None


def test_the_peak_is_in_bytes_on_every_system(system, monkeypatch):
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=2048))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert peak_bytes(CPU) == 2 * MIB
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert peak_bytes(CPU) == 2048
    system({"proc/status": "Name:\tpython\nVmHWM:\t    3072 kB\n"})
    assert peak_bytes(CPU) == 3 * MIB


def test_without_the_resource_module_the_peak_is_that_of_windows_or_none(system, monkeypatch):
    monkeypatch.setattr(memory, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: types.SimpleNamespace(rss=5))
    assert peak_bytes(CPU) is None
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: types.SimpleNamespace(rss=5, peak_wset=7))
    assert peak_bytes(CPU) == 7


def test_a_block_tells_its_own_peak_not_an_earlier_one():
    """In a process of its own: where an earlier test told glibc to keep freed memory, the block takes none."""
    code = (
        "import torch; from scanloom.pipeline.inference.memory import PeakMemory\n"
        "torch.ones(60 * 2**20)\n"  # 240 MiB, gone before the block
        "with PeakMemory(torch.device('cpu')) as peak: torch.ones(20 * 2**20)\n"
        "print(peak._was_reset, peak.added_bytes, peak.host_bytes, peak.device_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    was_reset, added, host, device = done.stdout.split()
    if was_reset != "True":
        pytest.skip("this system does not set back the peak of a process")
    assert 70 * MIB < int(added) < 160 * MIB
    assert int(host) > int(added) and device == "None"


def test_without_proc_a_block_tells_the_peak_of_the_process(system, monkeypatch):
    peaks = iter([2048, 2048, 10**9])
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=next(peaks)))
    with PeakMemory(CPU) as peak:
        pass
    assert peak.host_bytes == 2 * MIB and peak.added_bytes is None
    monkeypatch.setattr(memory, "resource", None)
    with PeakMemory(CPU) as peak:
        pass
    assert peak.host_bytes is peak.added_bytes is None


def test_a_block_that_raises_the_peak_of_the_process_tells_what_it_added(system, monkeypatch):
    peaks = iter([2**30, 2**40])
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=next(peaks)))
    with PeakMemory(CPU) as peak:
        pass
    assert 0 < peak.added_bytes < peak.host_bytes


def test_a_block_on_a_cuda_device_tells_both_peaks(monkeypatch):
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 40)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 100)
    with PeakMemory(CUDA) as peak:
        pass
    assert resets == [CUDA]
    assert (peak.device_bytes, peak.added_bytes) == (100, 60) and peak.host_bytes > MIB


def activation_bytes(*args) -> int | None:
    needs = forward_needs(*args)
    return None if needs is None else needs.activation_bytes


class Calls(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def grow(x):
    """Four images at once: x, y, y + 1 and twice that."""
    y = x + 1
    return (y + 1) * 2


@pytest.mark.parametrize(
    ("function", "images"),
    [
        (lambda x: x, 1),
        (lambda x: x + 1, 2),
        (lambda x: x.relu_(), 1),
        (lambda x: x.view(-1)[3:].t(), 1),
        (lambda x: x + 1 + 1 + 1, 3),
        (grow, 4),
        (lambda x: torch.cat([x, x], 1), 3),
        (lambda x: [x.double(), x.half()], 3.5),
        (lambda x: {"logits": x[:, :1].contiguous()}, 1),
        (lambda x: nn.functional.interpolate(x, scale_factor=2), 9),
        (lambda x: torch.empty(0, device=x.device).resize_(2 * x.numel()), 3),
    ],
)
def test_tensors_count_once_while_they_are_alive(function, images):
    assert activation_bytes(Calls(function), (1, 1, 8, 8, 8)) == images * 8**3 * 4


def test_parameters_and_buffers_do_not_count():
    network = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16))
    # while the second layer runs: the input, which its caller holds, and the outputs of both layers
    assert activation_bytes(network, (2, 64)) == 2 * (64 + 32 + 16) * 4


def test_convolutions_count_as_by_hand():
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv3d(4, 2, 1), nn.MaxPool3d(2))
    pooled_with_indices = 2 / 8 + 2 * 2 / 8  # the indices of a pooling are of 8 bytes
    assert activation_bytes(network, (1, 1, 16, 16, 16)) == max(1 + 4 + 2, 1 + 2 + pooled_with_indices) * 16**3 * 4


def test_half_precision_takes_half():
    network = nn.Conv2d(1, 3, 3, padding=1)
    whole = activation_bytes(network, (1, 1, 32, 32))
    assert activation_bytes(network.bfloat16(), (1, 1, 32, 32), torch.bfloat16) == whole // 2


@pytest.mark.parametrize("norm", ["none", "batch", "instance", "group"])
def test_a_unet_takes_what_it_takes_when_it_computes(norm):
    """The same count over a real run; the meta device returns a few statistics of norms that the processor leaves."""
    network = UNet(spatial_dims=3, features=[4, 8, 16], padding="same", norm=norm, deep_supervision=1).eval()
    told = activation_bytes(network, (1, 1, 20, 24, 20))
    with torch.no_grad(), _LiveStorages(network) as live:
        network(torch.zeros(1, 1, 20, 24, 20))
    assert told == pytest.approx(live.peak, abs=1024)
    assert told > 4 * 4 * 20 * 24 * 20 * 4


def test_the_network_is_left_as_it_is():
    network = UNet(spatial_dims=2, features=[4, 8], padding="same", norm="batch", dropout=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    activation_bytes(network, (1, 1, 16, 16))
    assert network.training and all(not each.is_meta for each in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_copy_takes_no_memory():
    network = nn.Linear(1000, 1000)
    copied = memory._meta_copy(network)
    assert all(each.is_meta for each in copied.parameters()) and not copied.training


CONSTANT = torch.ones(8, 8, 8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * CONSTANT,
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.zeros(3),
        lambda x: x.no_such_attribute,
    ],
    ids=["value-dependent", "constant", "leaves torch", "another device", "broken"],
)
def test_what_can_not_run_without_values_is_not_told(function):
    assert activation_bytes(Calls(function), (1, 1, 8, 8, 8)) is None


def test_scripted_and_compiled_networks_and_plain_functions_are_not_told():
    assert activation_bytes(torch.jit.script(nn.Linear(8, 8)), (1, 8)) is None
    assert activation_bytes(nn.Sequential(torch.jit.script(nn.Linear(8, 8))), (1, 8)) is None
    assert activation_bytes(torch.compile(nn.Linear(8, 8), backend="eager"), (1, 8)) is None
    assert activation_bytes(lambda x: x, (1, 8)) is None


def test_a_shape_that_the_network_refuses_is_not_told():
    assert activation_bytes(UNet(), (1, 1, 10, 10)) is None


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (80 * MIB, "80 MiB"),
        (int(1.3 * 2**30), "1.3 GiB"),
        (int(9.97 * MIB), "10 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (2**52, "4096 TiB"),
    ],
)
def test_sizes_are_said_in_two_digits_or_more(n, words):
    assert human_bytes(n) == words


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's allocator is told")
def test_glibc_takes_being_told_to_keep_memory():
    """Whether pages are then kept depends on whether its heap can grow where it lies, which differs by process."""
    code = "from scanloom.pipeline.inference.memory import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]


def test_another_c_library_is_not_told(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False

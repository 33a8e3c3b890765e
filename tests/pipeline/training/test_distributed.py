"""Two processes on a processor (gloo) train as one with the double batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.training import distributed
from scanloom.pipeline.training.distributed import GatheredLoss, joined_processes, told_by_the_first, train_together
from scanloom.pipeline.training.processes import own_device
from scanloom.pipeline.training.synchronized_norm import SynchronizedBatchNorm, synchronize_batch_norm
from torch import nn

SCRIPT = Path(__file__).with_name("trained_by_several.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("several")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for launcher in ([sys.executable], torchrun):
        done = subprocess.run(
            [*launcher, str(SCRIPT), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    return {path.stem: torch.load(path, weights_only=True) for path in folder.iterdir()}


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_with_the_double_batch(results: dict[str, dict[str, Any]]) -> None:
    one, first, second = (results[name] for name in ("1-0", "2-0", "2-1"))
    assert (one["kind"], first["kind"]) == ("UNet", "DistributedDataParallel")
    assert len(one["losses"]) == 6 and one["losses"][-1] < 0.8 * one["losses"][0]
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-4)


@pytest.mark.slow
def test_their_weights_and_statistics_are_those_of_one(results: dict[str, dict[str, Any]]) -> None:
    one, first, second = (results[name]["weights"] for name in ("1-0", "2-0", "2-1"))
    assert list(first) == list(one)  # the names fit a network that is not distributed
    for key, value in one.items():
        torch.testing.assert_close(first[key], value, atol=1e-4, rtol=1e-3)
        assert torch.equal(first[key], second[key])


@pytest.mark.slow
def test_what_the_first_says_is_told_to_all(results: dict[str, dict[str, Any]]) -> None:
    assert {results[name]["told"] for name in ("1-0", "2-0", "2-1")} == {"rank 0"}


def test_alone_nothing_is_changed() -> None:
    with joined_processes():
        assert told_by_the_first(5) == 5
        engine = object()
        train_together(engine)  # does not even look at it
    assert own_device("auto") == "auto"


def test_a_device_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert own_device("cpu") == "cpu"
    assert own_device("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_a_loader_that_gives_all_processes_the_same_cases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        data_loader = DataLoader(Dataset([{"image": torch.zeros(1)}]))

    monkeypatch.setattr(distributed.distributed, "is_initialized", lambda: True)
    with pytest.raises(BundleError, match=r"several processes would train on the same cases\. Give train#dataloader"):
        train_together(Trainer())


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_synchronized_norm_alone_is_torchs_batch_norm(momentum: float | None) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm3d(3, momentum=momentum)
    nn.init.normal_(plain.weight)
    other = nn.Sequential(nn.BatchNorm3d(3, momentum=momentum))
    other[0].load_state_dict(plain.state_dict())
    synchronize_batch_norm(other, torch.device("cpu"))
    assert isinstance(other[0], SynchronizedBatchNorm)
    for _ in range(2):
        images = [torch.randn(2, 3, 4, 5, 6) * 3 + 100 for _ in range(1)]
        one, two = (images[0].clone().requires_grad_() for _ in range(2))
        (plain(one) ** 3).sum().backward()
        (other(two) ** 3).sum().backward()
        torch.testing.assert_close(one.grad, two.grad, atol=1e-3, rtol=1e-3)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[key], value)
    plain.eval(), other.eval()
    torch.testing.assert_close(plain(images[0]), other(images[0]))


@pytest.mark.usefixtures("group")
def test_the_optimizers_parameters_stay_the_same_objects() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2)))
    before = [id(parameter) for parameter in network.parameters()]
    synchronize_batch_norm(network, torch.device("cpu"))
    assert [id(parameter) for parameter in network.parameters()] == before


@pytest.mark.usefixtures("group")
def test_a_gathered_loss_takes_lists_of_heads() -> None:
    heads = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
    loss = GatheredLoss(lambda logits, target: (logits[0] * target).sum() + logits[1].sum())
    loss(heads, torch.full((2, 3), 2.0)).backward()
    assert [head.grad.unique().tolist() for head in heads if head.grad is not None] == [[2.0], [1.0]]

"""Checkpoints: whole, with a spare, refused where they do not fit."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.training import checkpoint as module
from scanloom.pipeline.training.checkpoint import (
    Checkpoint,
    Progress,
    RandomStates,
    read_checkpoint,
    restore,
    save_checkpoint,
)


def network(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(30, 30)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def write_epochs(folder: Path, epochs: int, best: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for epoch in range(epochs + 1):
        save_checkpoint(folder, {"network": network(epoch)}, Progress("run", {"a": "b"}, epoch), best=epoch == best)


def value_of(checkpoint: Checkpoint | None) -> float:
    assert checkpoint is not None
    return float(checkpoint.states["network"]["weight"][0, 0])


def test_the_last_its_spare_and_the_best_are_kept(tmp_path: Path) -> None:
    write_epochs(tmp_path, 4, best=2)
    values = {path.name: torch.load(path, weights_only=True)["network"]["weight"][0, 0] for path in tmp_path.iterdir()}
    assert values == {"last.pt": 4, "previous.pt": 3, "best.pt": 2}
    found = read_checkpoint(tmp_path)
    assert found is not None and found.progress == Progress("run", {"a": "b"}, 4) and found.notice == ""


@pytest.mark.parametrize("fault", ["cut", "empty", "a flipped byte", "nonsense", "missing"])
def test_a_broken_checkpoint_falls_back_to_the_spare_and_says_so(tmp_path: Path, fault: str) -> None:
    write_epochs(tmp_path, 3)
    last = tmp_path / "last.pt"
    content = bytearray(last.read_bytes())
    if fault == "missing":
        last.unlink()
    else:
        middle = content.index(np.float32(3).tobytes() * 8)  # within the weights
        content[middle] ^= 1
        broken = {"cut": content[:middle], "empty": b"", "a flipped byte": content, "nonsense": b"nonsense"}
        last.write_bytes(broken[fault])
    found = read_checkpoint(tmp_path)
    assert value_of(found) == 2
    said = "" if fault == "missing" else "checkpoint last.pt can not be read"
    assert found is not None and found.notice.startswith(said)
    assert fault == "missing" or found.notice.endswith("; previous.pt is of epoch 2")


def test_where_none_can_be_read_it_says_which(tmp_path: Path) -> None:
    write_epochs(tmp_path, 1, best=1)
    for path in tmp_path.iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(
        UsageError, match=r"--resume: in .* checkpoint last\.pt can not .* and previous.* and best.*anew"
    ):
        read_checkpoint(tmp_path)


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"foreign": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match=r"last\.pt can not be read \(KeyError\)"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"network": Harmful()}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match=r"UnpicklingError"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_without_one_there_is_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize("moment", ["write", "first rename", "second rename"])
def test_a_checkpoint_that_can_not_be_written_leaves_one(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_epochs(tmp_path, 3)
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == {"first rename": "last.pt", "second rename": "new.pt"}.get(moment):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    def no_room(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        if moment == "write":
            patched.setattr(module.torch, "save", no_room)
        patched.setattr(Path, "replace", fail)
        with pytest.raises((PipelineError, OSError), match=r"No space left on device"):
            save_checkpoint(tmp_path, {"network": network(4)}, Progress("run", {}, 4))
    assert value_of(read_checkpoint(tmp_path)) == 3


def test_states_go_back_into_their_objects(tmp_path: Path) -> None:
    write_epochs(tmp_path, 2)
    found, other = read_checkpoint(tmp_path), network(9)
    assert found is not None
    restore(found, {"network": other})
    assert other.weight[0, 0].item() == 2
    for wrong in ({"network": torch.nn.Linear(2, 2)}, {"optimizer": other}):
        with pytest.raises(UsageError, match=r"does not fit this training \(\w+\)\. Resume with the options"):
            restore(found, wrong)


def test_random_states_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(torch.randn(1)), float(np.random.normal())]

    draw()
    save_checkpoint(tmp_path, {"random": RandomStates()}, Progress())
    after = draw()
    found = read_checkpoint(tmp_path)
    assert found is not None
    restore(found, {"random": RandomStates()})
    assert draw() == after

"""What each process that `torchrun` starts for test_distributed.py runs; its results go into a file of its rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss
from scanloom.networks import UNet
from scanloom.pipeline.training.distributed import joined_processes, told_by_the_first, train_together
from scanloom.pipeline.training.order import EpochSampler, SeededDataset
from scanloom.pipeline.training.processes import process_count, process_rank
from torch import nn


def cases() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 16, 16, generator=random) for _ in range(8)]
    return [{"image": image, "label": (image > number / 8).float()} for number, image in enumerate(images)]


def trainer(batch_size: int) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = UNet(features=[4, 8, 16], norm="batch", padding="same", deep_supervision=1)
    dataset = SeededDataset(Dataset(cases()))
    data = DataLoader(dataset, batch_size=batch_size, sampler=EpochSampler(dataset, batch_size))
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True, batch=True))
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9),
        loss_function=loss,
        decollate=False,
    )


def train(batch_size: int) -> dict[str, Any]:
    engine, losses = trainer(batch_size), []
    network: nn.Module = engine.network
    train_together(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(engine.state.output["loss"].item()))
    engine.run()
    return {"losses": losses, "weights": network.state_dict(), "kind": type(engine.network).__name__}


def main(folder: Path) -> None:
    with joined_processes():
        found = train(batch_size=4 // process_count())
        found["told"] = told_by_the_first(f"rank {process_rank()}")
        torch.save(found, folder / f"{process_count()}-{os.environ.get('RANK', 0)}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

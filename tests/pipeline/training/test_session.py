"""What of the engines goes into a checkpoint beyond what the whole trainings test."""

from __future__ import annotations

import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from scanloom.pipeline.training.session import Scaler


def trainer(scale: float) -> SupervisedTrainer:
    network = torch.nn.Conv2d(1, 1, 1)
    made = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(Dataset([{"image": torch.ones(1, 4, 4), "label": torch.ones(1, 4, 4)}])),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
    )

    @made.on(Events.STARTED)
    def scale_as_monai_does_on_a_gpu() -> None:
        made.scaler = torch.GradScaler("cpu", init_scale=scale)

    return made


def test_a_scaler_that_is_made_at_the_start_goes_on_with_its_scale() -> None:
    first = trainer(scale=8.0)
    state = Scaler(first)
    assert state.state_dict() == {}
    first.run()
    kept = state.state_dict()
    assert kept["scale"] == 8.0

    second = trainer(scale=65536.0)
    resumed = Scaler(second)
    resumed.load_state_dict(kept)
    assert resumed.state_dict() == kept  # the checkpoint before the first step has it
    second.run()
    assert resumed.state_dict()["scale"] == 8.0

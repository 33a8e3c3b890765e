"""MLflow's monitors of the machine, through the outbox."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.training.store import tracking_uri
from scanloom.pipeline.training.system_metrics import system_metrics
from scanloom.pipeline.training.tracking import TrackedRun, tracked_run

pytestmark = pytest.mark.usefixtures("own_store")

CPU = "system/cpu_utilization_percentage"


def wait_for_samples(run: TrackedRun, count: int) -> None:
    """Until the run has been told so many, those before it was resumed among them."""
    deadline = time.monotonic() + 240
    while samples(run) < count:
        assert time.monotonic() < deadline, "nothing is sampled"
        time.sleep(0.02)


def samples(run: TrackedRun) -> int:
    points = [point for record in run._outbox.records() for point in record.get("points", ())]
    return sum(name == CPU for name, _, _ in points)


def test_processor_and_memory_are_logged_and_a_resumed_run_goes_on_with_its_steps() -> None:
    resume = None
    for wanted in (2, 4):
        with tracked_run("experiment", "run", Path("RUN"), resume=resume) as run, system_metrics(run, interval_s=0.05):
            wait_for_samples(run, wanted)
        resume = run.run_id
    client = MlflowClient(tracking_uri())
    steps = [metric.step for metric in client.get_metric_history(run.run_id, CPU)]
    assert len(steps) >= 4 and sorted(steps) == list(range(len(steps)))
    assert "system/system_memory_usage_megabytes" in client.get_run(run.run_id).data.metrics


def test_a_gpu_that_nvml_finds_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=93),
        nvmlDeviceGetPowerUsage=lambda handle: 350_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda handle: 700_000,
    )
    monkeypatch.setattr("mlflow.system_metrics.metrics.gpu_monitor.pynvml", nvml)
    with tracked_run("experiment", "run", Path("RUN")) as run, system_metrics(run, interval_s=0.05):
        wait_for_samples(run, 1)
    logged = MlflowClient(tracking_uri()).get_run(run.run_id).data.metrics
    assert (logged["system/gpu_0_memory_usage_percentage"], logged["system/gpu_0_utilization_percentage"]) == (25, 93)

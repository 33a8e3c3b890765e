"""Processor, memory, disk, network and GPUs while a training runs: MLflow's own monitors, sent through the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .store import tracking_uri
from .tracking import TrackedRun

INTERVAL_S = 10.0


@contextmanager
def system_metrics(run: TrackedRun, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Log `system/…` metrics of this machine every so many seconds while the block lasts.

    MLflow's monitor asks its server before each sample and gives up where it does not answer; ours only samples.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            while not self._shutdown_event.wait(interval_s):
                self.collect_metrics()
                self.publish_metrics(self.aggregate_metrics())

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            run.log_metrics({self._metrics_prefix + name: value for name, value in metrics.items()}, self._logging_step)
            self._logging_step += 1
            for each in self.monitors:
                each.clear_metrics()

    monitor = Monitor(run.run_id, tracking_uri=tracking_uri())
    monitor._logging_step = run.next_step(monitor._metrics_prefix)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()

"""The devices of a cluster that hold the bundle, each for one scan at a time; one that dies is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ObjectLostError, RayError

from ..errors import PipelineError
from ..prediction import log
from ..progress import Report
from .ray_cluster import Share, alive_nodes
from .ray_work import Device

WAITING_SECONDS = 60.0
"""After so long without a device the user is told."""
STARTS = 5
"""How often in turn each device may end before it is ready, where there is no other."""


class DeviceLostError(Exception):
    """The process of a device ended while it had a case.

    Attributes:
        with_its_node: the node is gone, too, so that the case is not to blame.
    """

    def __init__(self, cause: RayError, with_its_node: bool) -> None:
        super().__init__(type(cause).__name__)
        self.with_its_node = with_its_node


@dataclass(eq=False)
class Place:
    """One device.

    Attributes:
        actor: Ray's handle of the process that has it.
        node: id of the node that it is on.
    """

    actor: Any = field(repr=False)
    node: str


class Devices:
    """As many devices as the run takes; cases wait here until one is free.

    Args:
        job: a reference to what is asked for.
        files: a reference to the bundle's files.
        share: what to take of the cluster.
        report: told where no device can be had.
    """

    def __init__(self, job: Any, files: Any, share: Share, report: Report) -> None:
        self._job, self._files, self._share, self._report = job, files, share, report
        self._idle: list[Place] = []
        self._ready: set[Place] = set()
        self._changed = asyncio.Event()
        self._starting: set[asyncio.Task[None]] = set()
        self._failures: list[str] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._share.devices):
            self._start_one()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._starting:
            task.cancel()
        for place in self._ready:
            ray.kill(place.actor)

    @asynccontextmanager
    async def one(self, but: Place | None = None) -> AsyncIterator[Place]:
        """A free device, for this block alone.

        Args:
            but: one that shall not be it, unless there is no other.
        Raises:
            DeviceLostError: its process ended in the block; another is being started.
            PipelineError: there is none, and none that was started became ready.
        """
        place = await self._taken(but)
        try:
            yield place
        except ObjectLostError:  # the scan has left with its node before it came here
            self._give(place)
            raise
        except RayError as error:
            self._ready.discard(place)
            ray.kill(place.actor)
            self._start_one()
            self._let_look()
            raise DeviceLostError(error, place.node not in alive_nodes()) from error
        except BaseException:
            self._give(place)
            raise
        self._give(place)

    async def _taken(self, but: Place | None) -> Place:
        while True:
            others = [place for place in self._idle if place is not but]
            if others or (self._idle and self._ready == {but}):
                place = others[0] if others else self._idle[0]
                self._idle.remove(place)
                return place
            if len(self._failures) >= STARTS * self._share.devices:
                raise PipelineError(
                    f"no device became ready: {len(self._failures)} processes ended while they loaded the bundle, "
                    f"the last by {self._failures[-1]}. Look at the memory of the nodes; --debug shows more."
                )
            try:
                async with asyncio.timeout(WAITING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                if not self._ready:
                    self._report("waiting for a device: the cluster has none to give", None)

    def _give(self, place: Place) -> None:
        self._idle.append(place)
        self._let_look()

    def _failed(self, reason: str) -> None:
        """A device has ended before it was ready."""
        if not self._ready:
            self._failures.append(reason)
        self._let_look()

    def _let_look(self) -> None:
        """All who wait look again. No lock is taken, which one that is cancelled would have to give back."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _start_one(self) -> None:
        task = asyncio.create_task(self._start())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self) -> None:
        """A device more, as soon as the cluster has room for one."""
        while True:
            actor = (
                ray.remote(Device)
                .options(num_cpus=self._share.cpus, num_gpus=self._share.gpus, scheduling_strategy="SPREAD")
                .remote(self._job, self._files, self._share.threads)
            )
            try:
                node = await actor.make_ready.remote()
                break
            except asyncio.CancelledError:
                ray.kill(actor)
                raise
            except RayError as error:
                log.debug("a device did not start", exc_info=error)
                self._failed(type(error).__name__)
                await asyncio.sleep(1.0)
        self._failures.clear()
        place = Place(actor, node)
        self._ready.add(place)
        self._give(place)

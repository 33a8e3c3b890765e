"""A run shared out over a Ray cluster: each device holds the bundle; reading and writing are tasks of their own.

Ray places the work, carries scans and labels between the nodes, and tells what was lost. Here is what it can not know:
the three stages of a case, how many cases may be under way, and what to do about one whose stage failed. A case that
fails, or whose process dies, is tried once more, on another device where there is one; then it is recorded as failed.
What a node takes along when it leaves is nobody's fault, and is done again a few times more.

Every node sees the inputs, and a folder for the results, under the same paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .ray_cluster import alive_nodes, joined, share_of  # first: it says what to install where Ray is missing

# isort: split
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..errors import PipelineError
from ..prediction import CaseResult, log
from ..progress import Report
from .case_names import Names
from .devices import DeviceLostError, Devices, Place
from .here import Done
from .job import Input, Job
from .ray_work import files_of, read_case, remove_left_overs, write_case

ATTEMPTS = 2
"""How often a case may fail."""
LOSSES = 5
"""How often it may be lost with a node."""
HELD_BY_DEVICE = 4
"""Cases under way for each device: two read ahead, one labelled, one written."""
TIDYING_SECONDS = 10.0
READER_LOST = ("crash", "hang")
"""Reasons of a refusal that another node may not have: the process that reads ended, or stood still."""


def run_on_ray(job: Job, done: Done, report: Report) -> None:
    """Every input of the job, in any order.

    Args:
        job: what is asked for; `options.cluster` says where.
        done: told of each case as it ends.
        report: told of each case.
    Raises:
        UsageError: there is no such cluster, or it has no such device.
    """

    def run() -> None:
        try:
            asyncio.run(_every_input(job, done, report))
        except BaseExceptionGroup as group:  # several cases are under way, and what stopped the run is one thing
            raise group.exceptions[0] from None

    with joined(str(job.options.cluster)):
        if _has_loop():
            with ThreadPoolExecutor(1) as thread:
                thread.submit(run).result()
        else:
            run()


def _has_loop() -> bool:
    """Whether this thread runs coroutines already, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _every_input(job: Job, done: Done, report: Report) -> None:
    """All cases; as many under way as the devices need, and no more."""
    share = share_of(job.options)
    asked = ray.put(job.travelling())
    under_way = asyncio.Semaphore(HELD_BY_DEVICE * share.devices)
    ended = 0
    async with _tidied(job.run), Devices(asked, ray.put(files_of(job.bundle.folder)), share, report) as devices:
        cases = _Cases(asked, devices, Names(job.destination), share.hands)

        async def one(number: int, given: Input) -> None:
            nonlocal ended
            try:
                result = await cases.ended(number, given)
            finally:
                under_way.release()
            ended += 1
            done(number, result)
            name = result.case or f"input {number + 1}"
            report(f"{name}: {result.status} ({ended} of {len(job.inputs)})", ended / len(job.inputs))

        async with asyncio.TaskGroup() as group:
            for number, given in enumerate(job.inputs):
                await under_way.acquire()
                group.create_task(one(number, given))


@asynccontextmanager
async def _tidied(run: str) -> AsyncIterator[None]:
    """At the end of the block no node that is still there keeps temporary files of the run."""
    try:
        yield
    finally:
        remove = ray.remote(num_cpus=0, max_retries=0)(remove_left_overs)
        with suppress(TimeoutError, RayError):  # what stopped the run matters more
            there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in alive_nodes()]
            removed = [remove.options(scheduling_strategy=node).remote(run) for node in there]
            await asyncio.wait_for(asyncio.gather(*removed, return_exceptions=True), TIDYING_SECONDS)


@dataclass
class _Attempt:
    """One attempt at a case.

    Attributes:
        case: its name; until it has been read what the input is called, if it is.
        but: the device of the one before, which another shall take the place of.
        is_first: else its tasks are sent to another node, too, where there is one.
        place: the device that it was given.
    """

    case: str | None
    but: Place | None = None
    is_first: bool = True
    place: Place | None = None

    def task(self, function: Callable[..., Any], returns: int) -> Any:
        """The function as a task, which Ray shall not try again by itself.

        It claims no processor, so that devices that take all of them can not keep it waiting; `_Cases` limits how many
        there are at a time.
        """
        strategy = "DEFAULT" if self.is_first else "SPREAD"
        return ray.remote(function).options(
            num_cpus=0, num_returns=returns, max_retries=0, scheduling_strategy=strategy
        )


class _Cases:
    """Takes cases through their stages.

    Args:
        job: a reference to what is asked for.
        devices: that label.
        names: of the cases.
        hands: how many cases may be read or written at a time; more than there are processors would each only start
            a process more.
    """

    def __init__(self, job: Any, devices: Devices, names: Names, hands: int) -> None:
        self._job, self._devices, self._names = (job,), devices, names
        self._hands = asyncio.Semaphore(hands)

    async def ended(self, number: int, given: Input) -> CaseResult:
        """How the case of an input ended, after another attempt where that may help."""
        failures, losses, place = 0, 0, None
        while True:
            attempt = _Attempt(given.name, but=place, is_first=not failures)
            try:
                result = await self._try(number, given, attempt)
                if result.status != "failed" and getattr(result.error, "code", None) not in READER_LOST:
                    return result
                failures += 1
            except (RayError, DeviceLostError) as error:
                log.debug("input %d: an attempt was lost", number + 1, exc_info=error)
                blameless = isinstance(error, NodeDiedError | ObjectLostError)
                blameless |= isinstance(error, DeviceLostError) and error.with_its_node
                losses, failures = losses + blameless, failures + (not blameless)
                result = _lost(number, attempt, error)
            if failures >= ATTEMPTS or losses >= LOSSES:
                return result
            place = attempt.place

    async def _try(self, number: int, given: Input, attempt: _Attempt) -> CaseResult:
        """The three stages, as far as they come."""
        async with self._hands:
            told, scan = attempt.task(read_case, 2).remote(self._job, number, given)
            result: CaseResult = await told
        attempt.case = result.case
        self._names.claim(number, result)
        if result.error or result.status == "skipped":
            return result
        async with self._devices.one(attempt.but) as attempt.place:
            told, labelled = attempt.place.actor.label.options(num_returns=2).remote(result, scan)
            result = await told
        if result.error:
            return result
        async with self._hands:
            written: CaseResult = await attempt.task(write_case, 1).remote(self._job, result, scan, labelled)
        return written


def _lost(number: int, attempt: _Attempt, error: Exception) -> CaseResult:
    """The case of an attempt whose process ended, in case that it was the last."""
    result, name = CaseResult(attempt.case), attempt.case or f"input {number + 1}"
    reason = str(error) if isinstance(error, DeviceLostError) else type(error).__name__
    what = f"{name}: the processes that worked on it ended, the last by {reason}"
    result.end(PipelineError(f"{what}. Look at the memory of the nodes, and run again with --skip-existing."), name)
    return result

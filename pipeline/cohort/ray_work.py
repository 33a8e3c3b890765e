"""What runs on the nodes of a cluster: reading a case, labelling it on a device, writing it."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray

from ..bundle import open_bundle
from ..bundle_files import bundle_files
from ..prediction import CaseResult
from .finishing import finish_case
from .job import Input, Job
from .labelling import Labelled, Labeller
from .niceness import give_way
from .reading import CaseReader, Scan

Boxed = tuple[Any]
"""An object reference that Ray hands over as it is, instead of what it stands for."""


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file of a bundle, to be sent to the devices."""
    return {name: path.read_bytes() for name, path in bundle_files(folder)}


def read_case(job: Boxed, number: int, given: Input) -> tuple[CaseResult, Scan | None]:
    """The first stage of a case. The volume is in memory: what a node has unpacked no other node can map."""
    _settle(_job(job[0]).run)
    give_way()
    reader = _reader(job[0])
    result, scan = reader(number, given)
    if scan is not None and scan.volume.is_mapped:
        scan = replace(scan, volume=replace(scan.volume, array=scan.volume.array.copy(order="K")))
    reader.studies.forget()
    return result, scan


def write_case(job: Boxed, result: CaseResult, scan: Scan, labelled: Labelled) -> CaseResult:
    """The last stage of a case."""
    _settle(_job(job[0]).run)
    give_way()
    return finish_case(result, scan, labelled, _job(job[0]))


def remove_left_overs(run: str) -> None:
    """Remove the temporary files of the run from this node, of processes that were killed too."""
    shutil.rmtree(_temporary_folder(run), ignore_errors=True)


class Device:
    """A process that holds the bundle on its device, made ready, for one scan after the other.

    Args:
        job: what is asked for.
        files: of the bundle, whose folder another node may not have.
        threads: of this process, on a processor.
    """

    def __init__(self, job: Job, files: Mapping[str, bytes], threads: int) -> None:
        _settle(job.run)
        folder = Path(tempfile.mkdtemp(prefix="scanloom-"), job.bundle.folder.name)
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        bundle = replace(open_bundle(folder), trusted=True, copied_from=job.bundle.source)
        self._threads = threads
        self._label = Labeller(replace(job, bundle=bundle), [])

    def make_ready(self) -> str:
        """Load the bundle now, so that no case waits for it; an error comes again with the first case.

        Returns:
            Id of the node that this process is on.
        """
        with CaseResult(None).ended_by_errors("the bundle"):
            self._label.load()
            import torch

            torch.set_num_threads(self._threads)
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def label(self, result: CaseResult, scan: Scan) -> tuple[CaseResult, Labelled | None]:
        """The second stage of a case."""
        labelled = self._label(result, scan)
        return result, labelled


@lru_cache(maxsize=1)
def _job(reference: Any) -> Job:
    """What is asked for, got once a process."""
    job: Job = ray.get(reference)
    return job


@lru_cache(maxsize=1)
def _reader(reference: Any) -> CaseReader:
    """This process's reader, whose own process is started once; it ends with this one."""
    return CaseReader(_job(reference))


@lru_cache(maxsize=1)
def _settle(run: str) -> None:
    """What libraries warn of is for developers; temporary files go where they are removed when the run ends.

    Processes of Ray's are killed, so that none can be counted on to remove its own.
    """
    warnings.simplefilter("ignore")
    folder = _temporary_folder(run)
    folder.mkdir(mode=0o700, exist_ok=True)
    tempfile.tempdir = str(folder)


def _temporary_folder(run: str) -> Path:
    """Of the run on this node."""
    tempfile.tempdir = None  # of an earlier run
    return Path(tempfile.gettempdir(), f"scanloom-{run}")

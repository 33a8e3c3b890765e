"""The steps of a study's computations, each on the disk before the next: begun, results in their place, ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import dcmread

from .computing import Labelled
from .ledger import COMPUTING, DONE, FAILED, WAITING, Delivery, Ledger, Run, State, run_name
from .spool import Spool


class Runs:
    """Writes down what becomes of runs.

    Args:
        spool: has images and results.
        ledger: has the states.
        destinations: who gets results, by name.
    """

    def __init__(self, spool: Spool, ledger: Ledger, destinations: Sequence[str]) -> None:
        self._spool, self._ledger, self._destinations = spool, ledger, destinations

    def begin(self, study: str, images: Iterable[str], bundle: str) -> Run:
        """A run on these images begins; it counts how often it has.

        Raises:
            PipelineError: it can not be written down.
        """
        name = run_name(study, images, bundle)

        def edit(state: State) -> None:
            old = state.run(name)
            attempts = old.attempts if old is not None and old.status == COMPUTING else 0
            state.runs = [run for run in state.runs if run.status != COMPUTING and run.name != name]
            state.runs.append(Run(name, bundle, sorted(images), attempts=attempts + 1))
            state.again = False

        return self._ledger.change(study, edit).runs[-1]

    def forget_attempt(self, study: str, name: str) -> None:
        """The user, not the study, ended the program in the middle of the run."""

        def edit(state: State) -> None:
            run = state.run(name)
            if run is not None:
                run.attempts -= 1

        self._ledger.change(study, edit)

    def end(self, study: str, name: str, ended: Labelled) -> Run:
        """A run that was begun has ended so.

        Results take the place of all before, those on their way to a destination included: they are of fewer images.

        Raises:
            PipelineError: it can not be written down.
        """
        superseded: list[str] = []
        here = self._spool.images(study)

        def edit(state: State) -> None:
            run = _known(state, name)
            run.status, run.reason, run.beside = ended.status, ended.line, ended.beside
            others = [old for old in state.runs if old is not run]
            if ended.status == DONE:
                run.deliveries = {destination: Delivery() for destination in self._destinations}
                superseded.extend(old.name for old in others)
                state.runs = [run]
            else:
                run.reason += _hint(others, here)

        state = self._ledger.change(study, edit)
        for old in superseded:
            self._spool.remove_results(study, old)
        return _known(state, name)

    def adopt_results(self, study: str) -> None:
        """A run that has its results is done, also where the program ended before it was written down."""
        for run in self._ledger.read(study).runs:
            results = self._spool.results(study, run.name)
            if run.status == COMPUTING and results.is_dir():
                try:
                    self.end(study, run.name, Labelled.read(results))
                except (OSError, ValueError, TypeError):  # not of our making; the study is computed again
                    self._spool.remove_results(study, run.name)

    def note_again(self, study: str) -> None:
        """Instances of the study come; where it was computed before, images that are here already do not tell so.

        Raises:
            PipelineError: it can not be written down.
        """

        def edit(state: State) -> None:
            state.again = True

        if self._ledger.read(study).runs:
            self._ledger.change(study, edit)

    def deliver_again(self, study: str) -> list[Run]:
        """Who sends a study again, of which nothing is new, wants its results at every destination; all runs."""

        def edit(state: State) -> None:
            state.again = False
            state.runs = [run for run in state.runs if run.status != COMPUTING]  # of another bundle
            for delivery in _failed(state):
                delivery.status = WAITING
            for run in state.runs:
                if run.status == DONE:
                    run.deliveries = {**{name: Delivery() for name in self._destinations}, **run.deliveries}

        if not self._ledger.read(study).runs:
            return []
        return self._ledger.change(study, edit).runs

    def objects(self, study: str, name: str) -> list[Path]:
        """The DICOM objects of a run, reports after the segmentations that they refer to."""
        files = sorted(self._spool.results(study, name).glob("*/*.dcm"))
        return sorted(files, key=lambda file: dcmread(file, specific_tags=["Modality"]).get("Modality", "") == "SR")


def _known(state: State, name: str) -> Run:
    run = state.run(name)
    assert run is not None, "the run was begun"
    return run


def _failed(state: State) -> list[Delivery]:
    return [each for run in state.runs for each in run.deliveries.values() if each.status == FAILED]


def _hint(others: Sequence[Run], here: frozenset[str]) -> str:
    """Where a study came again in part, what mends it."""
    gone = {image for run in others for image in run.images} - here
    return f" ({len(gone)} images of an earlier run are no longer here: send the whole study again)" if gone else ""

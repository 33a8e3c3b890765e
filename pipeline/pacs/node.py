"""A DICOM node: what is received becomes quiet, is computed, is sent on, and is cleared away.

Every step is written down before the next, and what a kill leaves half done is done again from what is on the disk: an
instance is safe before its sender is told so; results appear in one step; a delivery counts when it is in the ledger.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, time

from ..errors import PipelineError, our_own
from .addresses import Destination
from .arrivals import Arrivals
from .computing import Compute, Labelled
from .forwarding import FIRST_PAUSE_S, LONGEST_PAUSE_S, Forwarder, Sends
from .instance import study_name
from .ledger import COMPUTING, DONE, FAILED, HELD, WAITING, Ledger, Run
from .metrics import STUDY_STATES, Metrics
from .receiving import Receiver, ReceivingOptions
from .runs import Runs
from .spool import Spool

MOST_ATTEMPTS = 3
"""A study in whose computation the program, or the disk, ended so often is given up; it may be what ended it."""
HEALTH_S = 60.0
DAY_S = 86400.0


@dataclass(frozen=True)
class NodeOptions:
    """What a node does with studies.

    Attributes:
        destinations: who gets the results.
        quiet_s: a study is complete when nothing has come for so long.
        keeps_images: keep the images of a study that is finished; those of one that failed are kept in any case.
        keep_days: what is left of a study goes after so many days.
        health_s: between two health lines.
        first_pause_s, longest_pause_s: between tries to forward.
    """

    destinations: Sequence[Destination] = ()
    quiet_s: float = 30.0
    keeps_images: bool = False
    keep_days: float = 30.0
    health_s: float = HEALTH_S
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S


class Node:
    """The node; `run` works until it is interrupted.

    Args:
        options: what it does with studies.
        receiving: where and whom it listens to.
        spool: its folders.
        compute: labels a study.
        bundle: 16 hex digits for what `compute` does; of the same images another one makes other results.
        sender: sends results.
        metrics, say: counters and log.
    Raises:
        UsageError: the port can not be listened on.
    """

    def __init__(
        self,
        options: NodeOptions,
        receiving: ReceivingOptions,
        spool: Spool,
        compute: Compute,
        bundle: str,
        sender: Sends,
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._spool, self._compute, self._bundle = options, spool, compute, bundle
        self.metrics, self._say, self._sender = metrics, say, sender
        self.ledger = Ledger(spool.study)
        self.arrivals = Arrivals(options.quiet_s)
        self._runs = Runs(spool, self.ledger, [str(each) for each in options.destinations])
        self.receiver = Receiver(receiving, spool, self.arrivals, self._began, metrics, say)
        pauses = options.first_pause_s, options.longest_pause_s
        self._forwarders = {
            str(each): Forwarder(each, sender, self.ledger, self._runs.objects, self._settle, metrics, say, *pauses)
            for each in options.destinations
        }
        self._states: dict[str, str] = {}
        self._stopping = threading.Event()
        self._health = threading.Thread(target=self._tell_health, name="health", daemon=True)

    def run(self) -> None:
        """Receive and forward in threads, and compute in this one, until `stop` or an interrupt."""
        try:
            self._resume()
            for forwarder in self._forwarders.values():
                forwarder.start()
            self.receiver.start()
            self._health.start()
            while not self._stopping.is_set():
                study = self.arrivals.take(0.5)
                if study is not None:
                    self._work_on(study)
        finally:
            self.close()

    def close(self) -> None:
        """End the threads and give the port back; what is not finished goes on when a node is started here again."""
        self._stopping.set()
        self.receiver.stop()
        for forwarder in self._forwarders.values():
            forwarder.stop()
        self._sender.close()

    def stop(self) -> None:
        """Let `run` end after the study that it computes."""
        self._stopping.set()

    def _counts(self) -> Counter[str]:
        """Studies by state, which are put into the gauges, too."""
        receiving = self.arrivals.names()
        states = Counter(state for study, state in list(self._states.items()) if study not in receiving)
        states["receiving"] = len(receiving)
        for state in STUDY_STATES:
            self.metrics.studies.labels(state).set(states[state])
        self.metrics.open.set(self.receiver.associations)
        self.metrics.spool.set(self._spool.used_bytes)
        self.metrics.free.set(self._spool.free_bytes)
        return states

    def health(self) -> str:
        """How the node is, in one line."""
        states = self._counts()
        studies = ", ".join(f"{states[state]} {state}" for state in STUDY_STATES if states[state]) or "none"
        metrics = self.metrics
        queues = "".join(f"; {each.waiting} results wait for {name}" for name, each in self._forwarders.items())
        return (
            f"health: {self.receiver.associations} associations; "
            f"{metrics.value('instances_received_total')} instances received, "
            f"{metrics.total('instances_refused')} refused; studies: {studies}{queues}; "
            f"spool {self._spool.used_bytes / 1e9:.2f} GB, {self._spool.free_bytes / 1e9:.1f} GB free"
        )

    def _tell_health(self) -> None:
        while not self._stopping.wait(self._options.health_s):
            try:
                self._say(self.health())
                self.receiver.forget_what_was_said()
                self._remove_old()
            except OSError as error:  # the disk is away for a moment, and the next line comes in any case
                self._say(f"health: the spool can not be read ({error.strerror})")
            except PipelineError as error:
                self._say(f"health: {error}")

    def _began(self, study: str) -> None:
        self._say(f"{study_name(study)}: receiving")
        self._runs.note_again(study)

    def _resume(self) -> None:
        """Take up every study where the disk says that it is."""
        for study in self._spool.studies():
            try:
                self._take_up(study)
            except (OSError, PipelineError) as error:  # the others are not to wait for a disk that has lost this one
                self._states[study] = FAILED
                self._say(f"{study_name(study)}: left alone until the next start: {error}")

    def _take_up(self, study: str) -> None:
        self._runs.adopt_results(study)
        state = self.ledger.read(study)
        self._states[study] = state.status
        for run in state.runs:
            self._deliver(study, run)
        images = self._spool.images(study)
        if state.is_left(images):
            self.arrivals.note(study)
            self._say(f"{study_name(study)}: taken up again with {len(images)} images")
        else:
            self._settle(study)

    def _work_on(self, study: str) -> None:
        """A study is quiet: compute it where it has something new, then clear up."""
        try:
            try:
                self._look_at(study)
            finally:
                self.arrivals.finish()
            self._settle(study)
        except Exception as error:  # the outermost loop over studies
            reason = str(error) if isinstance(error, PipelineError) else our_own(error)
            self._say(f"{study_name(study)}: not finished, tried again: {reason}")
            self.arrivals.note(study)

    def _look_at(self, study: str) -> None:
        images = self._spool.images(study)
        if not self.ledger.read(study).covers(images, self._bundle):
            self._run(study, images)
            return
        if images:
            self._say(f"{study_name(study)}: has been computed with these {len(images)} images; not run again")
        for run in self._runs.deliver_again(study):
            self._deliver(study, run)

    def _run(self, study: str, images: frozenset[str]) -> None:
        run = self._runs.begin(study, images, self._bundle)
        self._states[study] = COMPUTING
        if run.attempts > MOST_ATTEMPTS:
            line = f"was begun {MOST_ATTEMPTS} times and never came to its end; send it again to try again"
            self._end(study, run.name, Labelled(FAILED, line))
            return
        self._say(f"{study_name(study)}: computing {len(images)} images")
        try:
            ended = self._labelled(study, run.name, images)
        except (SystemExit, KeyboardInterrupt):  # the user ends the program, not the study
            self._runs.forget_attempt(study, run.name)
            raise
        self._end(study, run.name, ended)

    def _labelled(self, study: str, run: str, images: frozenset[str]) -> Labelled:
        """The computation, with its results in their place."""
        work = self._spool.work(study)
        self._spool.link_images(study, images, work / "images")
        started = monotonic()
        try:
            ended = self._compute(work / "images", work / "results")
        except Exception as error:  # the outermost loop over studies: a mistake of ours ends this one
            ended = Labelled(FAILED, our_own(error))
        finally:
            self.metrics.run_seconds.observe(monotonic() - started)
        if ended.status in (DONE, HELD):
            ended.write(work / "results")
            self._spool.keep_results(study, run, work / "results")
        else:
            self._spool.clear_work(study)
        return ended

    def _end(self, study: str, name: str, ended: Labelled) -> None:
        """A run has ended: write it down, say so, and hand its results on."""
        self.metrics.runs.labels(ended.status).inc()
        run = self._runs.end(study, name, ended)
        is_done = ended.status == ended.beside == DONE
        where = "" if is_done else f". Images: {self._spool.study(study) / 'images'}"
        self._say(f"{study_name(study)}: {ended.status}: {run.reason.rstrip('.')}{where}")
        self._states[study] = self.ledger.read(study).status
        self._deliver(study, run)

    def _deliver(self, study: str, run: Run) -> None:
        """Queue what is waiting."""
        for name, delivery in run.deliveries.items():
            if delivery.status != WAITING:
                continue
            if name in self._forwarders:
                self._forwarders[name].add(study, run.name)
            else:
                self._say(f"{study_name(study)}: waits for {name}, which no --forward names now")

    def _settle(self, study: str) -> None:
        """Nothing is being done for the study: remove what it no longer needs, but for what is just coming."""
        state = self.ledger.read(study)
        self._states[study] = state.status
        if any(run.is_waiting or run.status == COMPUTING for run in state.runs):
            return
        if self._options.keeps_images or any(run.has_failed for run in state.runs):
            return
        with self.arrivals.kept_out(study) as is_alone:
            images = self._spool.images(study)
            if not is_alone or not state.covers(images):
                return
            if state.runs:
                self._spool.remove_instances(study)
            else:  # it never had an image
                self._forget(study)

    def _remove_old(self) -> None:
        """Remove what has been left alone for the days that it is kept."""
        before = time() - self._options.keep_days * DAY_S
        for study in self._spool.studies():
            if self._spool.last_change(study) > before:
                continue
            with self.arrivals.kept_out(study) as is_alone:
                if is_alone and not self._is_under_way(study):
                    self._forget(study)
                    self._say(f"{study_name(study)}: removed after {self._options.keep_days:g} days")

    def _forget(self, study: str) -> None:
        self._spool.remove(study)
        self._states.pop(study, None)

    def _is_under_way(self, study: str) -> bool:
        """Whether something that this node serves waits for its results."""
        runs = self.ledger.read(study).runs
        deliveries = [each for run in runs for each in run.deliveries.items()]
        return any(delivery.status == WAITING and name in self._forwarders for name, delivery in deliveries)

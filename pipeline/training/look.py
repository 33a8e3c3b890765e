"""The one look at a dataset that a training begins with: its faults, its digests, and what its cases are like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_whole
from ..bundle import Bundle
from ..errors import PipelineError
from ..fingerprint import Fingerprint, HeldOut
from ..progress import Report
from .dataset import Case, file_digests, read_dataset, read_json, split_cases
from .dataset_check import Read, check_dataset
from .dataset_description import describe_dataset
from .dataset_faults import ignored_label, takes_slices
from .fingerprint import FingerprintBuilder
from .options import TrainOptions

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

HELD_OUT = 32
"""Cases, evenly taken from those held out, that show how sure the trained network is; more would tell little more."""

Calibrate = Callable[[Bundle, Sequence[Case], str], HeldOut]
"""What a trained bundle makes of cases, on a device; `scanloom.pipeline.calibration.held_out_facts`."""


@dataclass(frozen=True)
class Looked:
    """What was seen of a dataset.

    Attributes:
        digests: SHA-256 of each file.
        cases: whose facts a fingerprint is made of; None where no file was looked into.
        modality: as the dataset's description has it.
        calibrate: tells what the trained network makes of cases that it has not seen; None leaves that out.
    """

    digests: Mapping[Path, bytes]
    cases: FingerprintBuilder | None = None
    modality: str | None = None
    calibrate: Calibrate | None = None

    def fingerprint(self, bundle: Bundle, names: Collection[str]) -> Fingerprint | None:
        """That of the cases of these names; None where no file was looked into, or none of them has a label."""
        if self.cases is None:
            return None
        try:
            return self.cases.build({label.value: label.name for label in bundle.labels}, self.modality, names)
        except ValueError:
            return None


def look_into(
    bundle: Bundle,
    workflow: ConfigWorkflow,
    options: TrainOptions,
    report: Report,
    read: Read | None,
    calibrate: Calibrate | None = None,
) -> Looked:
    """The digests of the dataset's files; where there is a reader, a look for faults and at what the cases are like.

    Raises:
        DatasetError: there are faults; all of them are in `run_folder/dataset_faults.txt`, too.
    """
    if read is None:
        return Looked(file_digests(read_dataset(options.dataset)))
    labels = {label.value: label.name for label in bundle.labels}
    builder = FingerprintBuilder(describe_dataset(read_json(options.dataset.expanduser())).ignore)
    found = check_dataset(
        options.dataset,
        labels,
        read,
        ignored=ignored_label(workflow.parser.get()),
        slices=takes_slices(bundle.metadata),
        visit=builder.add,
        report=report,
    )
    for warning in found.warnings:
        report(warning)
    if found.faults and not options.resume:
        lines = "".join(f"{fault}\n" for fault in found.faults)
        write_whole(options.run_folder / "dataset_faults.txt", lines.encode())
    found.require_faultless()
    return Looked(found.file_digests, builder, found.description.modality, calibrate)


def trained_fingerprint(looked: Looked, trained: Bundle, options: TrainOptions, report: Report) -> Fingerprint | None:
    """What a trained bundle carries of its training: the cases that it learned from, and how sure it is of others.

    Where no case was held out, that is the teacher's, where there is one that knows: the student learned to be as sure.

    Args:
        looked: at the dataset.
        trained: with its weights.
        options: of the training.
        report: told where something can not be said.
    """
    training, held_out = split_cases(read_dataset(options.dataset), options.fold, options.folds)
    fingerprint = looked.fingerprint(trained, {case.name for case in training})
    if fingerprint is None:
        return None
    if options.fold is None:
        return replace(fingerprint, held_out=_of_teacher(options.teacher))
    if looked.calibrate is None:
        return fingerprint
    some = held_out[:: -(-len(held_out) // HELD_OUT)]
    report(f"looking at what the network makes of {len(some)} cases that were held out")
    try:
        return replace(fingerprint, held_out=looked.calibrate(trained, some, options.device))
    except PipelineError as error:  # the training is done, and worth keeping without this
        report(f"how sure the network is of held-out cases is not known: {error}")
        return fingerprint


def _of_teacher(teacher: Bundle | None) -> HeldOut | None:
    values = None if teacher is None else teacher.metadata.get("fingerprint")
    return None if values is None else Fingerprint.from_json(values).held_out

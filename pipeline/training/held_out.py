"""Which cases of a dataset a bundle is to be judged by: those that it was not trained on, as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..bundle import Bundle
from ..errors import UsageError
from .dataset import Case, split_cases

FOLDS = 5
NO, YES, UNKNOWN = "no", "yes", "unknown"
"""Whether the bundle was trained on a case."""


@dataclass(frozen=True)
class Origin:
    """What a bundle's metadata say of the training of its weights.

    Attributes:
        fold: that was held out; None where all cases were trained on.
        folds: number of folds.
        dataset_sha256: `dataset_digest` of its dataset.
    """

    fold: int | None
    folds: int
    dataset_sha256: str


@dataclass(frozen=True)
class Chosen:
    """The cases to evaluate a bundle on.

    Attributes:
        cases: sorted by name.
        seen: case name -> NO, YES or UNKNOWN.
        fold: whose cases they are; None where they are of no one fold.
        notices: what must be known to read the figures, a line each.
    """

    cases: tuple[Case, ...]
    seen: Mapping[str, str]
    fold: int | None
    notices: tuple[str, ...]


def origin_of(bundle: Bundle) -> Origin | None:
    """Of the bundle's weights; None where the metadata do not say, or speak of other weights."""
    training = bundle.metadata.get("training")
    if not isinstance(training, Mapping) or training.get("weights_sha256") != bundle.weights_sha256:
        return None
    fold, folds, digest = (training.get(key) for key in ("fold", "folds", "dataset_sha256"))
    if not (fold is None or isinstance(fold, int)) or not isinstance(folds, int) or not isinstance(digest, str):
        return None
    return Origin(fold, folds, digest)


def choose_cases(
    bundle: Bundle,
    cases: Sequence[Case],
    digest: str | None,
    fold: int | str | None = None,
    folds: int | None = None,
) -> Chosen:
    """The cases asked for; unasked those held out in training, or all where none is known to be.

    Args:
        bundle: to be judged.
        cases: all of the dataset.
        digest: `dataset_digest` of them; None where a file is missing.
        fold: a number for that fold of this dataset, "all" for all cases, None for those held out.
        folds: number of folds; None for the training's, or FOLDS.
    Raises:
        UsageError: there is no such fold.
    """
    origin = origin_of(bundle)
    of_training = origin if origin is not None and origin.dataset_sha256 == digest else None
    folds = folds or (of_training.folds if of_training else FOLDS)
    seen = _seen(cases, of_training)
    if fold is None and of_training is not None:
        fold = of_training.fold
    chosen = list(cases) if fold is None or fold == "all" else split_cases(cases, int(fold), folds)[1]
    number = None if fold is None or fold == "all" else int(fold)
    notice = _notice(bundle, origin, of_training, [seen[case.name] for case in chosen])
    return Chosen(tuple(chosen), seen, number, (notice,) if notice else ())


def choose_across_folds(bundles: Sequence[Bundle], cases: Sequence[Case], digest: str | None) -> list[Chosen]:
    """For the bundles of a cross-validation, each one's own held-out cases: together all cases, each once.

    Raises:
        UsageError: they are not the folds of one training on this dataset.
    """
    origins = [origin_of(bundle) for bundle in bundles]
    wanted = [Origin(fold, len(bundles), digest or "") for fold in range(len(bundles))]
    if digest is None or origins != wanted:
        told = ", ".join("unknown" if each is None else f"{each.fold} of {each.folds}" for each in origins)
        other = any(each is not None and each.dataset_sha256 != digest for each in origins)
        raise UsageError(
            f"these bundles are not all folds of one training on this dataset (folds {told}"
            f"{', trained on another dataset' if other else ''}). "
            "Finish the training with --resume, pass its dataset with -d, or evaluate one of them: -b RUN/fold0/bundle."
        )
    return [choose_cases(bundle, cases, digest) for bundle in bundles]


def _seen(cases: Sequence[Case], of_training: Origin | None) -> dict[str, str]:
    if of_training is None:
        return {case.name: UNKNOWN for case in cases}
    training, _ = split_cases(cases, of_training.fold, of_training.folds)
    names = {case.name for case in training}
    return {case.name: YES if case.name in names else NO for case in cases}


def _notice(bundle: Bundle, origin: Origin | None, of_training: Origin | None, seen: Sequence[str]) -> str | None:
    """What to say of figures on cases that are not known to be new to the bundle."""
    trained_on = seen.count(YES)
    if trained_on:
        held_out = "" if of_training is None or of_training.fold is None else " Leave out --fold for those held out."
        return (
            f"{bundle.name} was trained on {trained_on} of these {len(seen)} cases: "
            f"their figures say nothing of new scans.{held_out}"
        )
    if of_training is not None:
        return None
    if origin is None:
        why = "its metadata do not say what its weights were trained on"
    else:
        why = "this is not the dataset that it was trained on, as a whole (its digest is another)"
    return f"{bundle.name}: {why}. All are taken for new; for cases that it was trained on the figures say nothing."

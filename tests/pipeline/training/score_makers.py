"""Scores of made-up cases, for the tests of what is made of scores."""

from __future__ import annotations

from dataclasses import replace

from scanloom.pipeline.bundle import SHIPPED, find_bundle
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.training.metrics import FOUND, LabelScores
from scanloom.pipeline.training.scores import CaseScores

LABELS = find_bundle(SHIPPED / "hippocampus_mr_unet").labels
PERFECT = LabelScores(1, FOUND, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def label(value: int, dice: float, **others: float | str) -> LabelScores:
    return replace(PERFECT, value=value, dice=dice, **others)  # type: ignore[arg-type]


def case(name: str, *dice: float, fold: int | None = None, **others: float | str) -> CaseScores:
    labels = tuple(label(value, each, **others) for value, each in enumerate(dice, start=1))
    return CaseScores(name, "no", fold, labels)


def failed(name: str) -> CaseScores:
    return CaseScores(name, "no", None, error=PipelineError("no"))

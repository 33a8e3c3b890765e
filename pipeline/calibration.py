"""What a trained network makes of cases that it has not seen: new results are judged by it, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import numpy as np

from .bundle import Bundle
from .case_facts import look_at_labels, look_at_scan
from .fingerprint import HeldOut, spreads_of
from .scans import read_scan
from .training.dataset import Case
from .volume import Volume

FACTS = ("components", "largest", "border")
"""Of `case_facts.LabelFacts`: where a network's good results may differ from an annotator's."""
FAILED = 0.5
"""A case whose mean Dice is below this share of the median says nothing of how good results look."""

Facts = dict[int, dict[str, float]]
"""Label -> name -> fact."""


def held_out_facts(bundle: Bundle, cases: Sequence[Case], device: str = "auto") -> HeldOut:
    """The facts of the bundle's results on these cases, and how sure it is of them; a case is in memory at a time.

    Raises:
        PipelineError: the bundle can not predict.
    """
    from .inference.predictor import Predictor

    predictor = Predictor(bundle, device)
    values = [label.value for label in bundle.labels]
    rows: list[tuple[float, Facts]] = []
    for case in cases:
        volume = read_scan(case.image).measured()
        labels = predictor(volume)
        dice = _mean_dice(labels, read_scan(case.label).array[0], values)
        rows.append((dice, _facts(volume, labels, values, predictor.surface_confidence)))
    least = FAILED * median(dice for dice, _ in rows) if rows else 0.0
    good = [facts for dice, facts in rows if dice >= least]
    by_label: defaultdict[int, list[dict[str, float]]] = defaultdict(list)
    for facts in good:
        for value, each in facts.items():
            by_label[value].append(each)
    spreads = {
        value: {name: spreads_of([[each[name]] for each in found if name in each]) for name in found[0]}
        for value, found in sorted(by_label.items())
    }
    return HeldOut(len(good), spreads)


def _facts(volume: Volume, labels: np.ndarray, values: Sequence[int], surfaces: dict[int, float]) -> Facts:
    found = look_at_labels(labels, volume, look_at_scan(volume), values)
    facts = {value: {name: getattr(each, name) for name in FACTS} for value, each in found.items()}
    for value in facts.keys() & surfaces.keys():
        facts[value]["surface_confidence"] = surfaces[value]
    return facts


def _mean_dice(labels: np.ndarray, reference: np.ndarray, values: Sequence[int]) -> float:
    """Over the labels that either has; 0 where neither has any."""
    dices = []
    for value in values:
        found, true = labels == value, reference == value
        total = int(found.sum()) + int(true.sum())
        if total:
            dices.append(2 * int((found & true).sum()) / total)
    return float(np.mean(dices)) if dices else 0.0

"""What a node runs on a study: the bundle, kept loaded from one study to the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import write_whole
from ..bundle import Bundle
from ..errors import PipelineError
from ..studies import AmbiguousSeriesError
from ..verdict import REJECT
from .ledger import DONE, FAILED, HELD, REFUSED

if TYPE_CHECKING:
    from ..inference.predictor import Predictor
    from ..segment import CaseResult, PredictOptions


ENDED = "ended.json"


@dataclass(frozen=True)
class Labelled:
    """How the computation of a study ended.

    Attributes:
        status: "done", "held" (results that are not to be used), "refused" or "failed".
        line: what there is to say of it; nothing of the patient.
        beside: how the worst series ended, where several were labelled and one at least is as `status` says.
    """

    status: str
    line: str = ""
    beside: str = DONE

    def write(self, folder: Path) -> None:
        """Put it beside the results, so that they say themselves how they came about.

        Raises:
            PipelineError: it can not be written.
        """
        write_whole(folder / ENDED, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Labelled:
        """What lies beside results.

        Raises:
            OSError, ValueError, TypeError: nothing does, or it can not be read.
        """
        return cls(**json.loads((folder / ENDED).read_text(encoding="utf-8")))


Compute = Callable[[Path, Path], Labelled]
"""Labels the study in the first folder and writes its results to the second; only a mistake of ours is raised."""


class BundleRun:
    """A `Compute` that runs a bundle.

    Args:
        bundle: trusted.
        options: of the prediction; inputs and output are put in their places.
        holds_rejected: hold results back whose verdict is "reject"; else they are as others, and say it.
        one_series: refuse a study in which several series fit the bundle; else each is labelled.
    """

    def __init__(
        self, bundle: Bundle, options: PredictOptions, holds_rejected: bool = False, one_series: bool = False
    ) -> None:
        self._bundle, self._options = bundle, options
        self._holds_rejected, self._one_series = holds_rejected, one_series
        self._loaded: list[Predictor] = []

    @property
    def digest(self) -> str:
        """16 hex digits for what decides the results: the same for the same weights, formats and settings."""
        bundle, options = self._bundle, self._options
        settings = [bundle.weights_sha256, bundle.version, *sorted(options.formats), options.precision]
        settings += [str(self._holds_rejected), str(self._one_series)]
        return hashlib.sha256("\n".join(map(str, settings)).encode()).hexdigest()[:16]

    def __call__(self, images: Path, output: Path) -> Labelled:
        """Label one study: the series that the bundle's rule picks, or every one that fits."""
        first = self._predict(images, output, None)
        if not isinstance(first.error, AmbiguousSeriesError) or not first.error.candidates:
            return self._judged(first)
        if self._one_series:
            return Labelled(REFUSED, f"{first.error} Or listen without --one-series.")
        each = []
        for series in first.error.candidates:
            ended = self._judged(self._predict(images, output, series.case))
            if ended.status == HELD:  # out of the way of what is sent
                (output / "held").mkdir(exist_ok=True)
                (output / series.case).rename(output / "held" / series.case)
            each.append(ended)
        best = min((one.status for one in each), key=(DONE, HELD, FAILED, REFUSED).index)
        worst = min((one.status for one in each), key=(FAILED, REFUSED, HELD, DONE).index)
        return Labelled(best, "; ".join(one.line for one in each), worst)

    def _predict(self, images: Path, output: Path, series: str | None) -> CaseResult:
        from ..progress import silent
        from ..segment import CaseResult, predict

        try:
            options = replace(self._options, inputs=[images], output=output, series=series)
            (result,) = predict(self._bundle, options, silent, self._loaded)
            return result
        except PipelineError as error:
            return CaseResult(None, status="failed", error=error)

    def _judged(self, result: CaseResult) -> Labelled:
        """How a prediction ended, in the node's words."""
        if result.error is not None:
            return Labelled(REFUSED if result.status == "refused" else FAILED, str(result.error))
        verdict = result.verdict
        line = f"{result.case}, verdict {verdict.line}" if verdict else str(result.case)
        rejected = verdict is not None and verdict.status == REJECT and self._holds_rejected
        return Labelled(HELD if rejected else DONE, line)

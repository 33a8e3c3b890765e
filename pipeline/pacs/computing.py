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
from ..verdict import REJECT
from .ledger import DONE, FAILED, HELD, REFUSED

if TYPE_CHECKING:
    from ..inference.predictor import Predictor
    from ..segment import PredictOptions


ENDED = "ended.json"


@dataclass(frozen=True)
class Labelled:
    """How the computation of a study ended.

    Attributes:
        status: "done", "held" (results that are not to be used), "refused" or "failed".
        line: what there is to say of it; nothing of the patient.
    """

    status: str
    line: str = ""

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
        sends_rejected: results whose verdict is "reject" are results as others are.
    """

    def __init__(self, bundle: Bundle, options: PredictOptions, sends_rejected: bool = False) -> None:
        self._bundle, self._options, self._sends_rejected = bundle, options, sends_rejected
        self._loaded: list[Predictor] = []

    @property
    def digest(self) -> str:
        """16 hex digits for what decides the results: the same for the same weights, formats and settings."""
        options = self._options
        settings = (self._bundle.weights_sha256, self._bundle.version, *sorted(options.formats), options.precision)
        return hashlib.sha256("\n".join(map(str, settings)).encode()).hexdigest()[:16]

    def __call__(self, images: Path, output: Path) -> Labelled:
        """Label one study."""
        from ..progress import silent
        from ..segment import predict

        try:
            options = replace(self._options, inputs=[images], output=output)
            (result,) = predict(self._bundle, options, silent, self._loaded)
        except PipelineError as error:
            return Labelled(FAILED, str(error))
        if result.error is not None:
            return Labelled(REFUSED if result.status == "refused" else FAILED, str(result.error))
        verdict = result.verdict
        if verdict is not None and verdict.status == REJECT and not self._sends_rejected:
            return Labelled(HELD, f"verdict {verdict.line}")
        return Labelled(DONE, f"{result.case}, verdict {verdict.line}" if verdict else str(result.case))

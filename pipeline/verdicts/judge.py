"""A case and the fingerprint of the training -> a verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError
from ..fingerprint import Fingerprint
from ..verdict import CHECK, Reason, Verdict, gravest_first
from ..volume import Volume
from .label_rules import label_reasons
from .look import look
from .mirror_rule import mirror_reasons
from .scan_rules import scan_reasons
from .settings import Settings, settings_of
from .traits import CONFIDENCE

NO_FINGERPRINT = (
    "no fingerprint: this bundle does not say what it was trained on, so input and result are not compared with that. "
    "`scanloom train` writes one"
)


class Judge:
    """Judges cases by what a bundle was trained on.

    Args:
        bundle: its metadata hold `fingerprint`, and maybe `verdict`.
    Raises:
        BundleError: they hold something else under these names.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.settings = settings_of(bundle.name, bundle.metadata)
        self.fingerprint = _fingerprint(bundle)
        self.names = {label.value: label.name for label in bundle.labels}

    def __call__(self, volume: Volume, labels: np.ndarray, surfaces: Mapping[int, float]) -> Verdict:
        """The verdict on one case.

        Args:
            volume: as read, padding and all replaced: what the network was given.
            labels: (X, Y, Z) on its grid.
            surfaces: label -> mean probability of the winning class on its surface.
        """
        if self.fingerprint is None:
            return Verdict(_of_the_result_alone(labels, surfaces, self.names, self.settings), (NO_FINGERPRINT,))
        seen = look(volume, labels, self.fingerprint)
        known = (self.fingerprint, self.settings, seen.axes)
        reasons = [
            *scan_reasons(seen.scan, volume.modality, volume.has_spacing, *known),
            *label_reasons(seen.labels, surfaces, volume.has_spacing, *known),
            *mirror_reasons(seen.labels, *known),
        ]
        kept = [reason for reason in reasons if reason.code not in self.settings.ignore]
        notes = []
        if seen.planes > 1:
            notes.append(f"trained on single planes: the facts are medians over {seen.planes} planes of this stack")
        if self.fingerprint.held_out is None:
            notes.append("no case was held out in training: how sure the network should be is a guess")
        return Verdict(gravest_first(kept), tuple(notes))


def _fingerprint(bundle: Bundle) -> Fingerprint | None:
    values = bundle.metadata.get("fingerprint")
    if values is None:
        return None
    try:
        return Fingerprint.from_json(values)
    except ValueError as error:
        raise BundleError(f"bundle {bundle.name}: fingerprint in configs/metadata.json is {error}") from None


def _of_the_result_alone(
    labels: np.ndarray, surfaces: Mapping[int, float], names: Mapping[int, str], settings: Settings
) -> tuple[Reason, ...]:
    """What can be said without knowing the training: nothing was found, or the network is not sure of it."""
    if not labels.any():
        reasons = [Reason("missing", CHECK, "no label was found")]
    else:
        reasons = [
            Reason(
                CONFIDENCE.code,
                CHECK,
                f"{names.get(value, value)}: {CONFIDENCE.what} is {CONFIDENCE.say(sure)}, expected "
                f"{CONFIDENCE.say(settings.surface_confidence)} at least",
            )
            for value, sure in surfaces.items()
            if sure < settings.surface_confidence
        ]
    return tuple(reason for reason in reasons if reason.code not in settings.ignore)

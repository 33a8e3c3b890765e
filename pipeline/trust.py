"""Which bundles may run: a config is code (`$` expressions, any `_target_`), so a stranger's runs only by leave.

Trusted are the bundles that come with the package and those that `scanloom train` wrote on this machine, known by the
SHA-256 of everything in them; a changed file breaks the trust.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .bundle import SHIPPED, Bundle, bundle_digest
from .errors import BundleError

log = logging.getLogger("scanloom.trust")


def require_trust(bundle: Bundle, *, given: bool = False) -> None:
    """Return where the bundle may run.

    Args:
        bundle: about to run.
        given: the user said `--trust-bundle`.
    Raises:
        BundleError: it is neither shipped, nor trained here, nor trusted by the user.
    """
    if given or bundle.folder.resolve().is_relative_to(SHIPPED) or bundle_digest(bundle) in _trusted():
        return
    raise BundleError(
        f"bundle {bundle.name} did not come with scanloom and was not trained here (or was changed since); its config "
        "can run any code. Read its configs, then pass --trust-bundle."
    )


def record_trust(bundle: Bundle) -> None:
    """Remember the bundle, as it is now, as made on this machine; a warning where that can not be written."""
    path = _record()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.write(bundle_digest(bundle) + "\n")
    except OSError as error:
        log.warning(
            "can not remember that bundle %s was trained here: %s (%s). Pass --trust-bundle to run it.",
            bundle.name,
            path,
            error.strerror,
        )


def _trusted() -> frozenset[str]:
    try:
        return frozenset(_record().read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return frozenset()


def _record() -> Path:
    """Where the digests are kept: under XDG_STATE_HOME, by default ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "scanloom" / "trusted-bundles"

"""Which bundles may run: a config is code (`$` expressions, any `_target_`), so a stranger's runs only by leave.

Trusted are the bundles that come with the package, those that `scanloom train` wrote on this machine, and those that
the user trusted (`scanloom bundle trust`); the latter two are known by the SHA-256 of everything in them, so that a
changed file breaks the trust. What a registry or a bundle says of itself is no trust.

What is known by its digest runs from a private copy, made of the very bytes that were hashed: files that are swapped
after the check are not what runs. Leave for one time (`--trust-bundle`) checks nothing, and runs the folder itself.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from .bundle import SHIPPED, Bundle, open_bundle
from .bundle_files import PrivateCopy, digest_of_files, file_digests
from .errors import BundleError, UsageError
from .trust_record import DIGEST, TRAINED, TRUSTED, How, Trusted, append_record, drop_records, read_record, record_path

log = logging.getLogger("scanloom.trust")

SHOWN_CHANGES = 4
SHORTEST_DIGEST = 8
"""Hex digits that name a digest."""


@dataclass(frozen=True)
class TrustState:
    """Whether a bundle may run, and why.

    Attributes:
        state: "shipped" with the package, "trained" here, "trusted" by the user, "changed" since it was one of these,
            or "untrusted".
        digest: of the bundle.
        date: when it was recorded, ISO 8601; empty for the others.
        changes: what is different from the recorded one, a phrase a file.
    """

    state: Literal["shipped", "trained", "trusted", "changed", "untrusted"]
    digest: str
    date: str = ""
    changes: tuple[str, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether it runs without further leave."""
        return self.state in ("shipped", "trained", "trusted")


def require_trust(bundle: Bundle, *, given: bool = False) -> Bundle:
    """The bundle to run, where it may: a private copy of what was checked, where it is known by its digest.

    Args:
        bundle: about to run; what this has returned before stays as it is.
        given: the user said `--trust-bundle`.
    Raises:
        BundleError: it is neither shipped, nor trained here, nor trusted by the user.
    """
    if bundle.trusted:
        return bundle
    if given or is_shipped(bundle):
        return replace(bundle, trusted=True)
    known = read_record()
    if known:
        copied = private_bundle(bundle)
        if digest_of_files(copied.digests) in {entry.digest for entry in known}:
            return copied
        raise BundleError(_refusal(bundle, known, copied.digests))
    raise BundleError(_refusal(bundle, known, {}))


def private_bundle(bundle: Bundle) -> Bundle:
    """The same bundle in a private copy, which lasts as long as what is returned; see `PrivateCopy`."""
    copied = PrivateCopy(bundle.folder)
    opened = open_bundle(copied.folder)
    return replace(opened, trusted=True, copied_from=bundle.source, private_copy=copied)


def record_trust(bundle: Bundle, how: How = TRAINED) -> None:
    """Remember the bundle, as it is now, as one that may run; a warning where that can not be written."""
    digests = bundle.digests or file_digests(bundle.folder)
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    version = str(bundle.metadata.get("version", ""))
    entry = Trusted(digest_of_files(digests), bundle.name, version, now, how, str(bundle.source), digests)
    try:
        append_record(entry)
    except OSError as error:
        log.warning(
            "can not remember that bundle %s was %s here: %s (%s). Pass --trust-bundle to run it.",
            bundle.name,
            how,
            record_path(),
            error.strerror,
        )


def trust_state(bundle: Bundle) -> TrustState:
    """Whether the bundle, as it is now, may run."""
    digests = file_digests(bundle.folder)
    digest, known = digest_of_files(digests), read_record()
    if is_shipped(bundle):
        return TrustState("shipped", digest)
    same = [entry for entry in known if entry.digest == digest]
    if same:
        return TrustState("trusted" if same[-1].how == TRUSTED else "trained", digest, same[-1].date)
    earlier = _recorded_before(bundle, known, digests)
    if earlier is None:
        return TrustState("untrusted", digest)
    return TrustState("changed", digest, earlier.date, tuple(_changes(earlier.files, digests)))


def known_bundles() -> list[Trusted]:
    """What is recorded as trained or trusted here."""
    return read_record()


def is_shipped(bundle: Bundle) -> bool:
    """Whether the bundle, with every file in it, lies in the package; a link out of it makes it a stranger's."""
    folder = bundle.folder.resolve()
    if folder == SHIPPED or not folder.is_relative_to(SHIPPED):
        return False
    for parent, folders, files in os.walk(folder):
        if not all((Path(parent) / name).resolve().is_relative_to(SHIPPED) for name in (*folders, *files)):
            return False
    return True


def forget(which: str) -> list[Trusted]:
    """Forget the bundles of that name, digest (8 digits or more) or folder, and return them.

    Raises:
        UsageError: none such is recorded.
    """
    folder = Path(which).expanduser().resolve()
    digest = which if DIGEST.fullmatch(which) or not (folder / "configs").is_dir() else None
    now = digest_of_files(file_digests(folder)) if digest is None else which

    def is_meant(entry: Trusted) -> bool:
        short = len(now) >= SHORTEST_DIGEST and entry.digest.startswith(now)
        return short or (bool(entry.name) and entry.name == which) or entry.folder == str(folder)

    dropped = drop_records(is_meant)
    if not dropped:
        raise UsageError(
            f"no trusted bundle is called {which!r}, nor has that digest or folder. "
            "`scanloom bundle trust --list` shows them."
        )
    return dropped


def _refusal(bundle: Bundle, known: Sequence[Trusted], digests: Mapping[str, str]) -> str:
    earlier = _recorded_before(bundle, known, digests)
    look = f"`scanloom bundle trust {shlex.quote(str(bundle.source))}`"
    if earlier is None:
        return (
            f"bundle {bundle.name} ({bundle.source}) did not come with scanloom and was not trained here, nor trusted; "
            f"its config can run any code. See what it would run with {look}, which trusts it, or pass --trust-bundle "
            "for once."
        )
    since = f"trusted {earlier.date[:10]}" if earlier.how == TRUSTED else f"trained here {earlier.date[:10]}"
    return (
        f"bundle {bundle.name} ({bundle.source}) is not as it was {since}: {_some(_changes(earlier.files, digests))}. "
        f"Restore its files, or see what it would run with {look}, which trusts it, or pass --trust-bundle for once."
    )


def _recorded_before(bundle: Bundle, known: Iterable[Trusted], digests: Mapping[str, str]) -> Trusted | None:
    """The last record of the bundle in that folder; else of one of its name that has files with it in common."""
    described = [entry for entry in known if entry.files]
    same_place = [entry for entry in described if entry.folder == str(bundle.source)]
    same_name = [e for e in described if e.name == bundle.name and set(e.files.items()) & set(digests.items())]
    found = same_place or same_name
    return found[-1] if found else None


def _changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A phrase for each file that is another."""
    differ = [f"{name} was changed" for name in then if name in now and now[name] != then[name]]
    new = [f"{name} is new" for name in now if name not in then]
    gone = [f"{name} is gone" for name in then if name not in now]
    return differ + new + gone


def _some(phrases: Sequence[str]) -> str:
    rest = len(phrases) - SHOWN_CHANGES
    return ", ".join(phrases[:SHOWN_CHANGES]) + (f" and {rest} more" if rest > 0 else "")

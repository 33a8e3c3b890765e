"""The record of bundles that this user trusts: a line each, its digest and then what is known of it, as JSON.

    <SHA-256 of the bundle> {"name": "spleen", "version": "1.0.0", "date": "2026-11-25", "how": "trusted", …}

A line of the digest alone, as earlier versions wrote them, counts as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .atomic import write_whole
from .bundle_files import digest_of_files
from .errors import PipelineError

log = logging.getLogger("scanloom.trust")

DIGEST = re.compile(r"[0-9a-f]{64}")
How = Literal["trained", "trusted"]
TRAINED: How = "trained"
TRUSTED: How = "trusted"


@dataclass(frozen=True)
class Trusted:
    """A bundle that may run.

    Attributes:
        digest: SHA-256 over all its files.
        name: of its metadata; empty where the record is an old one.
        version: likewise.
        date: when it was recorded, ISO 8601.
        how: "trained" on this machine, or "trusted" by the user.
        folder: where it was then.
        files: name -> SHA-256 of each file.
    """

    digest: str
    name: str = ""
    version: str = ""
    date: str = ""
    how: str = TRAINED
    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_record() -> list[Trusted]:
    """What is recorded, the oldest first, each bundle as it was recorded last; a line that is none is passed over.

    A record that anyone may write to, or of another user, trusts nothing, with a warning.
    """
    path = record_path()
    try:
        with path.open(encoding="utf-8") as file:
            if _is_open_to_others(os.fstat(file.fileno())):
                log.warning("%s is not yours alone to write: nothing in it is trusted. Run chown and chmod o-w.", path)
                return []
            lines = file.read().splitlines()
    except (OSError, ValueError):
        return []
    entries = [entry for line in lines if (entry := _parse(line)) is not None]
    last = {entry.digest: place for place, entry in enumerate(entries)}
    return [entry for place, entry in enumerate(entries) if last[entry.digest] == place]


def append_record(entry: Trusted) -> None:
    """Add a bundle.

    Raises:
        OSError: the file can not be written.
    """
    path = record_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(_line(entry))


def drop_records(is_dropped: Callable[[Trusted], bool]) -> list[Trusted]:
    """Forget some bundles, and return what was known of them.

    Raises:
        PipelineError: the record can not be written anew.
    """
    known = read_record()
    dropped = [entry for entry in known if is_dropped(entry)]
    if len(dropped) < len(known) and dropped:
        write_whole(record_path(), "".join(_line(entry) for entry in known if entry not in dropped).encode())
        record_path().chmod(0o600)
    elif dropped:
        try:
            record_path().unlink()
        except OSError as error:
            raise PipelineError(f"{record_path()} can not be removed ({error.strerror}). Remove it by hand.") from error
    return dropped


def record_path() -> Path:
    """Where the record is: under XDG_STATE_HOME, by default ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "scanloom" / "trusted-bundles"


def _line(entry: Trusted) -> str:
    facts = asdict(entry)
    digest = facts.pop("digest")
    return f"{digest} {json.dumps(facts)}\n" if entry.files else f"{digest}\n"


def _parse(line: str) -> Trusted | None:
    digest, _, rest = line.strip().partition(" ")
    if not DIGEST.fullmatch(digest):
        return None
    try:
        facts: Any = json.loads(rest) if rest else {}
        files = {str(name): str(value) for name, value in facts.get("files", {}).items()}
        if files and digest_of_files(files) != digest:
            return None
        words = {key: str(facts[key]) for key in ("name", "version", "date", "how", "folder") if key in facts}
    except (ValueError, AttributeError):
        return None
    return Trusted(digest, **words, files=files)


def _is_open_to_others(status: os.stat_result) -> bool:
    """Whether it is another user's (but root's), or may be written by everyone.

    A group may write: many systems give each user one of their own.
    """
    return os.name == "posix" and (bool(status.st_mode & stat.S_IWOTH) or status.st_uid not in (0, os.getuid()))

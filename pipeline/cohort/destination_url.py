"""Results in a store: written to a folder of this machine first, then copied, the report last.

A report vouches for the files beside it. So an old one goes before anything else is touched, and the new one comes when
all the others have arrived: a case that broke off half-way has none, and `--skip-existing` does it again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..atomic import LEFT_OVER
from ..errors import UsageError
from ..outputs import install_viewer
from ..outputs.viewer import SCRIPT
from ..outputs.vouching import answers
from .destination_lock import locked_store
from .destination_store import Store

REPORT = "report.json"
_NAMES_USERS = ("sftp", "ssh", "ftp", "smb")
"""Schemes whose URLs hold a user's name, which is no secret."""


def url_destination(url: str) -> UrlDestination:
    """The destination of a URL.

    Raises:
        UsageError: it holds credentials, its scheme is unknown, or a package is missing.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("the URL given has no valid host. Use SCHEME://PLACE, such as s3://BUCKET/FOLDER.") from None
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.password is not None or parts.query or (parts.username and parts.scheme not in _NAMES_USERS):
        raise UsageError(
            f"{place}: the URL given holds credentials or a query. Leave them out of it: credentials come from the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the machine's role."
        )
    if not parts.scheme or "::" in url or not (parts.netloc + parts.path).strip("/"):
        raise UsageError("the URL given names no place for results. Use SCHEME://PLACE, such as s3://BUCKET/FOLDER.")
    store = Store(url.rstrip("/"))
    store.check()
    return UrlDestination(store)


@dataclass(frozen=True)
class UrlDestination:
    """A place in a store; see `Destination`.

    Each process opens the store for itself, with the credentials of its own environment.

    Attributes:
        store: the place.
    """

    store: Store

    def locked(self) -> AbstractContextManager[None]:
        """See `Destination.locked`; the lock is an object, .scanloom.lock."""
        return locked_store(self.store)

    @contextmanager
    def case_folder(self, case: str) -> Iterator[Path]:
        """A folder that vanishes (TMPDIR says where it lies), with the pages' viewer beside it; see `Destination`."""
        with tempfile.TemporaryDirectory(prefix="scanloom-") as scratch:
            install_viewer(Path(scratch))
            folder = Path(scratch) / case
            folder.mkdir()
            try:
                yield folder
            except Exception:
                if (folder / REPORT).is_file():  # all is there but what the error is about
                    self._publish(case, folder)
                raise
            self._publish(case, folder)

    def _publish(self, case: str, folder: Path) -> None:
        names = _files(folder)
        self.store.remove(f"{case}/{REPORT}")
        self.store.put(folder, [name for name in names if name != REPORT], case)
        self.store.put(folder, [name for name in names if name == REPORT], case)

    @contextmanager
    def run_folder(self) -> Iterator[Path]:
        """A folder that vanishes; where the block raises, nothing of it is copied."""
        with tempfile.TemporaryDirectory(prefix="scanloom-") as scratch:
            folder = Path(scratch)
            yield folder
            names = _files(folder)
            if SCRIPT in names and self.store.sizes().get(SCRIPT) == (folder / SCRIPT).stat().st_size:
                names.remove(SCRIPT)  # a large file that never changes
            self.store.put(folder, names)

    def whole_report(
        self, case: str, weights_sha256: str, formats: Sequence[str] = (), names: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        """See `Destination.whole_report`; sizes are compared, because for hashes the files would have to be fetched."""
        content = self.store.read(f"{case}/{REPORT}")
        if content is None:
            return None
        try:
            report: dict[str, Any] = json.loads(content)
            if not answers(report, weights_sha256, formats, names):
                return None
            sizes = self.store.sizes(case)
            whole = all(sizes.get(name) == facts["bytes"] > 0 for name, facts in report["files"].items())
        except (ValueError, KeyError, TypeError):
            return None
        return report if whole else None

    def shown(self, case: str) -> str:
        """The URL of the case."""
        return f"{self.store.url}/{case}"

    def ignores_case(self) -> bool:
        """No store is known that does."""
        return False


def _files(folder: Path) -> list[str]:
    """Names of the finished files in it."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not LEFT_OVER.match(path.name))

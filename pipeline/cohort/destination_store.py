"""A place in a store that fsspec knows: small steps, each tried a few times, whose errors are one line without secrets.

What a store itself says in an error is never shown, for it may repeat a key or a signature.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import PipelineError, UsageError

PAUSES_S = (0.5, 3.0)
"""Between the attempts at a step; a store's own library has tried several times within each."""
AT_ONCE = 4
"""Files on their way at one time; s3fs holds up to 100 MB of each in memory."""
_S3 = {"max_concurrency": 2}
"""Parts of a large file, 50 MB each, on their way at one time; s3fs would take ten."""
OPTIONS = {"s3": _S3, "s3a": _S3}
"""Scheme -> what fsspec is told of it."""
PACKAGES = {"s3": 'pip install "scanloom[s3]"', "s3a": 'pip install "scanloom[s3]"'}
"""Scheme -> how to install what it needs, where it is an extra of ours."""
_NO_ACCESS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
"""Names of errors of boto and of Google's library for credentials that are missing."""

PRECONDITION_FAILED = errno.EINVAL
"""What s3fs makes of the answer 412 where a server does not say which condition failed."""

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A place in a store.

    Attributes:
        url: of the place, without a slash at its end.
    """

    url: str

    def check(self) -> None:
        """Return where the scheme is known and its package installed; nothing is opened.

        Raises:
            UsageError: it is not.
        """
        import fsspec
        from fsspec.registry import known_implementations

        scheme = self.url.partition("://")[0]
        try:
            fsspec.get_filesystem_class(scheme)
        except ValueError:
            raise UsageError(
                f"{scheme}:// is no scheme that results can go to. Use a folder, s3:// or gs://."
            ) from None
        except ImportError:
            remedy = PACKAGES.get(scheme) or known_implementations[scheme].get("err", "Install it")
            raise UsageError(f"{scheme}:// needs a package that is not installed: {remedy}.") from None

    def put(self, folder: Path, names: Sequence[str], place: str = "") -> None:
        """Copy files of a local folder to a place below this one; each has then arrived in its full length.

        Raises:
            UsageError, PipelineError: see `_tried`.
        """
        files, root = self._opened()
        here = [str(folder / name) for name in names]
        there = [_joined(root, place, name) for name in names]
        lengths = {name: (folder / name).stat().st_size for name in names}
        limits = {"batch_size": AT_ONCE} if files.async_impl else {}

        def step() -> None:
            files.put(here, there, **limits)
            arrived = _sizes(files, _joined(root, place))
            if short := [name for name in names if arrived.get(name) != lengths[name]]:
                raise OSError(errno.EIO, f"{len(short)} files did not arrive whole")

        if names:
            self._tried(step)

    def sizes(self, place: str = "") -> dict[str, int]:
        """File name -> bytes of what lies directly at the place; empty where there is no such place."""
        files, root = self._opened()
        return self._tried(lambda: _sizes(files, _joined(root, place)))

    def read(self, name: str) -> bytes | None:
        """A small file's content; None where there is none."""
        files, root = self._opened()

        def step() -> bytes | None:
            try:
                content: bytes = files.cat_file(_joined(root, name))
            except FileNotFoundError:
                return None
            return content

        return self._tried(step)

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        files, root = self._opened()

        def step() -> None:
            with suppress(FileNotFoundError):
                files.rm_file(_joined(root, name))

        self._tried(step)

    def create(self, name: str, content: bytes) -> None:
        """Make a small file where there is none of its name, and change nothing where there is one.

        Of several processes that do this at one time one makes it, if the store can see to that, as S3 can. In others
        the file is looked for first.
        """
        files, root = self._opened()
        path = _joined(root, name)

        def step() -> None:
            try:
                with files.open(path, "xb") as file:
                    file.write(content)
            except (NotImplementedError, ValueError):
                files.pipe_file(path, content, mode="create")

        def unless_it_is_there() -> None:
            try:
                step()
            except OSError as error:
                if not isinstance(error, FileExistsError) and error.errno != PRECONDITION_FAILED:
                    raise

        self._tried(unless_it_is_there)

    def _opened(self) -> tuple[Any, str]:
        """The file system and the place's path in it; fsspec keeps one open for each thread."""
        from fsspec.core import url_to_fs

        options = OPTIONS.get(self.url.partition("://")[0], {})
        files, root = self._tried(lambda: url_to_fs(self.url, **options))
        return files, root.rstrip("/")

    def _tried(self, step: Callable[[], T]) -> T:
        """What the step returns, after as many attempts as it may take.

        Raises:
            UsageError: there is no such place, or it may not be written to.
            PipelineError: the store can not be reached, or does not do it.
        """
        for pause in (*PAUSES_S, None):
            try:
                return step()
            except Exception as error:  # each store has errors of its own
                refusal = self._refusal(error)
                hopeless = isinstance(refusal, UsageError) and not isinstance(error, FileNotFoundError)
                if pause is None or hopeless:  # a multipart upload that s3fs ends twice is not found, either
                    raise refusal from None
            time.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    def _refusal(self, error: Exception) -> PipelineError:
        """The line for an error; a UsageError where trying again would not help."""
        kind = type(error).__name__
        if isinstance(error, FileNotFoundError):
            return UsageError(f"{self.url}: there is no such bucket or folder. Make it first, or check the URL.")
        if isinstance(error, PermissionError) or kind in _NO_ACCESS:
            return UsageError(
                f"{self.url}: no permission ({kind}). Check the credentials in the environment and what they allow."
            )
        if isinstance(error, NotImplementedError):
            return UsageError(f"{self.url}: this kind of store can not be written to. Choose another place with -o.")
        return PipelineError(
            f"{self.url}: can not be reached or does not answer as it should ({kind}), after {len(PAUSES_S) + 1} "
            "attempts. Check the network, and AWS_ENDPOINT_URL for a server of your own; then run again with "
            "--skip-existing."
        )


def _sizes(files: Any, path: str) -> dict[str, int]:
    files.invalidate_cache()
    try:
        entries = files.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in entries if entry["type"] == "file"}


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)

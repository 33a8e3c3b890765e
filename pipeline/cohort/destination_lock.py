"""One run at a time at a place in a store: an object there says which process writes, as `lock` has it for folders.

It is made by a request that fails where there is one, where the store can do so. A store that can not lets two runs
pass that begin within the same instant; that one of them has begun before is always seen.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from ..errors import PipelineError
from ..lock import NAME, FolderInUseError, Owner, terminated_gently
from .destination_store import Store

SETTLE_S = 1.0
"""How long one waits to see whether another run has taken over the same dead lock."""


@contextmanager
def locked_store(store: Store) -> Iterator[None]:
    """Hold the place for this process alone while the block runs; given back however it ends, as `lock.locked` does.

    A lock of a process of this machine that has ended is taken over. One of another machine is not: whether that runs
    can not be seen from here, so the user is told what to delete.

    Raises:
        FolderInUseError: another run holds it.
        UsageError, PipelineError: the place can not be written to.
    """
    me = Owner.of_this_process()
    with terminated_gently():
        _take(store, me)
        try:
            yield
        finally:
            with suppress(PipelineError):  # what stopped the run matters more
                if _owner(store) == me:
                    store.remove(NAME)


def _take(store: Store, me: Owner) -> None:
    content = store.read(NAME)
    if content is not None:
        owner = Owner.parse(content)
        if owner is None or not owner.is_gone():
            _refuse(store, owner)
        store.remove(NAME)
    store.create(NAME, me.text.encode())
    if content is not None:
        time.sleep(SETTLE_S)
    if (owner := _owner(store)) != me:
        _refuse(store, owner)


def _owner(store: Store) -> Owner | None:
    content = store.read(NAME)
    return None if content is None else Owner.parse(content)


def _refuse(store: Store, owner: Owner | None) -> NoReturn:
    place = f"{store.url}/{NAME}"
    if owner is None:
        raise FolderInUseError(
            f"{store.url}: its lock does not say which run holds it. If none is writing there, delete {place}; "
            "else choose another place with -o."
        )
    if owner.host == socket.gethostname():
        raise FolderInUseError(
            f"{store.url}: another run is writing there ({owner.shown}). "
            "Wait until it is done, stop it, or choose another place with -o."
        )
    raise FolderInUseError(
        f"{store.url}: a run on {owner.host} is writing there ({owner.shown}). "
        f"Choose another place with -o; if that run has ended, delete {place}."
    )

"""Arrays in memory that another process can take over without a copy; it lasts as long as one of them holds it."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np


def new_memory(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, np.ndarray]:
    """A file descriptor of memory, and an array of zeros in it.

    On Linux it is memory without a file; elsewhere a file in the folder for temporary ones that has no name any more.
    """
    size = max(1, int(np.prod(shape, dtype=object)) * dtype.itemsize)
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("scanloom")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor, array_in(descriptor, shape, dtype)


def array_in(descriptor: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array that lies in memory which another process has filled; the descriptor may be closed then."""
    count = int(np.prod(shape, dtype=object))
    memory = mmap.mmap(descriptor, max(1, count * dtype.itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)

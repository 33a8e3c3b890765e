"""The same seed, the same weights: what torch must be told for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """While the block lasts, only operations that give the same bits each time; or the fastest, where not wanted.

    An operation that has no deterministic form warns, and the training goes on: `train.log` then names it.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    backend, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    fill = memory.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = backend.deterministic, backend.benchmark
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    memory.fill_uninitialized_memory = False  # it would write every new tensor twice
    backend.deterministic, backend.benchmark = wanted, not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
        backend.deterministic, backend.benchmark = cudnn

"""Who waits where there are fewer processors than work: those that read and write, not those that label."""

from __future__ import annotations

import os
from functools import cache

NICENESS = 10
"""Added to that of processes that read and write: on two cores it makes a cohort of small scans a quarter faster."""


@cache
def give_way() -> None:
    """Let this process have what those that label leave: a thread of theirs that waits makes all the others wait."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # once a process, for it adds up

"""Which of the processes that `torchrun` started this is; imports torch only where it must."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process_rank() -> int:
    """This one's number."""
    return int(os.environ.get("RANK", 0))


def is_first_process() -> bool:
    """Whether this is the one that writes files, tracks and speaks."""
    return process_rank() == 0


def own_device(name: str) -> str:
    """The device of this process: where "auto" would give all of several processes one GPU, one for each."""
    if name != "auto" or process_count() == 1:
        return name
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"

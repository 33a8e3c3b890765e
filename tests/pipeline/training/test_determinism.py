"""What torch is told, and that it is told back."""

from __future__ import annotations

import pytest
import torch
from scanloom.pipeline.training.determinism import determinism


@pytest.mark.parametrize("wanted", [True, False])
def test_torch_is_as_before_afterwards(wanted: bool) -> None:
    def settings() -> tuple[bool, ...]:
        backend = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            backend.deterministic,
            backend.benchmark,
        )

    before = settings()
    with pytest.raises(ZeroDivisionError), determinism(wanted):
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert torch.backends.cudnn.deterministic is wanted
        raise ZeroDivisionError
    assert settings() == before

"""A random state that draws what a test says."""

from collections.abc import Callable

import numpy as np
import pytest


class _Largest:
    """Stands for a RandomState: every part of a transform is drawn, each parameter at the upper end of its range."""

    def rand(self) -> float:
        return 0.0

    def uniform(self, low: float, high: float) -> float:
        return high

    def normal(self, mean: float, std: float) -> float:
        return mean + std

    def randint(self, high: int) -> int:
        return 0

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape)


@pytest.fixture
def drawing_the_largest() -> Callable:
    """Makes a transform draw the upper end of each of its ranges."""

    def fix(transform):
        transform.R = _Largest()
        return transform

    return fix

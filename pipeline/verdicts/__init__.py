"""What is not as it was in training: rules from a fingerprint and a case to a verdict with reasons."""

from .judge import Judge
from .settings import Settings

__all__ = ["Judge", "Settings"]

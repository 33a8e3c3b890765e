"""How an image is interpolated, and what lies outside it."""

from __future__ import annotations

from dataclasses import dataclass

MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic", "bicubic": "cubic"}
"""Interpolation -> the name used here; MONAI's names mean the same, in 2D and in 3D."""
PADDING_MODES = {"border": "border", "reflection": "reflection", "constant": "constant", "zeros": "constant"}
"""What lies outside -> the name used here."""


@dataclass(frozen=True)
class Sampling:
    """How an image is interpolated, and what lies outside it.

    Args:
        mode: "nearest", "linear" or "cubic" (the cubic B-spline through the voxels, as scipy's order 3).
        padding_mode: "border", "reflection" (about the centres of the outermost voxels) or "constant"; "zeros" is
            constant 0.
        padding_value: what "constant" puts outside, in the image's units.
    Raises:
        ValueError: a mode is not known.
    """

    mode: str = "linear"
    padding_mode: str = "border"
    padding_value: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("padding_mode", PADDING_MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}.")
        if self.padding_mode == "zeros" and self.padding_value:
            raise ValueError(f"padding_mode 'zeros' with padding_value {self.padding_value}; say 'constant'.")
        object.__setattr__(self, "mode", MODES[self.mode])
        object.__setattr__(self, "padding_mode", PADDING_MODES[self.padding_mode])

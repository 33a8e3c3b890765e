"""What there is to say of an inference that ran."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class InferenceFacts:
    """What there is to say of an inference that ran.

    Attributes:
        windows: of the scan, those skipped included.
        skipped: windows that held nothing but background.
        seconds: from the first window to the last.
        tile_disagreement: share of the voxels midway between overlapping windows that the two label differently; None
            where none overlap.
        not_numbers: windows with NaN among the network's outputs; the voxels in them mean nothing.
        notices: what was given up for want of memory.
    """

    windows: int = 0
    skipped: int = 0
    seconds: float = 0.0
    tile_disagreement: float | None = None
    not_numbers: int = 0
    notices: list[str] = field(default_factory=list)

    def add(self, windows: int, skipped: int, seconds: float, tile_disagreement: float | None) -> None:
        """One more image of the batch; the disagreement of the worst stays."""
        self.windows += windows
        self.skipped += skipped
        self.seconds += seconds
        known = [each for each in (self.tile_disagreement, tile_disagreement) if each is not None]
        self.tile_disagreement = max(known, default=None)

"""One image through a network in overlapping windows, whose outputs are blended box by box."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.nn.functional import interpolate

from .accumulation import Accumulator
from .layout import Layout
from .memory import FLOAT_BYTES
from .reduction import ReductionOf
from .runner import Outputs, Window, WindowRunner, is_out_of_memory
from .scan import Background, Scan, read_window
from .windows import WindowGrid


@dataclass(frozen=True)
class Padding:
    """What surrounds an image that is smaller than a window: `mode` and `value` of `torch.nn.functional.pad`."""

    mode: str = "constant"
    value: float = 0.0


class BlendedPass:
    """Windows of one image, visited so that little is held, blended as MONAI's `sliding_window_inference` does.

    Args:
        scan: the image.
        grid: its windows.
        layout: the order of the visit.
        weights: (*roi), how much each voxel of a window counts; they are held, and added up, on its device.
        reduction_of: makes what takes the finished boxes of an output.
        padding: around an image smaller than a window.
        background: of windows to skip.
        condition: a second image that the network takes, cut into windows likewise.
        coordinates: what the network is told of its window's place, from its start; None for nothing.

    Attributes:
        skipped: windows that were filled.
        notices: what was given up for want of memory.
    """

    def __init__(
        self,
        scan: Scan,
        grid: WindowGrid,
        layout: Layout,
        weights: Tensor,
        reduction_of: ReductionOf,
        *,
        padding: Padding,
        background: Background,
        condition: Scan | None = None,
        coordinates: Callable[[Sequence[int]], object] | None = None,
    ) -> None:
        self.scan, self.grid, self.layout, self.weights = scan, grid, layout, weights
        self.reduction_of, self.padding, self.background = reduction_of, padding, background
        self.condition, self.coordinates = condition, coordinates
        self.windows = grid.windows
        self.window_size = grid.roi
        self.skipped = 0
        self._accumulators: list[Accumulator] = []

    @property
    def disagreement(self) -> float | None:
        """Share of the voxels, midway between overlapping windows, that the two label differently; None without any."""
        return self._accumulators[0].seams.disagreement if self._accumulators else None

    def held_bytes(self, channels: int, regridded: bool = False) -> int:
        """What is held on the device of the weights for an output of that many channels, its last window included.

        Args:
            channels: of the output.
            regridded: it is interpolated onto another grid, for which the edges of finished boxes are held, too.
        """
        voxels = self.layout.voxels + (self.layout.edge_voxels if regridded else 0)
        return FLOAT_BYTES * ((channels + 1) * voxels + (channels + 2) * prod(self.grid.roi))

    def run(self, runner: WindowRunner) -> Iterator[int]:
        """Every window once; yields how many are done."""
        for done, outputs in enumerate(runner.run(self._windows(runner)), start=1):
            if not self._accumulators:
                assert outputs is not None
                self._begin(outputs)
            for index, accumulator in enumerate(self._accumulators):
                accumulator.add(None if outputs is None else outputs[index])
            yield done

    def relieve(self) -> bool:
        """Hold on the host what was held on the device; False where it already is."""
        if self.weights.device.type == "cpu":
            return False
        self.weights = self.weights.cpu()
        for each in self._accumulators:
            each.to(self.weights.device)
        return True

    def _windows(self, runner: WindowRunner) -> Iterator[Window]:
        for start in self.layout.windows():
            window = self._window(start)
            assert window.data is not None
            if self.background and self.background.fills(window.data):
                if not self._accumulators:
                    self._begin(runner.once(window))  # to learn how many channels there are
                window.data = None
                self.skipped += 1
            yield window

    def _window(self, start: Sequence[int]) -> Window:
        return Window(
            data=self._cut(self.scan, start),
            condition=None if self.condition is None else self._cut(self.condition, start),
            coordinates=None if self.coordinates is None else self.coordinates(start),
        )

    def _cut(self, scan: Scan, start: Sequence[int]) -> Tensor:
        return read_window(scan, self.grid, start, self.padding.mode, self.padding.value)

    def _begin(self, outputs: Outputs) -> None:
        """Make what holds the sums; on the host where the device has no room for it."""
        try:
            self._accumulators = [self._accumulator(index, each) for index, each in enumerate(outputs)]
        except RuntimeError as error:
            if not is_out_of_memory(error) or not self.relieve():
                raise
            self._accumulators = [self._accumulator(index, each) for index, each in enumerate(outputs)]

    def _accumulator(self, index: int, output: Tensor) -> Accumulator:
        channels, *size = output.shape
        grid, layout, weights = self.grid, self.layout, self.weights
        if tuple(size) != grid.roi:
            grid = grid.scaled(size)
            layout = layout.on(grid)
            weights = interpolate(weights[None, None], size, mode="nearest-exact")[0, 0]
        reduction = self.reduction_of(index, channels, grid.size, layout.order)
        return Accumulator(grid, layout, channels, weights, reduction, filled=bool(self.background))

"""Tiles without seams: each voxel is computed once, with all the surroundings that have a say in it.

A network without padding ("valid") gets the overlap-tile strategy of Ronneberger 2015: tiles of mirrored image, of
which only the inner part comes out. A network with padding ("same") gets tiles with a halo of its receptive field,
which is thrown away. Both begin at multiples of the network's `size_divisor`, so that its poolings fall on the same
voxels as in a pass over the whole image, and equal that pass. A norm that measures the window it sees makes that
impossible (Buglakova 2025): such networks are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from torch import Tensor, nn

from .memory import FLOAT_BYTES
from .reduction import Reduction, ReductionOf, background_logit
from .runner import Outputs, Window, WindowRunner
from .scan import Background, Scan, read_mirrored

SEES_THE_WINDOW = ("InstanceNorm", "GroupNorm", "LayerNorm", "AdaptiveAvgPool", "AdaptiveMaxPool", "Attention")
"""Parts of the names of layers whose output at a voxel depends on the whole window."""


@dataclass(frozen=True)
class Stretch:
    """A tile along one axis.

    Attributes:
        low: first voxel that the network sees; negative, or past the end at `high`, where it sees mirrored image or,
            with padding inside, zeros.
        high: one past the last.
        start: first voxel that is taken from the result.
        stop: one past the last.
    """

    low: int
    high: int
    start: int
    stop: int


@dataclass(frozen=True)
class TilePlan:
    """The tiles of one image.

    Attributes:
        axes: an axis, its stretches.
        margin: voxels that the network's output is smaller than its input on each side, an axis; 0 with padding.
        mirrored: beyond the image is its mirror image; else there are zeros.
        border: voxels of mirror image on each side that count as image, an axis; places are in the image with these.
    """

    axes: tuple[tuple[Stretch, ...], ...]
    margin: tuple[int, ...]
    mirrored: bool
    border: tuple[int, ...]

    @property
    def windows(self) -> int:
        """How many tiles there are."""
        return prod(map(len, self.axes))

    @property
    def tile(self) -> tuple[int, ...]:
        """Voxels of every tile that the network sees, an axis."""
        return tuple(axis[0].high - axis[0].low for axis in self.axes)

    def tiles(self) -> Iterator[tuple[Stretch, ...]]:
        """Every tile, one stretch an axis; the last axis changes first."""
        return product(*self.axes)


def plan_tiles(network: Any, size: Sequence[int], roi_size: Sequence[int], border: str | int = "zeros") -> TilePlan:
    """The tiles of an image.

    Args:
        network: its attributes `padding`, `size_divisor`, `receptive_field_voxels` and `output_size` are read.
        size: of the image, an axis.
        roi_size: most voxels that the network may see at once, an axis.
        border: "zeros" or "mirror" beyond the image, or voxels of its mirror image, for networks with padding.
    Raises:
        ValueError: the network can not be tiled without seams, or the tiles are too small for it.
    """
    check_seamless(network)
    divisor = tuple(network.size_divisor)
    if getattr(network, "padding", "same") == "valid":
        outputs = network.output_size(roi_size)
        margin = tuple((roi - output) // 2 for roi, output in zip(roi_size, outputs, strict=True))
        spares = map(_spare, network.receptive_field_voxels, margin, divisor)
        axes = tuple(
            tuple(_valid(*each)) for each in zip(size, roi_size, outputs, margin, spares, divisor, strict=True)
        )
        return TilePlan(axes, margin, mirrored=True, border=(0,) * len(divisor))
    halos = [-(-(field // 2) // d) * d for field, d in zip(network.receptive_field_voxels, divisor, strict=True)]
    widths = [_border(border, halo, d) for halo, d in zip(halos, divisor, strict=True)]
    axes = tuple(
        tuple(_within(_same(n + 2 * width, roi, halo, d), width, n))
        for n, roi, halo, d, width in zip(size, roi_size, halos, divisor, widths, strict=True)
    )
    return TilePlan(axes, (0,) * len(divisor), mirrored=False, border=tuple(widths))


def check_border(border: str | int, mode: str) -> str | int:
    """The border itself, where windows of that mode can have it.

    Raises:
        ValueError: it is none, or the mode has none.
    """
    if border != "mirror" and border != "zeros" and (not isinstance(border, int) or border < 0):
        raise ValueError(f'border is {border!r}; it must be "zeros", "mirror" or a number of voxels.')
    if border not in ("zeros", 0) and mode != "seamless":
        raise ValueError(f'border is {border!r}, which windows of mode "{mode}" do not have; use mode "seamless".')
    return border


def check_seamless(network: Any) -> None:
    """Return where a tile of the network can equal the pass over the whole image.

    Raises:
        ValueError: it can not, or does not say what must be known for it.
    """
    for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
        reason = _sees_the_window(module)
        if reason:
            raise ValueError(
                f'mode "seamless" can not be had with this network: {name or "it"} ({type(module).__name__}) {reason}, '
                'so that a tile differs from the whole image. Use mode "gaussian", or train with norm "batch", '
                '"batchrenorm" or "none".'
            )
    missing = [name for name in ("size_divisor", "receptive_field_voxels") if not hasattr(network, name)]
    if missing:
        raise ValueError(
            f'mode "seamless" needs to know {" and ".join(missing)} of the network, which a '
            f'{type(network).__name__} does not say. Use mode "gaussian", or set the attributes.'
        )


class SeamlessPass:
    """Tiles of one image, each voxel of the result computed once.

    Args:
        scan: the image.
        plan: its tiles.
        reduction_of: makes what takes the tiles of an output.
        background: of tiles to skip, their surroundings included.
        condition: a second image that the network takes, cut into tiles likewise.
        coordinates: what the network is told of its tile's place, from its start; None for nothing.

    Attributes:
        skipped: tiles that were filled.
    """

    disagreement = None

    def __init__(
        self,
        scan: Scan,
        plan: TilePlan,
        reduction_of: ReductionOf,
        *,
        background: Background,
        condition: Scan | None = None,
        coordinates: Callable[[Sequence[int]], object] | None = None,
    ) -> None:
        self.scan, self.plan, self.reduction_of, self.background = scan, plan, reduction_of, background
        self.condition, self.coordinates = condition, coordinates
        self.windows = plan.windows
        self.window_size = plan.tile
        self.skipped = 0
        self._empty: list[Tensor] = []
        self._reductions: list[Reduction] = []

    def held_bytes(self, channels: int, regridded: bool = False) -> int:
        """What is held for an output of that many channels: a tile's own, twice while it is reduced.

        Args:
            channels: of the output.
            regridded: it is interpolated onto another grid, for which the edges of finished tiles are held, too.
        """
        inner = [axis[0].stop - width for axis, width in zip(self.plan.axes, self.plan.border, strict=True)]
        edges = sum(prod(n + 1 for n in inner[:axis]) * prod(self.scan.size[axis + 1 :]) for axis in range(len(inner)))
        return channels * (2 * prod(self.plan.tile) + (edges if regridded else 0)) * FLOAT_BYTES

    def relieve(self) -> bool:
        """Nothing is held between tiles."""
        return False

    def run(self, runner: WindowRunner) -> Iterator[int]:
        """Every tile once; yields how many are done."""
        results = zip(self.plan.tiles(), runner.run(self._windows(runner)), strict=True)
        for done, (tile, outputs) in enumerate(results, start=1):
            if outputs is not None and not self._reductions:
                self._begin(outputs)
            for reduction, output in zip(self._reductions, outputs or self._empty, strict=True):
                self._take(reduction, tile, output)
            yield done

    def _windows(self, runner: WindowRunner) -> Iterator[Window]:
        for tile in self.plan.tiles():
            window = self._window(tile)
            assert window.data is not None
            if self.background and self.background.fills(window.data):
                if not self._reductions:
                    self._begin(runner.once(window))  # to learn how many channels there are
                window.data = None
                self.skipped += 1
            yield window

    def _begin(self, outputs: Outputs) -> None:
        order = range(len(self.plan.axes))
        for index, output in enumerate(outputs):
            self._reductions.append(self.reduction_of(index, len(output), self.scan.size, order))
            empty = output.new_zeros((len(output), *[1] * (output.dim() - 1)))
            empty[0] = background_logit(len(output))
            self._empty.append(empty.expand(output.shape))

    def _window(self, tile: Sequence[Stretch]) -> Window:
        place = [stretch.low for stretch in tile]
        return Window(
            data=read_tile(self.scan, tile, self.plan),
            condition=None if self.condition is None else read_tile(self.condition, tile, self.plan),
            coordinates=None if self.coordinates is None else self.coordinates(place),
        )

    def _take(self, reduction: Reduction, tile: Sequence[Stretch], output: Tensor) -> None:
        expected = tuple(n - 2 * margin for n, margin in zip(self.plan.tile, self.plan.margin, strict=True))
        if tuple(output.shape[1:]) != expected:
            raise ValueError(
                f'mode "seamless": the network makes {tuple(output.shape[1:])} voxels of tiles of {self.plan.tile}; '
                f'its attributes promise {expected}. Correct them, or use mode "gaussian".'
            )
        inner = tuple(
            slice(each.start - each.low - margin, each.stop - each.low - margin)
            for each, margin in zip(tile, self.plan.margin, strict=True)
        )
        where = tuple(
            slice(each.start - width, each.stop - width) for each, width in zip(tile, self.plan.border, strict=True)
        )
        reduction.begin(where)
        reduction.put(where, 0, output[(slice(None), *inner)].float())
        reduction.finish(where)


def read_tile(scan: Scan, tile: Sequence[Stretch], plan: TilePlan) -> Tensor:
    """(C, *tile): what the network sees, mirrored beyond the image for a network without padding, else zeros there."""
    if plan.mirrored:
        return read_mirrored(scan, [each.low for each in tile], [each.high for each in tile])
    ends = [n + 2 * width for n, width in zip(scan.size, plan.border, strict=True)]
    low = [each.low - width for each, width in zip(tile, plan.border, strict=True)]
    high = [min(each.high, end) - width for each, end, width in zip(tile, ends, plan.border, strict=True)]
    part = read_mirrored(scan, low, high)
    missing = [max(each.high - end, 0) for each, end in zip(tile, ends, strict=True)]
    if not any(missing):
        return part
    return nn.functional.pad(part, [amount for end in reversed(missing) for amount in (0, end)])


def _spare(field: int, margin: int, divisor: int) -> int:
    """Voxels of output at each end of a tile that its border has a say in, up to a multiple of the divisor.

    A voxel's place in its cell of `divisor` voxels accounts for as many less one that it sees beyond the margin; what
    it sees beyond these is linear interpolation, which has no second value at the end of a tile.
    """
    return -(-max(field // 2 - margin - (divisor - 1), 0) // divisor) * divisor


def _valid(size: int, roi: int, output: int, margin: int, spare: int, divisor: int) -> Iterator[Stretch]:
    step = (output - 2 * spare) // divisor * divisor
    if step < 1:
        raise ValueError(
            f"roi_size {roi} leaves {max(output - 2 * spare, 0)} voxels of output without seams, less than the "
            f"network's size_divisor {divisor}; choose larger tiles."
        )
    for start in range(0, size, step):
        low = start - margin - spare
        yield Stretch(low, low + roi, start, min(start + step, size))


def _same(size: int, roi: int, halo: int, divisor: int) -> Iterator[Stretch]:
    """As few tiles as `roi` allows, and of these the smallest."""
    whole = -(-size // divisor) * divisor
    longest = min(roi // divisor * divisor, whole)
    if longest < whole and longest < 2 * halo + divisor:
        raise ValueError(
            f"roi_size {roi} is too small to tile without seams: the network needs {halo} voxels around a tile, that "
            f'is at least {2 * halo + divisor}. Choose larger windows, or mode "gaussian".'
        )
    fewest = _stretches(size, whole, longest, halo)
    for shorter in range(longest, 0, -divisor):
        tiles = _stretches(size, whole, shorter, halo) if shorter == whole or shorter >= 2 * halo + divisor else None
        if tiles is None or len(tiles) > len(fewest):
            break
        fewest = tiles
    return iter(fewest)


def _border(border: str | int, halo: int, divisor: int) -> int:
    """Voxels of mirror image on each side: whole cells, so that poolings fall on the same voxels, within the halo."""
    wanted = {"zeros": 0, "mirror": halo}[border] if isinstance(border, str) else border
    return min(-(-wanted // divisor) * divisor, halo)


def _within(tiles: Iterator[Stretch], border: int, size: int) -> Iterator[Stretch]:
    """The tiles that have a part of the image itself, and only that part taken."""
    for tile in tiles:
        start, stop = max(tile.start, border), min(tile.stop, border + size)
        if start < stop:
            yield Stretch(tile.low, tile.high, start, stop)


def _stretches(size: int, whole: int, longest: int, halo: int) -> list[Stretch]:
    tiles: list[Stretch] = []
    start = 0
    while start < size:
        low = min(max(start - halo, 0), whole - longest)
        high = low + longest
        stop = size if high == whole else high - halo
        tiles.append(Stretch(low, high, start, stop))
        start = stop
    return tiles


def _sees_the_window(module: nn.Module) -> str | None:
    """Why a tile of this layer differs from the whole image; None where it does not."""
    if any(part in type(module).__name__ for part in SEES_THE_WINDOW):
        return "takes its figures from the window that it sees"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.running_mean is None:
            return "keeps no running statistics and measures the window that it sees"
        if module.training:
            return "is in training mode and measures the window that it sees"
    return None

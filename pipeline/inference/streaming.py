"""Sliding windows whose memory does not grow with the length of a scan: MONAI's interface, streamed inside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from inspect import signature
from time import perf_counter
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import PytorchPadMode, look_up_option
from torch import Tensor, nn

from ..progress import ProgressBar, Report, silent
from .blending import BlendedPass, Padding
from .confidence import Confidence, ConfidentLabels
from .estimate import Estimate, Pace
from .facts import InferenceFacts
from .layout import lean_layout
from .memory import forward_needs
from .mirroring import Mirrored, check_axes, check_transposed
from .planewise import is_planewise, planewise, with_one_plane
from .reduction import Dropped, Labels, Output, Reduce, Reduction, ReductionOf, make_reduction
from .regrid import GridMap, Regridded
from .results import Results
from .runner import CONDITION, Network, WindowRunner, restored
from .scan import Background, Scan, TensorScan
from .tiling import SeamlessPass, check_border, plan_tiles
from .windows import WindowGrid, window_grid

log = logging.getLogger("scanloom.inference")

MODES = ("constant", "gaussian", "seamless")
OUTPUTS = ("logits", "probabilities", "labels")

MakeOutput = Callable[[tuple[int, ...], torch.dtype], Output]
"""Shape, type -> what to write to."""

Devices = torch.device | str | Sequence[torch.device | str]


class StreamingInferer(Inferer):
    """Runs a network over windows of images of any size; equal to MONAI's `SlidingWindowInferer`, but lean.

    Windows are visited row by row, and only what later rows reach into is held; finished voxels are reduced and
    written out. The arguments up to `with_coord` are those of MONAI's, and mean the same where nothing else is said.

    Args:
        roi_size: voxels of a window, one number or one an axis; what is not positive takes the image's size. Two
            numbers for an image of three axes are planes of its last one, each of which a 2D network sees by itself.
        sw_batch_size: windows in one pass through the network; halved when memory runs out.
        overlap: share of a window that the next one covers again, one number or one an axis.
        mode: "constant" or "gaussian" blend overlapping windows; "seamless" computes each voxel once, with all its
            surroundings, equal to a pass over the whole image: see `tiling.plan_tiles` for which networks can.
        sigma_scale: of the Gaussian, in shares of the window.
        padding_mode: of images smaller than a window, as `torch.nn.functional.pad` has it.
        cval: its value, where it is "constant".
        sw_device: that windows are computed and blended on, by default the image's; several share the windows.
        device: that the result is on, by default the image's.
        progress: show a bar with the time left.
        cache_roi_weight_map: taken, and needless: the weights are always kept.
        cpu_thresh: images of more voxels have their result on the host.
        buffer_steps: if positive, `buffer_dim` is the axis that windows are visited along; the best one is taken else.
        buffer_dim: spatial axis, see `buffer_steps`.
        with_coord: the network is called with the windows and their places.
        output: "logits"; "probabilities", the softmax of the blended logits, or for one channel the sigmoid; "labels",
            (B, 1, *spatial) of uint8 (uint16 above 256 channels), the largest logit or for one channel that above 0;
            or a function of one's own, logits (K, *box) -> (K', *box), called for boxes of any size.
        mirror_axes: spatial axes along which windows are mirrored as well, the probabilities averaged.
        transpose_axes: two spatial axes that are also exchanged, which doubles the passes; with `mirror_axes` of the
            same two these are the eight symmetries of a square.
        border: what a network with padding sees beyond the image in mode "seamless": "zeros"; "mirror", the mirrored
            image as far as it sees, as networks without padding always do; or so many voxels of it, then zeros.
        background_value: windows whose every voxel is exactly this are filled with background, not computed.
        background_below: windows whose every voxel is below this likewise.

    Attributes:
        facts: of the last call.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: Devices | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        cache_roi_weight_map: bool = False,
        cpu_thresh: int | None = None,
        buffer_steps: int | None = None,
        buffer_dim: int = -1,
        with_coord: bool = False,
        *,
        output: str | Reduce = "logits",
        mirror_axes: Sequence[int] = (),
        transpose_axes: Sequence[int] = (),
        border: str | int = "zeros",
        background_value: float | None = None,
        background_below: float | None = None,
    ) -> None:
        if sw_batch_size < 1:
            raise ValueError(f"sw_batch_size is {sw_batch_size}; it must be 1 or more.")
        if not callable(output) and output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; it must be one of {', '.join(OUTPUTS)}, or a function.")
        self.roi_size = roi_size
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = str(getattr(mode, "value", mode))
        if self.mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}.")
        self.sigma_scale = sigma_scale
        self.padding = Padding(str(look_up_option(padding_mode, PytorchPadMode).value), cval)
        self.sw_device = sw_device
        self.device = device
        self.progress = progress
        self.cpu_thresh = cpu_thresh
        self.buffer_steps = buffer_steps
        self.buffer_dim = buffer_dim
        self.with_coord = with_coord
        self.output = output
        self.mirror_axes = check_axes(mirror_axes)
        self.transpose_axes = check_transposed(transpose_axes)
        self.border = check_border(border, self.mode)
        self.background = Background(background_value, background_below)
        self.facts = InferenceFacts()

    @classmethod
    def like(cls, inferer: SlidingWindowInferer) -> StreamingInferer:
        """One that does what MONAI's does."""
        names = set(signature(SlidingWindowInferer).parameters) & set(vars(inferer))
        return cls(**{name: getattr(inferer, name) for name in names})

    def __call__(self, inputs: Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """(B, C, *spatial) -> the network's outputs for the whole images, in its structure, as `output` says.

        Args:
            inputs: on any device.
            network: (n, C, *roi) -> a tensor (n, K, *roi'), or a tuple or dictionary of them.
            args: passed to the network after the windows.
            kwargs: passed to it by name, but for `device`, `buffer_steps` and `buffer_dim`, which replace the
                inferer's own, and `condition`, a second image of the inputs' shape, which is cut into windows too.
        Raises:
            ValueError: the image does not fit the arguments, or the network can not be tiled without seams.
            PipelineError: there is no room for the result, or for one window's pass.
        """
        device = kwargs.pop("device", self.device)
        steps, dim = kwargs.pop("buffer_steps", self.buffer_steps), kwargs.pop("buffer_dim", self.buffer_dim)
        condition = kwargs.pop(CONDITION, None)
        if condition is not None and condition.shape != inputs.shape:
            raise ValueError(f"condition is {tuple(condition.shape)}; it must have the inputs' {tuple(inputs.shape)}.")
        if device is None:
            large = self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh
            device = "cpu" if large else inputs.device
        devices = as_devices(inputs.device if self.sw_device is None else self.sw_device)
        network = planewise(network, self.roi_size, inputs.dim() - 2)
        results = Results(self.output, inputs, torch.device(device))
        axis = _stream_axis(steps, dim, inputs.dim() - 2)
        self.facts = InferenceFacts()
        keys: list[Any] | None = None
        with ProgressBar("inference") if self.progress else nullcontext(silent) as report:
            for index in range(len(inputs)):
                scan, second = (
                    None if each is None else TensorScan(_plain(each)[index]) for each in (inputs, condition)
                )
                assert scan is not None
                one = self._pass(scan, network, results.reduction_of(index), devices, axis, second, index)
                pace = Pace(report, one.windows, share=(index / len(inputs), (index + 1) / len(inputs)))
                keys = self._run(one, network, devices, pace, args, kwargs)
        return restored(keys, results.outputs())

    def stream(
        self,
        scan: Scan,
        network: Network,
        out: Output | MakeOutput,
        *,
        device: Devices = "cpu",
        grid_map: GridMap | None = None,
        confidence: Confidence | None = None,
        report: Report = silent,
    ) -> InferenceFacts:
        """Write what becomes of one image into `out`, both of any size; of several outputs the first.

        Args:
            scan: the image; windows of it are read, one after the other.
            network: as for a call; on the first device.
            out: (K', *spatial), for labels (1, *spatial), or what makes it of that shape and a type once the number of
                channels is known; every voxel is written once, box by box.
            device: that windows are computed and blended on; several share the windows.
            grid_map: where the voxels of `out` lie on the scan's grid, if it is another one: logits are interpolated
                onto it before they are reduced.
            confidence: counts how sure the network is, where the output is "labels".
            report: told how far it is.
        Raises:
            ValueError: as for a call, or `out` has another shape.
            PipelineError: there is no room for one window's pass.
        """
        devices = as_devices(device)

        def reduction_of(index: int, channels: int, size: tuple[int, ...], order: Sequence[int]) -> Reduction:
            if index > 0:
                return Dropped()
            if grid_map is not None and size != scan.size:
                raise ValueError(f"grid_map is for the scan's {scan.size} voxels; the network makes {size} of them.")
            target = size if grid_map is None else grid_map.size
            reduction = make_reduction(self.output, channels, lambda count, kind: _given(out, (count, *target), kind))
            if confidence is not None and isinstance(reduction, Labels):
                reduction = ConfidentLabels(reduction, confidence)
            return reduction if grid_map is None else Regridded(grid_map, size, order, channels, reduction)

        network = planewise(network, self.roi_size, len(scan.size))
        one = self._pass(scan, network, reduction_of, devices)
        self.facts = InferenceFacts()
        self._run(one, network, devices, Pace(report, one.windows), (), {})
        return self.facts

    def estimate(
        self, scan: Scan, network: nn.Module, host_bytes: int, device: Devices = "cpu", regridded: bool = False
    ) -> Estimate:
        """What `stream` will take, without computing a voxel.

        Args:
            scan: its size counts, and what it holds itself is not counted.
            network: float32, as trained; runs without values.
            host_bytes: of the result and whatever else the host will hold.
            device: as for `stream`.
            regridded: the result is interpolated onto another grid.
        """
        devices = as_devices(device)
        adapted = planewise(network, self.roi_size, len(scan.size))
        one = self._pass(scan, adapted, lambda *_: Dropped(), devices)
        shape = (self.sw_batch_size, scan.channels, *one.window_size)
        needs = forward_needs(adapted, shape)  # type: ignore[arg-type]
        held = 0 if needs is None else sum(one.held_bytes(channels, regridded) for channels in needs.channels)
        return Estimate.of(one.windows, needs, held, host_bytes, devices[0])

    def window_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Voxels of the windows that the network sees of an image of that size, an axis; two where they are planes."""
        window = self._grid(size).roi
        return window[:-1] if is_planewise(self.roi_size, len(size)) else window

    def _grid(self, size: Sequence[int]) -> WindowGrid:
        """The windows of an image of that size."""
        roi, overlap = (
            with_one_plane(each, self.roi_size, len(size), value)
            for each, value in ((self.roi_size, 1), (self.overlap, 0.0))
        )
        return window_grid(size, roi, overlap)

    def _pass(
        self,
        scan: Scan,
        network: Network,
        reduction_of: ReductionOf,
        devices: Sequence[torch.device],
        stream_axis: int | None = None,
        condition: Scan | None = None,
        image: int = 0,
    ) -> BlendedPass | SeamlessPass:
        """The visit of one image's windows, not begun."""
        axes = len(self.window_size(scan.size))
        for name, named in (("mirror_axes", self.mirror_axes), ("transpose_axes", self.transpose_axes)):
            if max(named, default=0) >= axes:
                raise ValueError(f"{name} is {named} but the windows have {axes} spatial axes.")
        grid = self._grid(scan.size)

        plan = plan_tiles(network, scan.size, grid.roi, self.border) if self.mode == "seamless" else None
        window = grid.roi if plan is None else plan.tile

        def coordinates(start: Sequence[int]) -> list[slice]:
            place = [slice(at, at + length) for at, length in zip(start, window, strict=True)]
            return [slice(image, image + 1), slice(None), *place]

        more: dict[str, Any] = {"condition": condition, "coordinates": coordinates if self.with_coord else None}
        more["background"] = self.background
        if plan is not None:
            return SeamlessPass(scan, plan, reduction_of, **more)
        sigma = with_one_plane(self.sigma_scale, self.roi_size, len(scan.size), 1.0)
        weights = compute_importance_map(grid.roi, mode=self.mode, sigma_scale=sigma, device=devices[0])
        layout = lean_layout(grid, stream_axis)
        return BlendedPass(scan, grid, layout, weights, reduction_of, padding=self.padding, **more)

    def _run(
        self,
        one: BlendedPass | SeamlessPass,
        network: Network,
        devices: Sequence[torch.device],
        pace: Pace,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> list[Any] | None:
        """All windows of an image; what `restored` needs to put the outputs together."""

        def say(notice: str) -> None:
            log.warning("%s", notice)
            self.facts.notices.append(notice)

        runner = WindowRunner(
            Mirrored(network, self.mirror_axes, self.transpose_axes)
            if self.mirror_axes or self.transpose_axes
            else network,
            devices, self.sw_batch_size, one.relieve, say, args, kwargs,
        )  # fmt: skip
        begin = perf_counter()
        for done in one.run(runner):
            pace(done)
        lost = runner.not_numbers()
        if lost and self.output == "labels":
            log.warning("the network gave NaN in %d of %d windows, which labels do not show", lost, one.windows)
        self.facts.not_numbers += lost
        self.facts.add(one.windows, one.skipped, perf_counter() - begin, one.disagreement)
        return runner.keys


def as_devices(devices: Devices) -> tuple[torch.device, ...]:
    """One device or several; a CUDA device by its number, as tensors name theirs."""
    found = tuple(map(torch.device, [devices] if isinstance(devices, str | torch.device) else devices))
    return tuple(
        torch.device("cuda", torch.cuda.current_device()) if each.type == "cuda" and each.index is None else each
        for each in found
    )


def _stream_axis(buffer_steps: int | None, buffer_dim: int, axes: int) -> int | None:
    """The axis that MONAI would buffer along; None where it would not.

    Raises:
        ValueError: the image has no such axis.
    """
    if not buffer_steps or buffer_steps < 0:
        return None
    if not -axes <= buffer_dim < axes:
        raise ValueError(f"buffer_dim is {buffer_dim}; the image has {axes} spatial axes.")
    return buffer_dim % axes


def _given(out: Output | MakeOutput, shape: tuple[int, ...], kind: torch.dtype) -> Output:
    """What to write to.

    Raises:
        ValueError: it does not have the shape.
    """
    made = out(shape, kind) if callable(out) else out
    if tuple(made.shape) != shape:
        raise ValueError(f"out is {tuple(made.shape)}; the result is {shape}. Give one of this shape.")
    return made


def _plain(inputs: Tensor) -> Tensor:
    return inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs

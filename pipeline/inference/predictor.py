"""A bundle made ready for inference: preprocessing, network with weights, inferer; volume in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from math import prod
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer, SliceInferer
from torch import Tensor

from ..bundle import Bundle
from ..bundle_network import with_weights
from ..device import describe_device, find_devices
from ..errors import BundleError, PipelineError
from ..progress import Report, silent
from ..volume import Notice, Volume
from .built import build_bundle
from .confidence import Confidence
from .memory import FLOAT_BYTES, PeakMemory, available_bytes, human_bytes
from .precision import NotNumbersError, choose_precision, precision_notice
from .prepare import (
    canonical,
    in_canonical_order,
    is_cropped,
    is_in_canonical_order,
    labels_on_grid,
    prepare,
    straightened,
    to_source_order,
)
from .ready import ReadyNetwork, check_engine, make_ready
from .regrid import GridMap
from .runner import flatten
from .scan import ArrayScan, Scan, TensorScan
from .streaming import StreamingInferer
from .voxelwise import NeedsWholeScan, voxelwise

NEEDED = ("network_def", "preprocessing", "inferer")
REMEDIES = (
    "Close other programs, choose smaller windows (roi_size in the bundle's inferer), or a device with more memory."
)
HOST = torch.device("cpu")
COPIES = 3
"""Volumes of float32 that preprocessing of a whole scan holds at once: before and after a step, and its workings."""


class Predictor:
    """Labels for volumes by one bundle.

    Args:
        bundle: its `inference` config names `network_def`, `preprocessing` and `inferer`; its `postprocessing`, where
            there is one, decides what the labels are.
        device: "auto", "cpu", "cuda", "cuda:1", "mps"; auto takes a GPU where there is one; several of one kind, with
            commas between, share the windows of a scan.
        precision: "auto", "fp32", "bf16" or "fp16".
        engine: "torch", "openvino" or "onnxruntime"; the last computes in fp32.
        compile: run the network through `torch.compile`.
        confidence: keep a map of how sure the network is; a byte a voxel.

    Attributes:
        facts: of the last volume: windows, seconds, precision, memory; for a report.
        notices: of the last volume: what a user should know.
        surface_confidence: of the last volume: label -> mean probability of the winning class on the label's surface.
        confidence: of the last volume, where it was asked for: (X, Y, Z) of uint8 on the volume's own grid, the
            probability of the winning class times 255.

    Raises:
        BundleError: the config or the weights are missing or do not fit each other.
        UsageError: there is no such device, precision or engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        *,
        precision: str = "auto",
        engine: str = "torch",
        compile: bool = False,
        confidence: bool = False,
    ) -> None:
        self.bundle = bundle
        self.devices = find_devices(device)
        self.device = self.devices[0]
        unasked = "fp32" if engine == "onnxruntime" else "auto"
        wanted = unasked if precision == "auto" else precision
        self.precision = choose_precision(wanted, self.device, bundle.bf16_dice_cost)
        check_engine(engine, self.devices, compile, self.precision)
        self.engine, self.compile = engine, compile
        self.built = build_bundle(bundle, self.device)
        self.preprocessing, self.inferer = self.built.preprocessing, self.built.inferer
        self.network = with_weights(self.built.network, bundle).eval()
        self.facts: dict[str, Any] = {}
        self.notices: tuple[Notice, ...] = ()
        self.surface_confidence: dict[int, float] = {}
        self.confidence: np.ndarray | None = None
        self._keeps_confidence = confidence
        self._ready: ReadyNetwork | None = None

    @property
    def device_name(self) -> str:
        """The devices in words, for reports."""
        return ", ".join(map(describe_device, self.devices))

    @torch.inference_mode()
    def __call__(self, volume: Volume, report: Report = silent) -> np.ndarray:
        """(X, Y, Z) integers on the volume's own grid.

        Raises:
            PipelineError: there is not enough memory for it, and nothing was computed; or the network gives NaN, in
                fp32 too, to which it falls back.
            BundleError: the preprocessing can not be inverted to the volume's grid.
        """
        with PeakMemory(self.device) as peak:
            labels = self._labels_of_numbers(volume, report)
        self.notices += tuple(Notice("label-codes", each) for each in self.bundle.coding_notices)
        slow = precision_notice(self.precision, self.device)
        if slow:
            self.notices += (Notice("precision", slow),)
        self.facts["peak_memory"] = {
            "host_bytes": peak.host_bytes,
            "device_bytes": peak.device_bytes,
            "added_bytes": peak.added_bytes,
        }
        return labels

    def _labels_of_numbers(self, volume: Volume, report: Report) -> np.ndarray:
        """The labels; in fp32, from here on, where the network gives NaN in less, which would become background."""
        self._forget()
        try:
            return self._labels(volume, report)
        except NotNumbersError as error:
            if self.precision == "fp32":
                raise
            report(f"{error} Computing in fp32", 0.0)
            notice = Notice("precision", f"the network gave NaN in {self.precision}, so fp32 was used")
        self.precision, self._ready = "fp32", None
        self._forget()
        labels = self._labels(volume, report)
        self.notices += (notice,)
        return labels

    def _forget(self) -> None:
        """What is known of the last volume."""
        self.facts, self.notices, self.surface_confidence, self.confidence = {}, (), {}, None

    def _labels(self, volume: Volume, report: Report) -> np.ndarray:
        turned, post = canonical(volume), self.built.postprocessing
        self._notice_order(volume)
        how = voxelwise(self.preprocessing, turned) if volume.is_mapped else None
        if how is not None and not isinstance(how, NeedsWholeScan) and post.equals_streaming(resampled=False):
            return post.finish(self._streamed(ArrayScan(turned.array, how), None, volume, report), volume)
        self._require_whole(volume, how if isinstance(how, NeedsWholeScan) else None, report)
        prepared = prepare(turned, self.preprocessing)
        image = prepared["image"]
        scan = TensorScan(image.as_tensor())
        self._require_channels(volume, scan)
        grid_map = GridMap.between(np.asarray(image.affine), straightened(turned.affine), turned.spatial_shape)
        same_grid = grid_map is not None and grid_map.is_identity(scan.size)
        is_ours = post.equals_streaming(resampled=not same_grid)
        covers = grid_map is not None and grid_map.beyond(scan.size) <= 1 and not is_cropped(image)
        if isinstance(self.inferer, StreamingInferer) and is_ours and covers:
            return post.finish(self._streamed(scan, None if same_grid else grid_map, volume, report), volume)
        if not is_ours:
            self._require_room_for_logits(volume, scan)
            self.facts["postprocessing"] = "the bundle's own, on the whole scan"
        logits = self._whole(scan)
        self._require_numbers(volume, int(logits.amin().isnan()), 1)
        labels, probability = labels_on_grid(logits, prepared, self.preprocessing, turned)
        labels = post.finish(labels, turned) if is_ours else post.labels(logits, prepared, self.preprocessing, turned)
        confidence = self._confidence_for(volume)
        confidence.add(tuple(map(slice, labels.shape)), torch.from_numpy(labels.astype(np.int32)), probability)
        self.surface_confidence = confidence.of_surfaces
        return to_source_order(labels, volume)

    def _notice_order(self, volume: Volume) -> None:
        """Say where the network sees the scan in another order of axes than its author's reader gives."""
        if not self.built.orients and not is_in_canonical_order(volume):
            words = "the bundle does not say in which order it wants the axes (Orientationd); it was given R, A, S"
            self.notices += (Notice("orientation", words),)

    def _require_channels(self, volume: Volume, scan: Scan) -> None:
        """Return where the network takes as many channels as the scan has after its preparation."""
        if self.built.channels not in (None, scan.channels):
            raise BundleError(
                f"bundle {self.bundle.name}: its network takes {self.built.channels} channels, {volume.case} has "
                f"{scan.channels}. Cases of several series are not supported; take a bundle for one."
            )

    def _require_room_for_logits(self, volume: Volume, scan: Scan) -> None:
        """Return where there is room for all logits, twice on the scan's grid, as the bundle's postprocessing needs."""
        classes = 1 + max(label.value for label in self.bundle.labels)
        needed = FLOAT_BYTES * classes * (prod(scan.size) + 2 * prod(volume.spatial_shape))
        available = available_bytes(HOST)
        if available is not None and needed > available:
            raise PipelineError(
                f"{volume.case}: the bundle's postprocessing needs the logits of the whole scan, {human_bytes(needed)} "
                f"of memory, where {human_bytes(available)} can be had. Close other programs, crop the scan, or take a "
                "larger machine."
            )

    def _confidence_for(self, volume: Volume) -> Confidence:
        """What counts confidence, and writes the map where one is asked for."""

        def make_map() -> np.ndarray:
            self.confidence = np.zeros(volume.spatial_shape, dtype=np.uint8)
            return in_canonical_order(self.confidence, volume)[np.newaxis]

        return Confidence(make_map if self._keeps_confidence else None)

    def _streamed(self, scan: Scan, grid_map: GridMap | None, volume: Volume, report: Report) -> np.ndarray:
        """Windows blended, interpolated onto the volume's grid and reduced to labels, box by box."""
        voxels = prod(volume.spatial_shape)
        host_bytes = voxels * (1 + self._keeps_confidence)
        try:
            estimate = self.inferer.estimate(
                scan, self.network, host_bytes, self.devices, regridded=grid_map is not None
            )
        except ValueError as error:  # windows that this scan or this network does not take
            raise BundleError(f"bundle {self.bundle.name}: its inferer does not fit {volume.case}: {error}") from error
        estimate.require(volume.case, REMEDIES)
        report(f"{volume.case}: {estimate}", 0.0)
        made: list[np.ndarray] = []

        def make(shape: tuple[int, ...], kind: torch.dtype) -> np.ndarray:
            made.append(torch.empty(volume.spatial_shape, dtype=kind).numpy())
            return in_canonical_order(made[0], volume)[np.newaxis]

        network = self._network_for(scan.channels, self.inferer.window_size(scan.size))
        confidence = self._confidence_for(volume)
        facts = self.inferer.stream(
            scan, network, make, device=self.devices, grid_map=grid_map, confidence=confidence, report=report
        )
        self._require_numbers(volume, facts.not_numbers, facts.windows)
        self.surface_confidence = confidence.of_surfaces
        self.notices += tuple(Notice("memory", each) for each in facts.notices)
        self.facts |= {
            "mode": self.inferer.mode,
            "windows": facts.windows,
            "skipped_windows": facts.skipped,
            "seconds": round(facts.seconds, 3),
            "tile_disagreement": facts.tile_disagreement,
            "estimated_bytes": {"host": estimate.host_bytes, "device": estimate.device_bytes},
        }
        return made[0]

    def _whole(self, scan: TensorScan) -> Tensor:
        """(K, *spatial) logits of the whole scan: for others' inferers, and grids that boxes can not be brought to."""
        image = scan.image[None].to(self.device)
        inferer = self.inferer
        if isinstance(inferer, StreamingInferer):
            inferer = copy(inferer)
            inferer.output = "logits"
        return flatten(inferer(image, self._network_for(scan.channels, _seen_at_once(inferer, scan.size))))[1][0][0]

    def _require_numbers(self, volume: Volume, lost: int, windows: int) -> None:
        """Return where no window's outputs hold NaN."""
        if lost:
            raise NotNumbersError(
                f"{volume.case}: the network of bundle {self.bundle.name} gives NaN in {lost} of {windows} windows in "
                f"{self.precision}. Look at the scan's values and the weights, or train the bundle again."
            )

    def _network_for(self, channels: int, window_size: Sequence[int]) -> ReadyNetwork:
        """The network, made ready at the first scan, for windows of that size above all."""
        if self._ready is None:
            shape = (1, channels, *window_size)
            self._ready = make_ready(
                self.network, self.device, self.precision, compile=self.compile, engine=self.engine, example_shape=shape
            )
        self.facts |= self._ready.description
        return self._ready

    def _require_whole(self, volume: Volume, how: NeedsWholeScan | None, report: Report) -> None:
        """Return where there is room for preparing the scan as a whole, and say so where it is mapped."""
        needed, available = COPIES * FLOAT_BYTES * volume.array.size, available_bytes(HOST)
        step = f" ({how.step} needs the whole scan)" if how else ""
        if how:
            report(f"{volume.case}: preprocessing{step} takes about {human_bytes(needed)}", 0.0)
            self.facts["whole_scan_for"] = how.step
        if available is not None and needed > available:
            raise PipelineError(
                f"{volume.case}: its preprocessing{step} takes about {human_bytes(needed)} of memory, where "
                f"{human_bytes(available)} can be had. Close other programs, crop the scan, or take a larger machine."
            )


def _seen_at_once(inferer: Inferer, size: tuple[int, ...]) -> tuple[int, ...]:
    """Voxels an axis, as many as the network's, of what it is given of an image of that size."""
    if isinstance(inferer, StreamingInferer):
        return inferer.window_size(size)
    if isinstance(inferer, SliceInferer):
        return tuple(n for axis, n in enumerate(size) if axis != inferer.spatial_dim)
    return size

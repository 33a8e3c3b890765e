"""The stacks of parallel planes in a DICOM series: echoes, time points and orientations told apart, copies dropped.

Two images of one place are never put into one volume. A series is split only where that gives complete volumes.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from ..errors import GeometryError
from ..volume import Notice
from .dicom_header import VARIES, Header
from .geometry import slice_normal
from .slices import is_regular, repeated

ORIENTATION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-4
NEARLY_PARALLEL = 0.96
"""Cosine of the largest angle, 16 degrees, at which one slice is called a wrong one of others, and not a scout."""
MOST_STACKS = 32
"""Of one series by orientation, matrix or pixel spacing; more are no stacks (a radial scan, say)."""
MOST_KEYS = 3
"""A split goes by at most as many attributes at once."""

_WORDS = {
    "StackID": "stack",
    "ImageType": "image type",
    "EchoTime": "echo",
    "EchoNumbers": "echo",
    "InversionTime": "inversion time",
    "DiffusionBValue": "b-value",
    "DiffusionDirection": "direction",
    "TemporalPositionIdentifier": "time point",
    "TriggerTime": "trigger time",
    "ConvolutionKernel": "kernel",
    "SequenceName": "sequence",
    "AcquisitionNumber": "acquisition",
    "AcquisitionDateTime": "time point",
    "AcquisitionTime": "time point",
    "ContentTime": "time point",
}
_TIMES = ("TriggerTime", "AcquisitionDateTime", "AcquisitionTime", "ContentTime")


@dataclass(frozen=True)
class Stack:
    """Parallel planes of one matrix, each in a place of its own, in the order of their places.

    Attributes:
        planes: their headers.
        part: which of the series' volumes this is, such as "echo 1 of 2"; empty where it is the only one.
        notices: what was left out.
    """

    planes: tuple[Header, ...]
    part: str = ""
    notices: tuple[Notice, ...] = ()


def split_stacks(headers: Sequence[Header], case: str) -> list[Stack]:
    """The volumes of a series whose planes all have a place.

    Args:
        headers: at least one, of one patient and frame of reference.
        case: for messages.
    Raises:
        GeometryError: matrices or pixel spacings differ among neighbouring slices, or images of one place can not be
            told apart.
    """
    oriented = _clusters(headers, lambda header: header.orientation, ORIENTATION_TOLERANCE)
    if len(oriented) > MOST_STACKS:
        raise GeometryError(
            f"series {case}: more than {MOST_STACKS} orientations among {len(headers)} images; they are no volume. "
            "Choose another series.",
            "mixed-orientations",
        )
    _check_directions(oriented, case)
    stacks = []
    for number, group in enumerate(oriented, start=1):
        part = f"orientation {number} of {len(oriented)}" if len(oriented) > 1 else ""
        for matrix in _same_matrix(group, case):
            stacks += [_named(stack, part) for stack in _split_places(matrix, case)]
    return stacks


def _check_directions(groups: Sequence[Sequence[Header]], case: str) -> None:
    """Accepts orientations that are stacks of their own.

    Raises:
        GeometryError: a single slice is tilted a little against others, or turned over: one of theirs that is wrong.
    """
    normals = [slice_normal(np.asarray(group[0].orientation), case) for group in groups]
    for (one, normal), (other, direction) in combinations(zip(groups, normals, strict=True), 2):
        if min(len(one), len(other)) == 1 and abs(float(normal @ direction)) > NEARLY_PARALLEL:
            degrees = np.degrees(np.arccos(np.clip(normal @ direction, -1, 1)))
            raise GeometryError(
                f"series {case}: {len(groups)} orientations among {sum(map(len, groups))} images, one slice at "
                f"{degrees:.1f} degrees to others. Export the series again, or separate them.",
                "mixed-orientations",
            )


def _named(stack: Stack, part: str) -> Stack:
    return Stack(stack.planes, ", ".join(text for text in (part, stack.part) if text), stack.notices)


def _clusters(
    headers: Sequence[Header], value: Callable[[Header], np.ndarray | None], tolerance: float
) -> list[list[Header]]:
    """Headers grouped by a vector that is equal within the tolerance; only the first MOST_STACKS + 1 groups."""
    clusters: list[tuple[np.ndarray, list[Header]]] = []
    for header in headers:
        vector = np.asarray(value(header), float)
        known = next((group for center, group in clusters if np.max(np.abs(center - vector)) <= tolerance), None)
        if known is None and len(clusters) > MOST_STACKS:
            break
        if known is None:
            clusters.append((vector, [header]))
        else:
            known.append(header)
    return [group for _, group in clusters]


def _same_matrix(headers: Sequence[Header], case: str) -> list[list[Header]]:
    """The stacks of one matrix and pixel spacing among parallel planes.

    Raises:
        GeometryError: one is a single slice or lies within another: a slice of a volume that does not fit the others.
    """
    sizes = _clusters(headers, lambda header: np.array([header.columns, header.rows]), 0.0)
    _check_separate(sizes, "matrix sizes", case)
    groups = []
    for group in sizes:
        spacings = _clusters(group, lambda header: header.pixel_spacing, SPACING_TOLERANCE_MM)
        _check_separate(spacings, "pixel spacings", case)
        groups += spacings
    return groups


def _check_separate(groups: Sequence[Sequence[Header]], what: str, case: str) -> None:
    if len(groups) == 1:
        return
    extents = sorted(_extent(group) for group in groups)
    apart = all(end < start for (_, end), (start, _) in pairwise(extents))
    if apart and min(map(len, groups)) > 1 and len(groups) <= MOST_STACKS:
        return
    images = sum(map(len, groups))
    raise GeometryError(
        f"series {case}: {len(groups)} {what} among {images} parallel images; slices of one volume share one. "
        "Series were merged, or a slice is another's: separate them, or export the series again.",
        f"mixed-{what.replace(' ', '-')}",
    )


def _extent(headers: Sequence[Header]) -> tuple[float, float]:
    distances = _distances(headers)
    return float(distances.min()), float(distances.max())


def _distances(headers: Sequence[Header]) -> np.ndarray:
    """(N,), mm along the normal of the first."""
    orientation = headers[0].orientation
    assert orientation is not None
    return np.array([header.position for header in headers], float) @ slice_normal(orientation, "")


def _split_places(headers: Sequence[Header], case: str) -> list[Stack]:
    """One stack where each place has one image; where places repeat, the complete volumes that they belong to.

    Without a way to tell volumes apart, copies are dropped; what still repeats is left to `slices`, which refuses it.
    """
    ordered, places = _in_order(headers)
    if max(Counter(places).values()) == 1:
        return _interleaved(ordered) or [Stack(tuple(ordered))]
    volumes = _by_attributes(ordered, places) or _by_time(ordered, places)
    if volumes:
        return volumes
    kept = _without_equal_pixels(ordered, places)
    if len(kept) == len(ordered):
        return [Stack(tuple(ordered))]
    text = f"series {case}: {len(ordered) - len(kept)} images repeat the pixels of others in their place; left out."
    return [Stack(tuple(kept), notices=(Notice("duplicate-images", text),))]


def _interleaved(headers: Sequence[Header]) -> list[Stack]:
    """The even stacks that an uneven one is made of: told apart by an attribute, and lying in one another."""
    if len(headers) < 4 or is_regular(_distances(headers)):
        return []
    for key in VARIES:
        groups = _members([(header.varies.get(key, ""),) for header in headers])
        parts = [[headers[index] for index in members] for members in groups.values()]
        if len(parts) < 2 or min(map(len, parts)) < 2 or not all(is_regular(_distances(part)) for part in parts):
            continue
        extents = sorted(_extent(part) for part in parts)
        if all(end > start for (_, end), (start, _) in pairwise(extents)):
            return _stacks(headers, groups, (key,))
    return []


def _in_order(headers: Sequence[Header]) -> tuple[list[Header], list[int]]:
    """Headers along the normal, and the number of the place that each lies in."""
    distances = _distances(headers)
    order = np.argsort(distances, kind="stable")
    changes = ~repeated(distances[order]) if len(order) > 1 else np.zeros(0, bool)
    places = np.concatenate([[0], np.cumsum(changes)])
    return [headers[index] for index in order], [int(place) for place in places]


def _by_attributes(headers: Sequence[Header], places: Sequence[int]) -> list[Stack]:
    """The volumes that the fewest and most telling attributes tell apart; none where no attributes do."""
    telling = [key for key in VARIES if len({header.varies.get(key) for header in headers}) > 1]
    for count in range(1, MOST_KEYS + 1):
        for keys in combinations(telling, count):
            stacks = _volumes(headers, places, [tuple(h.varies.get(key, "") for key in keys) for h in headers], keys)
            if stacks:
                return stacks
    return []


def _by_time(headers: Sequence[Header], places: Sequence[int]) -> list[Stack]:
    """Time points whose images all have times of their own: the n-th image of each place is of the n-th volume.

    Only where each volume ends before the next begins.
    """
    for key in _TIMES:
        times = [header.varies.get(key, "") for header in headers]
        if not all(times):
            continue
        order = [_sortable(time) for time in times]
        ranks = _ranks(order, places)
        if _follow_each_other(order, ranks):
            stacks = _volumes(headers, places, [(str(rank),) for rank in ranks], (key,))
            if stacks:
                return stacks
    return []


def _ranks(order: Sequence[Any], places: Sequence[int]) -> list[int]:
    """Of each image how many of its place come before it."""
    ranks = [0] * len(order)
    for members in _members(places).values():
        for rank, index in enumerate(sorted(members, key=lambda index: order[index])):
            ranks[index] = rank
    return ranks


def _follow_each_other(order: Sequence[Any], ranks: Sequence[int]) -> bool:
    """Whether all images of a rank come before all those of the next."""
    spans = [sorted(order[index] for index in members) for _, members in sorted(_members(ranks).items())]
    return all(one[-1] < other[0] for one, other in pairwise(spans))


def _volumes(
    headers: Sequence[Header], places: Sequence[int], values: Sequence[tuple[str, ...]], keys: Sequence[str]
) -> list[Stack]:
    """The stacks of equal values, where none holds a place twice and at least two hold every place; else none."""
    groups = _members(values)
    every = set(places)
    held = [[places[index] for index in members] for members in groups.values()]
    if len(every) < 2 or any(len(set(one)) < len(one) for one in held):
        return []
    if sum(set(one) == every for one in held) < 2:
        return []
    return _stacks(headers, groups, keys)


def _stacks(
    headers: Sequence[Header], groups: Mapping[tuple[str, ...], Sequence[int]], keys: Sequence[str]
) -> list[Stack]:
    """A stack for each group, which is known by its values of the keys, in the order of these."""
    levels = [sorted({value[axis] for value in groups}, key=_sortable) for axis in range(len(keys))]
    return [
        Stack(tuple(headers[index] for index in groups[value]), _part(value, keys, levels))
        for value in sorted(groups, key=lambda value: [_sortable(part) for part in value])
    ]


def _part(value: tuple[str, ...], keys: Sequence[str], levels: Sequence[Sequence[str]]) -> str:
    """Which volume it is, by number: the values themselves may be free text."""
    return ", ".join(
        f"{_WORDS[key]} {level.index(one) + 1} of {len(level)}"
        for one, key, level in zip(value, keys, levels, strict=True)
    )


def _members(values: Sequence[Hashable]) -> dict:
    found = defaultdict(list)
    for index, value in enumerate(values):
        found[value].append(index)
    return dict(found)


def _sortable(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _without_equal_pixels(headers: Sequence[Header], places: Sequence[int]) -> list[Header]:
    """One image of each place for those that hold the same pixels, rescaled alike."""
    kept = []
    for members in _members(places).values():
        seen: set[Hashable] = set()
        for index in members:
            mark = _pixel_digest(headers[index]) if len(members) > 1 else index
            if mark not in seen:
                kept.append(headers[index])
            seen.add(mark)
    return kept


def _pixel_digest(header: Header) -> Hashable:
    """What is equal only for images that look alike: of stored pixels and their scale; else of the image itself."""
    pixels = header.pixels
    if header.frame is not None or pixels.at is None:
        return header.path, header.frame
    with header.path.open("rb") as file:
        file.seek(pixels.at)
        digest = hashlib.sha256()
        for block in _blocks(file.read, pixels.length):
            digest.update(block)
    return digest.digest(), header.slope, header.intercept, header.syntax


def _blocks(read: Callable[[int], bytes], length: int | None) -> Iterator[bytes]:
    left = 2**40 if length is None else length
    while left and (block := read(min(left, 2**20))):
        left -= len(block)
        yield block

"""From the headers of DICOM images to series: grouped, ordered, placed, or refused with the reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import StudyError
from ..limits import MAX_VOXELS
from ..volume import Notice
from .dicom_checks import check_kind, check_same, check_size, remarks
from .dicom_stacks import Stack, split_stacks
from .geometry import lps_to_ras, plane_affine, plane_name, slice_normal, voxel_spacing
from .slices import SliceGrid, grid_slices
from .study import Series, dicom_case, source_case

if TYPE_CHECKING:
    from .dicom_header import Header

UNKNOWN_THICKNESS_MM = 1.0
"""The extent that a single slice gets where no attribute tells it."""


def group_series(
    headers: Iterable[Header],
    notices: tuple[Notice, ...] = (),
    max_voxels: int = MAX_VOXELS,
    names_of_source: bool = False,
) -> list[Series]:
    """The volumes that image planes belong to, by SeriesInstanceUID, in the order of their numbers.

    Args:
        headers: of any number of series, in any order.
        notices: what to tell with each of them.
        max_voxels: a volume of more is refused.
        names_of_source: call cases after the folders of their files, not after hashes alone.
    """
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(_series_key(header), []).append(header)
    series = [
        one for uid, group in groups.items() for one in _describe(uid, group, notices, max_voxels, names_of_source)
    ]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.case))


def _series_key(header: Header) -> str:
    """SeriesInstanceUID; where it is empty, what else images of one series have in common."""
    others = (header.patient, header.frame_of_reference, header.modality, str(header.series_number))
    return header.series_uid or " ".join(others)


def _describe(
    uid: str, headers: list[Header], notices: tuple[Notice, ...], max_voxels: int, names_of_source: bool
) -> list[Series]:
    """The volumes of one series; the whole of it as one refused where it can not be told what they are."""
    first = headers[0]
    folder = min(headers, key=lambda header: header.path).path.parent
    whole = Series(
        case=source_case(folder, uid) if names_of_source else dicom_case(first.modality, uid),
        kind="dicom",
        files=_files(sorted(headers, key=lambda header: header.path)),
        modality=first.modality,
        number=first.series_number,
        uid=uid,
        description=first.description,
        notices=notices,
    )
    try:
        kept, dropped = _without_copies(headers, whole.case)
        check_kind(kept, whole.case)
        check_same(kept, whole.case)
        stacks = split_stacks(kept, whole.case)
    except StudyError as reason:
        return [_refused(whole, headers, reason)]
    whole = replace(whole, notices=(*notices, *dropped))
    if len(stacks) == 1:
        return [_placed(whole, stacks[0], max_voxels)]
    return [
        _placed(replace(whole, case=f"{whole.case}-{number}", part=stack.part), stack, max_voxels)
        for number, stack in enumerate(stacks, start=1)
    ]


def _placed(series: Series, stack: Stack, max_voxels: int) -> Series:
    """The series of one stack with its place, or with the reason why it has none."""
    planes, case = stack.planes, series.case
    series = replace(series, files=_files(planes))
    try:
        grid = _grid(planes, case)
        check_size(planes, grid.size, case, max_voxels)
    except StudyError as reason:
        return _refused(series, planes, reason)
    affine = lps_to_ras(grid.affine)
    return replace(
        series,
        planes=planes,
        z=grid.z,
        shifts=grid.shifts,
        shape=(planes[0].columns, planes[0].rows, grid.size),
        spacing=voxel_spacing(affine),
        plane=plane_name(affine),
        affine=affine,
        notices=(*series.notices, *stack.notices, *grid.notices, *remarks(planes, case)),
    )


def _files(headers: Sequence[Header]) -> tuple:
    """The files of the planes, each once, in their order."""
    return tuple(dict.fromkeys(header.path for header in headers))


def _refused(series: Series, headers: Sequence[Header], reason: StudyError) -> Series:
    """The series with the reason, and its matrix where all its images agree on it."""
    sizes = {(header.columns, header.rows) for header in headers}
    shape = (*sizes.pop(), len(headers)) if len(sizes) == 1 else None
    return replace(series, shape=shape, refused=reason)


def _without_copies(headers: list[Header], case: str) -> tuple[list[Header], list[Notice]]:
    """The headers without those of files that are equal to the byte, and what to tell of them.

    Different images under one SOPInstanceUID are kept: their places decide.
    """
    kept: dict[tuple, Header] = {}
    digests: dict[Path, str] = {}
    repeated = {uid for (uid, _), count in Counter((h.sop_uid, h.frame) for h in headers).items() if uid and count > 1}
    for header in headers:
        if header.sop_uid not in repeated:
            kept[header.path, header.frame] = header
            continue
        digest = digests.setdefault(header.path, _digest(header))
        kept.setdefault((header.sop_uid, header.frame, digest), header)
    copies = len(headers) - len(kept)
    named = len(Counter((header.sop_uid, header.frame) for header in kept.values() if header.sop_uid in repeated))
    different = sum(header.sop_uid in repeated for header in kept.values()) - named
    told = [
        ("duplicate-files", copies, f"{copies} images are copies of others and are left out."),
        ("repeated-uid", different, f"{different} images have the SOPInstanceUID of another one."),
    ]
    return list(kept.values()), [Notice(code, f"series {case}: {text}") for code, count, text in told if count]


def _digest(header: Header) -> str:
    with header.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _grid(planes: Sequence[Header], case: str) -> SliceGrid:
    """The grid (LPS mm) of planes in the order of their places."""
    orientation, spacing = planes[0].orientation, planes[0].pixel_spacing
    assert orientation is not None and spacing is not None
    positions = np.array([plane.position for plane in planes], float)
    if len(planes) > 1:
        return grid_slices(orientation, spacing, positions, min(planes[0].rows, planes[0].columns), case)
    return _single(planes[0], orientation, spacing, positions[0], case)


def _single(header: Header, orientation: np.ndarray, spacing: np.ndarray, position: np.ndarray, case: str) -> SliceGrid:
    """The grid of one slice alone, whose extent only SliceThickness tells."""
    normal = slice_normal(orientation, case)
    if header.thickness and header.thickness > 0:
        extent = header.thickness
        text = f"series {case}: a single slice; its extent of {extent:g} mm is SliceThickness."
    else:
        extent = UNKNOWN_THICKNESS_MM
        text = f"series {case}: a single slice without SliceThickness; its extent of {extent:g} mm is a guess."
    return SliceGrid(
        plane_affine(orientation, spacing, position, normal * extent), 1, (0.0,), (), (Notice("single-slice", text),)
    )

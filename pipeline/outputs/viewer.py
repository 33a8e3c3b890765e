"""A page of a case that shows image and labels in three dimensions, from the disk and without the network.

A page that was opened from a file may not read other files, only run scripts beside it. So the voxels come in a
script, view-data.js, and the viewer, NiiVue, in another, which is copied out of an installed nilearn. Large scans
are thinned out for the page, every n-th voxel along an axis; image.nii.gz and labels.nii.gz hold them all.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_whole
from ..bundle import Bundle
from ..nifti_writer import nifti_bytes, write_nifti_volume
from ..verdict import Verdict
from ..volume import Volume
from .measure import LabelMeasurement, size_text
from .pages import write_page
from .sections import largest_sections
from .window import choose_window

SCRIPT = "niivue.js"
"""OUT/niivue.js, which the pages of all cases load."""
PAGE_BYTES = 2**25
"""Most voxels of the image, in bytes, that a page holds: 256 x 256 x 256 of 16 bits."""
IMAGE_BYTES = 2**30
"""A larger scan is not copied into the case's folder."""
PAGE_TYPES = ("u1", "i2", "u2")
"""Types of voxels that NiiVue takes as they are; others become 32-bit floating point."""
MISSING = 'The viewer needs NiiVue, which nilearn brings: pip install "scanloom[demo]", then run again.'
CT_WINDOWS = (("brain", 0.0, 80.0), ("lung", -1350.0, 150.0), ("bone", -450.0, 1050.0))
"""Further windows for CT, in HU: level 40, -600 and 300, width 80, 1500 and 1500."""


def install_viewer(output: Path) -> bool:
    """Copy NiiVue to OUT/niivue.js; False where it is not installed.

    Raises:
        PipelineError: it can not be written.
    """
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        return False
    script = Path(package.origin).parent / "_assets" / "js" / "niivue.umd.js"
    if not script.is_file():
        return False
    target = output / SCRIPT
    if not target.is_file() or target.stat().st_size != script.stat().st_size:
        write_whole(target, script.read_bytes())
    return True


def write_view(
    folder: Path,
    labels: np.ndarray,
    volume: Volume,
    bundle: Bundle,
    measurements: Sequence[LabelMeasurement],
    files: Sequence[str] = (),
    verdict: Verdict | None = None,
) -> dict[str, Path]:
    """Write view.html, and where NiiVue stands beside the case's folder image.nii.gz and view-data.js too.

    Args:
        folder: OUT/<case>, with its preview.png.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: the first channel is shown.
        bundle: gives names and colours.
        measurements: of every label of the bundle.
        files: names of the files that the page links.
        verdict: whether the result can be trusted; shown where there is one.
    Returns:
        Name -> path of what was written.
    Raises:
        PipelineError: a file can not be written.
    """
    viewer = (folder.parent / SCRIPT).is_file()
    written: dict[str, Path] = {}
    facts = _facts(volume, bundle, measurements) | {"viewer": viewer, "reason": "" if viewer else MISSING}
    if viewer:
        steps = page_steps(volume)
        if volume.array[0].nbytes <= IMAGE_BYTES:
            written["image"] = folder / "image.nii.gz"
            write_nifti_volume(written["image"], volume.array[0], volume.affine)
        image, thinned, affine = _for_page(labels, volume, steps)
        written["view_data"] = folder / "view-data.js"
        write_whole(written["view_data"], _script(nifti_bytes(image, affine), nifti_bytes(thinned, affine)))
        facts |= _place_and_windows(image, labels, volume, bundle) | {"notes": _notes(steps)}
    written["view"] = folder / "view.html"
    facts["verdict"] = verdict.to_json() if verdict else None
    facts["files"] = [*files, *(["image.nii.gz"] if "image" in written else [])]
    write_page(written["view"], "view.html", facts=facts)
    return written


def page_steps(volume: Volume) -> tuple[int, int, int]:
    """Every how many voxels along x, y and z the page shows one; 1 where it shows all.

    The axis of the finest spacing is thinned first, so that the voxels on the page come close to cubes.
    """
    steps = np.ones(3, int)
    shape, spacing = np.array(volume.spatial_shape), np.array(volume.spacing)
    itemsize = _page_type(volume.array.dtype).itemsize
    while np.prod(-(-shape // steps)) * itemsize > PAGE_BYTES:
        steps[np.argmin(np.where(shape > steps, spacing * steps, np.inf))] += 1
    x, y, z = (int(step) for step in steps)
    return x, y, z


def _page_type(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.str[1:] in PAGE_TYPES else np.dtype(np.float32)


def _for_page(
    labels: np.ndarray, volume: Volume, steps: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, labels and affine of every n-th voxel; what is no number becomes the least that is one."""
    pick = tuple(slice(None, None, step) for step in steps)
    image = volume.array[0][pick]
    image = image.astype(_page_type(image.dtype), copy=False)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        known = image[np.isfinite(image)]
        least, most = (known.min(), known.max()) if known.size else (0, 0)
        image = np.nan_to_num(image, nan=least, neginf=least, posinf=most)
    smallest = np.min_scalar_type(int(labels.max(initial=0)))
    return image, labels[pick].astype(smallest, copy=False), volume.affine @ np.diag([*steps, 1.0])


def _script(image: bytes, labels: bytes) -> bytes:
    """JavaScript that hands the two files to the page."""
    parts = {"scanloomImage": image, "scanloomLabels": labels}
    return b"".join(b'window.%s="%s";\n' % (name.encode(), base64.b64encode(part)) for name, part in parts.items())


def _facts(volume: Volume, bundle: Bundle, measurements: Sequence[LabelMeasurement]) -> dict[str, Any]:
    """What the page says with and without a viewer."""
    colors = {label.value: label.color for label in bundle.labels}
    shape, spacing = (" x ".join(f"{part:.4g}" for part in parts) for parts in (volume.spatial_shape, volume.spacing))
    return {
        "case": volume.case,
        "size": f"{shape} voxels of {spacing} mm" if volume.has_spacing else f"{shape} pixels",
        "made_by": f"{bundle.name} {bundle.version}",
        "labels": [
            {
                "value": row.value,
                "name": row.name,
                "color": list(colors[row.value]),
                "volume": size_text(row, volume),
                "centroid": row.centroid_ras_mm,
            }
            for row in measurements
            if row.voxels
        ],
        "picture": volume.is_picture,
        "pixel_mm": list(volume.spacing),
        "flat": volume.is_picture and volume.spatial_shape[2] == 1,
        "absent": [row.name for row in measurements if not row.voxels],
        "notes": [],
    }


def _place_and_windows(image: np.ndarray, labels: np.ndarray, volume: Volume, bundle: Bundle) -> dict[str, Any]:
    """Where the page opens, in RAS mm, and the windows that it offers."""
    modality = volume.modality or bundle.series_rule.modality
    low, high = choose_window(image, modality, volume.padding)
    start = volume.affine[:3, :3] @ largest_sections(labels > 0) + volume.affine[:3, 3]
    is_ct = modality == "CT"
    return {
        "start": [float(part) for part in start],
        "unit": "HU" if is_ct else "",
        "windows": [["soft tissue" if is_ct else "reset", low, high], *(map(list, CT_WINDOWS) if is_ct else ())],
    }


def _notes(steps: tuple[int, int, int]) -> list[str]:
    """What the page does not show as it is."""
    if max(steps) == 1:
        return []
    return [
        f"The page shows one of {' x '.join(map(str, steps))} voxels, and small labels may be missing. "
        "The files hold them all."
    ]

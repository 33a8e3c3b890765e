"""What a new bundle says of itself: metadata.json and the model card, for data that nothing was trained on yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..fingerprint import Fingerprint
from ..organ_codes import PRIVATE_SCHEME, private_code
from .dataset_check import DatasetCheck
from .plan import Plan, describe_plan

VERSION = "0.1.0"
KEPT = ("schema", "monai_version", "pytorch_version", "numpy_version", "required_packages_version")
"""Of the template's metadata."""
LEAST_SLICES = 8
"""Series with fewer are scouts, where the data has more."""
STEPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
FIRST_COLOR = (230, 159, 0)


def label_names(labels: Mapping[int, str]) -> dict[int, str]:
    """The names as files, tables and metrics can hold them, each its own."""
    names: dict[int, str] = {}
    for value, name in sorted(labels.items()):
        safe = re.sub(r"[^\w.-]+", " ", name, flags=re.ASCII).strip(" ._-")[:48] or f"label {value}"
        names[value] = f"{safe} {value}" if safe.lower() in {each.lower() for each in names.values()} else safe
    return names


def new_metadata(
    name: str,
    template: Bundle,
    check: DatasetCheck,
    fingerprint: Fingerprint,
    plan: Plan,
) -> dict[str, Any]:
    """The metadata.json of a bundle that was planned and not trained.

    Args:
        name: of the bundle.
        template: whose configs it has.
        check: of the dataset.
        fingerprint: of its data; names the labels.
        plan: the settings.
    """
    labels = {value: size.name for value, size in fingerprint.labels.items()}
    listed = ", ".join(labels.values())
    kind = fingerprint.modality or "scans"
    colors = distinct_colors(len(labels))
    rule = {"min_slices": _least_slices(fingerprint)}
    return {
        **{key: template.metadata[key] for key in KEPT if key in template.metadata},
        "name": name,
        "version": VERSION,
        "changelog": {VERSION: "planned, not trained"},
        "task": f"Segmentation of {listed} in {kind}",
        "description": f"A 3D U-Net that labels {listed} in {kind}, planned by scanloom bundle init",
        "authors": "not named",
        "copyright": "not named",
        "data_source": ", ".join(text for text in (check.description.name, check.description.licence) if text)
        or "not named",
        "data_type": "NIfTI",
        "intended_use": "Research only; not a medical device, not for diagnosis",
        "series_selection": rule | ({"modality": fingerprint.modality} if fingerprint.modality else {}),
        "label_classes": [
            {
                "value": value,
                "name": label,
                "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
                "type": {"value": private_code(label), "scheme": PRIVATE_SCHEME, "meaning": label},
                "color": list(color),
            }
            for (value, label), color in zip(labels.items(), colors, strict=True)
        ],
        "planned": {"like": f"{template.name} {template.version}", "dataset_sha256": check.digest},
        "plan": plan.to_json(),
        "fingerprint": fingerprint.to_json(),
        "network_data_format": _data_format(labels, fingerprint, plan),
    }


def model_card(name: str, template: Bundle, check: DatasetCheck, fingerprint: Fingerprint, plan: Plan) -> str:
    """docs/README.md: what was planned, and that nothing is measured."""
    labels = fingerprint.labels
    listed = ", ".join(f"**{size.name}** ({value})" for value, size in labels.items())
    rows = "\n".join(f"| {what} | {value} |" for what, value in describe_plan(plan, fingerprint).items())
    sizes = "\n".join(f"| {size.name} | {size.cases} | {_volumes(size.volume_ml)} |" for size in labels.values())
    data = check.description.name or "not named"
    licence = check.description.licence or "not named in its dataset.json"
    return f"""# {name}

Labels {listed} in {fingerprint.modality or "scans"}. **Planned, not trained: it has no weights, and nothing about it is
measured.** Research only; not a medical device, not for diagnosis.

## Train and use

    scanloom train -b FOLDER -d DATASET -o run
    scanloom predict -b run/bundle -i STUDY -o out

## Plan

Made by `scanloom bundle init` from the {fingerprint.cases} cases of the dataset, like {template.name}
{template.version}: what the table does not name is as it is there. Axes are R, A, S. The rules are in scanloom's
docs/planning.md, what they started from is the `fingerprint` in `configs/metadata.json`.

| | |
|---|---|
{rows}

## Data

| label | cases | ml: least, median, most |
|---|---|---|
{sizes}

Dataset: {data}, SHA-256 `{check.digest[:16]}…`. Its licence: {licence}; weights trained on it may have to follow it.
The configs come from {template.name}, whose `LICENSE` is beside them.

The labels have private codes ({PRIVATE_SCHEME}) in DICOM objects. Where others are to understand them, put SNOMED CT
codes into `label_classes` in `configs/metadata.json`.

## Figures

None yet: `scanloom evaluate` makes them.

## Limits

Nothing is known beyond the data above: other scanners, protocols, ages and diseases are untested.
"""


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """sRGB colours, each as far as possible from those before it, in CIELAB; none is dark, pale or grey."""
    from skimage.color import rgb2lab

    candidates = np.array(list(product(STEPS, repeat=3)))
    lab = rgb2lab(candidates[:, np.newaxis])[:, 0]
    usable = (lab[:, 0] > 40) & (lab[:, 0] < 88) & (np.linalg.norm(lab[:, 1:], axis=1) > 35)
    candidates, lab = candidates[usable], lab[usable]
    first = rgb2lab(np.array([[FIRST_COLOR]]) / 255)[0, 0]
    colors, far = [FIRST_COLOR], np.linalg.norm(lab - first, axis=1)
    while len(colors) < count:
        best = int(far.argmax())
        red, green, blue = (round(255 * float(part)) for part in candidates[best])
        colors.append((red, green, blue))
        far = np.minimum(far, np.linalg.norm(lab - lab[best], axis=1))
    return colors[:count]


def _least_slices(fingerprint: Fingerprint) -> int:
    return max(min(LEAST_SLICES, *(int(spread.least) for spread in fingerprint.size_voxels)), 2)


def _volumes(spread: Any) -> str:
    return ", ".join(f"{value:.3g}" for value in (spread.least, spread.median, spread.most)) if spread else "in no case"


def _data_format(labels: Mapping[int, str], fingerprint: Fingerprint, plan: Plan) -> dict[str, Any]:
    """Source: MONAI's metadata schema, network_data_format."""
    common: dict[str, Sequence[Any] | Any] = {
        "type": "image",
        "spatial_shape": ["n", "n", "n"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
    }
    scaled = "clipped and scaled" if plan.normalisation.kind == "clip" else "z-scored"
    image = {
        **common,
        "format": "hounsfield" if fingerprint.modality == "CT" else "magnitude",
        "modality": fingerprint.modality or "n/a",
        "num_channels": 1,
        "channel_def": {"0": f"{fingerprint.modality or 'scan'}, {scaled}"},
    }
    channels = {"0": "background", **{str(value): name for value, name in labels.items()}}
    pred = {**common, "format": "segmentation", "num_channels": len(channels), "channel_def": channels}
    return {"inputs": {"image": image}, "outputs": {"pred": pred}}

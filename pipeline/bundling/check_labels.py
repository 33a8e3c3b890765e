"""Labels: named, coded, each its own, and one for every channel of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..bundle import Bundle
from ..errors import BundleError
from .configs import BundleConfig
from .finding import MISSING, Finding, shown
from .schema import METADATA

CLASSES = "label_classes"
PRED = "network_data_format#outputs#pred"


def label_findings(bundle: Bundle, configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """What is wrong about the labels; their form is the schema's to say."""
    classes = bundle.metadata.get(CLASSES)
    if not isinstance(classes, list):
        yield from _without_codes(bundle, classes)
        return
    labels = [(place, entry) for place, entry in enumerate(classes) if isinstance(entry, Mapping)]
    for what in ("value", "name"):
        yield from _repeated(labels, what)
    prediction = _prediction(bundle.metadata)
    values = {entry["value"]: place for place, entry in labels if isinstance(entry.get("value"), int)}
    yield from _match_channels(values, prediction)
    yield from _match_names(labels, prediction)
    yield from _match_configs(labels, configs)


def _without_codes(bundle: Bundle, classes: Any) -> Iterator[Finding]:
    """A bundle whose labels can be had elsewhere works, but in DICOM nobody knows what they mean."""
    value = MISSING if classes is None else shown(classes)
    remedy = "Give each label value, name, category, type and color, in a list."
    try:
        _ = bundle.labels
    except BundleError:
        yield Finding(METADATA, CLASSES, value, "the labels have no names and codes", remedy)
    else:
        yield Finding(METADATA, CLASSES, value, "the labels have no codes of their own", remedy, kind="warning")


def _repeated(labels: Sequence[tuple[int, Mapping[str, Any]]], what: str) -> Iterator[Finding]:
    count = Counter(str(entry.get(what)).lower() for _, entry in labels)
    seen: set[str] = set()
    for place, entry in labels:
        each = str(entry.get(what)).lower()
        if count[each] > 1 and each in seen:
            problem, remedy = "another label has it, too", f"Give each label a {what} of its own."
            yield Finding(METADATA, f"{CLASSES}#{place}#{what}", shown(entry.get(what)), problem, remedy)
        seen.add(each)


def _prediction(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    part: Any = metadata
    for key in PRED.split("#"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _match_channels(values: Mapping[int, int], prediction: Mapping[str, Any]) -> Iterator[Finding]:
    """Several channels are background and a label each; a single one is the only label's."""
    channels = prediction.get("num_channels")
    if not isinstance(channels, int) or channels < 1:
        return
    wanted = set(range(1, max(channels, 2)))
    for value in sorted(wanted - set(values)):
        problem = f"the network has {channels} output channels, and no label has the value {value}"
        yield Finding(METADATA, CLASSES, MISSING, problem, f"Add the label of channel {value}, or mend num_channels.")
    for value in sorted(set(values) - wanted):
        problem = f"the network has {channels} output channels, of which none is that label's"
        remedy = "Number the labels as the channels, or mend num_channels."
        yield Finding(METADATA, f"{CLASSES}#{values[value]}#value", shown(value), problem, remedy)


def _match_names(labels: Sequence[tuple[int, Mapping[str, Any]]], prediction: Mapping[str, Any]) -> Iterator[Finding]:
    """The output's `channel_def` calls the labels what `label_classes` does."""
    named, channels = prediction.get("channel_def"), prediction.get("num_channels")
    if not isinstance(named, Mapping) or channels == 1:
        return
    for _, entry in labels:
        value, name = str(entry.get("value")), entry.get("name")
        if value in named and str(named[value]).strip().lower() != str(name).strip().lower():
            problem, remedy = f"label_classes calls label {value} {shown(name)}", "Use one name in both places."
            yield Finding(METADATA, f"{PRED}#channel_def#{value}", shown(named[value]), problem, remedy)
    for place in range(channels) if isinstance(channels, int) else ():
        if str(place) not in named:
            remedy = "Say what it holds."
            yield Finding(METADATA, f"{PRED}#channel_def#{place}", MISSING, "the channel has no name", remedy)


def _match_configs(
    labels: Sequence[tuple[int, Mapping[str, Any]]], configs: Sequence[BundleConfig]
) -> Iterator[Finding]:
    """`label_names` of a config, by which metrics are called, are the names in the order of the values."""
    names = [entry.get("name") for _, entry in sorted(labels, key=lambda label: str(label[1].get("value")).zfill(6))]
    for config in configs:
        given = config.content.get("label_names")
        if isinstance(given, list) and given != names:
            remedy = "Use the names of label_classes, in the order of their values."
            problem = f"label_classes in {METADATA} has {shown(names)}"
            yield Finding(config.file, "label_names", shown(given), problem, remedy)

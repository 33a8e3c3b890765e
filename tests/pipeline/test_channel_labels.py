"""Labels of bundles without `label_classes`: names and codes of the channels of their networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts
from scanloom.pipeline.bundle import Bundle, Code, SeriesRule
from scanloom.pipeline.channel_labels import labels_of_channels
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.organ_codes import ABNORMAL, ANATOMY, FINDINGS, ORGANS, SIDES, SYNONYMS, TISSUE, organ_code


def bundle_of(channels: Any, **image: Any) -> Bundle:
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"channel_def": channels}}}
    return Bundle(Path("zoo"), {"network_data_format": formats})


def test_labels_are_the_channels_without_the_background() -> None:
    spleen, tumor = bundle_of({"0": "background", "1": "spleen", "3": "Tumour"}).labels
    assert (spleen.value, spleen.name, tumor.value, tumor.name) == (1, "spleen", 3, "Tumour")
    assert spleen.category == Code("91723000", "SCT", "Anatomical Structure")
    assert spleen.type == Code("78961009", "SCT", "Spleen")
    assert tumor.category == Code("49755003", "SCT", "Morphologically Abnormal Structure")
    assert tumor.type == Code("108369006", "SCT", "Tumor")
    assert spleen.color != tumor.color


def test_one_channel_is_one_label() -> None:
    (lesion,) = bundle_of({"0": "lesion"}).labels
    assert (lesion.value, lesion.type.meaning) == (1, "Lesion")


def test_label_classes_come_first() -> None:
    bundle = bundle_of({"0": "background", "1": "spleen"})
    with pytest.raises(BundleError, match=r"label_classes in configs/metadata\.json is missing or incomplete"):
        _ = Bundle(bundle.folder, {**bundle.metadata, "label_classes": [{}]}).labels


def test_metadata_without_channels_have_no_labels_here() -> None:
    assert labels_of_channels(Bundle(Path("zoo"), {})) is None
    assert labels_of_channels(Bundle(Path("zoo"), {"network_data_format": {"outputs": {}}})) is None


def test_channels_that_may_overlap_are_refused() -> None:
    names = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
    with pytest.raises(BundleError, match=r"channel_def .* has no background \(Tumor core, Whole tumor, Enhancing"):
        _ = bundle_of(names).labels


@pytest.mark.parametrize("channels", [None, [], {}, "spleen", {"a": "spleen"}, {"0": ""}, {"-1": "spleen"}])
def test_channels_that_are_none_are_refused(channels: Any) -> None:
    with pytest.raises(BundleError, match=r"channel_def in configs/metadata\.json is .*Make it an object such as"):
        _ = bundle_of(channels).labels


def test_a_background_alone_is_refused() -> None:
    with pytest.raises(BundleError, match=r"names no label\. Add those beside the background"):
        _ = bundle_of({"0": "background"}).labels


def test_every_label_has_its_own_colour() -> None:
    names = {str(value): f"part {value}" for value in range(1, 105)} | {"0": "background"}
    colors = [label.color for label in bundle_of(names).labels]
    assert len(set(colors)) == 104
    assert all(0 <= part <= 255 for color in colors for part in color)


def test_what_has_no_code_is_told_and_has_a_private_one() -> None:
    bundle = bundle_of({"0": "background", "1": "liver", "2": "thingamy"})
    assert bundle.labels[1].type == Code("L" + bundle.labels[1].type.value[1:], "99SCANLOOM", "thingamy")
    assert bundle.labels[1].category == Code("85756007", "SCT", "Tissue")
    assert bundle.coding_notices == (
        "no DICOM code is known for thingamy: their codes in DICOM objects are private ones",
    )
    assert bundle_of({"0": "background", "1": "liver"}).coding_notices == ()


def test_the_modality_of_the_input_is_a_rule() -> None:
    channels = {"0": "background", "1": "liver"}
    assert bundle_of(channels, modality="CT").series_rule == SeriesRule("CT", 1)
    assert bundle_of(channels, modality="mri").series_rule == SeriesRule("MR", 1)
    assert bundle_of(channels, modality="microscopy").series_rule == SeriesRule(None, 1)
    named = Bundle(Path("zoo"), {**bundle_of(channels, modality="CT").metadata, "series_selection": {}})
    assert named.series_rule == SeriesRule(None, 1)


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("Spleen", "Spleen", None),
        ("left kidney", "Kidney", "Left"),
        ("kidney_right", "Kidney", "Right"),
        ("Lung_L", "Lung", "Left"),
        ("right adrenal gland", "Adrenal gland", "Right"),
        ("left atrium", "Left atrium", None),
        ("Urinary bladder", "Bladder", None),
        ("postcava", "Inferior vena cava", None),
    ],
)
def test_names_are_found_with_their_sides(name: str, meaning: str, side: str | None) -> None:
    code = organ_code(name)
    assert code.type[2] == meaning and not code.is_private
    assert (code.modifier[2] if code.modifier else None) == side


def test_every_code_of_the_table_is_snomeds_in_pydicom() -> None:
    known = {value: meanings for names in concepts["SCT"].values() for value, meanings in names.items()}
    pairs = [*ORGANS.items(), *FINDINGS.items(), *((name, code) for code, name in (ANATOMY, ABNORMAL, TISSUE))]
    pairs += [(name, code) for code, name in SIDES.values()]
    spoken = {
        code: {meaning[0].lower() for names in concepts["SCT"].values() for value, meaning in names.items()
               if value == code}
        for _, code in pairs
    }  # fmt: skip
    assert all(code in known for _, code in pairs)
    wrong = {name: spoken[code] for name, code in pairs if name.lower() not in spoken[code]}
    assert wrong == {}
    assert set(SYNONYMS.values()) <= {*ORGANS, *FINDINGS}


@given(st.text(max_size=200))
def test_any_name_has_codes_that_dicom_takes(name: str) -> None:
    code = organ_code(name)
    for value, scheme, meaning in filter(None, (code.category, code.type, code.modifier)):
        assert 0 < len(value) <= 16 and 0 < len(scheme) <= 16 and 0 < len(meaning) <= 64

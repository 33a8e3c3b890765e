"""What of a free text may be shown."""

import pytest
from scanloom.pipeline.studies.description import safe_description


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("T1 hippocampus sagittal", "T1 hippocampus sagittal"),
        ("ep2d_diff_b1000_ADC", "ep2d diff b1000 ADC"),
        ("AX T2 Doe, Jane 19500101", "AX T2 …"),
        ("MRN 4711222 head", "… head"),
        ("PHICANARY", ""),
        ("scout\x1b[31m\n", "scout …"),
        ("", ""),
    ],
)
def test_only_words_of_imaging_are_shown(text, shown):
    assert safe_description(text, []) == shown


@pytest.mark.parametrize("value", ["BRAIN^ANNE", "brain", "Bráin", "t1", "T1-BRAIN", "T1brain"])
def test_a_description_that_repeats_the_patient_is_withheld(value):
    assert safe_description("T1 brain", ["", value]) == ""
    assert safe_description("T1 brain", ["", "MILLER^ANNE", "4711"]) == "T1 brain"

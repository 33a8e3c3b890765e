"""What a verdict says of itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.verdict import Reason, Verdict, gravest_first

reasons = st.builds(
    Reason, code=st.sampled_from(["spacing", "cut"]), severity=st.sampled_from(["check", "reject"]), message=st.text()
)
verdicts = st.builds(
    Verdict,
    reasons=st.lists(reasons, max_size=4).map(gravest_first),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@given(verdict=verdicts)
def test_a_verdict_is_read_as_it_was_written(verdict: Verdict) -> None:
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


@given(verdict=verdicts)
def test_the_gravest_reason_decides(verdict: Verdict) -> None:
    severities = {reason.severity for reason in verdict.reasons}
    assert verdict.status == ("reject" if "reject" in severities else "check" if severities else "ok")


@pytest.mark.parametrize(
    "values", [{}, {"status": "ok"}, {"status": "ok", "reasons": [{"code": "x"}], "notes": []}, [1]]
)
def test_what_is_no_verdict_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"no verdict: .* Predict the case again"):
        Verdict.from_json(values)  # type: ignore[arg-type]


def test_a_status_that_does_not_follow_from_the_reasons_is_refused() -> None:
    values = Verdict((Reason("cut", "reject", "cut off"),)).to_json() | {"status": "ok"}
    with pytest.raises(ValueError, match="status 'ok' does not follow from the reasons"):
        Verdict.from_json(values)

"""What a bundle may say of its verdicts."""

from __future__ import annotations

import pytest
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.verdicts.settings import Settings, settings_of


def test_a_bundle_that_says_nothing_has_the_usual_ones() -> None:
    assert settings_of("tiny", {}) == Settings()


def test_a_bundle_s_own_settings_are_taken() -> None:
    found = settings_of("tiny", {"verdict": {"check": 5, "reject": 9, "ignore": ["detail", "size"]}})
    assert (found.check, found.reject, found.ignore) == (5, 9, {"detail", "size"})
    assert found.mirrored == Settings().mirrored


@pytest.mark.parametrize(
    "values",
    ["strict", 4, {"check": "x"}, {"check": 9, "reject": 5}, {"chek": 4}, {"ignore": "detail"}, {"check": 0}, [1]],
)
def test_anything_else_is_refused(values: object) -> None:
    with pytest.raises(BundleError, match=r"bundle tiny: verdict in configs/metadata.json is .*Make it an object such"):
        settings_of("tiny", {"verdict": values})

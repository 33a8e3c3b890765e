"""Whose bundles run: the shipped ones, those made here and not changed since, and those that the user names."""

import logging
from pathlib import Path

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle
from scanloom.pipeline.errors import BundleError
from scanloom.pipeline.trust import bundle_digest, record_trust, require_trust

REFUSED = (
    r"bundle tiny did not come with scanloom and was not trained here .*Read its configs, then pass --trust-bundle"
)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """A home of our own: no test reads or writes the user's trust."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "state" / "scanloom" / "trusted-bundles"


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def test_a_shipped_bundle_runs(state):
    require_trust(find_bundle("hippocampus_mr_unet"))
    assert not state.exists()


def test_a_strangers_bundle_is_refused(bundle):
    with pytest.raises(BundleError, match=REFUSED) as caught:
        require_trust(bundle)
    assert "\n" not in str(caught.value)


def test_leave_of_the_user_is_for_one_time(bundle):
    require_trust(bundle, given=True)
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(bundle)


def test_a_bundle_made_here_runs_wherever_it_is_moved(bundle, tmp_path):
    record_trust(bundle)
    require_trust(bundle)
    bundle.folder.rename(tmp_path / "moved")
    require_trust(find_bundle(tmp_path / "moved"))


def test_several_bundles_made_here_run(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=1)
    record_trust(bundle)
    record_trust(other)
    for each in (bundle, other):
        require_trust(each)


@pytest.mark.parametrize("file", ["configs/inference.yaml", "configs/metadata.json", "models/model.pt"])
def test_a_changed_file_breaks_trust(bundle, file):
    record_trust(bundle)
    path = bundle.folder / file
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(bundle)


def test_a_new_a_missing_and_a_renamed_file_break_trust(bundle):
    record_trust(bundle)
    config = bundle.config("inference")
    changes = [
        lambda: (bundle.folder / "configs" / "train.yaml").write_text("run: $print('hello')"),
        lambda: (bundle.folder / "configs" / "train.yaml").unlink(),
        lambda: config.rename(config.with_suffix(".yml")),
        lambda: config.with_suffix(".yml").unlink(),
    ]
    trusted = []
    for change in changes:
        change()
        try:
            require_trust(bundle)
            trusted.append(True)
        except BundleError:
            trusted.append(False)
    assert trusted == [False, True, False, False]


def test_the_digest_is_of_names_and_contents_alone(bundle, tmp_path):
    same = make_bundle(tmp_path / "same")
    assert bundle_digest(bundle) == bundle_digest(same)
    assert len(bundle_digest(bundle)) == 64
    assert bundle_digest(bundle) != bundle_digest(make_bundle(tmp_path / "other", seed=1))
    (same.folder / "a").write_text("bc")
    one = bundle_digest(same)
    (same.folder / "a").unlink()
    (same.folder / "ab").write_text("c")
    assert bundle_digest(same) != one


def test_a_path_through_the_shipped_folder_does_not_make_a_bundle_shipped(bundle):
    up = "/".join([".."] * len(SHIPPED.parts))
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(Bundle(SHIPPED / up / bundle.folder.relative_to("/"), bundle.metadata))


def test_the_record_is_in_the_home_folder_where_no_state_folder_is_named(bundle, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME")
    record_trust(bundle)
    assert (tmp_path / "home/.local/state/scanloom/trusted-bundles").read_text().split() == [bundle_digest(bundle)]


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"", b"not a digest\n"])
def test_an_unreadable_record_trusts_nothing(bundle, state, content):
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(bundle)


def test_a_record_that_can_not_be_written_does_not_fail_a_training(bundle, state, caplog):
    state.parent.parent.parent.mkdir(exist_ok=True)
    state.parent.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        record_trust(bundle)
    assert "can not remember that bundle tiny was trained here" in caplog.text
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(bundle)

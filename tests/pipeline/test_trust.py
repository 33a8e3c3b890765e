"""Whose bundles run: the shipped ones, those made here and not changed since, and those that the user names."""

import logging
from pathlib import Path

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import SHIPPED, Bundle, bundle_digest, find_bundle
from scanloom.pipeline.errors import BundleError, UsageError
from scanloom.pipeline.trust import forget, record_trust, require_trust, trust_state
from scanloom.pipeline.trust_record import read_record

REFUSED = (
    r"bundle tiny \(\S+\) did not come with scanloom and was not trained here, nor trusted; .*"
    r"`scanloom bundle trust \S+`, which trusts it, or pass --trust-bundle for once\.$"
)
CHANGED = (
    r"bundle tiny \(\S+\) is not as it was trained here \d{{4}}-\d\d-\d\d: {}\. Restore its files, .*"
    r"or pass --trust-bundle for once\.$"
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
    with pytest.raises(BundleError, match=CHANGED.format(f"{file} was changed")):
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
    (line,) = (tmp_path / "home/.local/state/scanloom/trusted-bundles").read_text().splitlines()
    assert line.split()[0] == bundle_digest(bundle)


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


def test_what_was_checked_is_what_runs(bundle):
    record_trust(bundle)
    checked = require_trust(bundle)
    config, weights = (path.read_bytes() for path in (bundle.config("inference"), bundle.weights))
    bundle.config("inference").write_text("network_def: $open('/tmp/x', 'w')")
    bundle.weights.write_bytes(b"other")
    assert checked.config("inference").read_bytes() == config
    assert checked.weights.read_bytes() == weights
    assert checked.source == bundle.folder and not checked.folder.is_relative_to(bundle.folder)
    assert checked.folder.parent.stat().st_mode & 0o077 == 0  # nobody else can swap them there


def test_the_checked_copy_is_gone_with_the_bundle(bundle):
    record_trust(bundle)
    checked = require_trust(bundle)
    folder = checked.folder
    assert (folder.name, folder.is_dir()) == (bundle.folder.name, True)
    del checked
    assert not folder.parent.exists()


def test_a_copy_that_can_not_be_made_is_told(bundle, monkeypatch):
    record_trust(bundle)

    def full(path: Path, target: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scanloom.pipeline.bundle_files._copied", full)
    with pytest.raises(BundleError, match=r"bundle \S+: its files can not be copied to .*No space left.*set TMPDIR"):
        require_trust(bundle)


def test_the_message_says_which_files_are_others(bundle):
    record_trust(bundle)
    (bundle.folder / "configs" / "a.json").write_text("{}")
    bundle.weights.unlink()
    words = CHANGED.format(r"configs/a\.json is new, models/model\.pt is gone")
    with pytest.raises(BundleError, match=words):
        require_trust(bundle)
    for name in "bcdef":
        (bundle.folder / "configs" / f"{name}.json").write_text("{}")
    with pytest.raises(BundleError, match=r"c\.json is new, configs/d\.json is new and 3 more\. Restore"):
        require_trust(bundle)


def test_a_moved_and_changed_bundle_is_known_by_its_name_and_what_is_left_of_it(bundle, tmp_path):
    record_trust(bundle)
    moved = find_bundle(bundle.folder.rename(tmp_path / "moved"))
    moved.config("inference").write_text("{}")
    with pytest.raises(BundleError, match=CHANGED.format(r"configs/inference\.yaml was changed")):
        require_trust(moved)


def test_two_bundles_of_one_name_are_two_bundles(bundle, tmp_path):
    record_trust(bundle)
    other = make_bundle(tmp_path / "other", seed=1, description="another's", config={"roi": 1})
    with pytest.raises(BundleError, match=REFUSED):
        require_trust(other)
    (changed,) = [make_bundle(tmp_path / "third", seed=1)]  # the same configs, other weights
    with pytest.raises(BundleError, match=CHANGED.format(r"models/model\.pt was changed")):
        require_trust(changed)
    assert require_trust(bundle).name == "tiny"


def test_a_record_of_an_earlier_version_still_counts(bundle, state):
    state.parent.mkdir(parents=True)
    state.write_text(f"{'0' * 64}\n{bundle_digest(bundle)}\n")
    require_trust(bundle)
    assert trust_state(bundle).state == "trained"
    bundle.weights.write_bytes(b"other")
    with pytest.raises(BundleError, match=REFUSED):  # what it was is not known
        require_trust(bundle)


def test_a_record_whose_files_are_not_its_digests_is_none(bundle, state):
    record_trust(bundle)
    digest, _, facts = state.read_text().partition(" ")
    state.write_text(f"{digest} {facts.replace(bundle.weights_sha256, '0' * 64)}")
    assert read_record() == []


def test_a_record_that_everyone_may_write_to_trusts_nothing(bundle, state, caplog):
    record_trust(bundle)
    assert state.stat().st_mode & 0o077 == 0
    state.chmod(0o666)
    with caplog.at_level(logging.WARNING), pytest.raises(BundleError, match=REFUSED):
        require_trust(bundle)
    assert "is not yours alone to write" in caplog.text


def test_a_name_can_not_smuggle_a_digest_into_the_record(bundle, tmp_path, state):
    victim = make_bundle(tmp_path / "victim", seed=3)
    forged = make_bundle(tmp_path / "forged", seed=4, name=f"x\n{bundle_digest(victim)}\n")
    record_trust(forged)
    with pytest.raises(BundleError, match="did not come with scanloom"):
        require_trust(victim)
    assert len(state.read_text().splitlines()) == 1


@pytest.mark.parametrize("how", ["name", "digest", "short digest", "folder", "moved folder"])
def test_a_bundle_is_forgotten_by_name_digest_or_folder(bundle, tmp_path, how):
    record_trust(bundle, "trusted")
    other = make_bundle(tmp_path / "other", seed=1, name="other")
    record_trust(other)
    digest = bundle_digest(bundle)
    if how == "moved folder":
        bundle.folder.rename(tmp_path / "moved")
    names = {"name": "tiny", "digest": digest, "short digest": digest[:8], "moved folder": str(tmp_path / "moved")}
    (gone,) = forget(names.get(how, str(bundle.folder)))
    assert (gone.name, gone.how, gone.digest) == ("tiny", "trusted", digest)
    assert [entry.name for entry in read_record()] == ["other"]
    forget("other")
    assert read_record() == []


@pytest.mark.parametrize("which", ["nothing", "0" * 64, ""])
def test_what_is_not_recorded_can_not_be_forgotten(bundle, which):
    record_trust(bundle)
    with pytest.raises(UsageError, match=r"no trusted bundle is called .* --list` shows them"):
        forget(which)
    assert len(read_record()) == 1


def test_the_state_of_a_bundle(bundle, tmp_path):
    assert trust_state(find_bundle("hippocampus_mr_unet")).state == "shipped"
    assert trust_state(bundle).state == "untrusted"
    record_trust(bundle)
    assert (trust_state(bundle).state, trust_state(bundle).runs) == ("trained", True)
    record_trust(bundle, "trusted")
    assert trust_state(bundle).state == "trusted"
    (bundle.folder / "LICENSE").write_text("mine")
    changed = trust_state(bundle)
    assert (changed.state, changed.changes, changed.runs) == ("changed", ("LICENSE is new",), False)

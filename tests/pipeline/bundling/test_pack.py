"""The same bundle gives the same zip, which holds the bundle and nothing else, and changes nothing in it."""

import hashlib
import os
import stat
import sys
import zipfile

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import Bundle, bundle_digest, find_bundle
from scanloom.pipeline.bundling.pack import MODE, STAMP, carry_trust, pack_bundle
from scanloom.pipeline.bundling.zip_file import BundleZip
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.trust import record_trust, require_trust, trust_state

FIXED = "891bf557b89d76cee189d8bd2cbddfa1c0f7073d48bb77685bc22bcc21900c0d"
"""SHA-256 of the zip of `plain`: other Pythons, zlibs and systems must make it, too."""


def plain(folder, **files):
    """A bundle of texts."""
    content = {"configs/metadata.json": '{"name": "plain", "version": "1.2.0"}', "LICENSE": "free", "docs/ä.md": "a"}
    for name, text in (content | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return find_bundle(folder)


def state(folder):
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes())
        for path in folder.rglob("*")
    }


def test_the_same_files_give_the_same_bytes_wherever_and_whenever_they_lie(tmp_path):
    one, other = plain(tmp_path / "one"), plain(tmp_path / "two" / "deeper")
    os.utime(other.folder / "LICENSE", (1e9, 1e9))
    (other.folder / "LICENSE").chmod(0o700)
    first, second = pack_bundle(one, tmp_path / "1.zip"), pack_bundle(other, tmp_path / "2.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest() == FIXED
    assert first.size == first.path.stat().st_size
    assert first.digest == second.digest == bundle_digest(one)


def test_members_are_sorted_stored_and_without_a_time_or_a_user(tmp_path):
    packed = pack_bundle(plain(tmp_path / "b", **{"configs-old/x": "1", "B": "2"}), tmp_path / "p.zip")
    with zipfile.ZipFile(packed.path) as archive:
        names = [entry.filename for entry in archive.infolist()]
        assert names == [
            f"plain/{name}" for name in ("B", "LICENSE", "configs/metadata.json", "configs-old/x", "docs/ä.md")
        ]
        for entry in archive.infolist():
            assert (entry.date_time, entry.compress_type, entry.external_attr >> 16) == (STAMP, 0, MODE)
            assert entry.extra == b"" and not stat.S_IMODE(MODE) & 0o111


def test_what_no_bundle_needs_is_left_out_and_named_and_the_bundle_is_left_alone(tmp_path):
    clean = pack_bundle(plain(tmp_path / "clean"), tmp_path / "clean.zip")
    rubbish = {
        "scripts/__pycache__/a.pyc": "", ".git/config": "", "docs/.DS_Store": "", "configs/train.yaml~": "",
        "configs/.train.yaml.swp": "", "configs/train.yaml.orig": "", "Thumbs.db": "",
    }  # fmt: skip
    bundle = plain(tmp_path / "b", **rubbish)
    before = state(bundle.folder)
    packed = pack_bundle(bundle, tmp_path / "p.zip")
    assert packed.path.read_bytes() == clean.path.read_bytes()
    assert packed.left_out == (
        ".git", "Thumbs.db", "configs/.train.yaml.swp", "configs/train.yaml.orig", "configs/train.yaml~",
        "docs/.DS_Store", "scripts/__pycache__",
    )  # fmt: skip
    assert packed.digest == clean.digest != bundle_digest(bundle)
    assert state(bundle.folder) == before


@pytest.mark.parametrize(
    ("name", "top"),
    [("plain", "plain"), ("Spleen CT", "Spleen_CT"), ("../../etc", "etc"), ("..", "bundle"), ("größe 1", "gr_e_1")],
)
def test_the_top_folder_is_called_like_the_bundle(tmp_path, name, top):
    bundle = plain(tmp_path / "b")
    packed = pack_bundle(Bundle(bundle.folder, bundle.metadata | {"name": name}), tmp_path / "p.zip")
    with zipfile.ZipFile(packed.path) as archive:
        assert {each.split("/")[0] for each in archive.namelist()} == {top}


def test_the_zip_is_called_as_the_zoos_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(pack_bundle(plain(tmp_path / "b")).path) == "plain_v1.2.0.zip"
    assert (tmp_path / "plain_v1.2.0.zip").is_file()


def test_a_zip_that_was_there_is_replaced(tmp_path):
    (tmp_path / "p.zip").write_text("old")
    assert pack_bundle(plain(tmp_path / "b"), tmp_path / "p.zip").size > 3
    with BundleZip(tmp_path / "p.zip") as archive:
        assert archive.folder_name == "plain"


@pytest.mark.parametrize("target", ["LICENSE", "/etc/hostname", "docs"])
def test_links_are_refused(tmp_path, target):
    bundle = plain(tmp_path / "b")
    (bundle.folder / "link").symlink_to(target)
    with pytest.raises(BundleError, match=r"bundle plain: link is a link\. Put what it points to in its place"):
        pack_bundle(bundle, tmp_path / "p.zip")
    assert not (tmp_path / "p.zip").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_is_no_file_is_refused(tmp_path):
    bundle = plain(tmp_path / "b")
    os.mkfifo(bundle.folder / "pipe")
    with pytest.raises(BundleError, match=r"bundle plain: pipe is no regular file"):
        pack_bundle(bundle, tmp_path / "p.zip")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
@pytest.mark.parametrize(
    ("name", "words"),
    [("a:b", "of one system only"), ("a ", "ends in a dot or a space"), ("a\nb", "can not be printed")],
)
def test_names_that_not_every_system_takes_are_refused(tmp_path, name, words):
    with pytest.raises(BundleError, match=rf"bundle plain: .* is a name .*{words}.*\. Rename it"):
        pack_bundle(plain(tmp_path / "b", **{name: ""}), tmp_path / "p.zip")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_names_that_differ_in_case_alone_are_refused(tmp_path):
    with pytest.raises(BundleError, match="bundle plain: holds two files of one name where case does not count"):
        pack_bundle(plain(tmp_path / "b", licence="", LICENCE=""), tmp_path / "p.zip")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    bundle = plain(tmp_path / "b")
    monkeypatch.setattr("pathlib.Path.open", _denied)
    with pytest.raises(BundleError, match=r"bundle plain: LICENSE can not be read \(denied\)\. Change its perm"):
        pack_bundle(bundle, tmp_path / "p.zip")
    monkeypatch.undo()
    monkeypatch.setattr("os.scandir", _denied)
    with pytest.raises(BundleError, match=r"bundle plain: \. can not be read \(denied\)"):
        pack_bundle(bundle, tmp_path / "p.zip")


def _denied(*_, **__):
    raise PermissionError(13, "denied")


@pytest.mark.parametrize(
    ("where", "words"),
    [("b.tar", r"a packed bundle is a \.zip file"), ("b/x.zip", "lies in the bundle itself"), ("dir.zip", "a folder")],
)
def test_a_place_that_does_not_fit_is_refused(tmp_path, where, words):
    (tmp_path / "dir.zip").mkdir()
    with pytest.raises(UsageError, match=words):
        pack_bundle(plain(tmp_path / "b"), tmp_path / where)


def test_a_zip_that_does_not_read_as_written_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(BundleZip, "digest", lambda self: "0" * 64)
    with pytest.raises(BundleError, match="its zip does not read as it was written"):
        pack_bundle(plain(tmp_path / "b"), tmp_path / "p.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(PipelineError, match=r"p\.zip: can not be written .*Free space there"):
        pack_bundle(plain(tmp_path / "b"), tmp_path / "p.zip")


def test_a_real_bundle_is_the_same_when_unpacked_by_anyone(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    packed = pack_bundle(bundle, tmp_path / "p.zip")
    with zipfile.ZipFile(packed.path) as archive:
        archive.extractall(tmp_path / "out")
    assert bundle_digest(find_bundle(tmp_path / "out" / "tiny")) == packed.digest == bundle_digest(bundle)


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed_with_trust(bundle, path):
    carry_trust(bundle, pack_bundle(bundle, path))
    return find_bundle(path)


@pytest.mark.usefixtures("own_folders")
@pytest.mark.parametrize("more", [{}, {".DS_Store": "x", "scripts/__pycache__/a.pyc": "x"}], ids=["clean", "rubbish"])
@pytest.mark.parametrize("how", ["trained", "trusted"])
def test_what_is_trusted_is_trusted_as_a_zip(tmp_path, more, how):
    bundle = plain(tmp_path / "b", **more)
    record_trust(bundle, how)
    found = packed_with_trust(bundle, tmp_path / "p.zip")
    assert trust_state(found).state == how
    assert require_trust(found).trusted


@pytest.mark.usefixtures("own_folders")
def test_a_shipped_bundle_is_trusted_as_a_zip(tmp_path):
    assert trust_state(packed_with_trust(find_bundle("hippocampus_mr_unet"), tmp_path / "p.zip")).runs


@pytest.mark.usefixtures("own_folders")
@pytest.mark.parametrize("more", [{}, {".DS_Store": "x"}], ids=["clean", "rubbish"])
def test_a_strangers_bundle_is_a_strangers_as_a_zip(tmp_path, more):
    found = packed_with_trust(plain(tmp_path / "b", **more), tmp_path / "p.zip")
    assert trust_state(found).state == "untrusted"
    with pytest.raises(BundleError, match=r"bundle plain \(.*p\.zip\) .* `scanloom bundle trust .*p\.zip`"):
        require_trust(found)


@pytest.mark.usefixtures("own_folders")
def test_a_zip_that_is_swapped_while_trust_is_carried_is_not_trusted(tmp_path):
    bundle = plain(tmp_path / "b", **{".DS_Store": "x"})
    record_trust(bundle)
    packed = pack_bundle(bundle, tmp_path / "p.zip")
    pack_bundle(plain(tmp_path / "evil", **{"evil.py": "x"}), tmp_path / "p.zip")
    carry_trust(bundle, packed)
    assert not trust_state(find_bundle(tmp_path / "p.zip")).runs
    (bundle.folder / "LICENSE").write_text("changed")
    carry_trust(bundle, pack_bundle(bundle, tmp_path / "p.zip"))
    assert not trust_state(find_bundle(tmp_path / "p.zip")).runs

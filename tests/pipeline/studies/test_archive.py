"""Unpacking archives that nobody vouches for."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from factories import make_volume, write_nifti
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.errors import PipelineError, StudyError
from scanloom.pipeline.studies.archive import is_archive, unpack
from scanloom.pipeline.studies.archive_kind import archive_kind
from scanloom.pipeline.studies.archive_limits import ArchiveLimits
from scanloom.pipeline.studies.volume_file import file_case

TORTURE = Path(__file__).resolve().parents[4] / "shared" / "torture"
FILES = {"study/IM1": b"one" * 1000, "study/deep/IM2.dcm": b"two" * 2000, "study/a scan.nii.gz": b"three"}
KINDS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def write_zip(path, files=FILES, method=zipfile.ZIP_DEFLATED, change=None):
    """A zip; `change` edits each member's `ZipInfo`."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            if change:
                change(info)
            archive.writestr(info, content)
    return path


def write_tar(path, files=FILES, mode="w", form=tarfile.PAX_FORMAT, change=None):
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_archive(path, kind, files=FILES):
    if kind == "zip":
        return write_zip(path, files)
    return write_tar(path, files, "w:" + kind.removeprefix("tar").removeprefix("."))


def kind_of(path):
    return archive_kind(path.read_bytes()[:540], path)


def names_in(folder):
    return sorted(file.name for file in folder.iterdir())


def refusal(path, tmp_path, limits=None):
    """The error of an archive that is refused and leaves nothing behind."""
    folder = tmp_path / "unpacked"
    with pytest.raises(PipelineError) as caught:
        unpack(path, folder, limits)
    assert not folder.exists()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_every_kind_come_out_whole_under_numbers(tmp_path, kind):
    path = write_archive(tmp_path / "any name", kind)
    assert kind_of(path) == kind
    out = unpack(path, tmp_path / "out")
    assert [one.file.name for one in out] == ["000001", "000002", "000003.nii.gz"]
    assert [one.file.read_bytes() for one in out] == list(FILES.values())
    assert [file_case(Path(one.name)) for one in out] == ["IM1", "IM2", "a scan"]
    assert len({one.origin for one in out}) == 3


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_dialects_and_long_names_are_read(tmp_path, form):
    name = f"{'folder/' * 12}{'n' * 90}.nii"
    path = write_tar(tmp_path / "x", {name: b"content"}, form=form)
    (out,) = unpack(path, tmp_path / "out")
    assert (out.file.read_bytes(), out.name) == (b"content", "n" * 90 + ".nii")


def test_an_old_tar_without_magic_is_told_by_its_checksum(tmp_path):
    block = bytearray(write_tar(tmp_path / "x", form=tarfile.USTAR_FORMAT).read_bytes())
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    (tmp_path / "old").write_bytes(block)
    assert kind_of(tmp_path / "old") == "tar"
    assert len(unpack(tmp_path / "old", tmp_path / "out")) == 3
    block[0] ^= 1
    (tmp_path / "old").write_bytes(block)
    assert kind_of(tmp_path / "old") is None


def test_compressed_files_without_a_tar_inside_are_no_archives(tmp_path):
    scan = write_nifti(tmp_path / "x.nii", *make_volume()).read_bytes()
    for name, content in {
        "x.nii.gz": gzip.compress(scan),
        "x.bz2": bz2.compress(scan),
        "x.xz": lzma.compress(scan),
        "cut.gz": gzip.compress(scan)[:30],
        "plain": scan,
        "short": b"BZ",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert kind_of(tmp_path / name) is None, name


def test_gzip_is_known_from_its_inflated_start_too(tmp_path):
    path = write_tar(tmp_path / "x.tgz", mode="w:gz")
    assert archive_kind(gzip.decompress(path.read_bytes())[:540], path) == "tar.gz"
    assert is_archive(path.read_bytes()[:540], path)


def test_office_documents_are_no_archives(tmp_path):
    for name in ("[Content_Types].xml", "mimetype", "META-INF/MANIFEST.MF"):
        assert kind_of(write_zip(tmp_path / "report", {name: b"", **FILES})) is None


def test_a_program_that_unpacks_itself_is_a_zip_where_its_name_says_so(tmp_path):
    content = b"MZ program" + write_zip(tmp_path / "x").read_bytes()
    (tmp_path / "setup.exe").write_bytes(content)
    (tmp_path / "study.zip").write_bytes(content)
    assert [kind_of(tmp_path / name) for name in ("setup.exe", "study.zip")] == [None, "zip"]
    assert len(unpack(tmp_path / "study.zip", tmp_path / "out")) == 3


@pytest.mark.parametrize(("start", "kind"), [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07\x01\0", "RAR")])
def test_kinds_that_are_not_read_are_named(tmp_path, start, kind):
    (tmp_path / "x").write_bytes(start + bytes(600))
    error = refusal(tmp_path / "x", tmp_path)
    assert error.code == "archive-unsupported"
    assert f"the {kind} archive of " in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_operating_system_are_left_out(tmp_path, kind):
    junk = dict.fromkeys(["__MACOSX/study/._IM1", "study/.DS_Store", ".git/x", "study/Thumbs.db"], b"junk")
    out = unpack(write_archive(tmp_path / "x", kind, junk | {"./study/IM1": b"1"}), tmp_path / "out")
    assert [one.file.read_bytes() for one in out] == [b"1"]
    assert names_in(tmp_path / "out") == ["000001"]


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "..\\x", "\\x", "C:\\x", "c:/x", "//server/x", "__MACOSX/../x"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path, kind, name):
    path = write_archive(tmp_path / "x", kind, FILES | {name: b"escaped"})
    error = refusal(path, tmp_path)
    assert (error.code, error.exit_status) == ("unsafe-archive", 3)
    assert "a name that leads out of its folder" in str(error)
    assert name not in str(error)


@given(name=st.text(min_size=1, max_size=40))
def test_no_name_leads_out_of_the_folder_or_becomes_one(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("n")
    path = write_tar(root / "x", {name.replace("\0", "0"): b"x", "a": b"y"})
    try:
        out = unpack(path, root / "out")
    except StudyError as error:
        assert error.code == "unsafe-archive"
    else:
        assert {one.file.parent for one in out} == {root / "out"}
        assert all(one.name.isprintable() and "/" not in one.name and "\\" not in one.name for one in out)
    assert {file.name for file in root.iterdir()} <= {"x", "out"}


def test_a_windows_zip_with_backslashes_is_read(tmp_path):
    (out,) = unpack(write_zip(tmp_path / "x", {"study\\scan.nii": b"x"}), tmp_path / "out")
    assert out.name == "scan.nii"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    def change(info):
        if info.name == "evil":
            info.type, info.linkname = kind, "/etc/passwd"

    error = refusal(write_tar(tmp_path / "x", FILES | {"evil": b""}, change=change), tmp_path)
    assert error.code == "unsafe-archive"
    assert "a link or a device" in str(error)


def test_links_in_a_zip_are_refused(tmp_path):
    def change(info):
        if info.filename == "evil":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16

    path = write_zip(tmp_path / "x", FILES | {"evil": b"/etc/passwd"}, change=change)
    assert "a link or a device" in str(refusal(path, tmp_path))


def test_sparse_and_unknown_members_of_a_tar_are_refused(tmp_path):
    for kind in (tarfile.GNUTYPE_SPARSE, b"V"):
        raw = bytearray(write_tar(tmp_path / "x", {"a": b""}, form=tarfile.GNU_FORMAT).read_bytes())
        raw[156:157], raw[148:156] = kind, b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
        (tmp_path / "y").write_bytes(raw)
        assert "no regular file" in str(refusal(tmp_path / "y", tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_members_are_refused(tmp_path, kind):
    path = write_archive(tmp_path / "x", kind, {f"d{i}/f{i}": b"" for i in range(30)})
    error = refusal(path, tmp_path, ArchiveLimits(members=29))
    assert error.code == "archive-too-many"
    assert len(unpack(path, tmp_path / "out", ArchiveLimits(members=30))) == 30


def test_a_zip_s_directory_is_not_read_into_memory_where_it_is_too_long(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "x", {f"{i:05d}{'n' * 2000}": b"" for i in range(700)})
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda self: pytest.fail("the directory was read"))
    assert refusal(path, tmp_path, ArchiveLimits(members=500)).code == "archive-too-many"


@pytest.mark.parametrize("kind", KINDS)
def test_more_bytes_than_the_limit_are_refused(tmp_path, kind):
    path = write_archive(tmp_path / "x", kind, {"a": os.urandom(40_000), "b": os.urandom(40_000)})
    error = refusal(path, tmp_path, ArchiveLimits(inflated_bytes=79_999))
    assert error.code == "archive-too-large"


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_bomb_is_refused_by_its_ratio(tmp_path, kind):
    path = write_archive(tmp_path / "x", kind, {"zeros": bytes(2**23)})
    error = refusal(path, tmp_path, ArchiveLimits(ratio_from_bytes=2**20))
    assert error.code == "archive-too-large"
    assert "more than 200 times its size" in str(error)
    assert unpack(path, tmp_path / "out")[0].file.stat().st_size == 2**23  # so little does no harm


def lie_about_sizes(path, name, size):
    """Sets the inflated size of a zip's member in both of its headers."""
    raw = bytearray(path.read_bytes())
    for magic, offset, name_at in ((b"PK\3\4", 22, 30), (b"PK\1\2", 24, 46)):
        at = raw.index(magic)
        while raw[at + name_at : at + name_at + len(name)] != name:
            at = raw.index(magic, at + 1)
        raw[at + offset : at + offset + 4] = size.to_bytes(4, "little")
    path.write_bytes(raw)
    return path


def test_bytes_are_counted_not_believed(tmp_path):
    path = lie_about_sizes(write_zip(tmp_path / "x", {"zeros": bytes(2**23)}), b"zeros", 100)
    assert refusal(path, tmp_path).code == "archive-damaged"
    path = lie_about_sizes(write_zip(tmp_path / "y", FILES), b"study/IM1", 2**32 - 2)
    assert refusal(path, tmp_path).code == "archive-too-large"


def test_a_tar_with_huge_headers_is_refused_before_they_are_in_memory(tmp_path):
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 2**24}
    with tarfile.open(tmp_path / "x", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    error = refusal(tmp_path / "x", tmp_path)
    assert error.code == "unsafe-archive"
    assert "headers of more than 1,048,576 bytes" in str(error)


def test_one_level_of_archives_inside_is_unpacked(tmp_path):
    inner = {f"inner.{kind}": write_archive(tmp_path / kind, kind).read_bytes() for kind in KINDS}
    outer = write_zip(tmp_path / "x", inner | {"IM0": b"zero"})
    out = unpack(outer, tmp_path / "out")
    assert sorted(one.file.read_bytes() for one in out) == sorted([*FILES.values()] * len(KINDS) + [b"zero"])
    assert len({one.origin for one in out}) == len(out) == len(names_in(tmp_path / "out"))


def test_deeper_archives_are_refused(tmp_path):
    path = write_zip(tmp_path / "0")
    for level in (1, 2):
        path = write_zip(tmp_path / str(level), FILES | {"inner": path.read_bytes()})
    error = refusal(path, tmp_path)
    assert error.code == "archive-nested"
    assert "archives in archives" in str(error)


def test_limits_are_of_all_levels_together(tmp_path):
    inner = write_tar(tmp_path / "t", {f"{i}": b"" for i in range(20)}).read_bytes()
    path = write_zip(tmp_path / "x", {f"{i}.tar": inner for i in range(5)})
    assert refusal(path, tmp_path, ArchiveLimits(members=100)).code == "archive-too-many"


def test_encryption_is_named(tmp_path):
    raw = bytearray(write_zip(tmp_path / "x").read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    raw[6] |= 1
    (tmp_path / "y").write_bytes(raw)
    error = refusal(tmp_path / "y", tmp_path)
    assert error.code == "archive-encrypted"
    assert "is encrypted" in str(error)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_python_inflates_without_bounds_is_refused(tmp_path, method):
    error = refusal(write_zip(tmp_path / "x", method=method), tmp_path)
    assert error.code == "archive-unsupported"
    assert f"method {method}" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_short_anywhere_is_refused(tmp_path, kind):
    whole = write_archive(tmp_path / "x", kind, FILES | {"noise": os.urandom(3000)}).read_bytes()
    for part in (0.3, 0.7, 0.9, 0.999):
        cut = whole[: int(len(whole.rstrip(b"\0")) * part)]
        (tmp_path / "cut").write_bytes(cut)
        if kind_of(tmp_path / "cut") is None:
            continue  # too little is left to tell
        error = refusal(tmp_path / "cut", tmp_path)
        assert error.code == "archive-damaged"
        assert f"the {kind} archive of {len(cut):,} bytes is cut short or damaged" in str(error)


def test_a_tar_cut_between_members_or_going_on_after_its_end_is_refused(tmp_path):
    whole = write_tar(tmp_path / "x", {"a": b"1" * 512, "b": b"2" * 512}).read_bytes()
    for content in (whole[:1024], whole[:1024] + b"garbage!" * 64 + whole[1024:], whole + whole):
        (tmp_path / "y").write_bytes(content)
        assert refusal(tmp_path / "y", tmp_path).code == "archive-damaged"


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bytes_are_noticed_or_of_no_effect(tmp_path, kind):
    """A plain tar has no checksum of its content; everywhere else a changed byte is refused, or changes no content."""
    whole = write_archive(tmp_path / "x", kind).read_bytes()
    contents = sorted(FILES.values())
    for at in range(0, len(whole), 97):
        (tmp_path / "y").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        try:
            out = unpack(tmp_path / "y", tmp_path / "out")
        except StudyError as error:
            assert error.code.startswith(("archive-", "unsafe-"))
            continue
        if kind != "tar":
            read = sorted(one.file.read_bytes() for one in out)
            assert read == contents or all(content in contents for content in read)


class _FullDisk:
    """A file on a disk that is full after 4000 bytes."""

    def __init__(self, file):
        self.file, self.left = file, 4000

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.left -= len(data)
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)


def test_a_disk_that_fills_up_leaves_one_line_and_nothing_else(tmp_path, monkeypatch):
    path, opened = write_zip(tmp_path / "x"), Path.open

    def full(self, mode="r", *args, **kwargs):
        file = opened(self, mode, *args, **kwargs)
        return _FullDisk(file) if mode == "xb" else file

    monkeypatch.setattr(Path, "open", full)
    error = refusal(path, tmp_path)
    assert (type(error), error.exit_status) == (PipelineError, 1)
    assert "No space left on device). Free space there" in str(error)


def test_no_more_is_unpacked_than_the_disk_has_free(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    for kind in KINDS:
        assert "GiB free" in str(refusal(write_archive(tmp_path / kind, kind), tmp_path))


def test_what_was_in_the_folder_stays_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000002").write_bytes(b"mine")
    with pytest.raises(PipelineError, match="File exists"):
        unpack(write_zip(tmp_path / "x"), tmp_path / "out")
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "out").iterdir()] == [("000002", b"mine")]


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def interrupted(start, path):
        calls.append(path)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return archive_kind(start, path)

    monkeypatch.setattr("scanloom.pipeline.studies.archive.archive_kind", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(write_zip(tmp_path / "x"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_for_cases_are_short_and_tell_one_origin(tmp_path):
    path = write_zip(
        tmp_path / "x", {f"{'é' * 200}.NII.GZ": b"", "a/scan.nii": b"", "b/scan.nii": b"", "xy:|?.mha": b""}
    )
    one, two, three, four = unpack(path, tmp_path / "out")
    assert one.name == "é" * 60 + ".nii.gz"
    assert two.name == three.name == "scan.nii"
    assert two.origin != three.origin
    assert four.name == "xy___.mha"
    shutil.rmtree(tmp_path / "out")
    assert [again.origin for again in unpack(path, tmp_path / "out")][1:3] == [two.origin, three.origin]


def _torture_cases():
    index = TORTURE / "index.json"
    cases = json.loads(index.read_text())["cases"] if index.exists() else []
    return [(case["id"], case["expect"]["outcome"]) for case in cases if case["kind"] == "archive"]


@pytest.mark.data
@pytest.mark.parametrize(("case", "outcome"), _torture_cases())
def test_the_torture_set_s_archives_are_unpacked_or_refused(tmp_path, case, outcome):
    (path,) = (TORTURE / "cases" / case).iterdir()
    assert kind_of(path)
    if outcome == "refuse":
        assert refusal(path, tmp_path).exit_status == 3
    else:
        assert {one.file.stat().st_size for one in unpack(path, tmp_path / "out")} == {78716}

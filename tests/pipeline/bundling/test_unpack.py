"""Zips of bundles are unpacked safely, once, and never used where the cache is not what the zip holds."""

import io
import multiprocessing
import os
import stat
import struct
import subprocess
import sys
import time
import zipfile

import pytest
from factories import make_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.bundle import bundle_digest, find_bundle
from scanloom.pipeline.bundling import unpack, zip_file
from scanloom.pipeline.bundling.pack import pack_bundle
from scanloom.pipeline.bundling.zip_names import clash, unsafe_name
from scanloom.pipeline.errors import BundleError

METADATA = '{"name": "small", "version": "1"}'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scanloom" / "zips"


def write_zip(path, members=(), *, top="small/", method=zipfile.ZIP_DEFLATED):
    """A zip of a bundle of one file, and of further members: (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(f"{top}configs/metadata.json", METADATA)
        for name, content in members:
            archive.writestr(name, content)
    return path


def info(name, mode=0, flags=0):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    entry.flag_bits |= flags
    return entry


def test_a_packed_bundle_is_found_and_has_the_digest_of_its_folder(tmp_path, cache):
    bundle = make_bundle(tmp_path / "b")
    packed = pack_bundle(bundle, tmp_path / "p.zip")
    found = find_bundle(str(packed.path))
    assert found.folder == (cache / packed.sha256 / "tiny").resolve()
    assert bundle_digest(found) == bundle_digest(bundle) == packed.digest
    assert found.labels == bundle.labels
    assert found.source == packed.path.resolve()


@pytest.mark.parametrize("top", ["small/", ""])
def test_a_zip_with_a_top_folder_and_one_without_are_taken(tmp_path, top):
    more = [("__MACOSX/small/._configs", "x"), (".DS_Store", "x"), (f"{top}docs/", ""), (f"{top}.hidden", "kept")]
    found = find_bundle(write_zip(tmp_path / "z.zip", more, top=top))
    assert (found.name, found.folder.name) == ("small", "small" if top else "bundle")
    names = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert names == {"configs/metadata.json", ".hidden"}


def test_a_zip_may_have_any_suffix_and_the_home_folder_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_zip(tmp_path / "model")
    assert find_bundle("~/model").name == "small"


def test_it_is_unpacked_once(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "z.zip")
    first = find_bundle(path)
    monkeypatch.setattr(unpack, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert find_bundle(path).folder == first.folder


def tamper_content(folder):
    file = folder / "configs" / "metadata.json"
    file.write_text(METADATA.replace("small", "smell"))


def tamper_length(folder):
    with (folder / "configs" / "metadata.json").open("a") as file:
        file.write(" ")


def tamper_more(folder):
    (folder / "configs" / "inference.yaml").write_text("imports: [$import os]")


def tamper_less(folder):
    (folder / "configs" / "metadata.json").unlink()


def tamper_link(folder):
    (folder / "configs").rename(folder.parent / "elsewhere")
    (folder / "configs").symlink_to(folder.parent / "elsewhere")


def tamper_root(folder):
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("tamper", [tamper_content, tamper_length, tamper_more, tamper_less, tamper_link, tamper_root])
def test_a_changed_cache_is_not_used(tmp_path, cache, tamper):
    path = write_zip(tmp_path / "z.zip")
    first = find_bundle(path)
    digest = bundle_digest(first)
    tamper(first.folder)
    found = find_bundle(path)
    assert bundle_digest(found) == digest and found.name == "small"
    assert [each.name for each in cache.iterdir()] == [first.folder.parent.name]


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path, cache):
    for name in (".part-old", ".part-new"):
        (cache / name).mkdir(parents=True)
    os.utime(cache / ".part-old", (time.time() - 2 * unpack.ABANDONED_S,) * 2)
    find_bundle(write_zip(tmp_path / "z.zip"))
    assert not (cache / ".part-old").exists() and (cache / ".part-new").exists()


def _find(path, count, results):
    results.put({bundle_digest(find_bundle(path)) for _ in range(count)})


def test_several_processes_may_unpack_at_once(tmp_path):
    path = write_zip(tmp_path / "z.zip", [(f"small/models/{n}", os.urandom(2**16)) for n in range(30)])
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    results = context.Queue()
    processes = [context.Process(target=_find, args=(path, 3, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=240) for _ in processes]
    for process in processes:
        process.join()
    assert found == [{bundle_digest(find_bundle(path))}] * 4


def test_another_process_that_was_quicker_is_believed_only_after_a_look(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "z.zip")
    wanted = bundle_digest(find_bundle(path))
    true_unpack, times = unpack._unpack, []

    def slow(archive, folder):
        true_unpack(archive, folder)
        times.append(folder)
        if len(times) == 1:  # a rival puts something else there in the meantime
            kept = folder.parents[2] / archive.sha256
            (kept / "small" / "configs").mkdir(parents=True, exist_ok=True)
            (kept / "small" / "evil.py").write_text("")

    monkeypatch.setattr(unpack, "_unpack", slow)
    tamper_less(find_bundle(path).folder)
    assert bundle_digest(find_bundle(path)) == wanted


def test_a_cache_that_changes_all_the_time_is_left_for_a_folder_of_our_own(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(zip_file.BundleZip, "is_in", lambda *_: False)
    found = find_bundle(write_zip(tmp_path / "z.zip"))
    assert found.name == "small" and not found.folder.is_relative_to(cache.resolve())


def test_a_cache_that_can_not_be_written_is_replaced_by_a_folder_that_ends_with_the_process(tmp_path):
    path = write_zip(tmp_path / "z.zip")
    (tmp_path / "file").write_text("")
    code = f"from scanloom.pipeline.bundle import find_bundle; print(find_bundle({str(path)!r}).folder)"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "file" / "no"), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.startswith(str((tmp_path / "tmp").resolve())) and result.stdout.endswith("small\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_no_room_anywhere_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(
        BundleError, match=r"z\.zip: can not be unpacked into .*nor into the folder for temp.*Make room"
    ):
        find_bundle(write_zip(tmp_path / "z.zip"))


def test_finding_a_zip_imports_no_torch(tmp_path):
    path = write_zip(tmp_path / "z.zip")
    code = (
        "import sys; from scanloom.pipeline.bundle import find_bundle; "
        f"find_bundle({str(path)!r}); print([m for m in ('torch', 'numpy', 'monai', 'mlflow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../evil", "leads out"),
        ("small/../../evil", "leads out"),
        ("/etc/evil", "absolute"),
        ("C:/evil", "absolute"),
        ("C:evil", "absolute"),
        ("small\\..\\evil", "absolute"),
        ("small//evil", "empty part"),
        ("small/./evil", "ends in a dot"),
        ("small/evil. ", "ends in a dot"),
        ("small/e\x00vil", "can not be printed"),
        ("small/e\u202evil", "can not be printed"),
        ("small/" + "e" * 256, "more than 255 bytes"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "__MACOSX/"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, cache, name, words, prefix):
    name = name if name.startswith(("/", "C:", "..")) else prefix + name
    entry = info("placeholder")
    entry.filename = name
    with pytest.raises(BundleError, match=rf"bundle z\.zip: holds a name .*{words}.*, so it is not unpacked"):
        find_bundle(write_zip(tmp_path / "z.zip", [(entry, "x")]))
    assert not cache.exists() and not (tmp_path / "evil").exists()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=12))
def test_a_safe_name_stays_in_its_folder(name):
    if unsafe_name(name) is None:
        from pathlib import PurePosixPath, PureWindowsPath

        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(name)
            assert not path.is_absolute() and not path.drive and ".." not in path.parts
            assert list(path.parts) == name.split("/")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    with pytest.raises(BundleError, match="holds a link or a device, so it is not unpacked"):
        find_bundle(write_zip(tmp_path / "z.zip", [(info("small/models", kind | 0o777), "/etc")]))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    "names",
    [
        ["small/a", "small/a"],
        ["small/A", "small/a"],
        ["small/configs/Metadata.json"],
        ["small/\u00e9", "small/e\u0301"],
    ],
)
def test_two_members_of_one_name_are_refused(tmp_path, names):
    with pytest.raises(BundleError, match="holds two files of one name"):
        find_bundle(write_zip(tmp_path / "z.zip", [(name, "x") for name in names]))


def test_a_file_where_a_folder_is_is_refused(tmp_path):
    with pytest.raises(BundleError, match="holds a file and a folder of one name"):
        find_bundle(write_zip(tmp_path / "z.zip", [("small/CONFIGS", "x")]))
    assert clash(["a/b", "a/c", "d"]) is None


def test_a_bomb_is_refused(tmp_path, monkeypatch, cache):
    monkeypatch.setattr(zip_file, "RATIO_FROM_BYTES", 2**20)
    path = write_zip(tmp_path / "z.zip", [("small/models/model.pt", bytes(2**22))])
    with pytest.raises(BundleError, match="holds more than 200 times its own size"):
        find_bundle(path)
    assert not cache.exists()


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path, monkeypatch, cache):
    """`zipfile` itself stops at the size that is claimed, and then finds another checksum."""
    path = write_zip(tmp_path / "z.zip", [("small/models/model.pt", bytes(2**22))])
    claimed = struct.pack("<I", 2**22)
    path.write_bytes(path.read_bytes().replace(claimed, struct.pack("<I", 5)))
    with pytest.raises(BundleError, match="cut short or damaged"):
        find_bundle(path)
    assert list(cache.iterdir()) == []


def test_a_zip_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_file, "INFLATED_BYTES", 10)
    with pytest.raises(BundleError, match="holds more than 0 GiB"):
        find_bundle(write_zip(tmp_path / "z.zip"))


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_file, "MEMBERS", 3)
    with pytest.raises(BundleError, match="holds more than 3 members"):
        find_bundle(write_zip(tmp_path / "z.zip", [(f"small/{n}", "") for n in range(3)]))


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_file, "MEMBERS", 1)
    monkeypatch.setattr(zip_file, "_CHUNK", 2**12)
    path = write_zip(tmp_path / "z.zip", [(f"small/{n:0200d}", "") for n in range(500)])
    with pytest.raises(BundleError, match="cut short or damaged"):
        find_bundle(path)


def test_encrypted_and_unusual_members_are_refused(tmp_path):
    path = write_zip(tmp_path / "z.zip", [(info("small/a"), "x")])
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: at + 8] + struct.pack("<H", 1) + content[at + 10 :])
    with pytest.raises(BundleError, match="holds encrypted members"):
        find_bundle(path)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(BundleError, match=f"holds members compressed by method {method}, not deflate"):
            find_bundle(write_zip(tmp_path / "z.zip", method=method))


@pytest.mark.parametrize("change", [lambda data: data[:-30], lambda data: data[:40] + b"?" + data[41:], lambda _: b""])
def test_a_damaged_zip_is_refused(tmp_path, change):
    path = write_zip(tmp_path / "z.zip", [("small/models/model.pt", os.urandom(1000))], method=zipfile.ZIP_STORED)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BundleError, match=r"bundle z\.zip: .*(damaged|is missing)"):
        find_bundle(path)


def test_a_zip_that_can_not_be_read_is_told(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "z.zip")

    def denied(*_):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(zip_file.io, "FileIO", denied)
    with pytest.raises(BundleError, match=r"bundle z\.zip: can not be read \(denied\)"):
        find_bundle(path)


@pytest.mark.parametrize(
    "members",
    [[], [("two/configs/metadata.json", "{}"), ("other.txt", "")], [("a/b/configs/metadata.json", "{}")]],
)
def test_a_zip_of_no_bundle_is_refused(tmp_path, members):
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    with pytest.raises(BundleError, match=r"bundle z\.zip: holds no bundle: configs/metadata\.json is missing"):
        find_bundle(path)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "text").write_text("text")
    with pytest.raises(BundleError, match="no bundle"):
        find_bundle(tmp_path / "text")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(BundleError, match=r"bundle text\.zip: is no zip"):
        find_bundle(tmp_path / "text.zip")


def test_a_name_that_is_not_the_utf8_it_claims_to_be_is_damage(tmp_path):
    content = write_zip(tmp_path / "z.zip", [("small/é", "x")]).read_bytes()
    (tmp_path / "z.zip").write_bytes(content.replace("é".encode(), b"\x80\x80"))
    with pytest.raises(BundleError, match=r"bundle z\.zip: is no zip, or cut short or damaged"):
        find_bundle(tmp_path / "z.zip")


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_changed_in_a_zip_it_is_refused_or_the_same(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    memory = io.BytesIO()
    write_zip(memory, [("small/models/model.pt", bytes(range(40)))])
    content = bytearray(memory.getvalue())
    for at, value in data.draw(
        st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=3)
    ).items():
        content[at] = value
    (folder / "z.zip").write_bytes(content)
    try:
        with zip_file.BundleZip(folder / "z.zip") as archive:
            unpack._unpack(archive, folder / "out" / archive.folder_name)
    except BundleError as error:
        assert "\n" not in str(error)
    assert {path.name for path in folder.iterdir()} <= {"z.zip", "out"}

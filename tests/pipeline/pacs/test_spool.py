"""What is on the disk: whole, private, within its limits."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.pacs import spool as module
from scanloom.pipeline.pacs.instance import InstanceName, uid_hash
from scanloom.pipeline.pacs.spool import NoRoomError, Spool


def name(instance: str = "1", study: str = "one") -> InstanceName:
    return InstanceName(uid_hash(study), uid_hash(instance), "1.2")


def spool(folder: Path, **limits: int) -> Spool:
    return Spool(folder, **{"min_free_bytes": 0, **limits})


def test_an_instance_is_kept_once_under_the_hashes_of_its_uids(tmp_path: Path) -> None:
    kept = spool(tmp_path)
    assert kept.store(name(), True, [b"ab", b"c"])
    assert not kept.store(name(), True, [b"other"])
    file = tmp_path / "studies" / uid_hash("one") / "images" / f"{uid_hash('1')}.dcm"
    assert file.read_bytes() == b"abc"
    assert kept.images(uid_hash("one")) == {uid_hash("1")}
    assert kept.studies() == [uid_hash("one")]


def test_everything_is_readable_for_its_owner_alone(tmp_path: Path) -> None:
    spool(tmp_path / "deep" / "spool").store(name(), True, [b"abc"])
    for path in (tmp_path / "deep" / "spool").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_another_thread_removes_meanwhile_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, study = spool(tmp_path), uid_hash("one")
    kept.store(name("1"), True, [b"abc"])
    kept.store(name("2"), False, [b"de"])
    scandir = os.scandir

    def scandir_but(path: str) -> object:
        if Path(path).name == "images":
            raise FileNotFoundError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_but)
    kept.measure(study)
    assert kept.used_bytes == 2


def test_what_is_no_image_is_kept_apart_from_what_is_computed(tmp_path: Path) -> None:
    kept = spool(tmp_path)
    kept.store(name(), False, [b"abc"])
    assert kept.images(uid_hash("one")) == frozenset()
    assert kept.used_bytes == 3


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_study_bytes": 5}, "study-size"), ({"max_bytes": 5}, "spool-size"), ({"min_free_bytes": 2**60}, "disk")],
)
def test_what_passes_a_limit_is_refused_and_leaves_nothing(tmp_path: Path, limits: dict[str, int], reason: str) -> None:
    kept = spool(tmp_path, **limits)
    if reason != "disk":
        kept.store(name("1"), True, [b"abcd"])
    with pytest.raises(NoRoomError) as caught:
        kept.store(name("2"), True, [b"abcd"])
    assert caught.value.reason == reason
    assert len(list(tmp_path.rglob("*.dcm"))) == (reason != "disk")
    assert list((tmp_path / "incoming").iterdir()) == []


def test_a_limit_of_a_study_leaves_room_for_others(tmp_path: Path) -> None:
    kept = spool(tmp_path, max_study_bytes=5)
    kept.store(name("1", "one"), True, [b"abcd"])
    assert kept.store(name("1", "two"), True, [b"abcd"])


def test_writers_together_do_not_pass_the_limit(tmp_path: Path) -> None:
    kept, refused = spool(tmp_path, max_bytes=1000), []

    def write(number: int) -> None:
        try:
            kept.store(name(str(number), str(number % 3)), True, [b"x" * 100])
        except NoRoomError:
            refused.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.dcm")) == kept.used_bytes == 1000


def test_a_disk_that_fails_is_a_refusal_and_gives_the_room_back(tmp_path: Path) -> None:
    kept = spool(tmp_path, max_bytes=5)
    (tmp_path / "studies" / uid_hash("one")).write_text("a file in the way of the folder")
    with pytest.raises(NoRoomError, match="can not be written"):
        kept.store(name(), True, [b"abcd"])
    assert list((tmp_path / "incoming").iterdir()) == []
    assert kept.store(name("1", "two"), True, [b"abcd"])


def test_a_new_start_removes_what_was_half_done_and_counts_the_rest(tmp_path: Path) -> None:
    kept = spool(tmp_path)
    kept.store(name(), True, [b"abc"])
    study = kept.study(uid_hash("one"))
    (tmp_path / "incoming" / "half").write_bytes(b"x")
    (kept.work(uid_hash("one")) / "half").write_bytes(b"x")
    (study / ".part-01234567-state.json").write_bytes(b"x")
    again = spool(tmp_path)
    assert again.used_bytes == 3
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"{uid_hash('1')}.dcm"}


def test_linked_images_stay_as_they_were(tmp_path: Path) -> None:
    kept = spool(tmp_path)
    kept.store(name("1"), True, [b"abc"])
    work = kept.work(uid_hash("one"))
    kept.link_images(uid_hash("one"), [uid_hash("1")], work / "images")
    kept.store(name("2"), True, [b"d"])
    kept.remove_instances(uid_hash("one"))
    assert [file.read_bytes() for file in (work / "images").iterdir()] == [b"abc"]
    with pytest.raises(FileNotFoundError):
        kept.link_images(uid_hash("one"), [uid_hash("1")], work / "others")


def test_results_are_counted_and_removed_with_their_study(tmp_path: Path) -> None:
    kept, study = spool(tmp_path), uid_hash("one")
    kept.store(name(), True, [b"abc"])
    (kept.work(study) / "results").mkdir()
    (tmp_path / "work" / study / "results" / "a").write_bytes(b"1234")
    kept.keep_results(study, "r1", tmp_path / "work" / study / "results")
    assert kept.used_bytes == 7
    assert list((tmp_path / "work").iterdir()) == []
    kept.remove_results(study, "r1")
    assert kept.used_bytes == 3
    kept.remove(study)
    assert kept.used_bytes == 0 and kept.studies() == []


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"can not write to .*file"):
        spool(tmp_path / "file" / "spool")


def test_of_two_senders_of_one_instance_the_first_is_kept_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, both, new = spool(tmp_path), threading.Barrier(2), []
    write = module._write

    def write_together(*args: object) -> None:
        write(*args)  # type: ignore[arg-type]
        both.wait(240)

    monkeypatch.setattr(module, "_write", write_together)
    threads = [threading.Thread(target=lambda: new.append(kept.store(name(), True, [b"abc"]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False, True]
    assert kept.used_bytes == 3
    assert list((tmp_path / "incoming").iterdir()) == []


def test_an_instance_that_is_here_is_on_the_disk_before_its_second_sender_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, flushed = spool(tmp_path), []
    kept.store(name(), True, [b"abc"])
    monkeypatch.setattr(module, "flush_folder", flushed.append)
    assert not kept.store(name(), True, [b"abc"])
    assert flushed == [tmp_path / "studies" / uid_hash("one") / "images"]


def test_a_study_is_removed_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = spool(tmp_path)
    kept.store(name(), True, [b"abc"])
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # killed before a file is gone
        kept.remove(uid_hash("one"))
        kept.remove(uid_hash("two"))  # never was
    assert kept.studies() == [] and kept.used_bytes == 0
    assert spool(tmp_path).studies() == [] and not list(tmp_path.rglob("*.dcm"))


def test_a_study_that_is_gone_has_changed_last_of_all(tmp_path: Path) -> None:
    assert spool(tmp_path).last_change(uid_hash("one")) == float("inf")

"""A worker that crashes, hangs or fills the memory costs one input, and leaves nothing behind."""

import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
from factories import make_volume, write_mr_series, write_nifti
from scanloom.pipeline import worker_process
from scanloom.pipeline.errors import StudyError
from scanloom.pipeline.studies import find_series, isolation, read_series, voxel_data, worker
from scanloom.pipeline.studies.isolation import StudyProcess


@pytest.fixture
def studies():
    with StudyProcess() as process:
        yield process


def test_the_worker_reads_what_this_process_reads(studies, tmp_path):
    write_mr_series(tmp_path / "dicom")
    write_nifti(tmp_path / "nifti" / "x.nii.gz", *make_volume())
    for folder in (tmp_path / "dicom", tmp_path / "nifti"):
        (ours,), (theirs,) = find_series(folder), studies.find(folder)
        assert theirs == ours
        volume, expected = studies.read(theirs), read_series(ours)
        np.testing.assert_array_equal(volume.array, expected.array)
        assert volume.array.dtype == expected.array.dtype
        np.testing.assert_array_equal(volume.affine, expected.affine)
        assert (volume.case, volume.sources, volume.notices) == (expected.case, expected.sources, expected.notices)
        assert not volume.is_mapped


def test_a_refusal_comes_back_with_its_code(studies, tmp_path):
    (tmp_path / "x.txt").write_text("nothing")
    with pytest.raises(StudyError, match="holds no scan") as caught:
        studies.find(tmp_path)
    assert caught.value.code == "no-image"
    write_mr_series(tmp_path, duplicate=2)
    (series,) = studies.find(tmp_path)
    with pytest.raises(StudyError, match="lie at the same place") as caught:
        studies.read(series)
    assert caught.value.code == "repeated-position"


def test_a_mapped_file_stays_in_its_file(tmp_path, monkeypatch):
    array, affine = make_volume((64, 64, 64))
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    monkeypatch.setattr(voxel_data, "MAPPED_BYTES", 1)
    monkeypatch.setattr(worker, "limit_memory", lambda _: None)
    (series,) = find_series(path)
    kind, content = worker._Answer(lambda: None).to("read", series)
    volume = isolation._result(kind, pickle.loads(pickle.dumps(content)), ())
    assert volume.is_mapped
    np.testing.assert_array_equal(volume.array[0], array)


def test_a_worker_that_dies_costs_one_input(studies, tmp_path):
    write_mr_series(tmp_path)
    os.kill(studies.pid, signal.SIGSEGV)
    with pytest.raises(StudyError, match=r"the input made its reader end \(killed by SIGSEGV\)") as caught:
        studies.find(tmp_path)
    assert caught.value.code == "crash"
    assert len(studies.find(tmp_path)) == 1


def test_a_worker_that_hangs_is_given_up_and_another_goes_on(tmp_path):
    write_mr_series(tmp_path)
    with StudyProcess(patience_seconds=50.0) as studies:
        studies.find(tmp_path)
        channel = studies._worker._channel
        assert channel.gettimeout() == 50
        channel.settimeout(0.2)  # of this worker alone: starting another may take a busy machine seconds
        hanging = psutil.Process(studies.pid)
        os.kill(hanging.pid, signal.SIGSTOP)
        with pytest.raises(StudyError, match="given up after 50 s without progress") as caught:
            studies.find(tmp_path)
        assert caught.value.code == "hang"
        assert not hanging.is_running()
        assert len(studies.find(tmp_path)) == 1


def test_a_worker_that_needs_too_much_memory_refuses_the_input(monkeypatch, tmp_path):
    def greedy(**_):
        raise MemoryError

    monkeypatch.setattr(worker, "find_series", greedy)
    monkeypatch.setattr(worker, "limit_memory", lambda _: None)
    kind, error = worker._Answer(lambda: None).to("find", {"path": tmp_path})
    assert (kind, error.code) == ("failed", "too-large")


def test_an_error_of_our_own_is_told_as_such_and_shows_no_values(monkeypatch, tmp_path, capsys):
    def fail(**_):
        raise ZeroDivisionError("PHICANARY")

    monkeypatch.setattr(worker, "find_series", fail)
    monkeypatch.setattr(worker, "limit_memory", lambda _: None)
    kind, error = worker._Answer(lambda: None).to("find", {"path": tmp_path})
    assert kind == "failed"
    assert str(error).startswith("reading the input: ZeroDivisionError in scanloom itself")
    assert "Traceback" in capsys.readouterr().err  # which nobody sees but with --debug


def test_the_worker_s_memory_is_limited(studies, tmp_path):
    write_mr_series(tmp_path)
    studies.find(tmp_path)
    soft, _ = psutil.Process(studies.pid).rlimit(psutil.RLIMIT_AS)
    assert soft == 2**31


def test_an_interrupt_leaves_no_answer_for_the_next_question(studies, tmp_path, monkeypatch):
    write_mr_series(tmp_path)

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker_process, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            studies.find(tmp_path)
    (series,) = studies.find(tmp_path)
    assert studies.read(series).spatial_shape == (6, 7, 8)


def test_what_an_archive_held_is_removed(tmp_path):
    files = write_mr_series(tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    with StudyProcess() as studies:
        (series,) = studies.find(tmp_path / "study.zip")
        assert studies.read(series).spatial_shape == (6, 7, 8)
        scratch = studies._scratch
        assert [path for path in scratch.rglob("*") if path.is_file()]
        studies.find(tmp_path / "series")
        assert not [path for path in scratch.rglob("*") if path.is_file()]
    assert not scratch.exists()


def test_the_worker_ends_with_the_one_that_asked(tmp_path):
    with StudyProcess() as studies:
        worker = psutil.Process(studies.pid)
    assert not worker.is_running()


ASK = "studies.find(sys.argv[1])"
ASK_AND_GO = """
from scanloom.pipeline.messages import send
options = {"max_voxels": 10**6, "names_of_source": False, "scratch": studies._scratch / "1"}
send(studies._worker._channel, ("find", {"path": sys.argv[1], **options}))  # which it does when it has started
"""


@pytest.mark.parametrize("last_words", [ASK, ASK_AND_GO], ids=["after", "before the answer"])
def test_what_an_archive_held_is_removed_even_where_the_asking_process_was_killed(tmp_path, last_words):
    files = write_mr_series(tmp_path / "series")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    code = (
        "import os, signal, sys; from scanloom.pipeline.studies.isolation import StudyProcess\n"
        f"studies = StudyProcess(); print(studies._scratch, flush=True)\n{last_words}\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "study.zip")], stdout=subprocess.PIPE, text=True, check=False
    )
    scratch = Path(done.stdout.strip())
    deadline = time.monotonic() + 240
    while scratch.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not scratch.exists()

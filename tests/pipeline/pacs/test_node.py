"""A node in this process: a study comes, becomes quiet, is computed once and sent on."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pydicom
import pytest
from nodes import FakeCompute, associated, fake_pacs, make_study, running_node, send, wait_for
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.pacs.computing import Labelled
from scanloom.pipeline.pacs.ledger import Ledger, Run, run_name
from scanloom.pipeline.pacs.node import Node


def uids(files: list[Path]) -> set[str]:
    return {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}


def test_a_study_that_is_quiet_is_computed_and_its_results_are_sent_report_last(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        assert send(node.port, files) == [0] * len(files)
        node.wait_to_say("sent to PACS@")
        wait_for(lambda: not node.spool.images(node.study), "the images to go")
    assert [each.Modality for each in pacs.stored] == ["SEG", "SR"]
    assert compute.sets == [uids(files)]
    assert {each.StudyInstanceUID for each in pacs.stored} == {pydicom.dcmread(files[0]).StudyInstanceUID}
    assert node.state() == "finished"
    assert len(list((tmp_path / "node").rglob("*.dcm"))) == 2  # the results stay


def test_images_of_a_finished_study_are_kept_when_asked(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with running_node(tmp_path / "node", options={"keeps_images": True}) as node:
        send(node.port, files)
        node.wait_to_say("done")
    assert len(node.spool.images(node.study)) == len(files)


def test_a_study_is_not_begun_while_its_association_is_open(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", compute) as node:
        with associated(node.port, files) as association:
            for file in files[:3]:
                assert association.send_c_store(file).Status == 0
            assert not compute.entered.wait(1.0)  # three times the quiet time
            for file in files[3:]:
                assert association.send_c_store(file).Status == 0
        node.wait_to_say("done")
    assert compute.sets == [uids(files)]


def test_the_same_study_sent_again_is_not_run_again(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        send(node.port, files)
        node.wait_to_say("sent to")
        for part in (files, files[:2]):
            send(node.port, part)
            node.wait_to_say("not run again", times=1 if part is files else 2)
        wait_for(lambda: not node.spool.images(node.study), "the images to go again")
        assert node.state() == "finished"
    assert len(compute.sets) == 1
    assert len(pacs.stored) == 2


def test_a_study_whose_transfer_was_cut_is_mended_by_sending_it_again(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.answer = Labelled("refused", "a slice is missing")
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        with associated(node.port, files) as association:
            for file in files[:4]:
                association.send_c_store(file)
            association.abort()
        node.wait_to_say("refused: a slice is missing. Images: ")
        assert node.state() == "failed" and len(node.spool.images(node.study)) == 4
        compute.answer = Labelled("done", "mr-00000000")
        assert send(node.port, files) == [0] * len(files)
        node.wait_to_say("sent to PACS@")
    assert compute.sets == [uids(files[:4]), uids(files)]
    assert len(pacs.stored) == 2
    assert node.state() == "finished"


def test_what_comes_while_a_study_is_computed_leads_to_another_run(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.gate.clear()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        send(node.port, files[:5])
        assert compute.entered.wait(240)
        send(node.port, files[5:])
        compute.gate.set()
        wait_for(lambda: len(compute.sets) == 2, "the second run")
        wait_for(lambda: len(pacs.stored) >= 2 and node.state() == "finished", "the second run's results")
    assert compute.sets == [uids(files[:5]), uids(files)]
    (run,) = node.node.ledger.read(node.study).runs
    sent = {each.SOPInstanceUID for each in pacs.stored}
    kept = {pydicom.dcmread(file).SOPInstanceUID for file in (tmp_path / "node").rglob("results-*/**/*.dcm")}
    assert kept < sent or kept == sent  # of the newest run alone
    assert len(kept) == 2 and len(run.images) == len(files)


@pytest.mark.parametrize("associations", [1, 2])
def test_two_studies_interleaved_are_two_studies(tmp_path: Path, associations: int) -> None:
    one, two, compute = make_study(tmp_path, "one"), make_study(tmp_path, "two"), FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        with associated(node.port, one) as first, associated(node.port, two) as second:
            for here, there in zip(one, two, strict=True):
                assert first.send_c_store(here).Status == 0
                assert (second if associations == 2 else first).send_c_store(there).Status == 0
        node.wait_to_say("sent to", times=2)
    assert sorted(compute.sets, key=sorted) == sorted([uids(one), uids(two)], key=sorted)
    assert len({each.StudyInstanceUID for each in pacs.stored}) == 2 and len(pacs.stored) == 4


@pytest.mark.parametrize("status", ["refused", "failed", "held"])
def test_a_study_without_a_result_to_use_is_recorded_and_nothing_is_sent(tmp_path: Path, status: str) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.answer = Labelled(status, "the reason in a line")
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        send(node.port, files)
        node.wait_to_say(f"{status}: the reason in a line. Images: {tmp_path / 'node' / 'studies'}")
        send(node.port, files)
        if status == "failed":
            node.wait_to_say("failed: the reason", times=2)  # it may go well this time
        else:
            node.wait_to_say("not run again")
    assert pacs.stored == []
    assert node.state() == "failed" and len(node.spool.images(node.study)) == len(files)
    (run,) = node.node.ledger.read(node.study).runs
    assert (run.status, run.reason) == (status, "the reason in a line")
    assert node.metrics.value("runs_total", status=status) == (2 if status == "failed" else 1)


def test_a_study_with_a_series_that_failed_sends_the_others_and_is_tried_again_when_it_comes_again(
    tmp_path: Path,
) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.answer = Labelled("done", "mr-00000000; no memory", beside="failed")
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        send(node.port, files)
        node.wait_to_say("sent to")
        assert len(pacs.stored) == 2
        wait_for(lambda: node.state() == "failed", "the state")
        assert len(node.spool.images(node.study)) == len(files)
        compute.answer = Labelled("done", "mr-00000000; mr-11111111")
        send(node.port, files)
        wait_for(lambda: not node.spool.images(node.study), "the images to go")
    assert compute.sets == [uids(files)] * 2


def test_a_mistake_of_ours_ends_one_study_and_not_the_node(tmp_path: Path) -> None:
    one, two, compute = make_study(tmp_path, "one"), make_study(tmp_path, "two"), FakeCompute()
    compute.error = RuntimeError("PHICANARY in a message")
    with running_node(tmp_path / "node", compute) as node:
        send(node.port, one)
        node.wait_to_say("failed: RuntimeError in scanloom itself")
        compute.error = None
        send(node.port, two)
        node.wait_to_say("done: mr-00000000")
    assert not node.says("PHICANARY")


def test_late_images_of_a_study_that_was_cleared_say_what_mends_it(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", compute) as node:
        send(node.port, files[:6])
        node.wait_to_say("done")
        wait_for(lambda: not node.spool.images(node.study), "the images to go")
        compute.answer = Labelled("refused", "no series fits")
        send(node.port, files[6:])
        node.wait_to_say("no series fits (6 images of an earlier run are no longer here: send the whole study again)")
        compute.answer = Labelled("done", "mr-00000000")
        send(node.port, files)
        node.wait_to_say("done", times=2)
    assert compute.sets[-1] == uids(files)


def test_a_late_image_does_not_lose_results_that_are_on_their_way(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        pacs.stop()
        send(node.port, files[:6])
        node.wait_to_say("can not be reached")
        compute.answer = Labelled("refused", "several series fit")
        send(node.port, files[6:])
        node.wait_to_say("refused: several series fit")
        pacs.start()
        wait_for(lambda: len(pacs.stored) == 2, "the results of the first run")


def test_the_health_line_tells_the_state_and_nothing_of_the_patient(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with running_node(tmp_path / "node", options={"health_s": 0.1}) as node:
        send(node.port, files)
        node.wait_to_say("health: 0 associations; 8 instances received, 0 refused; studies: 1 finished; spool ")
    assert node.metrics.value("studies", state="finished") == 1
    assert node.metrics.value("spool_bytes") > 0


def test_what_is_left_of_a_study_goes_after_some_days_but_not_what_is_under_way(tmp_path: Path) -> None:
    one, two = make_study(tmp_path, "one"), make_study(tmp_path, "two")
    with fake_pacs() as pacs:
        options = {"health_s": 0.1, "keep_days": 1.0}
        with running_node(tmp_path / "node", destinations=[pacs.destination], options=options) as node:
            send(node.port, one)
            node.wait_to_say("sent to")
            pacs.stop()
            send(node.port, two)
            node.wait_to_say("can not be reached")
            assert len(node.spool.studies()) == 2
            for state in list((tmp_path / "node").rglob("state.json")):
                os.utime(state, (time.time() - 90_000,) * 2)
            node.wait_to_say("removed after 1 days")
            wait_for(lambda: len(node.spool.studies()) == 1, "one study to go")
            pacs.start()
            wait_for(lambda: len(pacs.stored) == 4, "the results of the other")


def test_after_a_start_everything_goes_on_where_it_was(tmp_path: Path) -> None:
    new, done, compute = make_study(tmp_path, "new"), make_study(tmp_path, "done"), FakeCompute()
    with running_node(tmp_path / "node", options={"quiet_s": 60.0}) as node:
        send(node.port, new)
    with running_node(tmp_path / "node", compute) as node:
        node.wait_to_say("taken up again with 8 images")
        send(node.port, done)
        node.wait_to_say("done", times=2)
    assert sorted(compute.sets, key=sorted) == sorted([uids(new), uids(done)], key=sorted)
    again = FakeCompute()
    with running_node(tmp_path / "node", again) as node:
        time.sleep(0.6)  # twice the quiet time: nothing is left to do
    assert again.sets == [] and node.lines == []


def test_a_study_that_ends_the_program_every_time_is_given_up_and_may_be_sent_again(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", options={"quiet_s": 60.0}) as node:
        send(node.port, files)
        study = node.study
    images, ledger = sorted(node.spool.images(study)), Ledger(node.spool.study)
    killed = Run(run_name(study, images, "0" * 16), "0" * 16, images, "computing", attempts=3)
    ledger.change(study, lambda state: state.runs.append(killed))
    with running_node(tmp_path / "node", compute) as node:
        node.wait_to_say("was begun 3 times and never came to its end")
        assert compute.sets == []
        send(node.port, files)
        node.wait_to_say("done")


def test_a_destination_that_is_named_no_more_is_told(tmp_path: Path) -> None:
    files = make_study(tmp_path)
    with fake_pacs() as pacs:
        pacs.stop()
        with running_node(tmp_path / "node", destinations=[pacs.destination]) as node:
            send(node.port, files)
            node.wait_to_say("can not be reached")
    with running_node(tmp_path / "node") as node:
        node.wait_to_say(f"waits for {pacs.destination}, which no --forward names now")
        assert len(node.spool.images(node.study)) == len(files)


def fail_change(node: Node, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let that change of the node's ledger, counted from 1, end as on a full disk."""
    change, calls = node.ledger.change, []

    def change_or_fail(*args: object) -> object:
        calls.append(args)
        if len(calls) == at:
            raise PipelineError("state.json: can not be written (No space left on device).")
        return change(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(node.ledger, "change", change_or_fail)


def test_a_ledger_that_can_not_be_written_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", compute) as node:
        fail_change(node.node, monkeypatch, at=1)
        send(node.port, files)
        node.wait_to_say("not finished, tried again: state.json: can not be written")
        node.wait_to_say("done")
    assert len(compute.sets) == 1


def test_results_whose_end_can_not_be_written_down_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        fail_change(node.node, monkeypatch, at=2)
        send(node.port, make_study(tmp_path))
        node.wait_to_say("not finished, tried again")
        node.wait_to_say("sent to")
    assert len(pacs.stored) == 2
    assert node.state() == "finished"


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with (
        running_node(tmp_path / "node") as node,
        pytest.raises(UsageError, match=r"can not listen on 127\.0\.0\.1 port \d+ \(Address already in use\)"),
        running_node(tmp_path / "other", receiving={"port": node.port}),
    ):
        pass


@pytest.mark.parametrize("step", ["link_images", "compute", "keep_results"])
def test_an_interrupt_in_the_middle_of_a_computation_is_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: object) -> None:
        raise SystemExit(0)

    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", compute) as node:
        if step == "compute":
            compute.error = SystemExit(0)
        else:
            monkeypatch.setattr(node.spool, step, interrupt)
        send(node.port, files)
        node.thread.join(20)
    (run,) = node.node.ledger.read(node.study).runs
    assert (run.status, run.attempts) == ("computing", 0)
    again = FakeCompute()
    with running_node(tmp_path / "node", again) as node:
        node.wait_to_say("done")
    assert len(again.sets) == 1


def test_results_without_a_readable_end_are_made_again(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node", options={"quiet_s": 60.0}) as node:
        send(node.port, files)
    study, images = node.study, node.spool.images(node.study)
    Ledger(node.spool.study).change(study, lambda state: state.runs.append(Run("r", "0" * 16, sorted(images))))
    (node.spool.results(study, "r")).mkdir()
    with running_node(tmp_path / "node", compute) as node:
        node.wait_to_say("done")
    assert len(compute.sets) == 1 and not node.spool.results(study, "r").exists()


def test_stopping_waits_for_the_study_in_hand_and_gives_the_port_back(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.gate.clear()
    with running_node(tmp_path / "node", compute) as node:
        send(node.port, files)
        assert compute.entered.wait(240)
        threading.Timer(0.3, compute.gate.set).start()
    assert node.state() == "finished"
    with running_node(tmp_path / "node", receiving={"port": node.port}), associated(node.port) as association:
        assert association.is_established


def test_a_study_sent_again_for_another_bundle_is_run_though_a_start_comes_in_between(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with running_node(tmp_path / "node") as node:
        send(node.port, files)
        node.wait_to_say("done")
        wait_for(lambda: not node.spool.images(node.study), "the images to go")
    with running_node(tmp_path / "node", compute, bundle="1" * 16, options={"quiet_s": 60.0}) as node:
        assert send(node.port, files) == [0] * len(files)
    with running_node(tmp_path / "node", compute, bundle="1" * 16) as node:
        node.wait_to_say("taken up again with 8 images")
        node.wait_to_say("done")
        wait_for(lambda: not node.spool.images(node.study), "the images to go again")
    assert compute.sets == [uids(files)]


def test_what_failed_and_was_sent_again_is_tried_again_though_a_start_comes_in_between(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    compute.answer = Labelled("failed", "out of memory")
    with running_node(tmp_path / "node", compute) as node:
        send(node.port, files)
        node.wait_to_say("failed: out of memory")
    with running_node(tmp_path / "node", compute, options={"quiet_s": 60.0}) as node:
        send(node.port, files)
    compute.answer = Labelled("done", "mr-00000000")
    with running_node(tmp_path / "node", compute) as node:
        node.wait_to_say("done")
        assert node.state() == "finished"
    again = FakeCompute()
    with running_node(tmp_path / "node", again) as node:
        time.sleep(0.6)  # twice the quiet time: nothing is left to do
    assert again.sets == [] and node.lines == []


@pytest.mark.parametrize("bundle", ["1", "0"])
def test_a_kill_while_another_bundle_works_on_images_that_were_kept_leaves_nothing_begun(
    tmp_path: Path, bundle: str
) -> None:
    files, compute, options = make_study(tmp_path), FakeCompute(), {"keeps_images": True}
    with running_node(tmp_path / "node", options=options) as node:
        send(node.port, files)
        node.wait_to_say("done")
        study = node.study
    killed = Run("r", "1" * 16, sorted(node.spool.images(study)), attempts=1)
    Ledger(node.spool.study).change(study, lambda state: state.runs.append(killed))
    with running_node(tmp_path / "node", compute, bundle=bundle * 16, options=options) as node:
        node.wait_to_say("done" if bundle == "1" else "not run again")
        wait_for(lambda: node.state() == "finished", "the study to be finished")
    assert len(compute.sets) == (bundle == "1")


def test_a_study_sent_again_goes_to_a_destination_that_is_new(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with fake_pacs() as old, fake_pacs(aet="NEW") as new:
        with running_node(tmp_path / "node", compute, destinations=[old.destination]) as node:
            send(node.port, files)
            node.wait_to_say("sent to PACS@")
        with running_node(tmp_path / "node", compute, destinations=[old.destination, new.destination]) as node:
            send(node.port, files)
            node.wait_to_say("sent to NEW@")
            wait_for(lambda: node.state() == "finished", "the study to be finished")
        assert len(old.stored) == len(new.stored) == 2
    assert len(compute.sets) == 1


def test_a_state_that_can_not_be_read_is_left_alone_and_the_others_go_on(tmp_path: Path) -> None:
    one, two = make_study(tmp_path, "one"), make_study(tmp_path, "two")
    with running_node(tmp_path / "node", options={"quiet_s": 60.0}) as node:
        send(node.port, one)
        lost = node.study
        send(node.port, two)
    (node.spool.study(lost) / "state.json").mkdir()
    with running_node(tmp_path / "node") as node:
        node.wait_to_say(f"study-{lost[:8]}: left alone until the next start: ")
        node.wait_to_say("done")
        assert send(node.port, one) == [0xA700, *[0] * 7]
    assert len(node.spool.images(lost)) == 8

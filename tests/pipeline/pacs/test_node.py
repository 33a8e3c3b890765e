"""A node in this process: a study comes, becomes quiet, is computed once and sent on."""

from __future__ import annotations

from pathlib import Path

import pydicom
from nodes import FakeCompute, fake_pacs, make_study, running_node, send


def test_a_study_that_is_quiet_is_computed_and_its_results_are_sent_report_last(tmp_path: Path) -> None:
    files, compute = make_study(tmp_path), FakeCompute()
    with fake_pacs() as pacs, running_node(tmp_path / "node", compute, destinations=[pacs.destination]) as node:
        assert send(node.port, files) == [0] * len(files)
        node.wait_to_say("sent to PACS@")
        assert [each.Modality for each in pacs.stored] == ["SEG", "SR"]
    assert compute.sets == [{str(pydicom.dcmread(file).SOPInstanceUID) for file in files}]
    assert {each.StudyInstanceUID for each in pacs.stored} == {pydicom.dcmread(files[0]).StudyInstanceUID}
    assert node.state() == "finished"

"""Progress on standard error: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
import sys

import pytest
from scanloom.pipeline.progress import ProgressBar, silent


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_lines_are_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("train") as report:
        report("epoch 1/2", 0.5)
        report("[bold]as it is[/bold]")
        report(None, 0.7)
    assert capsys.readouterr() == ("", "epoch 1/2\n[bold]as it is[/bold]\n")


def test_on_a_terminal_the_lines_stand_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar("train") as report:
        report("epoch [1]/2", 0.5)
        report(None, 0.7)
    written = stream.getvalue()
    assert "None" not in written
    assert "epoch [1]/2" in written and "train" in written and "\x1b[" in written


def test_an_error_ends_the_bar_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = ProgressBar("train")
    with pytest.raises(KeyboardInterrupt), bar:
        raise KeyboardInterrupt
    assert bar._progress is not None and bar._progress.finished is False and not bar._progress.live.is_started


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    silent("a line", 0.5)
    assert capsys.readouterr() == ("", "")

"""What the page of an evaluation shows, and that it shows text as text."""

from __future__ import annotations

import re
from math import nan
from pathlib import Path

from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs.pages import write_page
from scanloom.pipeline.training.metrics import ABSENT, MISSED
from scanloom.pipeline.training.score_pages import page_content
from scanloom.pipeline.training.scores import CaseScores, summarize
from score_makers import LABELS, case

HOSTILE = "<script>alert(1)</script>"


def page(tmp_path: Path, *cases: CaseScores, folds: tuple[int, ...] = (), **settings: object) -> str:
    summary = summarize(cases, LABELS, folds=folds)
    given = {"title": "made_up 1", "facts": {}, "notices": [], "pictures": {}} | settings
    content = page_content(cases=cases, labels=LABELS, summary=summary, **given)  # type: ignore[arg-type]
    write_page(tmp_path / "index.html", "evaluation.html", **content)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_names_notices_and_errors_are_text_and_never_markup(tmp_path: Path) -> None:
    bad = CaseScores(f"bad{HOSTILE}", "no", None, error=PipelineError(f"error{HOSTILE}"))
    shown = page(
        tmp_path,
        case(f"name{HOSTILE}", 0.5, 0.5),
        bad,
        title=f"title{HOSTILE}",
        facts={f"fact{HOSTILE}": f"value{HOSTILE}"},
        notices=[f"notice{HOSTILE}"],
        pictures={f"name{HOSTILE}": f'worst_cases/"{HOSTILE}.png'},
    )
    assert "<script" not in shown
    for word in ("title", "fact", "value", "notice", "name", "bad", "error"):
        assert f"{word}&lt;script&gt;" in shown
    assert '<img src="worst_cases/%22%3Cscript' in shown


def test_the_page_loads_nothing_from_elsewhere_and_needs_no_script(tmp_path: Path) -> None:
    shown = page(tmp_path, case("a", 0.5, 0.5), pictures={"a": "worst_cases/a.png"})
    assert "http" not in shown.replace('http-equiv="Content-Security-Policy"', "")
    assert "<script" not in shown
    assert {*re.findall(r'(?:src|href)="([^"]*)"', shown)} == {"metrics.csv", "metrics.json", "worst_cases/a.png"}


def test_the_worst_case_and_its_picture_come_first(tmp_path: Path) -> None:
    pictures = {name: f"worst_cases/{name}.png" for name in ("bad", "middling")}
    shown = page(tmp_path, case("good", 0.9, 0.9), case("middling", 0.6, 0.6), case("bad", 0.1, 0.2), pictures=pictures)
    assert re.findall(r'<img src="worst_cases/(\w+)', shown) == ["bad", "middling"]
    table = shown[shown.index("All cases") :]
    places = [table.index(f">{name}<") for name in ("bad", "middling", "good")]
    assert places == sorted(places)


def test_the_summary_has_every_label_and_what_was_missed(tmp_path: Path) -> None:
    missed = case("b", 0.0, nan, outcome=MISSED)
    shown = page(tmp_path, case("a", 0.8, 0.6), missed)
    assert "anterior" in shown
    assert "mean over labels" in shown
    assert "1 missed" in shown
    assert '<span class="key">0.5000</span>' in shown  # of 0.4 and 0.6


def test_a_label_that_is_absent_is_shown_with_dashes(tmp_path: Path) -> None:
    shown = page(tmp_path, case("a", nan, 0.6, outcome=ABSENT))
    assert re.search(r'<td>anterior</td>\s*<td class="number">-</td>', shown)


def test_the_folds_are_shown_where_there_are_several(tmp_path: Path) -> None:
    cases = [case("a", 0.8125, 0.8, fold=0), case("b", 0.6, 0.6, fold=1)]
    assert "0.8125<br>0.6000" in page(tmp_path, *cases, folds=(0, 1))
    assert "fold by fold" not in page(tmp_path, *cases)


def test_more_labels_than_a_row_holds_open_on_a_click(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("scanloom.pipeline.training.score_pages.SHOWN_LABELS", 1)
    shown = page(tmp_path, case("a", 0.9, 0.1))
    assert "<summary>1 more</summary>" in shown
    table = shown[shown.index("All cases") :]
    assert table.index("posterior") < table.index("<summary>") < table.index("anterior")  # the worst is in sight

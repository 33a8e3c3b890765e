from html.parser import HTMLParser

import pytest
from jinja2 import UndefinedError
from scanloom.pipeline.outputs import SummaryRow, write_index
from scanloom.pipeline.outputs.pages import SHOWN_LABELS, write_page


class Page(HTMLParser):
    """Tags, links and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data):
        self.words += data


def index(folder, bundle, *rows: SummaryRow) -> Page:
    write_index(folder / "index.html", rows, bundle)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_index_says_how_each_case_ended(tmp_path, bundle):
    page = index(
        tmp_path,
        bundle,
        SummaryRow("one", "done", 1.26, {"anterior": 1.5504}, warnings=["A copy was dropped."], description="T1w"),
        SummaryRow("two", "skipped", 0.0, {"anterior": 23.42}),
        SummaryRow(None, "refused", 0.1, error="series x: gap of 3 mm. Export it again."),
    )
    for words in (
        "test_bundle 1.2.3",
        "1 done, 1 skipped, 1 refused",
        "T1w",
        "1.3",
        "1.55 ml",
        "23.4 ml",
        "A copy was dropped.",
        "series x: gap of 3 mm. Export it again.",
        "input 3",
    ):
        assert words in page.words


def test_only_files_that_a_report_vouches_for_are_linked(tmp_path, bundle):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "segmentation.dcm").write_text("of an earlier run")
    page = index(tmp_path, bundle, SummaryRow("one", "done", 1.0, files=["preview.png", "view.html", "labels.nii.gz"]))
    assert set(page.links) == {"summary.csv", "one/preview.png", "one/view.html", "one/labels.nii.gz"}


def test_names_and_messages_are_text_and_never_markup(tmp_path, bundle):
    nasty = "<script>alert(1)</script><b>&\"'#?/%"
    plain = index(
        tmp_path, bundle, SummaryRow("one", "done", 1.0, {"a": 1.0}, "error", "words", ["warning"], ["preview.png"])
    )
    page = index(tmp_path, bundle, SummaryRow(nasty, "done", 1.0, {nasty: 1.0}, nasty, nasty, [nasty], ["preview.png"]))
    assert page.tags == plain.tags
    assert page.words.count(nasty) == 5
    assert "%3Cscript%3Ealert%281%29%3C/script%3E%3Cb%3E%26%22%27%23%3F/%25/preview.png" in page.links


def test_nothing_is_loaded_from_elsewhere(tmp_path, bundle):
    page = index(tmp_path, bundle, SummaryRow("one", "done", 1.0, files=["preview.png", "view.html", "report.json"]))
    assert not [link for link in page.links if ":" in link or link.startswith("/")]


def test_many_volumes_open_on_a_click(tmp_path, bundle):
    few, many = ({str(value): 1.0 for value in range(count)} for count in (SHOWN_LABELS, SHOWN_LABELS + 3))
    assert "details" not in index(tmp_path, bundle, SummaryRow("one", "done", 1.0, few)).tags
    assert "3 more" in index(tmp_path, bundle, SummaryRow("one", "done", 1.0, many)).words


def test_a_page_that_lacks_a_fact_is_not_written(tmp_path):
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "index.html", "index.html", rows=[])
    assert not list(tmp_path.iterdir())

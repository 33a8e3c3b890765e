"""The pages: what they show runs."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCKS = {
    "transforms.md": 8,
    "inference.md": 3,
    "studies.md": 1,
    "planning.md": 1,
    "evaluation.md": 1,
    "training.md": 0,
    "tracking.md": 1,
    "verdicts.md": 1,
    "bundles.md": 1,
    "scale.md": 1,
    "pacs.md": 0,
}
"""A page, and the least of its Python blocks."""


@pytest.mark.parametrize("name", BLOCKS)
def test_every_python_block_of_a_page_runs_in_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / name).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= BLOCKS[name]
    names: dict = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{name}, block {number}", "exec"), names)


def test_every_page_is_tested():
    assert sorted(path.name for path in DOCS.glob("*.md")) == sorted(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_picture_and_file_that_a_page_links_is_there(name):
    links = re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text(encoding="utf-8").replace("\n", " "))
    assert links
    assert [link for link in links if not link.startswith("http") and not (DOCS / link).exists()] == []

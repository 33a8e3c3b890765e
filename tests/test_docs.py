"""The pages: what they show runs."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "transforms.md"


def test_every_python_block_of_the_transforms_page_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    names: dict = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)


def test_every_picture_and_file_that_the_page_links_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8").replace("\n", " "))
    assert links
    assert [link for link in links if not link.startswith("http") and not (PAGE.parent / link).exists()] == []

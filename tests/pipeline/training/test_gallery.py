"""Pictures of the worst cases: only they are left, whatever the order in which the cases came."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from scanloom.pipeline.training.gallery import FOLDER, Gallery
from score_makers import case


def offered(tmp_path: Path, gallery: Gallery, name: str, dice: float) -> list[Path]:
    drawn: list[Path] = []

    def draw(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        drawn.append(path)

    gallery.offer(case(name, dice), draw)
    return drawn


@pytest.mark.parametrize("order", [*permutations("abcd")])
def test_the_worst_are_left_and_listed_first_to_last(tmp_path: Path, order: tuple[str, ...]) -> None:
    dice = dict(zip("abcd", (0.1, 0.5, 0.7, 0.9), strict=True))
    gallery = Gallery(tmp_path, 2)
    for name in order:
        offered(tmp_path, gallery, name, dice[name])
    assert list(gallery.names) == ["a", "b"]
    assert sorted(path.stem for path in (tmp_path / FOLDER).iterdir()) == ["a", "b"]


def test_a_case_that_is_not_among_the_worst_is_not_drawn(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, 1)
    assert offered(tmp_path, gallery, "bad", 0.1)
    assert offered(tmp_path, gallery, "good", 0.9) == []


def test_without_room_nothing_is_drawn(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, 0)
    assert offered(tmp_path, gallery, "bad", 0.1) == []
    assert gallery.names == {}


def test_no_name_of_a_case_leads_out_of_the_folder_or_into_anothers_picture(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, 9)
    names = ["../../up", "a/b", "a_b", "..", "<img>"]
    for name in names:
        offered(tmp_path, gallery, name, 0.5)
    paths = {(tmp_path / path).resolve() for path in gallery.names.values()}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {(tmp_path / FOLDER).resolve()}


def test_pictures_of_an_earlier_evaluation_go(tmp_path: Path) -> None:
    offered(tmp_path, Gallery(tmp_path, 1), "old", 0.1)
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    Gallery(tmp_path, 1).remove_old()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["notes.txt"]

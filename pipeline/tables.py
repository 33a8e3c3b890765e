"""What the commands print for people, as rich tables on standard output (plain text where that is no terminal)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .verdict import CHECK, REJECT, Verdict


def print_series(summaries: Sequence[Mapping[str, Any]], *, stderr: bool = False) -> None:
    """One row a series: what to call it, what it is, where it lies, and whether it can be read."""
    table = Table("series", "no.", "modality", "description", "plane", "size", "spacing (mm)", "verdict")
    for row in summaries:
        table.add_row(
            Text(row["case"], overflow="fold"),
            _text(row["number"]),
            _text(row["modality"] or row["kind"]),
            _text(row["description"]),
            _text(row["plane"]),
            _text(" x ".join(map(str, row["size"])) if row["size"] else f"{row['slices']} slices"),
            _text(" x ".join(f"{length:.4g}" for length in row["spacing"]) if row["spacing"] else None),
            _text(row["verdict"]),
        )
    _print(table, stderr=stderr)


def print_volumes(cases: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """One row a case, one column a label: its volume in millilitres."""
    names = list(dict.fromkeys(name for _, volumes in cases for name in volumes))
    table = Table("case")
    for name in names:
        table.add_column(Text(f"{name} (ml)"), justify="right")
    for case, volumes in cases:
        table.add_row(Text(case), *(f"{volumes[name]:.3f}" if name in volumes else "" for name in names))
    _print(table)


def print_verdict(case: str, verdict: Verdict) -> None:
    """One line; a line a reason where it is not ok, in colour on a terminal."""
    console = Console(soft_wrap=True)
    style = {CHECK: "bold yellow", REJECT: "bold red"}.get(verdict.status, "green")
    console.print(Text(f"{case}: verdict {verdict.status}", style))
    for reason in verdict.reasons:
        console.print(Text(f"  {reason.severity}: {reason.message}"))
    for note in verdict.notes:
        console.print(Text(f"  note: {note}"))


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """A head and its rows: words on the left, numbers on the right."""
    head, *rest = rows
    table = Table()
    for place, name in enumerate(head):
        table.add_column(Text(name), justify="right" if place else "left")
    for row in rest:
        table.add_row(*map(Text, row))
    _print(table)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Names and values, one a row."""
    table = Table(title, "")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    _print(table)


def _text(value: object) -> Text:
    return Text("" if value is None else str(value))


def _print(table: Table, *, stderr: bool = False) -> None:
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console = Console(stderr=stderr, width=160)
    console.print(table)

"""The commands `scanloom bundle trust`, `list` and `info`: what a bundle is and may do, told without running it."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .bundle import Bundle
    from .bundling.execution import Executed

MOST_LABELS = 5
"""Labels of a bundle that a row names."""
EMPTY: tuple[Any, ...] = (None, "", [], {}, ())
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def trust(
    bundle: Annotated[str | None, typer.Argument(help="A bundle's folder or .zip, or models:/NAME@ALIAS.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the trusted bundles.")] = False,
    forgotten: Annotated[
        str | None, typer.Option("--forget", metavar="NAME|DIGEST|DIR", help="Trust it no longer.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a bundle would execute, and remember that it may."""
    from .errors import UsageError

    if (bundle is not None) + show_list + (forgotten is not None) != 1:
        raise UsageError("give one of a bundle, --list and --forget.")
    if bundle is not None:
        _trust(bundle, yes, as_json)
    elif forgotten is not None:
        from .trust import forget

        for entry in forget(forgotten):
            typer.echo(f"forgotten: {entry.name or '(no name)'} {entry.version} {entry.digest}")
    else:
        _print_trusted(as_json)


def list_bundles(as_json: JsonOption = False) -> None:
    """List the bundles at hand: shipped, trained or trusted here, registered in the MLflow store of this folder."""
    from .bundling.listing import list_bundles as find_all

    rows = find_all()
    if as_json:
        typer.echo(json.dumps({"bundles": rows}, indent=2))
        return
    from .bundling.execution import printable
    from .tables import print_rows

    head = ["name", "version", "modality", "labels", "weights (MB)", "score", "state", "-b"]
    print_rows([head, *([printable(cell) for cell in _row(row)] for row in rows)])


def info(
    bundle: Annotated[str, typer.Argument(help="A bundle's name, folder or .zip, or models:/NAME@ALIAS.")],
    as_json: JsonOption = False,
) -> None:
    """Tell what a bundle is: labels and codes, input, training, weights, licence, trust. Nothing of it runs."""
    from .bundle import find_bundle
    from .bundling.facts import bundle_facts

    facts = bundle_facts(find_bundle(bundle))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    facts["trust"] = {key: value for key, value in facts["trust"].items() if key != "runs"}
    from .bundling.execution import printable
    from .tables import print_facts

    lines = {key: printable(_words(value)) for key, value in facts.items() if value not in EMPTY}
    print_facts(f"bundle {lines.pop('name')}", lines)


def _row(row: dict[str, Any]) -> list[str]:
    size, score = row["weights_bytes"], row["score"]
    labels = ", ".join(row["labels"][:MOST_LABELS]) + (" …" if len(row["labels"]) > MOST_LABELS else "")
    return [
        row["name"],
        row["version"],
        row["modality"] or "",
        labels,
        "none" if size is None and row["state"] != "registered" else "" if size is None else f"{size / 1e6:.1f}",
        f"{score['value']:.4g} {score['what']}" if score else "",
        row["state"],
        row["bundle"],
    ]


def _words(value: Any) -> str:
    """A value of the metadata in words: names and values, one after the other."""
    if isinstance(value, dict):
        if {"value", "name", "type"} <= value.keys():
            codes = [value["category"], value["type"], value["modifier"]]
            return f"{value['value']} {value['name']}: {', '.join(_words(code) for code in codes if code)}"
        if {"value", "scheme", "meaning"} <= value.keys():
            return f"{value['meaning']} ({value['scheme']} {value['value']})"
        return "; ".join(f"{key} {_words(each)}" for key, each in value.items() if each not in EMPTY)
    if isinstance(value, list | tuple):
        inner = any(isinstance(each, dict | list | tuple) for each in value)
        return (" | " if inner else ", ").join(map(_words, value))
    return str(value)


def _trust(name: str, yes: bool, as_json: bool) -> None:
    """Show, ask, record. What is shown is what is recorded: a private copy of what lies there now."""
    from .bundle import find_bundle
    from .bundle_files import digest_of_files
    from .bundling.execution import what_runs
    from .errors import UsageError
    from .trust import is_shipped, private_bundle, record_trust
    from .trust_record import TRUSTED

    found = find_bundle(name)
    if is_shipped(found):
        typer.echo(f"{found.name} comes with scanloom, and runs as it is.")
        return
    copied = private_bundle(found)
    digest, executed = digest_of_files(copied.digests), what_runs(copied.folder)
    if as_json:
        content = {"name": copied.name, "version": str(copied.metadata.get("version", "")), "digest": digest}
        shown = {**content, "trusted": yes, "executes": [each.to_json() for each in executed]}
        typer.echo(json.dumps(shown, indent=2))
    else:
        _print_executed(copied, digest, executed)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError("bundle trust: there is no terminal to ask on. Pass --yes once you have read the above.")
        if not typer.confirm("Trust it?", default=False):
            typer.echo("not trusted", err=True)
            raise typer.Exit(1)
    record_trust(copied, TRUSTED)
    if not as_json:
        typer.echo(f"trusted: {digest}")


def _print_executed(bundle: Bundle, digest: str, executed: Sequence[Executed]) -> None:
    from .bundling.execution import TITLES, printable

    typer.echo(printable(f"{bundle.name} {bundle.metadata.get('version', '(no version)')}, {bundle.source}"))
    typer.echo(f"SHA-256 {digest}")
    order = list(TITLES)
    for kind, group in groupby(sorted(executed, key=lambda each: order.index(each.kind)), lambda each: each.kind):
        lines = list(group)
        typer.echo(f"\n{TITLES[kind]} ({len(lines)}):")
        for each in lines:
            typer.echo(f"  {each}")
    if not executed:
        typer.echo("\nnothing that could run was found in it.")
    typer.echo("\nWho trusts it lets it do whatever your account may. These lines are a help to read it, no proof.")


def _print_trusted(as_json: bool) -> None:
    from .bundling.execution import printable
    from .trust_record import read_record

    entries = read_record()
    if as_json:
        keys = ("digest", "name", "version", "date", "how", "folder")
        content = [{key: getattr(entry, key) for key in keys} for entry in entries]
        typer.echo(json.dumps({"trusted": content}, indent=2))
        return
    from .tables import print_rows

    rows = [
        [printable(entry.name or "?"), printable(entry.version), entry.how, entry.date[:10], entry.digest[:12],
         printable(entry.folder)]
        for entry in entries
    ]  # fmt: skip
    print_rows([["name", "version", "how", "since", "digest", "folder"], *rows])

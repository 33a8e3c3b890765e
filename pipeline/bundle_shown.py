"""The commands `scanloom bundle trust`, `list` and `info`: what a bundle is and may do, told without running it."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .bundle import Bundle
    from .bundling.execution import Executed

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

"""The command line's `bundle` group: makes bundles of data and of other bundles. Imports only typer, as `cli` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bundle_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make bundles: of a dataset, of other bundles.",
)


@bundle_app.callback()
def _bundle() -> None:
    """Holds the commands in a group, one of them alone too."""

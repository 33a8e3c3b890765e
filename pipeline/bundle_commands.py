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


@bundle_app.command()
def ensemble(
    run: Annotated[Path, typer.Argument(help="The run folder of a scanloom train --all-folds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    trust_bundle: Annotated[
        bool, typer.Option(help="Take folds that were not trained here; configs are code.")
    ] = False,
) -> None:
    """Make one bundle of all folds: it predicts the mean of their probabilities."""
    from .training.ensemble_bundle import find_folds, make_fold_ensemble
    from .trust import record_trust, require_trust

    for member in find_folds(run):
        require_trust(member, given=trust_bundle)
    made = make_fold_ensemble(run, output)
    record_trust(made)
    megabytes = made.weights.stat().st_size / 1e6
    typer.echo(f"{made.folder}: {made.metadata['training']['folds']} networks, weights of {megabytes:.1f} MB")

"""The command line's `bundle` group: makes bundles of data and of other bundles. Imports only typer, as `cli` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .bundle_shown import info, list_bundles, trust

bundle_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make bundles of a dataset or of other bundles, and check them.",
)


@bundle_app.callback()
def _bundle() -> None:
    """Holds the commands in a group, one of them alone too."""


bundle_app.command("list")(list_bundles)
bundle_app.command()(info)
bundle_app.command()(trust)


@bundle_app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the new bundle.")],
    like: Annotated[str, typer.Option("--like", help="The bundle whose configs it gets: a name or folder.")],
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A Medical Decathlon or nnU-Net raw folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the new bundle; NAME here if not given.")
    ] = None,
    budget: Annotated[
        Literal["auto", "cpu", "gpu"],
        typer.Option(help="What it will be trained on; gpu plans for 8 GiB, auto is what is here."),
    ] = "auto",
    trust_bundle: Annotated[bool, typer.Option(help="Take a bundle that is not ours; its config is code.")] = False,
) -> None:
    """Make a bundle for a dataset: like another one, its settings planned from the data."""
    from .bundle import find_bundle
    from .errors import UsageError
    from .progress import ProgressBar
    from .trust import record_trust, require_trust

    if not dataset.exists():
        raise UsageError(f"no such folder: {dataset}. Check the path.")
    template = require_trust(find_bundle(like), given=trust_bundle)  # what it makes will be trusted
    from .device import find_device
    from .scans import read_scan
    from .tables import print_facts
    from .training.new_bundle import NewBundle, make_bundle
    from .training.plan import describe_plan

    if budget == "auto":
        budget = "gpu" if find_device("auto").type == "cuda" else "cpu"
    folder = output or Path(name)
    with ProgressBar("bundle init") as report:
        made = make_bundle(NewBundle(name, folder, template, dataset, budget), read_scan, report)
    record_trust(made.bundle)
    for warning in made.warnings:
        typer.echo(f"scanloom: {warning}", err=True)
    print_facts(f"{name}, like {template.name}", describe_plan(made.plan, made.fingerprint))
    typer.echo(str(folder))


@bundle_app.command()
def ensemble(
    run: Annotated[Path, typer.Argument(help="The run folder of a scanloom train --all-folds.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new bundle.")],
    trust_bundle: Annotated[
        bool, typer.Option(help="Take folds that were not trained here; configs are code.")
    ] = False,
) -> None:
    """Make one bundle of all folds: it predicts the mean of their probabilities."""
    from .training.ensemble_bundle import find_folds, make_ensemble
    from .training.run_folder import read_parent_run
    from .trust import record_trust, require_trust

    members = [require_trust(member, given=trust_bundle) for member in find_folds(run)]
    made = make_ensemble(members, output, read_parent_run(run))
    record_trust(made)
    megabytes = made.weights.stat().st_size / 1e6
    typer.echo(f"{made.folder}: {made.metadata['training']['folds']} networks, weights of {megabytes:.1f} MB")


@bundle_app.command()
def check(
    bundle: Annotated[str, typer.Argument(help="A bundle's name, folder or .zip, or models:/NAME@ALIAS.")],
    trust_bundle: Annotated[bool, typer.Option(help="Run a bundle that is not ours, too; its config is code.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a bundle, offline: one line for each fault. Exit status 1 where there are any."""
    import json

    from .bundle import find_bundle
    from .bundling.check import check_bundle
    from .errors import BundleError
    from .progress import ProgressBar
    from .trust import require_trust

    found, untrusted = find_bundle(bundle), None
    try:
        found = require_trust(found, given=trust_bundle)
    except BundleError as error:
        untrusted = str(error)
    with ProgressBar("bundle check") as report:
        checked = check_bundle(found, untrusted=untrusted, report=report)
    typer.echo(json.dumps(checked.to_json(), indent=2) if as_json else "\n".join(checked.lines()))
    raise typer.Exit(1 if checked.faults else 0)


@bundle_app.command()
def shrink(
    bundle: Annotated[str, typer.Argument(help="A bundle's name, folder or .zip, or models:/NAME@ALIAS.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the smaller bundle.")],
    trust_bundle: Annotated[bool, typer.Option(help="Take a bundle that is not ours; its config is code.")] = False,
) -> None:
    """Copy a bundle with its weights in half precision, half the size."""
    from .bundle import find_bundle
    from .bundling.shrink import shrink_bundle
    from .trust import record_trust, require_trust

    shrunk = shrink_bundle(require_trust(find_bundle(bundle), given=trust_bundle), output)
    record_trust(shrunk.bundle)
    before, after = shrunk.bytes_before / 1e6, shrunk.bytes_after / 1e6
    typer.echo(f"{output}: weights of {after:.1f} MB, {before:.1f} before; largest change {shrunk.largest_change:.1e}")


@bundle_app.command()
def pack(
    bundle: Annotated[str, typer.Argument(help="A bundle's name or folder, or models:/NAME@ALIAS.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .zip to write; NAME_vVERSION.zip here if not given.")
    ] = None,
) -> None:
    """Pack a bundle into one zip: the same files, the same bytes. It can be named wherever a bundle is."""
    from .bundle import find_bundle
    from .bundling.pack import carry_trust, pack_bundle

    found = find_bundle(bundle)
    packed = pack_bundle(found, output)
    carry_trust(found, packed)
    typer.echo(f"{packed.path}: {packed.size:,} bytes")
    typer.echo(f"SHA-256 of the bundle: {packed.digest}")
    typer.echo(f"SHA-256 of the zip: {packed.sha256}")
    if packed.left_out:
        typer.echo(f"left out: {', '.join(packed.left_out)}")


@bundle_app.command()
def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's name, folder or .zip, or models:/NAME@ALIAS.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write: .onnx, .ts or .pt2.")],
    to: Annotated[Literal["onnx", "torchscript", "pt2"], typer.Option("--to", help="pt2 is torch.export's.")],
    trust_bundle: Annotated[bool, typer.Option(help="Take a bundle that is not ours; its config is code.")] = False,
) -> None:
    """Write a bundle's network to a file that runs without scanloom, and compare the two."""
    from .bundle import find_bundle
    from .bundling.export import export_bundle
    from .progress import ProgressBar
    from .trust import require_trust

    found = require_trust(find_bundle(bundle), given=trust_bundle)
    with ProgressBar("bundle export") as report:
        exported = export_bundle(found, output, to, report)
    typer.echo("\n".join(exported.lines()))

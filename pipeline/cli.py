"""The command line `scanloom`. Only typer is imported here; each command imports what it needs when it runs."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .bundle_commands import bundle_app
from .command import (
    DEBUG,
    BundleOption,
    DeviceOption,
    DevicesOption,
    JsonOption,
    MaxVoxelsOption,
    NamesOption,
    PrecisionOption,
    check_paths,
    debug,
    quiet_libraries,
    show_trace,
    tell_of_versions,
)
from .errors import PipelineError, UsageError, exit_status, our_own
from .limits import MAX_VOXELS
from .pacs.listen_command import listen
from .predict_command import predict, print_results

if TYPE_CHECKING:
    from .studies.convert import Conversion

INTERRUPTED = 130


class _Door(TyperGroup):
    """Turns whatever a command raises into one line and an exit status; with --debug into its trace."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            status, message = error.exit_status, str(error)
            show_trace(error)
        except KeyboardInterrupt:
            status, message = INTERRUPTED, "interrupted"
        except Exception as error:
            if type(error).__module__.startswith(("typer", "click")):  # wrong arguments, and the end of a command
                raise
            status, message = 1, our_own(error)
            show_trace(error)
        typer.echo(f"scanloom: {message}", err=True)
        raise typer.Exit(status)


app = typer.Typer(
    cls=_Door,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Segment medical scans with U-Nets on MONAI: DICOM or NIfTI in; labels, DICOM SEG, measurements, picture out. "
    "Exit status: 0 done, 1 failed, 2 wrong arguments, 3 input refused, 4 some of several cases failed. "
    f"{DEBUG} shows the trace of an error.",
)
app.add_typer(bundle_app, name="bundle")
app.command()(predict)
app.command()(listen)


@app.command()
def convert(
    path: Annotated[Path, typer.Option("--input", "-i", help="A scan's file, folder or archive.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the volumes, <case>.nii.gz each.")],
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID, case name or series number.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Convert every volume of the input.")] = False,
    strict: Annotated[bool, typer.Option(help="Refuse what would be a warning.")] = False,
    names: NamesOption = "hashed",
    max_voxels: MaxVoxelsOption = MAX_VOXELS,
    as_json: JsonOption = False,
) -> None:
    """Convert scans of any format to NIfTI with exact geometry."""
    if series is not None and every:
        raise UsageError("--series and --all exclude each other. Leave one out.")
    check_paths([path])
    from .studies.isolation import StudyProcess

    with StudyProcess(max_voxels, names_of_source=names == "source", shows_errors=debug()) as studies:
        from .progress import ProgressBar
        from .studies.convert import ConvertOptions
        from .studies.convert import convert as run

        with ProgressBar("convert") as report:
            result = run(ConvertOptions(path, output, series, every, strict), studies, report)
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
    else:
        _print_conversion(result)
    for _, error in result.refused:
        typer.echo(f"scanloom: {error}", err=True)
        show_trace(error)
    raise typer.Exit(result.exit_status)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A scan's file, folder or archive.", metavar="INPUT")],
    max_voxels: MaxVoxelsOption = MAX_VOXELS,
    as_json: JsonOption = False,
) -> None:
    """List the series of an input and the verdict on each one's geometry; nothing of the patient."""
    check_paths([path])
    from .studies.isolation import StudyProcess

    with StudyProcess(max_voxels, shows_errors=debug()) as studies:
        summaries = [one.summary() for one in studies.find(path)]
    if as_json:
        typer.echo(json.dumps({"series": summaries}, indent=2))
    else:
        from .tables import print_series

        print_series(summaries)


@app.command()
def train(
    bundle: BundleOption,
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A Medical Decathlon or nnU-Net raw folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the run: bundle, checkpoints, metrics.")],
    fold: Annotated[str, typer.Option(help="The fold to hold out for validation; all trains on every case.")] = "0",
    all_folds: Annotated[bool, typer.Option(help="Train every fold, one after the other.")] = False,
    folds: Annotated[int, typer.Option(help="Number of folds.")] = 5,
    epochs: Annotated[int | None, typer.Option(help="Epochs; the bundle's own number if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    device: DeviceOption = "auto",
    deterministic: Annotated[
        bool | None,
        typer.Option("--deterministic/--no-deterministic", help="Same seed, same weights; the default on a processor."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the run folder.")] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override an id of the train config.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="A bundle to learn from, too, such as the ensemble of the folds.")
    ] = None,
    trust_bundle: Annotated[bool, typer.Option(help="Run a bundle that is not ours; its config is code.")] = False,
) -> None:
    """Train a bundle on a dataset, as an MLflow run of its own."""
    overrides = _settings(settings or [])
    held_out = _fold(fold)
    check_paths([dataset])
    from .bundle import find_bundle
    from .calibration import held_out_facts
    from .progress import ProgressBar
    from .scans import read_scan
    from .training.all_folds import train_all_folds
    from .training.options import TrainOptions
    from .training.processes import is_first_process
    from .training.train import train as run
    from .trust import record_trust, require_trust

    found = require_trust(find_bundle(bundle), given=trust_bundle)
    tell_of_versions(found)
    taught_by = require_trust(find_bundle(teacher), given=trust_bundle) if teacher else None
    options = TrainOptions(
        dataset,
        output,
        held_out,
        folds,
        epochs,
        seed,
        device=device,
        deterministic=deterministic,
        resume=resume,
        overrides=overrides,
        teacher=taught_by,
    )
    quiet_libraries()
    with ProgressBar("train") as report:
        trained = (
            train_all_folds(found, options, report, read_scan, held_out_facts)
            if all_folds
            else [run(found, options, report, read_scan, held_out_facts)]
        )
    for each in trained if is_first_process() else ():
        record_trust(each)
        typer.echo(str(each.folder))


@app.command()
def evaluate(
    bundle: Annotated[
        str, typer.Option("--bundle", "-b", help="A bundle's name or folder, or the run folder of all folds.")
    ],
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A Medical Decathlon or nnU-Net raw folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tables, the page and its pictures.")],
    fold: Annotated[
        str | None,
        typer.Option(help="The fold whose cases to evaluate, or all; those held out in training if not given."),
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds; the training's if not given.")] = None,
    tolerance_mm: Annotated[float, typer.Option(help="Of the surface Dice, in mm.")] = 1.0,
    device: DevicesOption = "auto",
    precision: PrecisionOption = "auto",
    trust_bundle: Annotated[bool, typer.Option(help="Run a bundle that is not ours; its config is code.")] = False,
    pictures: Annotated[int, typer.Option(help="How many of the worst cases to show.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Judge a bundle by a labelled dataset: overlap, surface distances and volumes, a case and label."""
    wanted = fold if fold in (None, "all") else _fold(fold)
    check_paths([dataset])
    from .evaluate import EvaluateOptions, find_bundles
    from .evaluate import evaluate as run
    from .progress import ProgressBar
    from .training.score_files import card_rows

    found = find_bundles(bundle)
    quiet_libraries()
    options = EvaluateOptions(dataset, output, wanted, folds, tolerance_mm, device, precision, trust_bundle, pictures)
    with ProgressBar("evaluate") as report:
        evaluation = run(found, options, report)
    if as_json:
        typer.echo(json.dumps(evaluation.content, indent=2))
    else:
        from .tables import print_rows

        print_rows(card_rows(evaluation.summary))
    for case in evaluation.cases:
        if case.error:
            typer.echo(f"scanloom: {case.error}", err=True)
            show_trace(case.error)
    raise typer.Exit(exit_status(evaluation.cases))


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Show the training runs: MLflow's UI on the store in use."""
    from .training.ui import serve_ui

    serve_ui(host, port, lambda line: typer.echo(line, err=True))


@app.command()
def sync(
    run_folder: Annotated[Path, typer.Argument(help="A folder that `scanloom train` wrote.", metavar="RUN")],
) -> None:
    """Send MLflow what a training could not, because the server was away."""
    check_paths([run_folder])
    from .progress import ProgressBar
    from .training.sync import send_rest

    quiet_libraries()
    with ProgressBar("sync") as report:
        send_rest(run_folder, report)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Say what works here: versions, devices, optional parts."""
    from .doctor import examine

    facts = examine()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        from .tables import print_facts

        print_facts("scanloom doctor", facts)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the study and the results.")] = Path(
        "demo"
    ),
    device: DeviceOption = "auto",
) -> None:
    """Make an example DICOM study from the MNI152 template, segment its hippocampi and show the volumes."""
    from .demo import run_demo
    from .progress import ProgressBar

    quiet_libraries()
    with ProgressBar("demo") as report:
        results = run_demo(output, device, report)
    print_results(results)
    failed = [result.error for result in results if result.error]
    if failed:
        raise failed[0]


def main() -> None:
    """Entry point of the console script."""
    if debug():
        logging.basicConfig(level=logging.DEBUG)
    app(args=[word for word in sys.argv[1:] if word != DEBUG])


def _fold(word: str) -> int | None:
    if word == "all":
        return None
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"--fold {word}: it must be a number, or all.") from None


def _settings(settings: list[str]) -> dict[str, Any]:
    """KEY=VALUE words, the values read as YAML, but for MONAI's expressions ($), references (@) and macros (%)."""
    values: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {word}: write it as KEY=VALUE, for instance --set learning_rate=0.001.")
        if value.startswith(("$", "@", "%")):
            values[key] = value
            continue
        import yaml

        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {word}: the value is not YAML. Quote it.") from None
    return values


def _print_conversion(result: Conversion) -> None:
    """The files and what to know of them; the series to choose from where it was not clear."""
    from .tables import print_series

    if result.candidates:
        print_series([one.summary() for one in result.candidates], stderr=True)
    for file, volume in result.written:
        for notice in volume.notices:
            typer.echo(f"{volume.case}: {notice.message}")
        typer.echo(str(file))


if __name__ == "__main__":
    main()

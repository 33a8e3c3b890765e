"""What the commands of the command line share: options, checks before any import, and how errors are shown."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .errors import UsageError

if TYPE_CHECKING:
    from .bundle import Bundle

DEBUG = "--debug"

BundleOption = Annotated[
    str, typer.Option("--bundle", "-b", help="A bundle's name or folder, or models:/NAME@ALIAS of MLflow's registry.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
DevicesOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …; cuda:0,cuda:1 share each scan.")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="auto is bf16 where the bundle says that it does no harm and the device computes in it."),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option("--format", help="nifti, tiff, dicom-seg, dicom-seg-labelmap, dicom-sr, rtstruct; may be repeated."),
]
NamesOption = Annotated[
    Literal["hashed", "source"], typer.Option(help="source calls DICOM cases after their folders, which may tell who.")
]
MaxVoxelsOption = Annotated[int, typer.Option(min=1, help="Refuse a volume that claims more.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def debug() -> bool:
    """Whether the user wants to see what developers see."""
    return DEBUG in sys.argv


def show_trace(error: BaseException) -> None:
    """With --debug, where an error came from."""
    if debug():
        import traceback

        traceback.print_exception(error)


def quiet_libraries() -> None:
    """Warnings of libraries are for developers: shown with --debug, and logged by a training into its train.log."""
    if not debug():
        import warnings

        warnings.simplefilter("ignore")
        logging.getLogger().addHandler(logging.NullHandler())


def tell_of_versions(bundle: Bundle) -> None:
    """Of packages that the bundle asks for and that are missing here, or older."""
    from .bundling.versions import version_notices

    for line in version_notices(bundle):
        typer.echo(f"scanloom: {line}", err=True)


def check_paths(paths: list[Path]) -> None:
    """Before any import: a path that is not there is answered at once."""
    for number, path in enumerate(paths, start=1):
        which = "input" if len(paths) == 1 else f"input {number}"
        try:
            is_there = path.exists()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"{which}: {path} can not be looked at ({reason}). Check path and permissions.") from None
        if not is_there:
            raise UsageError(f"{which}: no such file or folder: {path}. Check the path.")

"""The command line: `medclf scan | audit | train | evaluate | compare | report | review | predict | serve | ...`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from medclf import __version__
from medclf.cli.bundles import explain, export, predict, serve
from medclf.cli.options import is_first
from medclf.cli.review import review
from medclf.cli.runs import card, compare, evaluate, report, shortcuts
from medclf.cli.tables import audit, cache, scan
from medclf.cli.training import demo, train
from medclf.errors import MedclfError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a folder of medical images to a classifier its users can trust, explain and hand on.",
    epilog="--debug, anywhere, shows the traceback of an error. For research use.",
)
for _command in (
    *(demo, scan, audit, train),
    *(evaluate, report, card, compare, shortcuts),
    *(predict, explain, serve, export, cache),
):
    app.command()(_command)
app.add_typer(review, name="review")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"medclf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """From a folder of medical images to a classifier its users can trust, explain and hand on."""


def main() -> None:
    """Run the command line; a user's mistake is one or two lines and exit status 2."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _show_warning
    gc.set_threshold(100_000, 50, 100)  # importing makes a million objects; going through them again and again took 1 s
    try:
        _run(arguments)
    except MedclfError as error:
        if debug:
            raise
        typer.secho(f"medclf: {error.message}", fg="red", err=True)
        if error.remedy:
            typer.echo(f"  {error.remedy}", err=True)
        sys.exit(2)
    except OSError as error:  # of a file that no job has a word for: a full disk, a locked folder
        if debug or not error.strerror:
            raise
        place = f"{error.filename}: " if error.filename else ""
        typer.secho(f"medclf: {place}{error.strerror}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("medclf: stopped", err=True)
        sys.exit(130)
    finally:
        gc.freeze()  # nor need they be gone through when the process ends


def _run(arguments: list[str]) -> None:
    try:
        app(arguments, prog_name="medclf")
    except SystemExit as end:
        if end.code in (None, 0):
            with contextlib.suppress(BrokenPipeError):  # the reader of a pipe has gone
                sys.stdout.flush()
        raise


def program() -> None:
    """What the shell starts: `main`, and no taking down of torch, which takes about as long as a prediction."""
    try:
        main()
    except SystemExit as end:
        if end.code in (None, 0):
            os._exit(0)
        raise


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    """A line on the error stream; the libraries' own notes to programmers are left out."""
    if category.__name__ == "MedclfWarning" and is_first():
        typer.secho(f"warning: {message}", fg="yellow", err=True)

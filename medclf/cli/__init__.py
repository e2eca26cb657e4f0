"""The command line: `medclf scan | audit | train | evaluate | compare | report | review | predict | serve | ...`."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from medclf import __version__
from medclf.cli.bundles import explain, export, predict, pull, push, serve
from medclf.cli.labelling import label_next, watch
from medclf.cli.options import checked, is_first
from medclf.cli.review import export_sheet, import_sheet
from medclf.cli.runs import card, compare, evaluate, report, runs, shortcuts
from medclf.cli.tables import audit, cache, encoders, scan
from medclf.cli.training import demo, train
from medclf.errors import MedclfError, in_shell
from medclf.escaping import printable

_OLD = {"--head-start": "--linear-probe", "--no-head-start": "--no-linear-probe"}  # names of version 0.1
_STOPPED = 130  # what Typer gives back for Ctrl-C
ABOUT = "Train, check and share a medical image classifier. Built on fastai; not a medical device."

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=ABOUT,
    epilog="--debug, anywhere, shows the traceback of an error.",
)
for _command in (
    *(demo, scan, audit, encoders, train),
    *(evaluate, report, card, runs, compare, shortcuts),
    *(predict, explain, serve, watch, export, push, pull, cache),
):
    app.command()(checked(_command))
app.command("label-next")(checked(label_next))
review = typer.Typer(help="Blinded second read: export a sheet, import the answers.")
review.command("export")(checked(export_sheet))
review.command("import")(checked(import_sheet))
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
    """What `medclf` takes besides a command."""


def main() -> None:
    """Run the command line; a user's mistake is one or two lines and exit status 2."""
    _open_streams()
    debug = "--debug" in sys.argv
    arguments = [_OLD.get(argument, argument) for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _warning_teller()
    gc.set_threshold(100_000, 50, 100)  # importing makes a million objects; going through them again and again took 1 s
    try:
        with in_shell():
            _run(arguments or ["--help"])
    except (MedclfError, OSError, typer.TyperException) as error:
        if debug or not (said := _words(error)):
            raise
        typer.secho(printable(f"medclf: {said[0]}"), fg="red", err=True)
        for line in filter(None, said[1:]):
            typer.echo(printable(f"  {line}"), err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        typer.echo("medclf: stopped", err=True)
        sys.exit(130)
    finally:
        _let_go_of_output()
        gc.freeze()  # nor need they be gone through when the process ends


def _words(error: MedclfError | OSError | typer.TyperException) -> list[str]:
    """What went wrong, and what to do; nothing for an error that no user can be meant by."""
    if isinstance(error, MedclfError):
        return [error.message, error.remedy]
    if isinstance(error, OSError):  # of a file that no job has a word for: a full disk, a locked folder
        place = f"{error.filename}: " if error.filename else ""
        return [f"{place}{error.strerror}"] if error.strerror else []
    if wrong := _wrong_number(error):
        return [wrong]
    context = getattr(error, "ctx", None)
    like = [f"'{name}'" for name in getattr(error, "possibilities", None) or ()]
    how = f"see {context.command_path} --help" if context else ""
    name = getattr(error, "option_name", None)
    if name and os.path.lexists(name):  # the shell's own way to name what begins with a hyphen
        how = f"write ./{name} for the file or folder of that name"
    said = getattr(error, "message", "") if like else getattr(error, "format_message", str)()
    return [said, f"did you mean {' or '.join(like)}?" if like else how]


def _wrong_number(error: typer.TyperException) -> str:
    """What an option must be, in the words that a setting's own check has; "" for another error."""
    found, option = getattr(error.__cause__, "errors", None), getattr(error, "param", None)
    if found is None or option is None:
        return ""
    one = found()[0]
    limits = one.get("ctx") or {}
    must = {
        "greater_than_equal": f"{limits.get('ge', 0):g} or more",
        "less_than_equal": f"{limits.get('le', 0):g} or less",
        "int_parsing": "a whole number",
        "float_parsing": "a number",
    }.get(one["type"])
    return f"{max(option.opts, key=len)} must be {must}, not {one['input']}" if must else ""


def _open_streams() -> None:
    """Where the shell has closed a stream (`>&-`), Python has None: read and write nothing there.

    What standard output cannot encode is written as its code.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # of a terminal or file that is not of UTF-8


def _let_go_of_output() -> None:
    """What could not be written stays unwritten: Python tries again as it ends, and says so in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> None:
    try:
        status = app(arguments, prog_name="medclf", standalone_mode=False)
    except SystemExit as end:
        status = end.code
    with contextlib.suppress(BrokenPipeError):  # the reader of a pipe has gone
        sys.stdout.flush()
    if status == _STOPPED:
        raise KeyboardInterrupt
    sys.exit(status)


def program() -> None:
    """What the shell starts: `main`, and no taking down of torch, which takes about as long as a prediction."""
    try:
        main()
    except SystemExit as end:
        if end.code in (None, 0):
            os._exit(0)
        raise


def _warning_teller() -> Callable[..., None]:
    """What shows a warning on the error stream, each text once; libraries' notes to programmers are left out."""
    told: set[str] = set()

    def tell(message: Any, category: Any, *_: Any, **__: Any) -> None:
        if category.__name__ == "MedclfWarning" and is_first() and str(message) not in told:
            told.add(str(message))
            typer.secho(printable(f"warning: {message}"), fg="yellow", err=True)

    return tell

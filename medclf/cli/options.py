"""Fields of `TrainConfig` as options of commands, whose values are checked before anything is loaded."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from medclf.config import TrainConfig
from medclf.errors import MedclfError, argument
from medclf.escaping import printable
from medclf.options import Known, choices_of, options, read

Command = Callable[..., Any]
OF_SCAN = tuple(name for name, known in options(TrainConfig).items() if known.option.of_scan)


def with_options(*names: str, of_run: Sequence[str] = (), config: type = TrainConfig) -> Callable[[Command], Command]:
    """Give a command fields of a settings class as options; of these it is called with those that the user gave.

    Args:
        names: of the fields.
        of_run: of fields that a RUN has already: where they are not given, its own are taken.
        config: the settings class.
    """
    known = options(config)

    def change(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters

        def called(ctx: typer.Context, **values: Any) -> Any:
            given = {name: value for name, value in values.items() if name not in own and _is_given(ctx, name)}
            plain = {name: value for name, value in values.items() if name in own}
            return command(**plain, **{name: known[name].checked(value) for name, value in given.items()})

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [one for one in own.values() if one.kind != one.VAR_KEYWORD]
        parameters += [as_parameter(known[name]) for name in names if name not in own]
        parameters += [as_parameter(_unset(known[name])) for name in of_run]
        return _with_parameters(functools.wraps(command)(called), [context, *parameters])

    return change


def say(line: str) -> None:
    """Print a line; what data put into it steers no terminal."""
    typer.echo(printable(line))


def check_browser() -> None:
    """See that `--open` can open a page, before the work begins.

    Raises:
        MedclfError: no person sits here (CI is set), or there is no browser.
    """
    import webbrowser

    try:
        reason = "this is a CI job" if os.environ.get("CI") else "" if webbrowser.get() else "no browser was found"
    except webbrowser.Error:
        reason = "no browser was found"
    if reason:
        raise MedclfError(f"--open cannot open a page here: {reason}", "leave --open out; the last lines name the page")


def open_page(page: Path) -> str:
    """Open a page in the browser; what to say of it."""
    import webbrowser

    address = page.resolve().as_uri()
    return f"opened: {address}" if webbrowser.open(address) else f"the browser did not open: {address}"


def _unset(known: Known) -> Known:
    return known._replace(default=None, option=replace(known.option, unset="as the run was made"))


def checked(command: Command) -> Command:
    """A command whose options of a few words are checked by `medclf.options.read`, which names a likely mistyping."""
    given = inspect.signature(command, eval_str=True).parameters.values()
    arguments = {one.name: one.name.upper() for one in given if isinstance(_shown(one), ArgumentInfo)}

    def called(**values: Any) -> Any:
        _check_paths({arguments.get(name) or argument(name): value for name, value in values.items()})
        return command(**values)

    return _with_parameters(functools.wraps(command)(called), map(_checking, given))


def _check_paths(values: Mapping[str, Any]) -> None:
    """Refuse an empty path, which a shell makes of a variable that is not set: it would mean the current folder."""
    if "" not in sys.argv:
        return
    for name, value in values.items():
        if Path() in (value if isinstance(value, list) else [value]):
            raise MedclfError(f"{name} is an empty path", "give a path; the current folder is .")


def _shown(parameter: inspect.Parameter) -> Any:
    """What Typer is told of a parameter; None for one of which it is told nothing."""
    return next(iter(get_args(parameter.annotation)[1:]), None)


def as_parameter(known: Known) -> inspect.Parameter:
    """A field of a settings class as Typer has a command's parameter."""
    option, default = known.option, known.default
    flags = option.flags or ((f"--{known.name.replace('_', '-')}",) if default is False else ())
    shown: dict[str, Any] = {"help": option.help, "rich_help_panel": option.group, "show_default": option.unset or True}
    if list[str] in get_args(known.kind):
        kind: Any = list[str]
        default = [default] if isinstance(default, str) else default
    elif known.kind in (bool, bool | None, int, int | None, float, float | None) and not option.listed:
        kind = known.kind
    else:
        kind = str
        default = default if default is None else str(default)
        several = ["NUMBER,NUMBER"] if option.listed else []
        words = [*(["NUMBER"] if int in _parts(known.kind) else []), *choices_of(known.kind), *several]
        shown |= {"parser": known.read, "metavar": "|".join(words) or ("PATH" if option.exists else "TEXT")}
    annotation = Annotated[kind | None, typer.Option(*flags, **shown)]
    return inspect.Parameter(known.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _checking(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter, with a word for what it takes; where that is one of a few words, it is checked."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, shown = get_args(parameter.annotation)
    words = choices_of(kind)
    if words:
        shown.parser, kind = functools.partial(read, parameter.name, kind=kind), str
    shown.metavar = shown.metavar or "|".join(words) or _named(kind)
    if isinstance(shown, ArgumentInfo):
        shown.metavar = parameter.name.upper()
    return parameter.replace(annotation=Annotated[kind, shown])


def _named(kind: Any) -> str:
    words = {bool: "", int: "NUMBER", float: "NUMBER", Path: "PATH"}
    return next((words[part] for part in _parts(kind) if part in words), "TEXT")


def _parts(kind: Any) -> tuple[Any, ...]:
    """The types that a type is made of."""
    return tuple(part for one in get_args(kind) for part in _parts(one)) or (kind,)


def _with_parameters(command: Command, parameters: Iterable[inspect.Parameter]) -> Command:
    shown = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]
    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def numbers(name: str, text: str, example: str) -> tuple[float, ...]:
    """The numbers of an option such as `--box 0,0.7,0.3,1`; as many as its example has.

    Raises:
        MedclfError: it is something else.

    Example:
        >>> numbers("window", "40,400", "40,400")
        (40.0, 400.0)
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    count = example.count(",") + 1
    if len(values) != count or not all(map(math.isfinite, values)):
        raise MedclfError(f"--{name} must be {count} numbers, not {text!r}", f"for example --{name} {example}")
    return values


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within it nothing looks for garbage, and what was made is not gone through later either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def is_first() -> bool:
    """Whether this process speaks to the user, where a launcher started several."""
    return os.environ.get("RANK", "0") == "0"

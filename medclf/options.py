"""An option: a dataclass field that knows its help, its group and its limits, and reads and checks its values."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from medclf.errors import DataError, argument, did_you_mean

REQUIRED: Any = MISSING


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, type and default.

    Args:
        group: the panel of the help that shows it.
        help: one line for people.
        unset: what happens where it is None, for the help.
        of_scan: `scan` takes it too, and so does each command that reads a table.
        flags: its names in the shell, where the field's own does not do.
        at_least, above, at_most: limits of a number.
        share: a number between 0 and 1.
        or_none: the word "none" means None.
        listed: several numbers may be given, "128,224".
        exists: it names a file or folder that must be there.
    """

    group: str
    help: str
    unset: str = ""
    of_scan: bool = False
    flags: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    share: bool = False
    or_none: bool = False
    listed: bool = False
    exists: bool = False

    def limits(self) -> str:
        """In words, what a number must be.

        Example:
            >>> Option("Training", "epochs", at_least=0).limits()
            '0 or more'
        """
        if self.share:
            return "between 0 and 1"
        if self.above is not None:
            return f"above {self.above:g}"
        return "finite" if self.at_least is None else f"{self.at_least:g} or more"

    def allows(self, number: float) -> bool:
        """Whether a number is finite and within the limits."""
        return (
            math.isfinite(number)
            and (not self.share or 0 < number < 1)
            and (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
        )


def option(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field of a settings dataclass that is an option too.

    Args:
        default: its value where it is not given; `REQUIRED` where it must be.
        group, help, more: see `Option`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     epochs: int = option(5, "Training", "how often each image is seen", at_least=0)
        >>> options(Settings)["epochs"].read("3")
        3
    """
    return field(default=default, metadata={"option": Option(group, help, **more)})


class Known(NamedTuple):
    """An option with its name, type and default: all that a command line needs to offer it."""

    name: str
    kind: Any
    default: Any
    option: Option

    def checked(self, value: Any) -> Any:
        """A value as the field keeps it.

        Raises:
            DataError: it cannot have that value.
        """
        if self.option.or_none and value == "none":
            return None
        if self.option.listed and isinstance(value, (list, tuple)) and value:
            return tuple(self._of_one().checked(item) for item in value)
        for same in _same(value):
            if fits(same, self.kind):
                self._check_limits(same)
                return same
        raise _refused(self.name, described(self.kind), value, choices_of(self.kind))

    def read(self, text: str) -> Any:
        """The value that a text of the shell stands for.

        Raises:
            DataError: it stands for none.
        """
        if self.option.listed:
            return self.checked([self._of_one().read(part) for part in text.split(",")])
        if self.option.or_none and text == "none":
            return None
        return self.checked(read(self.name, text, self.kind))

    def _of_one(self) -> Known:
        """The same for one of a list."""
        return self._replace(option=replace(self.option, listed=False))

    def _check_limits(self, value: Any) -> None:
        if value == "" or (isinstance(value, list) and "" in value):
            raise DataError(f"{argument(self.name)} is empty", "give a value, or leave it out")
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or self.option.allows(float(value)):
            return
        given = float(value)
        percent = self.option.share and 1 < given <= 100
        remedy = f"for {given:g} % write {argument(self.name, given / 100)}" if percent else ""
        limit = self.option.at_most
        limits = f"{limit:g} or less" if limit is not None and given > limit else self.option.limits()
        raise _refused(self.name, limits, value, remedy=remedy)


def options(config: type) -> dict[str, Known]:
    """The fields of a settings class that are options, by name."""
    return _options(config)


@functools.cache
def _options(config: type) -> dict[str, Known]:
    kinds = get_type_hints(config)
    return {
        one.name: Known(
            one.name, kinds[one.name], None if one.default is REQUIRED else one.default, one.metadata["option"]
        )
        for one in fields(config)
        if "option" in one.metadata
    }


def read(name: str, text: str, kind: Any) -> Any:
    """The value of a type that a text of the shell stands for.

    Raises:
        DataError: it stands for none.

    Example:
        >>> read("frame", "3", int | Literal["first"]), read("window", "40,400", tuple[float, float] | str)
        (3, (40.0, 400.0))
        >>> read("resize", "strech", Literal["stretch", "crop"])
        Traceback (most recent call last):
        medclf.errors.DataError: resize must be stretch or crop, not 'strech'
        did you mean 'stretch'?
    """
    for one in _members(kind):
        try:
            value = tuple(map(float, text.split(","))) if get_origin(one) is tuple else text
            value = one(text) if one in (int, float) else value
        except ValueError:
            continue
        if fits(value, one):
            return value
    raise _refused(name, described(kind), text, choices_of(kind))


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a whole number is a number too, True is none.

    Example:
        >>> fits("crop", Literal["crop"]), fits(3, float), fits(True, int), fits((40, 400), tuple[float, float] | None)
        (True, True, False, True)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if kind in (int, float):
        return isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, kind)


def choices_of(kind: Any) -> list[str]:
    """The words that a type allows besides numbers and None.

    Example:
        >>> choices_of(int | Literal["first", "last"]), choices_of(str | None)
        (['first', 'last'], [])
    """
    return [str(word) for one in _members(kind) if get_origin(one) is Literal for word in get_args(one)]


def described(kind: Any) -> str:
    """In words, what a type allows.

    Example:
        >>> described(int | Literal["first", "last"]), described(bool | None)
        ('a whole number, first or last', 'True or False')
    """
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    words |= {list[str]: "a list of texts", tuple[float, float]: "two numbers"}
    *first, last = [*(words[one] for one in _members(kind) if one in words), *choices_of(kind)]
    return f"{', '.join(first)} or {last}" if first else last


def _members(kind: Any) -> Iterable[Any]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _same(value: Any) -> Iterable[Any]:
    """The value, and what it is where it came as a path, as a list of one, as a dict, or through JSON."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        yield value[0]
    yield value
    if isinstance(value, dict):
        yield [f"{name}={item}" for name, item in value.items()]
    if isinstance(value, Path):
        yield str(value)
    if isinstance(value, (list, tuple)):
        yield tuple(value)
        yield list(value)


def _refused(name: str, allowed: str, value: Any, choices: Iterable[str] = (), remedy: str = "") -> DataError:
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    remedy = remedy or (did_you_mean(value, choices) if isinstance(value, str) else "")
    return DataError(f"{argument(name)} must be {allowed}, not {shown}", remedy)

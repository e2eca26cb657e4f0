"""What a JSON file must hold to be read: shapes, and the first place where a value is otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medclf.files import is_number

Shape = Callable[[Any, str], str]
"""A value and the place it stands at -> what is wrong there, "" where nothing is."""


def _kind(words: str, holds: Callable[[Any], bool]) -> Shape:
    return lambda value, at: "" if holds(value) else f"{at} is not {words}"


TEXT = _kind("text", lambda value: isinstance(value, str))
FLAG = _kind("true or false", lambda value: isinstance(value, bool))
NUMBER = _kind("a number", is_number)
COUNT = _kind("a count", lambda value: is_number(value) and value >= 0 and int(value) == value)
OBJECT = _kind("an object", lambda value: isinstance(value, dict))


def one_of(*values: Any) -> Shape:
    """One of some values."""
    return _kind(f"one of {', '.join(map(str, values))}", lambda value: value in values)


def maybe(shape: Shape) -> Shape:
    """The shape, or null."""
    return lambda value, at: "" if value is None else shape(value, at)


def either(first: Shape, second: Shape) -> Shape:
    """One of two shapes; what is wrong with the second is said."""
    return lambda value, at: first(value, at) and second(value, at)


def list_of(shape: Shape) -> Shape:
    """A list of values of one shape."""

    def check(value: Any, at: str) -> str:
        if not isinstance(value, list):
            return f"{at} is not a list"
        return next((wrong for i, one in enumerate(value) if (wrong := shape(one, f"{at}[{i}]"))), "")

    return check


def row_of(*shapes: Shape) -> Shape:
    """A list of so many values, each of its own shape."""

    def check(value: Any, at: str) -> str:
        if not isinstance(value, list) or len(value) != len(shapes):
            return f"{at} is not a list of {len(shapes)} values"
        pairs = enumerate(zip(value, shapes, strict=True))
        return next((wrong for i, (one, shape) in pairs if (wrong := shape(one, f"{at}[{i}]"))), "")

    return check


def by_name(shape: Shape) -> Shape:
    """An object whose values are of one shape, whatever their names."""

    def check(value: Any, at: str) -> str:
        if not isinstance(value, dict):
            return f"{at} is not an object"
        return next((wrong for name, one in value.items() if (wrong := shape(one, f"{at}.{name}"))), "")

    return check


def fields(required: dict[str, Shape], optional: dict[str, Shape] | None = None) -> Shape:
    """An object with these fields; further ones may hold anything.

    Example:
        >>> shape = fields({"n": COUNT}, {"vocab": list_of(TEXT)})
        >>> shape({"n": 3, "vocab": ["a", 1]}, "results"), shape({"n": 3, "more": None}, "results")
        ('results.vocab[1] is not text', '')
    """

    def check(value: Any, at: str) -> str:
        if not isinstance(value, dict):
            return f"{at} is not an object"
        for name, shape in required.items():
            if name not in value:
                return f"{at} has no {name!r}"
            if wrong := shape(value[name], f"{at}.{name}"):
                return wrong
        known = ((name, shape) for name, shape in (optional or {}).items() if name in value)
        return next((wrong for name, shape in known if (wrong := shape(value[name], f"{at}.{name}"))), "")

    return check

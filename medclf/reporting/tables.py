"""Any fact of results.json as headings, tables, charts and lines of text, for the page to print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medclf.files import is_number
from medclf.metrics.table import METRICS
from medclf.reporting.charts import Chart, Line, line_chart
from medclf.reporting.formatting import unit_of, words
from medclf.results.wording import interval, is_metric, number, percent

MAX_ROWS = 200
LONG = 12  # longer lists of numbers are curves, or too long to read


@dataclass(frozen=True)
class Cell:
    """One value of a table: its text, a picture where it names an image, and how it is set."""

    text: str
    small: str = ""  # the interval, set smaller
    picture: str = ""
    css: str = ""


@dataclass(frozen=True)
class Block:
    """One thing below another: heading, text, facts, table or chart; or a list, pairs, charts or links of items."""

    kind: str
    text: str = ""
    columns: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    chart: Chart | None = None
    items: list[Any] = field(default_factory=list)


Picture = Callable[[str], str]


def no_picture(text: str) -> str:
    """A table without pictures."""
    return ""


def blocks(value: Any, picture: Picture = no_picture, key: str = "", *, raw: bool = False) -> list[Block]:
    """A fact as blocks.

    Args:
        value: a metric, a scalar, a dict, or a list of them, nested as it may be.
        picture: text -> the source of a thumbnail where the text names an image, else "".
        key: the name the value stands under.
        raw: write keys as they are, for settings and versions.

    Example:
        >>> [b.kind for b in blocks({"n": 3, "pairs": [{"a": 1, "b": 2}]})]
        ['facts', 'heading', 'table']
        >>> blocks([{"a": 1, "b": True}])[0].rows[0][1].text
        'yes'
    """
    if isinstance(value, Mapping) and not is_metric(value):
        return _of_dict(value, picture, raw)
    if isinstance(value, (list, tuple)) and value:
        return _of_list(value, picture, key)
    return [Block("text", text=cell(value, picture, key).text)]


def cell(value: Any, picture: Picture = no_picture, key: str = "", told: Any = None) -> Cell:
    """A value as the text of one cell; of a metric with its n, unless that is what was `told` in the same row."""
    if is_metric(value):
        unit = unit_of(key)
        ends = interval(value, unit)
        n = value.get("n")
        note = value.get("note") or (f"n = {number(n)}" if is_number(n) and n != told else "")
        return Cell(number(value["value"], unit), "; ".join(part for part in (ends, note) if part), css="number")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if value is None or value == "":
        return Cell("–")
    if is_number(value):
        return Cell(_plain(value, key), css="number")
    if isinstance(value, Mapping):
        inside = [f"{words(str(k))} {_flat(cell(v, key=str(k)))}" for k, v in value.items()]
        return Cell("; ".join(inside) or "–")
    if isinstance(value, (list, tuple)):
        if len(value) > LONG and all(is_number(v) for v in value):
            return Cell(f"{len(value)} values, in results.json")
        return Cell(", ".join(_flat(cell(v, key=key)) for v in value) or "–")
    text = str(value)
    return Cell(text, picture=picture(text), css="missing" if text.strip().upper() == "MISSING" else "")


def difference(value: Mapping[str, Any], key: str) -> Cell:
    """A difference of two metrics with its interval: in points where they are shares.

    Example:
        >>> found = difference({"value": 0.05, "low": -0.01, "high": 0.11, "n": 40}, "accuracy")
        >>> found.text, found.small
        ('+5.0 points', '-1.0 to +11.0; n = 40')
    """
    share = unit_of(key) == "%"
    text, *ends = [
        (f"{100 * one:+.1f}" if share else f"{one:+.3f}") if is_number(one) else "–"
        for one in (value["value"], value["low"], value["high"])
    ]
    small = [" to ".join(ends) if "–" not in ends else "", f"n = {number(value['n'])}" if "n" in value else ""]
    return Cell(f"{text} points" if share else text, "; ".join(part for part in small if part), css="number")


def _plain(value: float, key: str) -> str:
    """A number that is no metric: a setting keeps the digits it was given."""
    if isinstance(value, float) and unit_of(key):
        return percent(value)
    if isinstance(value, float) and key in METRICS:
        return number(value)
    return f"{value:.4g}" if isinstance(value, float) else number(value)


def _flat(inner: Cell) -> str:
    return f"{inner.text} ({inner.small})" if inner.small else inner.text


def _is_curve(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > LONG and all(is_number(v) for v in value)


def _simple(value: Any) -> bool:
    """Whether a value fits in one line: scalars, metrics, short lists of scalars."""
    if isinstance(value, (list, tuple)):
        return all(not isinstance(v, (Mapping, list, tuple)) for v in value)
    return is_metric(value) or not isinstance(value, Mapping)


def _is_row(value: Any) -> bool:
    """Whether a value can be a row of a table: a dict of values that fit in one line."""
    return isinstance(value, Mapping) and not is_metric(value) and all(map(_simple, value.values()))


def _of_dict(value: Mapping[str, Any], picture: Picture, raw: bool) -> list[Block]:
    curves = {k: v for k, v in value.items() if _is_curve(v)}
    drawn = _curves(curves)
    left = {k: v for k, v in value.items() if not (drawn and k in curves)}
    if len(left) > 1 and all(_is_row(v) for v in left.values()):
        return [*drawn, table([{"": k, **v} for k, v in left.items()], picture)]
    plain = {k: v for k, v in left.items() if _simple(v)}
    result = list(drawn)
    if plain:
        rows = [[Cell(str(k) if raw else words(str(k))), cell(v, picture, str(k))] for k, v in plain.items()]
        result.insert(0, Block("facts", rows=rows))
    for name, inner in left.items():
        if name not in plain and inner:
            heading = str(name) if raw else words(str(name))
            result += [Block("heading", text=heading), *blocks(inner, picture, str(name), raw=raw)]
    return result


def _of_list(value: Sequence[Any], picture: Picture, key: str) -> list[Block]:
    if all(isinstance(item, Mapping) and not is_metric(item) for item in value):
        return [table(value, picture)]
    if all(isinstance(item, (list, tuple)) for item in value):
        return [table([dict(enumerate(item)) for item in value], picture, headed=False)]
    return [Block("text", text=cell(value, picture, key).text)]


def table(items: Sequence[Mapping[Any, Any]], picture: Picture = no_picture, *, headed: bool = True) -> Block:
    """Dicts as a table: a row each, a column for every key that any of them has."""
    keys = list(dict.fromkeys(key for item in items for key in item))
    rows = [
        [cell(item[key], picture, str(key), item.get("n")) if key in item else Cell("") for key in keys]
        for item in items[:MAX_ROWS]
    ]
    more = f"{len(items) - MAX_ROWS} more in results.json" if len(items) > MAX_ROWS else ""
    return Block("table", text=more, columns=[words(str(key)) for key in keys] if headed else [], rows=rows)


def _curves(curves: Mapping[str, Sequence[float]]) -> list[Block]:
    """Two or more lists of one length as a chart: the first across, the others up."""
    lengths = {len(values) for values in curves.values()}
    if len(curves) < 2 or len(lengths) != 1:
        return []
    (x_name, xs), *others = curves.items()
    lines = [Line(words(name), list(zip(xs, ys, strict=True))) for name, ys in others]
    heights = [y for _, ys in others for y in ys]
    title = f"{', '.join(words(name) for name, _ in others)} by {words(x_name).lower()}"
    chart = line_chart(
        lines,
        title=title,
        x_label=words(x_name),
        y_label=words(others[0][0]) if len(others) == 1 else "",
        x_range=(min(xs), max(xs)),
        y_range=(min(heights), max(heights)),
    )
    return [Block("chart", text=title, chart=chart)]

"""Columns of a table beside the pixels: how they become numbers.

scikit-learn's transformers are fitted, and what they learnt is kept as plain numbers, so that a bundle holds no pickle
and a prediction needs no scikit-learn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclf.errors import DataError, argument, did_you_mean
from medclf.images.image_columns import measure, source_of

UNKNOWN = "unknown"
_MISSING = {"", "unknown", "na", "n/a", "nan", "<na>", "null", "missing", "?", "-", "not known", "not available"}
_FEW = 0.5  # of the rows: a column of text with more different values names rows rather than describes them
_ENOUGH = 20  # rows, below which nothing is said of how many values differ
MOST_CATEGORIES = 200
NEW_FIELDS = "a category that is new counts as none of the known, a number as the nearest known"
Columns = Mapping[str, Sequence[Any]]  # by name, one value a row
Fields = Mapping[str, Any]  # of one image, by name


def is_unknown(value: Any) -> bool:
    """Whether a cell or a field says nothing.

    Example:
        >>> is_unknown(None), is_unknown("Unknown"), is_unknown(float("nan")), is_unknown(0)
        (True, True, True, False)
    """
    if value is None or type(value).__name__ == "NAType" or value != value:  # pandas' NA equals nothing, nor differs
        return True
    return isinstance(value, str) and value.strip().casefold() in _MISSING


def _number(value: Any, name: str) -> float:
    """A cell as a number, NaN where it is unknown.

    Raises:
        DataError: it is something else.
    """
    if is_unknown(value):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.inf
    if not math.isfinite(found):
        raise DataError(f"the field {name!r} must be a number, not {str(value)[:60]!r}", f"give a number, or {UNKNOWN}")
    return found


def _category(value: Any) -> str:
    """A cell as the text that categories are compared by; 1, 1.0 and "1" are one."""
    if is_unknown(value):
        return UNKNOWN
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip().casefold()


@dataclass(frozen=True)
class Number:
    """A column of numbers: median where unknown, cut at the training rows' ends, less the mean, over the spread.

    Args:
        name: of the column.
        median, mean, spread: of the training rows; the spread is their standard deviation.
        indicator: whether a column of 0 and 1 says where it was unknown.
        low, high: ends of the training rows; older bundles have none.
    """

    name: str
    median: float
    mean: float
    spread: float
    indicator: bool = False
    low: float = -math.inf
    high: float = math.inf

    @property
    def width(self) -> int:
        """Columns that it becomes."""
        return 1 + self.indicator

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        """(n, width)."""
        found = np.array([_number(value, self.name) for value in values], np.float64)
        unknown = np.isnan(found)
        scaled = (np.where(unknown, self.median, found).clip(self.low, self.high) - self.mean) / self.spread
        return np.stack([scaled, unknown], axis=1)[:, : self.width]

    def strange(self, value: Any) -> str:
        """What of a value training did not have; "" where nothing.

        Raises:
            DataError: it is no number.
        """
        found = _number(value, self.name)
        beyond = found < self.low or found > self.high
        return f"{self.name} outside {self.low:g} to {self.high:g}" if beyond else ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        numbers = {"median": self.median, "mean": self.mean, "spread": self.spread}
        ends = {"low": self.low, "high": self.high} if math.isfinite(self.low) else {}
        return {"name": self.name, "kind": "number", **numbers, "indicator": self.indicator, **ends}


@dataclass(frozen=True)
class Category:
    """A column of categories: one column of 0 and 1 each; a value that training did not have is 0 in all.

    Args:
        name: of the column.
        categories: of the training rows, in small letters; "unknown" is one where a row had none.
    """

    name: str
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns that it becomes."""
        return len(self.categories)

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        """(n, width)."""
        found = [_category(value) for value in values]
        return np.array([[one == name for name in self.categories] for one in found], np.float64).reshape(
            -1, self.width
        )

    def strange(self, value: Any) -> str:
        """What of a value training did not have; "" where nothing."""
        return "" if is_unknown(value) or _category(value) in self.categories else f"{self.name}={value}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, "kind": "category", "categories": list(self.categories)}


@dataclass(frozen=True)
class TableEncoder:
    """Turns columns of a table into numbers.

    Args:
        columns: how each is read.

    Example:
        >>> rows = {"age": [40, 60, None, 50], "sex": ["f", "m", "f", "unknown"]}
        >>> encoder, left_out = TableEncoder.fit(rows)
        >>> encoder.encode({"age": [50], "sex": ["M"]}).round(2).tolist(), left_out
        ([[0.0, 0.0, 0.0, 1.0, 0.0]], {})
    """

    columns: tuple[Number | Category, ...]

    @classmethod
    def fit(cls, rows: Columns) -> tuple[TableEncoder, dict[str, str]]:
        """Fitted on the training rows alone.

        Args:
            rows: the training rows' values, by column.

        Returns:
            The encoder, and why each column that says nothing of a new row was left out, by its name.

        Raises:
            DataError: no column is left.
        """
        columns: list[Number | Category] = []
        left_out: dict[str, str] = {}
        for name, values in rows.items():
            known = [value for value in values if not is_unknown(value)]
            why = says_nothing(known)
            if why:
                left_out[name] = why
            elif _are_numbers(known):
                columns.append(_fitted_number(name, values))
            else:
                columns.append(_fitted_category(name, values))
        if not columns:
            told = "; ".join(f"{name!r}: {why}" for name, why in left_out.items())
            raise DataError(f"no column is left to use ({told})", f"name others with {argument('tabular')}")
        return cls(tuple(columns)), left_out

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [column.name for column in self.columns]

    @property
    def width(self) -> int:
        """Columns of the encoded table."""
        return sum(column.width for column in self.columns)

    def encode(self, rows: Columns) -> np.ndarray:
        """(n, width) float64; a column that is not given is unknown.

        Raises:
            DataError: a number is none; the message names the column.
        """
        n = max((len(values) for values in rows.values()), default=0)
        parts = [column.encode(rows.get(column.name, [None] * n)) for column in self.columns]
        return np.concatenate(parts, axis=1)

    @property
    def sources(self) -> list[str]:
        """What was asked for: the table's columns, and what was measured in the image by one name each."""
        return list(dict.fromkeys(source_of(name) or name for name in self.names))

    def parts(self) -> dict[str, np.ndarray]:
        """Where each of `sources` stands among the encoded columns, (width,) bool."""
        found = np.repeat(
            [source_of(one.name) or one.name for one in self.columns], [one.width for one in self.columns]
        )
        return {name: found == name for name in self.sources}

    def measured(self, pixels: np.ndarray) -> dict[str, float | None]:
        """The columns that are read from an image.

        Args:
            pixels: uint8 (H, W, C), as the network gets them.
        """
        names = dict.fromkeys(filter(None, map(source_of, self.names)))
        return {column: value for name in names for column, value in measure(pixels, name).values.items()}

    def check(self, fields: Mapping[str, Any]) -> list[str]:
        """See that fields of one image can be used.

        Returns:
            What training did not have: categories as NAME=VALUE, and numbers beyond its own, as `NEW_FIELDS` ends.

        Raises:
            DataError: a field that the model does not know, or a number that is none.
        """
        by_name = {column.name: column for column in self.columns if not source_of(column.name)}
        for name in fields:
            if name not in by_name:
                known = f"the model's fields are {', '.join(by_name)}" if by_name else "the model takes none"
                raise DataError(f"there is no field {name!r}", did_you_mean(name, by_name) or known)
        return [text for name, value in fields.items() if (text := by_name[name].strange(value))]

    def described(self) -> list[dict[str, Any]]:
        """Name and kind of each field, and the categories of those that have some: for who fills them in."""
        return [
            {"name": column.name, "kind": "number"}
            if isinstance(column, Number)
            else {"name": column.name, "kind": "category", "categories": list(column.categories)}
            for column in self.columns
            if not source_of(column.name)
        ]

    def as_dict(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [column.as_dict() for column in self.columns]

    @classmethod
    def from_dict(cls, values: Sequence[Mapping[str, Any]]) -> TableEncoder:
        """Back from what `as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is of another form.
        """
        return cls(tuple(map(_column, values)))


def _column(value: Mapping[str, Any]) -> Number | Category:
    name = value["name"]
    _expect(isinstance(name, str) and bool(name), "a column's name")
    if value["kind"] == "category":
        categories = value["categories"]
        _expect(0 < len(categories) <= MOST_CATEGORIES and all(isinstance(one, str) for one in categories), name)
        return Category(name, tuple(categories))
    _expect(value["kind"] == "number", name)
    numbers = [float(value[key]) for key in ("median", "mean", "spread")]
    _expect(all(map(math.isfinite, numbers)) and numbers[2] > 0 and isinstance(value["indicator"], bool), name)
    low, high = float(value.get("low", -math.inf)), float(value.get("high", math.inf))
    _expect(low <= numbers[0] <= high, name)
    return Number(name, numbers[0], numbers[1], numbers[2], value["indicator"], low, high)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _are_numbers(known: Sequence[Any]) -> bool:
    if any(isinstance(value, (bool, np.bool_)) for value in known):
        return False  # true and false are categories, as they are in a CSV
    try:
        return all(math.isfinite(float(value)) for value in known)
    except (TypeError, ValueError):
        return False


def says_nothing(known: Sequence[Any]) -> str:
    """Why a column tells nothing of a row that was not in training; "" where it may."""
    different = {_category(value) for value in known}
    if not known:
        return "it is unknown in every training image"
    if len(different) == 1:
        return f"it is {known[0]!r} in every training image where it is known"
    if len(known) < _ENOUGH:
        return ""
    if not _are_numbers(known):
        if len(different) > _FEW * len(known) or len(different) > MOST_CATEGORIES:
            return f"it looks like an ID: {len(different)} different values in {len(known)} training images"
        return ""
    whole = [float(value) for value in known]
    dense = max(whole) - min(whole) < 2 * len(known)
    if len(different) == len(known) and dense and all(one.is_integer() for one in whole):
        return f"it looks like a running number: {len(known)} training images, all different"
    return ""


_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|(19|20)\d{6}")
_COUNTED = re.compile(r"\d+([.,]\d+)?\s*(years?|yrs?|y|months?|mon|m|weeks?|w|days?|d|kg|cm|mm|%)\.?", re.I)
_GROUPED = re.compile(r"\d{1,3}([ \u00a0\u2009\u202f']\d{3})+([.,]\d+)?")
_UNITS_OF = 10  # different values, up to which they may be categories, such as "0 mm" and "2 mm"
_SOME = 0.25  # of the known values: numbers, where they are too many different ones to be categories
_MOSTLY = 0.8  # of the known values: numbers, or dates, so that the others are slips


def unclear(known: Sequence[Any]) -> str:
    """Why it cannot be told whether a column holds numbers or categories; "" where it can.

    Args:
        known: its values, without the unknown ones.

    Example:
        >>> unclear(["40", "55", "61", "38", "90+"])
        "4 of 5 values are numbers, and '90+' is none"
        >>> unclear(["1,5", "2"]), unclear(["f", "m"])
        ("it has decimal commas, such as '1,5'", '')
    """
    texts = [one.strip() for one in known if isinstance(one, str)]
    dates = [one for one in texts if _DATE.fullmatch(one)] + [one for one in known if hasattr(one, "isoformat")]
    if len(dates) > _MOSTLY * len(known):
        return f"it holds dates, such as {str(dates[0])!r}"
    counted = [one for one in texts if _COUNTED.fullmatch(one)]
    if len(counted) > _MOSTLY * len(known) and len(set(counted)) > _UNITS_OF:
        return f"it holds numbers with a unit, such as {counted[0]!r}"
    others = [one for one in known if not _are_numbers([one])]
    commas = [one for one in others if isinstance(one, str) and _are_numbers([one.replace(",", ".", 1)])]
    if commas and len(commas) == len(others):
        return f"it has decimal commas, such as {commas[0]!r}"
    grouped = [one for one in others if isinstance(one, str) and _GROUPED.fullmatch(one.strip())]
    if grouped and len(grouped) == len(others):
        return f"it has numbers with their thousands set apart, such as {grouped[0]!r}"
    different = {_category(one) for one in known if _are_numbers([one])}
    if others and len(known) - len(others) >= (_SOME if len(different) > _UNITS_OF else _MOSTLY) * len(known):
        return f"{len(known) - len(others)} of {len(known)} values are numbers, and {others[0]!r} is none"
    return ""


def _fitted_number(name: str, values: Sequence[Any]) -> Number:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    column = np.array([_number(value, name) for value in values], np.float64)[:, None]
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(column)
    scaler = StandardScaler().fit(imputer.transform(column)[:, :1])
    median, mean, spread = (float(one[0]) for one in (imputer.statistics_, scaler.mean_, scaler.scale_))
    # whether a box could be measured tells the machine apart, not the finding
    indicator = bool(len(imputer.indicator_.features_)) and not source_of(name)
    return Number(name, median, mean, spread, indicator, float(np.nanmin(column)), float(np.nanmax(column)))


def _fitted_category(name: str, values: Sequence[Any]) -> Category:
    from sklearn.preprocessing import OneHotEncoder

    column = np.array([_category(value) for value in values], object)[:, None]
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(column)
    return Category(name, tuple(map(str, encoder.categories_[0])))

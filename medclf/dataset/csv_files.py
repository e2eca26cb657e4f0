"""CSV files of a RUN: one reader, which keeps every cell as the text it is, and one writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medclf.dataset.cells import typed
from medclf.dataset.csv_reading import read_csv
from medclf.errors import DataError, missing
from medclf.escaping import for_csv
from medclf.files import replacing

_REMEDY = "restore it from a copy, or make the run again"
_TEXT = frozenset(
    "path label pred patient group study series unit_id unit_images unknown twins partition flags sha256".split()
)


def save_rows(path: str | Path, rows: pd.DataFrame) -> None:
    """Write rows as CSV, whole or not at all; a spreadsheet runs none of its cells (see `medclf.escaping`)."""
    with replacing(path) as temporary:
        for_csv(rows).to_csv(temporary, index=False)


def read_rows(path: str | Path, wanted: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV that `save_rows` wrote, every cell as text: "NA", "None" and "001" are labels too.

    Args:
        path: the file.
        wanted: columns that it must have.

    Returns:
        Text in every cell, "" where it is blank.

    Raises:
        DataError: the file is missing, is no such CSV, was cut short, or lacks a column.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "rows.csv"
        >>> save_rows(file, pd.DataFrame({"path": ["a.png"], "label": ["NA"], "patient": [None]}))
        >>> read_rows(file, ["label"]).iloc[0].to_dict()
        {'path': 'a.png', 'label': 'NA', 'patient': ''}
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(*missing(path, _REMEDY))
    try:
        rows = read_csv(path)
    except DataError as error:
        raise DataError(f"{path} is damaged: {error.message}", _REMEDY) from error
    if not path.read_bytes().endswith((b"\n", b"\r")):
        raise DataError(f"{path} is damaged: its last row is cut short", _REMEDY)
    lacking = [column for column in wanted if column not in rows]
    if lacking:
        raise DataError(f"{path} has no column {lacking[0]!r}", _REMEDY)
    return rows


def numbers_in(rows: pd.DataFrame, column: str, path: str | Path, *, blank: bool = False) -> pd.Series:
    """A column of `read_rows` as numbers.

    Args:
        rows: what `read_rows` gave.
        column: its name.
        path: the file, for the error.
        blank: whether cells may be blank, which gives NaN.

    Raises:
        DataError: a cell holds something else.
    """
    found = pd.to_numeric(rows[column].replace("", None), errors="coerce").astype(float)
    wrong = found.isna() & ~(rows[column].eq("") & blank)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        text = f"{path} is damaged: row {row + 1}, column {column!r}: {rows[column].iloc[row]!r} is not a number"
        raise DataError(text, _REMEDY)
    return found


def with_types(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with None for blank, and numbers in the columns of the user's own that hold nothing else.

    Example:
        >>> with_types(pd.DataFrame({"path": ["1"], "age": ["40"], "site": ["01"], "patient": [""]})).iloc[0].to_dict()
        {'path': '1', 'age': 40, 'site': '01', 'patient': None}
    """
    return pd.DataFrame(
        {
            name: rows[name].astype(object).where(rows[name] != "", None)
            if name in _TEXT
            else typed(rows[name].tolist())
            for name in rows
        }
    )

"""A CSV as it is: every cell the text that stands there, or a named error."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.errors import DataError, is_address, missing
from medclf.escaping import from_csv_cell

# xlsx and ods, xls, parquet, HDF5, Arrow; JSON, XML or a web page
_NO_TABLE = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1", b"\x89HDF", b"ARROW1", b"{", b"[", b"<")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # gz, bz2, xz
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def read_csv(path: Path, delimiter: str | None = None) -> pd.DataFrame:
    """Read a CSV with every cell as text: a label "NA", "None" or "001" stays what it is.

    UTF-16 is known by its first bytes. Commas, semicolons and tabs are told apart by the header and the first row,
    outside their quotes.
    Cells go by the header's names: a separator at the end of rows adds nothing, and a row with more or fewer cells is
    an error, never a shifted row. What medclf escaped for spreadsheets (see `medclf.escaping`) comes back as it was.

    Args:
        path: the file.
        delimiter: what separates the cells; where None, told by the first lines.

    Raises:
        DataError: it is missing, empty, not UTF-8 text, or a row does not fit the header.
    """
    rows: list[tuple[int, list[str]]] = []
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            lines = (line for line in file if line.strip(",; \t\r\n"))
            header, first = (_QUOTED.sub("", next(lines, "")) for _ in range(2))
            file.seek(0)
            delimiter = delimiter or max(",;\t", key=lambda mark: _times(mark, header, first))
            if found := re.fullmatch(r"sep=([,;\t])\s*", header):  # a line that Excel writes for itself
                delimiter, _ = found[1], file.readline()
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if any("\0" in cell for cell in row):
                    raise csv.Error("it holds NUL bytes")
                rows.append((reader.line_num, row))
    except OSError as error:
        if is_address(path) or isinstance(error, FileNotFoundError):
            raise DataError(*missing(path, "look for a typing mistake in its name")) from error
        reason = error.strerror or "it is a pipe, and not a file"
        raise DataError(f"{path} cannot be read: {reason}", "see that it is a file that you may read") from error
    except UnicodeError as error:
        raise DataError(f"{path} cannot be read as CSV: its text is not UTF-8", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        line = rows[-1][0] + 1 if rows else 1
        text = f"{path} cannot be read as CSV from line {line} on: {error}"
        raise DataError(text, "close each quote, write one within a quoted cell twice, and save as UTF-8") from error
    rows = [(line, row) for line, row in rows if any(map(str.strip, row))]  # spreadsheets leave rows of separators
    if not rows:
        raise DataError(f"{path} cannot be read as CSV: it is empty", "save it as UTF-8 CSV with a header line")
    rows = [(line, [from_csv_cell(cell) for cell in row]) for line, row in rows]
    names = [name.strip() for name in rows[0][1]]
    while len(names) > 1 and not names[-1]:
        names = names[:-1]
    cells = [_fitting(row, names, path, line) for line, row in rows[1:]]
    return pd.DataFrame(cells, columns=_distinct(names), dtype=object)


def _encoding(path: Path) -> str:
    """How a file's text is written: UTF-8, or UTF-16 where it says so, as Excel's "Unicode text" does.

    Raises:
        DataError: it is compressed, a spreadsheet or another file that is no text.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_PACKED):
        raise DataError(f"{path} is compressed", "unpack it, and name the CSV that it holds")
    if head.startswith(_NO_TABLE):
        what = "JSON, XML or a web page" if head[:1] in b"{[<" else "a spreadsheet or a binary table"
        raise DataError(f"{path} is {what}, not CSV", "save it as CSV, in UTF-8, and name that")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head[:1] == b"\0":  # half of a letter of two bytes
        return "utf-16-be"
    return "utf-16-le" if head[1:2] == b"\0" else "utf-8-sig"


def _times(mark: str, header: str, first: str) -> tuple[int, int]:
    """How often a separator stands in both of the first lines, and in the header, whose names may hold another one."""
    return min(header.count(mark), first.count(mark)), header.count(mark)


def _fitting(row: list[str], names: list[str], path: Path, line: int) -> list[str]:
    further = row[len(names) :]
    if len(row) < len(names) or any(cell.strip() for cell in further):
        text = f"{path.name}, line {line}: {len(row)} cells, and the header names {len(names)} columns"
        if len(names) == 1:
            raise DataError(
                text, f"the first line is taken for the header: remove it if it is none ({names[0][:60]!r})"
            )
        raise DataError(text, "put text that holds a separator into quotes, or correct the row")
    return row[: len(names)]


def _distinct(names: Sequence[Any]) -> list[Any]:
    """The names of columns, with ".1", ".2" after those that are there again."""
    seen: Counter[Any] = Counter()
    result = []
    for name in names:
        result.append(f"{name}.{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return result

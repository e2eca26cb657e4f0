"""A CSV or DataFrame of images: its cells as labels, patients and partitions, or a named error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.folders import PARTITION_NAMES
from medclf.dataset.labels import Label, is_missing
from medclf.errors import DataError, argument

BLANK = "blank label"
TRUE, FALSE = frozenset({"1", "1.0", "true"}), frozenset({"0", "0.0", "false"})
MEANT = ("path", "label", "patient", "partition")
MEASURED = ("width", "height", "sha256", "problem")  # scan finds these out by itself
NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)?(\.\d+)?([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Columns:
    """Which columns mean what."""

    path: str = "path"
    label: str | list[str] | None = "label"
    label_delim: str | None = None
    patient: str | None = None
    partition: str | None = None


def text_of(cell: object) -> str:
    """A cell as stripped text, "" for none; a whole float (pandas' int with gaps) loses its ".0".

    Example:
        >>> text_of(1.0), text_of(" polyp "), text_of(float("nan"))
        ('1', 'polyp', '')
    """
    if is_missing(cell):
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV with every cell as text: a label "NA", "None" or "001" stays what it is.

    Commas, semicolons and tabs are told apart by the header.

    Raises:
        DataError: it is missing, empty, or not UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        delimiter = max(",;\t", key=header.count)
        frame = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, UnicodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
        raise DataError(f"{path} cannot be read as CSV: {reason}", "save it as UTF-8 CSV with a header line") from error
    return frame.astype(object)


@dataclass(frozen=True)
class Sheet:
    """A frame, what errors call it, which columns mean what, and whether its cells are a CSV's text."""

    frame: pd.DataFrame
    name: str
    columns: Columns
    is_text: bool = False

    def place(self, row: int, column: str) -> str:
        """Where a cell is, for people: rows are counted from 1 below the header."""
        return f"{self.name}, row {row + 1}, column '{column}'"

    def texts(self, column: str) -> list[str]:
        """The cells of a column as text."""
        return [text_of(cell) for cell in self.frame[column]]

    def require_columns(self) -> None:
        """Raise a DataError that names the columns there are, unless all those asked for are."""
        label = self.columns.label
        wanted = {"path_col": self.columns.path, "patient_col": self.columns.patient}
        wanted |= {"partition_col": self.columns.partition}
        asked = [(name, column) for name, column in wanted.items() if column is not None]
        asked += [("label_col", column) for column in ([label] if isinstance(label, str) else label or [])]
        for name, column in asked:
            if column not in self.frame:
                present = ", ".join(f"'{other}'" for other in self.frame)
                raise DataError(
                    f"{self.name} has no column '{column}'; it has {present}",
                    f"name the right one with {argument(name, 'NAME')}",
                )

    def labels(self) -> tuple[list[Label | None], list[str], bool]:
        """Labels, problems ("" or "blank label"), and whether an image can have several labels."""
        columns = self.columns
        if isinstance(columns.label, list):
            return self._labels_from_flags(columns.label), [""] * len(self.frame), True
        cells = list(self.frame[columns.label])
        multi_label = columns.label_delim is not None or any(isinstance(cell, _SEVERAL) for cell in cells)
        labels = [_label_of(cell, columns.label_delim, multi_label) for cell in cells]
        return labels, ["" if label else BLANK for label in labels], multi_label

    def _labels_from_flags(self, columns: list[str]) -> list[Label | None]:
        """Several columns of 0 and 1; a row of zeros is legal and means no finding."""
        flags: dict[str, list[bool]] = {}
        for column in columns:
            texts = [text.lower() for text in self.texts(column)]
            for row, text in enumerate(texts):
                if text not in TRUE | FALSE:
                    raise DataError(
                        f"{self.place(row, column)}: {self.frame[column].iloc[row]!r} is neither 0 nor 1",
                        "decide what it means for this label and write 0 or 1",
                    )
            flags[column] = [text in TRUE for text in texts]
        return [tuple(column for column in columns if flags[column][row]) for row in range(len(self.frame))]

    def patients(self) -> list[str | None]:
        """The patient of each row as text; a column named "patient" need not be asked for."""
        column = self.columns.patient or ("patient" if "patient" in self.frame else None)
        return [text or None for text in self.texts(column)] if column else [None] * len(self.frame)

    def partitions(self) -> list[str | None] | None:
        """The partition of each row, or None without such a column ("partition" need not be asked for)."""
        column = self.columns.partition or ("partition" if "partition" in self.frame else None)
        if column is None:
            return None
        texts = [text.lower() for text in self.texts(column)]
        if set(texts) <= TRUE | FALSE:  # fastai's is_valid
            return ["valid" if text in TRUE else "train" for text in texts]
        for row, text in enumerate(texts):
            if text and text not in PARTITION_NAMES:
                raise DataError(
                    f"{self.place(row, column)}: '{text}' is no partition",
                    f"write one of {', '.join(PARTITION_NAMES)}, or leave it blank",
                )
        return [PARTITION_NAMES.get(text) for text in texts]

    def extra(self) -> pd.DataFrame:
        """The columns without a meaning here (sex, view, group, ...); of a CSV, numbers where all are."""
        used = self._used() | {*MEANT, *MEASURED}
        extra = self.frame[[column for column in self.frame if column not in used]].reset_index(drop=True)
        if self.is_text:
            for column in extra:
                extra[column] = _typed([text_of(cell) for cell in extra[column]])
        return extra

    def set_aside(self) -> list[str]:
        """Columns that cannot be kept, since the table has one of that name with another content."""
        return [column for column in self.frame if column in MEANT and column not in self._used()]

    def _used(self) -> set[str]:
        columns = self.columns
        used = {columns.path, columns.patient or "patient", columns.partition or "partition"}
        return used | ({columns.label} if isinstance(columns.label, str) else set(columns.label or []))


_SEVERAL = (tuple, list, set, frozenset)


def _label_of(cell: Any, delimiter: str | None, multi_label: bool) -> Label | None:
    """The label of a cell, or None where it, or one of several in it, is blank."""
    if not multi_label:
        return text_of(cell) or None
    parts = sorted(cell) if isinstance(cell, (set, frozenset)) else cell
    if not isinstance(cell, _SEVERAL):
        parts = text_of(cell).split(delimiter) if delimiter else [cell]
    labels = tuple(dict.fromkeys(text_of(part) for part in parts))
    return labels if labels and all(labels) else None


def _typed(texts: list[str]) -> pd.Series:
    if all(NUMBER.fullmatch(text) and text[-1:] not in "+-." for text in texts if text) and any(texts):
        return pd.to_numeric(pd.Series(texts, dtype=object).replace("", None))
    return pd.Series([text or None for text in texts], dtype=object)

"""A cell of a table as text, as a label or several, as a number."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.labels import FLOATS, NO_FINDING, Label, is_missing

NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d+)?|\.\d+)([eE][-+]?\d+)?")
SEVERAL = (tuple, list, set, frozenset, np.ndarray)  # as which a cell holds several labels


def text_of(cell: object) -> str:
    """A cell as stripped text, "" for none; a whole float (pandas' int with gaps) loses its ".0", bytes are UTF-8.

    Example:
        >>> text_of(1.0), text_of(" polyp "), text_of(float("nan"))
        ('1', 'polyp', '')
    """
    if is_missing(cell):
        return ""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    return str(int(cell)) if isinstance(cell, FLOATS) and cell.is_integer() else str(cell).strip()


def label_text(cell: object) -> str:
    """A label as text in Unicode's composed form, so that a name copied from a Mac is the same label."""
    return unicodedata.normalize("NFC", text_of(cell))


def label_in(cell: Any, delimiter: str | None, multi_label: bool) -> Label | None:
    """The label of a cell; None where it, or one of several in it, is blank; an empty list is no finding."""
    if not multi_label:
        return label_text(cell) or None
    if isinstance(cell, SEVERAL):
        parts = sorted(cell) if isinstance(cell, (set, frozenset)) else list(cell)
    else:
        parts = text_of(cell).split(delimiter) if delimiter else [cell]
        if len(parts) == 1 and text_of(parts[0]).lower() == NO_FINDING:
            return ()
    labels = tuple(dict.fromkeys(label_text(part) for part in parts))
    return labels if all(labels) else None


def typed(texts: list[str]) -> pd.Series:
    """A column of text as numbers where all cells are, None where a cell is empty."""
    if all(NUMBER.fullmatch(text) for text in texts if text) and any(texts):
        return pd.to_numeric(pd.Series(texts, dtype=object).replace("", None))
    return pd.Series([text or None for text in texts], dtype=object)


def is_vector(cell: Any) -> bool:
    """Whether a cell is several numbers that are all 0 or 1."""
    several = isinstance(cell, (tuple, list, np.ndarray)) and len(cell) > 1
    return several and all(not isinstance(one, str) and np.ndim(one) == 0 and one in (0, 1) for one in cell)

"""Text from data made harmless where people look at it: on a terminal, and in a spreadsheet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # what a spreadsheet runs, or hides, and what was escaped already
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_CODED = "'\\"  # begins a cell whose control characters are written as \xNN


def printable(text: object) -> str:
    r"""One line for a terminal: control characters, line breaks and changes of direction are shown, not obeyed.

    Example:
        >>> print(printable("scan\x1b[2J.png\nother.png: polyp"))
        scan\x1b[2J.png\nother.png: polyp
    """
    return _CONTROL.sub(_coded, str(text))


def csv_cell(text: str) -> str:
    r"""A cell that a spreadsheet takes for text; `from_csv_cell` gives the text back.

    A cell that begins with =, +, -, @ (their wide forms too), a tab or a line break gets a ' before it, as OWASP's page
    on CSV injection has it; numbers stay. Control characters are written as \xNN.

    Example:
        >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("polyp"), csv_cell("a\x1bb")
        ("'=1+1", '-0.5', 'polyp', "'\\a\\x1bb")
    """
    if not text or _NUMBER.fullmatch(text):
        return text
    inner = text.replace("\n", "").replace("\t", "")
    if _CONTROL.search(inner) or text.lstrip("'").startswith("\\"):
        return _CODED + _CONTROL.sub(_coded, text.replace("\\", "\\\\"))
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` was given.

    Example:
        >>> from_csv_cell("'=1+1"), from_csv_cell("'quoted'")
        ('=1+1', "'quoted'")
    """
    if cell.startswith(_CODED):
        return re.sub(r"\\(\\|n|t|x[0-9a-f]{2}|u[0-9a-f]{4})", _decoded, cell[len(_CODED) :])
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def for_csv(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every text, the columns' names too, as `csv_cell` writes it."""
    result = frame.set_axis(range(frame.shape[1]), axis=1)
    for n, kind in enumerate(frame.dtypes):
        if kind.kind not in "biufc":
            result[n] = result[n].astype(object).map(csv_value)
    return result.set_axis([csv_value(name) for name in frame.columns], axis=1)


def csv_value(value: object) -> object:
    """`csv_cell` of a text; anything else as it is."""
    return csv_cell(value) if isinstance(value, str) else value


def _coded(found: re.Match[str]) -> str:
    code = ord(found[0])
    return {10: r"\n", 9: r"\t"}.get(code) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _decoded(found: re.Match[str]) -> str:
    word = found[1]
    return {"\\": "\\", "n": "\n", "t": "\t"}.get(word) or chr(int(word[1:], 16))

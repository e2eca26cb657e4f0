import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclf.escaping import csv_cell, for_csv, from_csv_cell, printable

CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.text("'\\=+-@＝＠\t\r\n\x1b\x00xn0", max_size=8)


@settings(deadline=None)
@given(CELLS)
def test_every_text_comes_back_and_none_is_a_formula(text):
    cell = csv_cell(text)
    assert from_csv_cell(cell) == text
    assert not cell.startswith(("=", "@", "\t", "\r", "\n", "＝", "＠"))
    assert not cell.startswith(("+", "-")) or float(cell) is not None  # a plain number
    assert not set(cell) & {"\x1b", "\x00", "\r", "\x9b"}


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_a_file_of_them_comes_back(rows):
    text = for_csv(pd.DataFrame(rows, columns=["=a", "b"])).to_csv(index=False)
    header, *found = csv.reader(io.StringIO(text, newline=""))
    assert header == ["'=a", "b"]
    assert [tuple(map(from_csv_cell, row)) for row in found] == rows


def test_numbers_stay_numbers():
    frame = pd.DataFrame({"p": [-0.5, 1.0], "n": [-3, 4], "text": ["-3", "-3a"]})
    assert for_csv(frame).to_dict("list") == {"p": [-0.5, 1.0], "n": [-3, 4], "text": ["-3", "'-3a"]}


@pytest.mark.parametrize(
    "evil", ["a\nb", "\x1b]0;title\x07", "a\rb", "\x9b2J", "\u202egnp.exe", "\u2028x", "\x7f", "\u200fx"]
)
def test_a_terminal_gets_one_line_without_commands(evil):
    shown = printable(f"file {evil} read")
    assert shown.isprintable() and len(shown.splitlines()) == 1

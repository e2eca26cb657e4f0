"""What fastai's arguments of its factories make of a source."""

import csv

import pytest

from medclf.errors import DataError
from medclf.learn.sources import read_table


def test_a_separator_at_the_end_of_rows_shifts_no_column_where_it_is_named(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("path|label\n1.png|a|\n2.png|b|\n")
    frame = read_table(file, "infer", "|", csv.QUOTE_MINIMAL)
    assert frame.to_dict("list") == {"path": ["1.png", "2.png"], "label": ["a", "b"]}


@pytest.mark.parametrize("told", [("infer", ";", csv.QUOTE_MINIMAL), ("infer", ";", csv.QUOTE_NONE), (None, ";", 0)])
def test_cells_beyond_the_header_are_refused(tmp_path, told):
    file = tmp_path / "t.csv"
    file.write_text("path;label\n1.png;a;c\n2.png;b;d\n")
    with pytest.raises(DataError):
        read_table(file, *told)

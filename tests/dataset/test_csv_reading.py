"""CSVs as people write them."""

import os
from pathlib import Path

import pytest

from medclf.dataset.csv_reading import read_csv
from medclf.errors import DataError


def test_rows_of_separators_alone_are_no_rows(csv_of):
    assert read_csv(csv_of("path,label\n1.png,a\n,\n , \n2.png,b\n,\n"))["path"].tolist() == ["1.png", "2.png"]


@pytest.mark.parametrize("ends", ["", ",", ",,"], ids=["none", "one", "two"])
@pytest.mark.parametrize("header", ["", ","], ids=["", "header too"])
def test_a_separator_at_the_end_of_rows_shifts_nothing(csv_of, ends, header):
    frame = read_csv(csv_of(f"front,side,label{header}\na.png,b.png,ill{ends}\nc.png,d.png,well\n"))
    assert list(frame) == ["front", "side", "label"]
    assert frame.to_numpy().tolist() == [["a.png", "b.png", "ill"], ["c.png", "d.png", "well"]]


def test_a_row_that_does_not_fit_is_named(csv_of):
    with pytest.raises(DataError, match="line 3: 4 cells, and the header names 3"):
        read_csv(csv_of("path,label,note\n1.png,a,x\n2.png,b,small, flat\n"))
    with pytest.raises(DataError, match="line 2: 1 cells"):
        read_csv(csv_of("path;label\n1.png\n"))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_within_quotes_do_not_count(csv_of, mark):
    quoted = mark.join(["path", '"label, of; all, kinds"'])
    frame = read_csv(csv_of(f'{quoted}\n1.png{mark}"a{mark}b"\n'))
    assert frame.to_numpy().tolist() == [["1.png", f"a{mark}b"]] and list(frame) == ["path", "label, of; all, kinds"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_separators_in_names_without_quotes_do_not_count(csv_of, mark):
    """A table of tabs whose header held as many commas was read as comma-separated."""
    others = "".join({",", ";", "\t"} - {mark})
    frame = read_csv(csv_of(f"\n\npath{mark}a{others * 2}b\n1.png{mark}x\n"))
    assert list(frame) == ["path", f"a{others * 2}b"] and frame.to_numpy().tolist() == [["1.png", "x"]]


def test_texts_that_pandas_takes_for_missing_stay(csv_of):
    words = ["None", "NA", "N/A", "n/a", "null", "NULL", "nan", "NaN", "", "001", "1e3"]
    assert list(read_csv(csv_of("label,x\n" + "".join(f"{word},1\n" for word in words)))["label"]) == words


def test_a_line_break_in_a_cell_and_a_byte_order_mark(csv_of):
    frame = read_csv(csv_of('path,note\n1.png,"two\nlines"\n\n2.png,\n', "utf-8-sig"))
    assert frame.to_numpy().tolist() == [["1.png", "two\nlines"], ["2.png", ""]]


@pytest.mark.parametrize(
    "content, said", [(b"", "empty"), (b"a,b\n\xff\xfe,1\n", "UTF-8"), (b'a,b\n"x' + b"y" * 200_000, "field")]
)
def test_what_is_no_csv_is_refused(tmp_path, content, said):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_csv(tmp_path / "t.csv")


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(DataError) as error:
        read_csv(tmp_path / "lables.csv")
    assert "lables.csv does not exist" in str(error.value) and "UTF-8" not in str(error.value)


def test_the_line_that_excel_writes_before_the_header_is_no_header(csv_of):
    frame = read_csv(csv_of("sep=;\npath;label\n1.png;a,b\n"))
    assert list(frame) == ["path", "label"] and frame.to_numpy().tolist() == [["1.png", "a,b"]]


def test_spaces_around_a_columns_name_are_none_of_it(csv_of):
    assert list(read_csv(csv_of("path , label\n1.png,a\n"))) == ["path", "label"]


@pytest.mark.parametrize("rows", ['1.png,a,"x\n2.png,b,y\n', '1.png,a,"x\n2.png,b,"y\n3.png,b,z\n'])
def test_a_quote_that_swallows_rows_is_refused(csv_of, rows):
    with pytest.raises(DataError, match=r"cannot be read as CSV from line 2 on: .*\n.*close each quote"):
        read_csv(csv_of("path,label,note\n" + rows))


def test_nul_bytes_are_no_part_of_a_label(csv_of):
    with pytest.raises(DataError, match="from line 3 on: it holds NUL bytes"):
        read_csv(csv_of("path,label\n1.png,a\n2.png,a\0\n"))


def test_text_in_utf_16_is_read_and_a_spreadsheet_is_named(csv_of, tmp_path):
    for how in ("utf-16", "utf-16-le", "utf-16-be"):  # the last two without a byte order mark
        assert read_csv(csv_of("path\tlabel\n1.png\tbénin\n", how))["label"].tolist() == ["bénin"]
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(DataError, match=r"spreadsheet.*\n.*save it as CSV"):
        read_csv(tmp_path / "t.xlsx")


def test_what_stands_above_the_header_is_quoted(csv_of):
    with pytest.raises(DataError, match=r"line 2: 2 cells.*\n.*remove it if it is none \('# of 2026'\)"):
        read_csv(csv_of("# of 2026\npath,label\n1.png,a\n"))


@pytest.mark.parametrize("text", ['[{"path": "1.png"}]', '{"1.png": "a"}', "<html><body>"])
def test_json_and_web_pages_are_called_what_they_are(csv_of, text):
    with pytest.raises(DataError, match=r"is JSON, XML or a web page, not CSV\n.*save it as CSV"):
        read_csv(csv_of(text))


def test_a_pipe_is_called_one():
    """As a shell's <(...) is, which can be read once."""
    reading, writing = os.pipe()
    os.write(writing, b"path,label\na.png,x\n" * 1000)
    os.close(writing)
    with os.fdopen(reading), pytest.raises(DataError, match="cannot be read: it is a pipe, and not a file"):
        read_csv(Path(f"/dev/fd/{reading}"))

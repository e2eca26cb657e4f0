"""What fastai's arguments of its factories make of a source."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from medclf.errors import DataError, MedclfError
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.image_block import MedImageBlock
from medclf.learn.sources import read_table, table_of


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


@pytest.mark.parametrize("flags", [[True, False, False], [1, 0, 0], ["True", "False", "False"]])
@pytest.mark.parametrize("name", ["held", "split"])
def test_true_in_a_valid_col_is_validation_whatever_its_name(flags, name):
    df = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "label": ["x", "y", "x"], name: flags})
    told, columns = table_of(df, "path", "label", name, "", by_position=False)
    assert columns["partition_col"] == name
    assert list(told[name]) == ["valid", "train", "train"]
    kept, _ = table_of(df.rename(columns={name: "is_test"}), "path", "label", "is_test", "", by_position=False)
    assert list(kept["is_test"]) == flags


def fails(name):
    return name.split("-")[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda files: MedDataLoaders.from_name_func(".", files, fails), r"a_1\.png: the function.*IndexError"),
        (lambda files: MedDataLoaders.from_name_re(".", files, "("), "is no regular expression"),
        (lambda files: MedDataLoaders.from_df([{"path": "a.png", "label": "a"}]), "is a list, and not a DataFrame"),
        (lambda files: MedDataLoaders.from_lists(".", iter(files), iter("a")), "2 paths but 1 labels"),
        (lambda files: MedImageBlock(channels=5), "channels=5"),
    ],
)
def test_what_no_loaders_can_be_made_of_is_named(make, said):
    with pytest.raises(MedclfError, match=said) as refused:
        make([Path("a_1.png"), Path("b_2.png")])
    assert refused.value.remedy


def test_a_table_without_a_header_needs_no_delimiter(tmp_path):
    (tmp_path / "t.csv").write_text("1.png,a\n2.png,b\n")
    frame = read_table(tmp_path / "t.csv", None, None, csv.QUOTE_MINIMAL)
    assert frame.to_dict("list") == {"0": ["1.png", "2.png"], "1": ["a", "b"]}


def test_a_valid_col_without_validation_is_refused():
    with pytest.raises(DataError, match="no row of the column 'held' is for validation"):
        table_of(pd.DataFrame({"path": ["a"], "held": [False]}), "path", "label", "held", "", by_position=False)


def test_files_that_are_listed_from_the_current_folder_are_taken_as_they_are(make_images, monkeypatch, recwarn):
    root = make_images(*(f"{label}/{n}.png" for label in "ab" for n in range(6)))
    monkeypatch.chdir(root.parent)
    files = sorted(Path(root.name).rglob("*.png"))
    dls = MedDataLoaders.from_path_func(root.name, files, lambda file: file.parent.name, size=32, split="stratified")
    assert sorted(dls.table["path"]) == sorted(file.relative_to(root.name).as_posix() for file in files)
    assert not any("were found as others" in str(one.message) for one in recwarn)


def test_a_list_of_one_column_is_that_column():
    _, columns = table_of(pd.DataFrame({"file": ["a.png"], "y": ["b"]}), ["file"], [1], None, "", by_position=True)
    assert columns == {"path_col": "file", "label_col": "y"}


def test_paths_in_the_index_are_not_looked_for_among_the_labels(tmp_path):
    frame = pd.DataFrame({"label": ["a", "b"]}, index=pd.Index(["1.png", "2.png"], name="path"))
    with pytest.raises(DataError, match="is taken for the paths and for the labels") as caught:
        MedDataLoaders.from_df(frame, tmp_path, size=32)
    assert "reset_index()" in caught.value.remedy

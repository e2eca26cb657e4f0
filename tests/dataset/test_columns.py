import unicodedata

import numpy as np
import pandas as pd
import pytest

from medclf.dataset.cells import text_of
from medclf.dataset.columns import Columns, Sheet
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.scan import scan
from medclf.errors import DataError, in_shell


def sheet(*, is_text=True, columns=None, **cells) -> Sheet:
    return Sheet(pd.DataFrame(cells, dtype=object), "t.csv", Columns(**(columns or {})), is_text)


def test_columns_of_one_name(csv_of):
    frame = read_csv(csv_of("path,label,sex,sex\n1.png,a,F,M\n"))
    assert list(frame) == ["path", "label", "sex", "sex.1"]
    twice = read_csv(csv_of("path,label,label\n1.png,a,b\n"))
    with pytest.raises(DataError, match="several columns 'label'"):
        Sheet(twice, "t.csv", Columns(), True).require_columns()
    frame = pd.DataFrame([["1.png", "a", "b"]], columns=["path", "label", "label"])
    with pytest.raises(DataError, match="several columns 'label'"):
        Sheet(frame, "the DataFrame", Columns()).require_columns()


def test_a_list_of_columns_in_one_text_is_told_as_several_columns():
    with pytest.raises(DataError) as error:
        sheet(path=["1.png"], mel=["1"], nv=["0"], columns={"label": "mel, nv"}).require_columns()
    assert error.value.remedy == "name several columns with label_col=['mel', 'nv']"
    with in_shell(), pytest.raises(DataError) as error:
        sheet(path=["1.png"], mel=["1"], nv=["0"], columns={"label": "mel, nv"}).require_columns()
    assert error.value.remedy == "name several columns with --label-col mel --label-col nv"


def test_labels_of_folders_are_offered_where_no_column_was_named():
    for label, offered in (("label", True), ("Label", False)):
        with pytest.raises(DataError) as error:
            sheet(path=["1.png"], who=["p"], columns={"label": label}).require_columns()
        assert ("take the folders' names with label_from_parent=1" in error.value.remedy) == offered


def test_a_column_that_is_the_index_is_told():
    frame = pd.DataFrame({"any": [0, 1]}, index=pd.Index(["1.png", "2.png"], name="image"))
    with pytest.raises(DataError, match=r"no column 'image'.*\nits index is called so: .* reset_index"):
        Sheet(frame, "the DataFrame", Columns("image", ["any"])).require_columns()


def test_of_a_table_of_pixels_not_all_columns_are_listed():
    pixels = {f"pixel{n}": ["0"] for n in range(784)}
    with pytest.raises(DataError, match=r"it has 'pixel0', .*'pixel39', and 744 more\n") as error:
        sheet(**pixels, columns={"label": None}).require_columns()
    assert "pixel40'" not in error.value.message


# ---- labels


def test_one_label_in_two_encodings_is_one():
    composed, apart = (unicodedata.normalize(form, "bénin") for form in ("NFC", "NFD"))
    assert sheet(label=[composed, apart]).labels()[0] == [composed] * 2


@pytest.mark.parametrize(
    "cells, wanted",
    [
        ([["a b", "c"], "polyp", []], [("a b", "c"), ("polyp",), ()]),
        ([np.array(["x", "y"]), np.array([]), ["x"]], [("x", "y"), (), ("x",)]),
        ([[1, 2], (3,), {4}], [("1", "2"), ("3",), ("4",)]),
        (["['a', 'b']", "[]", '["c"]'], [("a", "b"), (), ("c",)]),
        ([["a"], None, ["b"]], [("a",), None, ("b",)]),
    ],
    ids=["text among lists", "arrays", "numbers", "lists as text", "unknown"],
)
def test_lists_are_several_labels(cells, wanted):
    table = Sheet(pd.DataFrame({"label": pd.Series(cells, dtype=object)}), "t.csv", Columns())
    labels, problems, _, multi_label = table.labels()
    assert labels == wanted and multi_label
    assert [bool(problem) for problem in problems] == [label is None for label in wanted]


def test_no_finding_and_no_label_are_two_cells():
    labels, problems, _, _ = sheet(label=["a|b", "(none)", ""], columns={"label_delim": "|"}).labels()
    assert labels == [("a", "b"), (), None] and problems == ["", "", "blank label"]


CHEXPERT = {"edema": ["1", "-1", "", "0"], "mass": ["0", "0", "1", "-1.0"]}


@pytest.mark.parametrize(
    "uncertain, blank, labels, unknown, left_out",
    [
        ("positive", "negative", [("edema",), ("edema",), ("mass",), ("mass",)], [(), (), (), ()], []),
        ("negative", "negative", [("edema",), (), ("mass",), ()], [(), (), (), ()], []),
        ("unknown", "unknown", [("edema",), (), ("mass",), ()], [(), ("edema",), ("edema",), ("mass",)], []),
        ("exclude", "negative", [("edema",), (), ("mass",), ()], [(), (), (), ()], [1, 3]),
    ],
)
def test_uncertain_and_blank_cells_count_as_told(uncertain, blank, labels, unknown, left_out):
    table = sheet(**CHEXPERT, columns={"label": ["edema", "mass"], "uncertain": uncertain, "blank": blank})
    found, problems, open_, multi_label = table.labels()
    assert (found, open_, multi_label) == (labels, unknown, True)
    assert [row for row, problem in enumerate(problems) if problem] == left_out
    assert "1 blank cells of column 'edema'" in " ".join(table.notes)


def test_uncertain_cells_are_refused_with_the_option_that_reads_them():
    with pytest.raises(DataError, match=r"row 2, column 'edema': '-1'.*\n.*uncertain"):
        sheet(**CHEXPERT, columns={"label": ["edema", "mass"]}).labels()
    with pytest.raises(DataError, match=r"row 3, column 'edema': a blank cell.*\n.*blank"):
        sheet(**CHEXPERT, columns={"label": ["edema", "mass"], "uncertain": "unknown"}).labels()


def test_what_uncertain_cells_of_one_column_count_as():
    edema = {"edema": CHEXPERT["edema"]}
    table = sheet(**edema, columns={"label": "edema", "uncertain": "positive", "blank": "exclude"})
    labels, problems, _, multi_label = table.labels()
    assert not multi_label and set(labels) == {"0", "1", None}
    assert [labels[row] for row, cell in enumerate(CHEXPERT["edema"]) if cell in ("-1", "")] == ["1", None]
    assert problems.count("uncertain: edema") == 1 and len(table.notes) == 2
    with pytest.raises(DataError, match="row 1, column 'label': 'polyp' is neither 0 nor 1"):
        sheet(label=["polyp"], columns={"blank": "negative"}).labels()


@pytest.mark.parametrize(
    "columns",
    [{"exclusive": True}, {"label_delim": "|", "blank": "negative"}, {"label": ["a", "label"], "label_delim": "|"}],
)
def test_options_that_say_nothing_of_the_columns_are_refused(columns):
    with pytest.raises(DataError, match="leave one of them out"):
        sheet(label=["1", "0"], a=["0", "1"], columns=columns).labels()


def test_nothing_separates_no_labels():
    with pytest.raises(DataError, match="label_delim is empty"):
        sheet(label=["ab", "b"], columns={"label_delim": ""}).labels()


def test_an_image_that_nobody_read_has_no_label_known():
    table = sheet(a=["", "0"], b=["", "0"], columns={"label": ["a", "b"], "blank": "unknown"})
    assert table.labels()[0] == [None, ()]


def test_columns_that_exclude_each_other_are_one_label():
    columns = {"label": ["mel", "nv"], "exclusive": True}
    labels, problems, _, multi_label = sheet(
        mel=["1", "0", "1", "0"], nv=["0", "1", "1", "0"], columns=columns
    ).labels()
    assert labels == ["mel", "nv", None, None] and not multi_label
    assert problems == ["", "", "2 classes are 1 (mel, nv)", "no class is 1"]


def test_a_column_without_a_1_and_classes_that_exclude_each_other_are_told():
    table = sheet(a=list("110"), b=list("001"), c=list("000"), columns={"label": ["a", "b", "c"]})
    table.labels()
    assert any("'c'" in note and "no 1" in note for note in table.notes)
    assert any("exclusive" in note for note in table.notes)


# ---- patients


def test_texts_for_missing_are_no_patient():
    table = sheet(patient=["nan", "None", "NA", "<NA>", "null", "N/A", " ", "unknown", "p1"])
    assert table.patients() == [None] * 8 + ["p1"]
    assert "'nan' (1 image)" in table.notes[0]


def test_one_patient_in_several_spellings():
    assert sheet(patient=["7", "7,0", "7,5", "7,000"]).patients() == ["7", "7", "7,5", "7,000"]
    table = sheet(patient=["7", "7.0", " 7", "007", "70", "P7"])
    assert table.patients() == ["7", "7", "7", "7", "70", "P7"]
    assert "'007' and '7' and '7.0'" in table.notes[0]
    assert sheet(patient=["007", "008"]).patients() == ["007", "008"]


# ---- columns of the user's


def test_a_column_that_tells_the_partition_is_named():
    table = sheet(path=["1", "2"], label=["a", "b"], split=["train", "test"], view=["AP", "PA"])
    assert table.partitions([None, None]) == [None, None]
    assert len(table.notes) == 1 and "partition_col" in table.notes[0] and "train 1, test 1" in table.notes[0]
    table = sheet(path=["1", "2"], label=["a", "b"], usage=["Training", "PublicTest"], where=["dev", "testing"])
    table.partitions([None, None])
    assert any("'where'" in note for note in table.notes)  # by content


def test_a_column_that_says_what_the_folders_say_is_no_news():
    table = sheet(path=["1", "2"], label=["a", "b"], split=["train", "test"])
    assert table.partitions(["train", "test"]) == ["train", "test"] and not table.notes


def test_partitions_in_usual_words():
    table = sheet(path=list("12345"), partition=["Training", "val", "DEV", "tst", "nan"])
    assert table.partitions([None] * 5) == ["train", "valid", "valid", "test", None]


@pytest.mark.parametrize("asked", [("patient",), ("patient", "partition"), ("partition",)])
def test_a_column_of_labels_is_none_of_patients_or_partitions_by_its_name(asked):
    """Labels patient and control were taken for two patients."""
    table = sheet(columns={"label": list(asked)}, path=["1", "2"], patient=["1", "0"], partition=["0", "1"])
    assert (table.patients() == [None, None]) == ("patient" in asked)
    if "partition" in asked:
        assert table.partitions([None, "test"]) == [None, "test"]
    else:
        with pytest.raises(DataError, match="column 'partition'"):
            table.partitions([None, "test"])


def test_columns_that_medclf_writes_itself_are_kept_by_another_name():
    table = sheet(path=["1"], label=["a"], unknown=["x"], prob_a=["0.5"], sex=["F"], loss=["2"])
    extra = table.extra()
    assert sorted(extra) == ["loss_given", "prob_a_given", "sex", "unknown_given"]
    assert len(table.notes) == 3
    twice = sheet(path=["1"], label=["a"], loss=["2"], loss_given=["3"], frame_number=["7"]).extra().iloc[0].to_dict()
    assert twice == {"loss_given_given": 2, "loss_given": 3, "frame_number_given": 7}


def test_rows_are_chosen_by_a_column():
    table = sheet(path=list("1234"), view=["PA", "AP", "PA", "LL"], age=["5", "6", "7", "8"])
    assert list(table.where(["view=PA"]).frame["path"]) == list(table.where(["view==PA"]).frame["path"]) == ["1", "3"]
    assert list(table.where(["view=PA", "view=AP", "age!=5"]).frame["path"]) == ["2", "3"]
    with pytest.raises(DataError, match="no column"):
        table.where(["veiw=PA"])
    with pytest.raises(DataError, match="'view' has 'AP', 'LL', 'PA'"):
        table.where(["view=pa"])


# ---- cells of other kinds


@pytest.mark.parametrize(
    "cells",
    [np.array([1, np.nan, 0], np.float32), pd.array([1, None, 0], dtype="Int64"), [b"1", None, b"0"], ["1", "", "0 "]],
    ids=["float32", "Int64", "bytes", "text"],
)
def test_one_label_whatever_holds_it(cells):
    table = Sheet(pd.DataFrame({"label": cells}), "frame", Columns())
    assert table.labels()[0] == ["1", None, "0"]


@pytest.mark.parametrize(
    ("column", "one", "zero"),
    [
        ("is_valid", "valid", "train"),
        ("is_test", "test", "train"),
        ("IsTrain", "train", "valid"),
        ("val", "valid", "train"),
    ],
)
def test_what_0_and_1_mean_is_told_by_the_columns_name(column, one, zero):
    table = sheet(**{column: ["1", "0", "1.0"]}, columns={"partition": column})
    assert table.partitions([None] * 3) == [one, zero, one]
    assert len(table.notes) == (one != "valid")


def test_0_and_1_of_a_column_that_says_nothing_are_refused():
    with pytest.raises(DataError, match=r"'split'.*0 and 1"):
        sheet(split=["0", "1"], columns={"partition": "split"}).partitions([None] * 2)


def test_patients_that_may_be_one_or_several_are_told():
    table = sheet(patient=["P1", "p-1", "P2", "1.23457E+15", "Anonymous", "#N/A"])
    assert table.patients() == ["P1", "p-1", "P2", "1.23457E+15", None, None]
    said = "\n".join(table.notes)
    assert "'P1' and 'p-1'" in said and "P2" not in said and "1.23457E+15" in said and "'Anonymous' (1 image)" in said


def test_lists_are_no_texts_and_flags_of_a_partition_are_told_though_unasked():
    table = sheet(label=[["a"], ["a", "b"]])
    assert table.labels()[0] == [("a",), ("a", "b")] and not table.notes
    table = sheet(path=["1", "2"], label=["a", "b"], is_test=["0", "1"])
    assert table.partitions([None, None]) == [None, None]
    assert "partition_col" in table.notes[0] and "'is_test'" in table.notes[0]


@pytest.mark.parametrize(
    "cells", [["['a' 'b']", "['a'\n 'b']"], ["('a', 'b')", "('b',)", "()"], ["{'b', 'a'}", "set()"]]
)
def test_lists_are_read_as_python_and_numpy_write_them(cells):
    """NumPy's lists of several became one label, joined without a sign; tuples and sets became labels as they stand."""
    table = sheet(label=cells)
    assert table.labels()[0] == [tuple(one for one in "ab" if f"'{one}'" in cell) for cell in cells]
    assert "lists written as text" in table.notes[0]


def test_labels_in_brackets_alone_are_no_lists():
    assert sheet(label=["(benign)", "()", "a"]).labels()[0] == ["(benign)", "()", "a"]


def test_a_cell_that_cannot_be_read_among_lists_is_named():
    with pytest.raises(DataError, match=r"row 2, column 'label': .* is a list that cannot be read"):
        sheet(label=["['a', 'b']", "['a', nan]"]).labels()


def test_a_label_column_that_is_no_name_is_refused():
    frame = pd.DataFrame({"path": ["1.png"], 1: ["a"]})
    with pytest.raises(DataError, match="label_col must be the name of a column"):
        Sheet(frame, "t", Columns("path", 1)).require_columns()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("img/1.png,a\nimg/2.png,b\n", "write a header line"),
        ("path label\n1.png a\n", "separate its columns"),
        ("path|label\n1.png|a\n", "separate its columns"),
        ("file,label\n1.png,a\n", "path_col"),
    ],
)
def test_a_missing_column_is_explained(csv_of, text, remedy):
    with pytest.raises(DataError, match="has no column 'path'") as error:
        Sheet(read_csv(csv_of(text)), "t.csv", Columns()).require_columns()
    assert remedy in error.value.remedy


def test_a_partition_that_contradicts_the_folder_is_told():
    said = sheet(path=["1.png", "2.png", "3.png"], partition=["test", "train", ""])
    assert said.partitions(["train", "train", "test"]) == ["test", "train", None]
    assert any("puts 1 images into another partition" in note for note in said.notes)


def test_vectors_of_0_and_1_are_no_names():
    with pytest.raises(DataError, match=r"vectors of 0 and 1.*\n.*label_col"):
        sheet(label=[[0, 1, 0], np.array([1, 0, 0])]).labels()
    assert sheet(label=[[0], [1, 2]]).labels()[0] == [("0",), ("1", "2")]


def test_names_of_files_are_no_labels():
    with pytest.raises(DataError, match=r"column 'label' of .* holds names of image files, not labels\n.*label_col"):
        sheet(label=["a/1.png", "b/2.JPG"]).labels()
    assert sheet(label=["a.png", "b"]).labels()[0] == ["a.png", "b"]


def test_no_finding_is_read_in_any_case():
    assert sheet(label=["(None)", "a"], columns={"label_delim": "|"}).labels()[0] == [(), ("a",)]


def test_a_column_without_a_0_or_named_twice_is_told():
    table = sheet(a=list("101"), b=list("111"), columns={"label": ["a", "b"]})
    table.labels()
    assert any("'b'" in note and "no 0" in note for note in table.notes)
    with pytest.raises(DataError, match="names 'a' twice"):
        sheet(path=["1"], a=["1"], columns={"label": ["a", "a"]}).require_columns()


@pytest.mark.parametrize("column", ["kfold", "cv_fold", "fold_id", "fold 1"])
def test_folds_by_other_names_are_told(column):
    table = sheet(path=["1", "2"], label=["a", "b"], **{column: ["0", "3"]})
    table.partitions([None, None])
    assert any(f"'{column}'" in note and "folds" in note for note in table.notes)


def test_blank_cells_among_several_labels_come_with_their_remedy():
    table = sheet(label=["a|b", "", "a|"], columns={"label_delim": "|"})
    assert table.labels()[0] == [("a", "b"), None, None]
    assert any("2 cells" in note and "write (none)" in note for note in table.notes)


def test_each_cell_of_a_flag_is_read_a_few_times_only(monkeypatch):
    """CheXpert has 200,000 rows: each uncertain cell had its whole column read again."""
    read = []
    monkeypatch.setattr("medclf.dataset.columns.text_of", lambda cell: read.append(cell) or text_of(cell))
    table = sheet(
        edema=["-1", "1", "", "0"] * 100, columns={"label": ["edema"], "uncertain": "unknown", "blank": "unknown"}
    )
    assert table.labels()[2] == [("edema",), (), ("edema",), ()] * 100
    assert len(read) <= 2 * 400


def test_a_blank_among_flags_of_a_partition_is_named():
    with pytest.raises(DataError, match=r"row 2, column 'is_valid' is blank"):
        sheet(is_valid=["1", "", "0"], columns={"partition": "is_valid"}).partitions([None] * 3)


def test_arrays_and_tensors_of_one_number_are_that_number():
    torch = pytest.importorskip("torch")
    assert sheet(label=[torch.tensor(1), np.array(1.0), np.float32(0.1)]).labels()[0] == ["1", "1", "0.1"]


def test_a_column_that_is_nearly_called_so_is_suggested():
    frame = pd.DataFrame({"Path": ["1.png"], "label": ["a"]})
    with pytest.raises(DataError, match=r"did you mean 'Path'\? name the right one with path_col"):
        Sheet(frame, "t", Columns()).require_columns()


def test_one_column_is_not_both_path_and_label(make_images):
    root = make_images("a/1.png", "b/2.png")
    frame = pd.DataFrame({"path": ["a/1.png", "b/2.png"], "label": ["a", "b"]})
    with pytest.raises(DataError, match="'label' of the DataFrame is taken for the paths and for the labels"):
        scan(frame, root=root, path_col="label")

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclf.dataset.choice import choose, conditions, merges_in
from medclf.dataset.sources import Rows
from medclf.errors import DataError, in_shell


def rows_of(labels, *, several=False, patients=None, partitions=None, unknown=None, read_for=()) -> Rows:
    n = len(labels)
    return Rows(
        root=Path(),
        path=[f"{row:03d}.png" for row in range(n)],
        label=list(labels),
        patient=patients or [None] * n,
        partition=partitions or [None] * n,
        problem=[""] * n,
        extra=pd.DataFrame({"place": range(n)}),
        multi_label=several,
        unknown=unknown,
        read_for=list(read_for),
    )


def test_labels_become_one():
    rows = rows_of(["mel", "bcc", "nv", "mel", None])
    choose(rows, merge=["malignant=mel+bcc"])
    assert rows.label == ["malignant", "malignant", "nv", "malignant", None]
    assert "3 images" in rows.notes[0]
    rows = rows_of([("a", "b"), ("b", "c"), (), None], several=True, read_for=["a", "b", "c", "d"])
    choose(rows, merge={"x": ["a", "b"]})
    assert rows.label == [("x",), ("x", "c"), (), None] and rows.read_for == ["x", "c", "d"]


def test_labels_may_be_given_as_numbers_and_one_label_as_a_text():
    rows = rows_of(["0", "1", "2", "3", "4"])
    choose(rows, merge={"low": [0, 1], 9: 2}, drop=[4])
    assert rows.label == ["low", "low", "9", "3"]
    rows = rows_of(["mel", "nv"])
    choose(rows, merge={"malignant": "mel"}, drop="nv")
    assert rows.label == ["malignant"]


def test_a_merged_label_is_unknown_only_where_none_of_its_parts_is_there():
    rows = rows_of([("a",), (), ()], several=True, unknown=[("b",), ("b",), ("c",)], read_for=["a", "b", "c"])
    choose(rows, merge={"x": ["a", "b"]})
    assert rows.label == [("x",), (), ()] and rows.unknown == [(), ("x",), ("c",)]


def test_a_dropped_label_takes_its_images_where_it_is_their_only_one():
    rows = rows_of(["a", "b", "a", "c"])
    choose(rows, drop=["a"])
    assert rows.label == ["b", "c"] and list(rows.extra["place"]) == [1, 3] and "2 images are left out" in rows.notes[0]
    rows = rows_of([("a", "b"), ("a",)], several=True, read_for=["a", "b"])
    choose(rows, drop=["a"])
    assert rows.label == [("b",), ()] and rows.read_for == ["b"]


@pytest.mark.parametrize("asked", [{"merge": {"x": ["malignnat"]}}, {"drop": ["malignnat"]}])
def test_a_label_that_no_image_has_is_refused_with_a_suggestion(asked):
    with pytest.raises(DataError, match=r"'malignnat'.*\n.*'malignant'"):
        choose(rows_of(["benign", "malignant"]), **asked)


@pytest.mark.parametrize("text", ["a+b", "=a+b", "x=a+", "x="])
def test_a_merge_that_cannot_be_read(text):
    with pytest.raises(DataError, match="NEW=a"):
        choose(rows_of(["a", "b"]), merge=[text])


@pytest.mark.parametrize(
    "text, labels",
    [
        ("low=0+1+", ["low", "low", "2+", "a=b", "x"]),
        ("high=1++2+", ["0", "high", "high", "a=b", "x"]),
        ("a=b=x+a=b", ["0", "1+", "2+", "a=b", "a=b"]),
    ],
)
def test_signs_within_labels_are_theirs(text, labels):
    rows = rows_of(["0", "1+", "2+", "a=b", "x"])
    choose(rows, merge=[text])
    assert rows.label == labels


def test_a_later_merge_may_name_what_an_earlier_made():
    rows = rows_of(list("abc"))
    choose(rows, merge=["x=a+b", "y=x+c"])
    assert rows.label == ["y"] * 3
    names = [f"label {number}" for number in range(40)]
    choose(rows_of(names), merge="all=" + "+".join(names))


def test_merges_of_one_table_fit_another_that_lacks_some_labels():
    asked = ["malignant=mel+bcc", "lesion=malignant+nevus", "other=wart"]
    assert merges_in(asked, ["bcc", "nevus", "scar"]) == {"malignant": ["bcc"], "lesion": ["malignant", "nevus"]}
    assert merges_in(asked, ["malignant"]) == {"lesion": ["malignant"]} and merges_in((), ["mel"]) == {}


def test_a_label_that_the_tables_cannot_hold_is_refused_before_it_is_lost():
    with pytest.raises(DataError, match=r"mass\|nodule.*\n.*merge=\"mass or nodule=mass\|nodule\""):
        choose(rows_of([("mass|nodule",), ()], several=True, read_for=["mass|nodule"]))
    rows = rows_of([("mass|nodule",), ()], several=True, read_for=["mass|nodule"])
    choose(rows, merge=["mass or nodule=mass|nodule"])
    assert rows.label == [("mass or nodule",), ()]
    choose(rows_of(["mass|nodule", "c"]))  # of one label an image it stays as it is


def test_a_part_of_the_images_has_whole_patients_and_the_classes_in_proportion():
    n = 400
    patients = [f"p{row // 4}" for row in range(n)]
    labels = ["rare" if row // 4 % 5 == 0 else "common" for row in range(n)]
    parts = ["train" if row // 4 % 4 else "test" for row in range(n)]
    rows = rows_of(labels, patients=patients, partitions=parts)
    choose(rows, limit=100)
    assert 92 <= len(rows.path) <= 108
    assert set(Counter(rows.patient).values()) == {4}
    assert abs(Counter(rows.label)["rare"] - 20) <= 4 and abs(Counter(rows.partition)["test"] - 25) <= 4
    again = rows_of(labels, patients=patients, partitions=parts)
    choose(again, limit=100)
    assert again.path == rows.path and rows.notes[-1].endswith(", whole patients)")
    alone = rows_of(labels)
    choose(alone, limit=100)
    assert f"{len(alone.path)} of 400 images" in alone.notes[-1] and "patients" not in alone.notes[-1]


def test_a_limit_above_all_images_leaves_them_and_one_below_1_is_refused():
    rows = rows_of(["a", "b"])
    choose(rows, limit=5)
    assert len(rows.path) == 2 and not rows.notes
    with pytest.raises(DataError, match="limit must be 1 or more"):
        choose(rows, limit=0)


def test_labels_merged_into_one_that_is_there_say_so():
    rows = rows_of(["a", "b", "c", "c"])
    choose(rows, merge="c=a+b")
    assert "2 images, beside the 2 that had it" in rows.notes[0]
    rows = rows_of(["a", "b", "c", "c"])
    choose(rows, merge="c=a+c")
    assert rows.label == ["c", "b", "c", "c"] and rows.notes[0].endswith("became 'c': 3 images")


@pytest.mark.parametrize("asked", [{"merge": ["x=a,b"]}, {"drop": ["a, b"]}])
def test_labels_that_are_separated_by_commas_come_with_the_way_to_name_several(asked):
    for labels in (["a", "b", "c"], ["a", "b"]):
        with pytest.raises(DataError) as error:
            choose(rows_of(labels), **asked)
        assert error.value.remedy == "give a list: ['a', 'b']"
    with in_shell(), pytest.raises(DataError) as error:
        choose(rows_of(["a", "b", "c"]), **asked)
    assert error.value.remedy == "write a+b to merge them, or --drop once for each"


@pytest.mark.parametrize("where", [pd.Series([True, False]), lambda frame: frame, np.array([True]), 3])
def test_a_mask_or_a_function_is_no_condition(where):
    with pytest.raises(DataError, match="where must name columns and values, not be a"):
        conditions(where)
    assert conditions(None) == conditions("") == conditions(()) == []

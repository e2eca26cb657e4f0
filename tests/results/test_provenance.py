import pandas as pd
import pytest

from medclf.results.provenance import describe_data, describe_split


def said(*rows: tuple[str | None, str | None]) -> str:
    return describe_split(pd.DataFrame(rows, columns=["patient", "partition"]), {"kind": "patient", "seed": 42})[
        "sentence"
    ]


def test_a_split_that_keeps_patients_whole_says_so_and_no_more():
    assert said(("a", "train"), ("b", "valid"), ("c", "test")).endswith(
        "No patient is in both training and validation set (2 patients)."
    )


@pytest.mark.parametrize("other", ["train", "valid"])
def test_a_test_folder_that_shares_patients_is_told(other):
    sentence = said(("a", "train"), ("b", "valid"), ("c", other), ("c", "test"), ("d", "test"))
    assert "No patient is in both training and validation set (3 patients)." in sentence
    assert sentence.endswith(" 1 patient of the test set also has images outside it, so test scores are too high.")


def test_images_that_were_only_tested_on_were_not_split():
    assert said(("a", "test"), ("b", "test")).startswith("These images were given as a test.")


def test_several_shared_patients_are_counted_and_unplaced_images_are_not():
    sentence = said(
        ("a", "train"), ("a", "test"), ("b", "valid"), ("b", "test"), ("c", "test"), ("c", None), (None, "test")
    )
    assert " 2 patients of the test set also have images outside it" in sentence


def test_patients_on_both_sides_come_first():
    sentence = said(("a", "train"), ("a", "valid"), ("a", "test"), ("b", "valid"))
    assert "1 of 2 patients is in both training and validation set, so scores are too high." in sentence
    assert sentence.index("so scores are") < sentence.index("1 patient of the test set also has")


def test_one_patient_alone_cannot_be_split_by_patient():
    assert said(("a", "train"), ("a", "valid")).endswith("so scores are too high.")
    assert said(("a", "train"), ("a", "valid"), ("b", "valid")).endswith("Split by patient.")


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (["twins-1", "twins-1", "twins-2", "twins-2"], "2 groups of near-duplicates were found; 2 of them are in both"),
        (["twins-1", "twins-1", None, None], "1 group of near-duplicates was found; it is not in both training and"),
        ([None, 1, 1, None], "1 group of images was found; it is in both"),
        (["arm", "arm", "other", "other"], "2 groups of images were found; 2 of them are in both"),
        ([None, None, None, 1], "No near-duplicates were found."),
    ],
)
def test_linked_images_are_counted(groups, says):
    table = pd.DataFrame({"partition": ["train", "train", "valid", "test"], "group": groups})
    if groups[3] and groups[2] == groups[3]:
        table["partition"] = ["train", "valid", "train", "valid"]
    assert says in describe_split(table, {"kind": "random", "seed": 42})["sentence"]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ([1, 1, 2, 2], " No near-duplicates of different units were found."),
        ([1, 1, 1, 1], " 1 group of near-duplicates was found; it is in both training and validation set."),
    ],
)
def test_the_images_of_a_unit_are_no_near_duplicates(groups, says):
    """Each unit was counted as a group of them."""
    table = pd.DataFrame({"partition": ["train", "train", "valid", "valid"], "unit_id": list("aabb"), "group": groups})
    assert says in describe_split(table, {"kind": "grouped", "seed": 42})["sentence"]


def test_what_the_scan_noticed_goes_along():
    table = pd.DataFrame({"path": ["1.png"], "label": ["a"], "partition": ["train"], "problem": [""]})
    assert describe_data(table, {})["notes"] == []
    table.attrs["notes"] = ["2 files are masks"]
    assert describe_data(table, {})["notes"] == ["2 files are masks"]


def test_patients_of_the_test_set_that_are_elsewhere_are_a_number_too():
    rows = pd.DataFrame([["p", "valid"], ["p", "test"], ["q", "train"]], columns=["patient", "partition"])
    assert describe_split(rows, {"kind": "folders"})["test_patients_elsewhere"] == 1

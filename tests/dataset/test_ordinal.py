import warnings

import numpy as np
import pandas as pd
import pytest

from medclf.dataset.ordinal import order_not_used, ordered_labels
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfWarning


@pytest.mark.parametrize(
    ("labels", "order", "wanted"),
    [
        (["10", "9", "11"], "auto", ["9", "10", "11"]),
        (["Mayo-3", "mayo-2"], "auto", ["mayo-2", "Mayo-3"]),
        (["0.5", "0.25"], "auto", ["0.25", "0.5"]),
        (["b", "a"], "b, a", ["b", "a"]),
    ],
)
def test_order(labels, order, wanted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ordered_labels(labels, order) == wanted


@pytest.mark.parametrize(
    ("labels", "order", "wanted", "said"),
    [
        (["2", "10", "0"], "auto", ["0", "2", "10"], "0, 2, 10 have a gap"),
        (["b", "a"], ["b", "none", "a"], ["b", "a"], "no image has the grade 'none'"),
    ],
)
def test_grades_that_no_image_has_are_named(labels, order, wanted, said):
    with pytest.warns(MedclfWarning, match=said):
        assert ordered_labels(labels, order) == wanted


@pytest.mark.parametrize(
    ("labels", "order", "said"),
    [
        (["mild", "severe"], "auto", "have no numbers"),
        (["grade-1", "grade-0-1"], "auto", "grade-0-1"),
        (["grade 1", "stage 2"], "auto", "have no numbers"),
        (["1", "01"], "auto", "same number"),
        (["mild", "severe"], "mild,sever", "'severe'"),
        (["a", "b"], "a,b,a", "names 'a' twice"),
        (["a", "b"], "a,,b", "empty name"),
    ],
)
def test_refused(labels, order, said):
    with pytest.raises(DataError, match=said):
        ordered_labels(labels, order)


def test_scan_keeps_the_order(drawn_folder):
    table = scan(drawn_folder, ordinal="10,9,2")
    assert table.attrs["ordinal"] == ["10", "9", "2"]
    assert scan(drawn_folder, ordinal="auto").attrs["ordinal"] == ["2", "9", "10"]
    assert "ordinal" not in scan(drawn_folder).attrs


@pytest.mark.parametrize("order", [3, 0, True, 1.5, object()])
def test_what_names_no_labels_is_no_order(drawn_folder, order):
    with pytest.raises(DataError, match=r'ordinal must name the labels[^"]*\n.*ordinal="auto"'):
        scan(drawn_folder, ordinal=order)


def test_several_labels_have_no_order(drawn_folder):
    rows = pd.DataFrame({"path": ["2/0.png", "9/0.png"], "label": ["a|b", "a"]})
    with pytest.raises(DataError, match="several labels"):
        scan(rows, root=drawn_folder, label_delim="|", ordinal="a,b")


@pytest.fixture
def drawn_folder(tmp_path):
    from PIL import Image

    for grade in ("2", "9", "10"):
        (tmp_path / grade).mkdir()
        for index in range(2):
            Image.new("L", (8, 8), 10 * index).save(tmp_path / grade / f"{index}.png")
    return tmp_path


def test_an_order_that_a_column_says_itself_and_nobody_asked_for_is_told(make_images):
    grades = pd.Categorical(["none", "mild"] * 2, categories=["none", "mild", "severe"], ordered=True)
    (said,) = order_not_used(pd.Series(grades))
    assert "ordinal=['none', 'mild', 'severe'] takes it" in said
    assert not order_not_used(pd.Series(grades.as_unordered())) and not order_not_used(pd.Series(["a"]))
    root = make_images("1.png", "2.png", "3.png", "4.png")
    rows = pd.DataFrame({"path": ["1.png", "2.png", "3.png", "4.png"], "label": grades})
    with pytest.warns(MedclfWarning, match="ordered Categorical"):
        scan(rows, root=root)
    assert scan(rows, root=root, ordinal=["none", "mild"]).attrs["ordinal"] == ["none", "mild"]


def test_an_order_of_numbers_is_that_of_the_labels_they_are():
    assert ordered_labels({"0", "1", "2"}, [2, 0, 1]) == ["2", "0", "1"]
    assert ordered_labels({"0", "1"}, range(2)) == ["0", "1"]
    assert ordered_labels({"0", "1"}, np.array([1, 0])) == ["1", "0"]


@pytest.mark.parametrize("order", [{"mild", "severe"}, frozenset({"mild", "severe"}), {"severe": 2, "mild": 1}])
def test_what_has_no_order_of_its_own_is_refused(order):
    with pytest.raises(
        DataError, match=r"need not stand in the labels' order\ngive a list of the labels, lowest first"
    ):
        ordered_labels({"mild", "severe"}, order)

import pytest

from medclf.dataset.cells import label_in, typed


@pytest.mark.parametrize("names", [["e0", "e1"], ["E12", "-e5"], ["", "."]])
def test_names_that_look_like_an_exponent_are_text(names):
    """A column of examinations e0, e1, ... ended in a traceback."""
    assert typed(names).tolist() == [name or None for name in names]
    assert typed(["-.5e1", "", "12"]).tolist()[::2] == [-5, 12]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [("b|a", ("b", "a")), (" a | a", ("a",)), ("(None)", ()), ("a|", None), ({"b", "a"}, ("a", "b")), ([], ())],
)
def test_a_cell_of_several_labels(cell, labels):
    assert label_in(cell, "|", multi_label=True) == labels

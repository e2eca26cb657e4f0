import unicodedata

import numpy as np
import pandas as pd
import pytest

from medclf.dataset.matching import left_out, match_labels


def table_of(*labels, columns=(), **more) -> pd.DataFrame:
    table = pd.DataFrame({"label": pd.Series(labels, dtype=object), **more})
    table.attrs["labels"] = list(columns)
    return table


@pytest.mark.parametrize(
    "written",
    ["Réticulé", unicodedata.normalize("NFD", "réticulé"), "RÉTICULÉ ", " réticulé"],
    ids=["case", "decomposed", "capitals", "blank"],
)
def test_another_spelling_of_a_label_is_that_label(written):
    found = match_labels(table_of("sain", written), ["réticulé", "sain"], False)
    assert found.y.tolist() == [1, 0] and found.known.all()
    assert found.renamed == {written: "réticulé"}


@pytest.mark.parametrize(("label", "vocab"), [("-1", ["0", "1"]), ("HER2", ["HER2+", "HER2-"]), ("+", ["-", "x"])])
def test_a_sign_is_no_spelling(label, vocab):
    assert match_labels(table_of(label), vocab, False).y.tolist() == [-1]


def test_numbers_as_labels_match_however_they_are_written():
    assert match_labels(table_of("1.0", "0", "2.00"), ["0", "1", "2"], False).y.tolist() == [1, 0, 2]
    assert match_labels(table_of("1,0", "2"), ["0", "1", "2"], False).y.tolist() == [1, 2]
    assert match_labels(table_of("001"), ["1"], False).y.tolist() == [-1]  # a code, not a number


def test_a_spelling_that_fits_two_labels_fits_none():
    found = match_labels(table_of("POLYP", "polyp", "Polyp"), ["Polyp", "polyp"], False)
    assert found.y.tolist() == [-1, 1, 0]
    assert found.reasons[0].startswith("the model has no label 'POLYP'")


def test_an_image_without_a_finding_is_a_negative_and_one_without_a_label_is_unknown():
    found = match_labels(table_of(("mass",), (), None, columns=["mass", "edema"]), ["edema", "mass"], True)
    assert found.y.tolist() == [[0, 1], [0, 0], [-1, -1]]
    assert found.known.tolist() == [True, True, False] and not found.unread


def test_a_label_without_a_column_is_unknown_on_every_image():
    found = match_labels(table_of(("mass",), (), columns=["mass"]), ["edema", "mass"], True)
    assert found.y.tolist() == [[-1, 1], [-1, 0]] and found.unread == ["edema"]
    assert "'edema'" in left_out(found, np.array([True, True]))["sentence"]


def test_a_label_that_may_have_another_name_there_comes_with_a_remedy():
    found = match_labels(table_of(("mass",), ("oedema",), columns=["mass", "oedema"]), ["edema", "mass"], True)
    assert 'merge="edema=THEIRS"' in left_out(found, np.array([True, True]))["sentence"]
    found = match_labels(table_of(("mass",), (), columns=["mass"]), ["edema", "mass"], True)
    assert "THEIRS" not in left_out(found, np.array([True, True]))["sentence"]


def test_a_column_of_zeros_was_read():
    found = match_labels(table_of(("mass",), (), columns=["mass", "Edema"]), ["edema", "mass"], True)
    assert found.y.tolist() == [[0, 1], [0, 0]] and not found.unread


def test_a_label_that_one_image_was_not_read_for_is_unknown_there():
    table = table_of(("mass",), (), columns=["mass", "edema"], unknown=pd.Series([("edema",), ()], dtype=object))
    assert match_labels(table, ["edema", "mass"], True).y.tolist() == [[-1, 1], [0, 0]]


def test_a_further_label_is_passed_over_and_its_image_stays():
    found = match_labels(table_of(("mass", "scar"), ("scar",), ("edema",)), ["edema", "mass"], True)
    assert found.y.tolist() == [[0, 1], [0, 0], [1, 0]]
    said = left_out(found, np.array([True] * 3))
    assert said["n"] == 0 and said["further_labels"] == {"scar": 2} and "scar (2 images)" in said["sentence"]


def test_several_labels_are_no_answer_to_a_question_of_one():
    found = match_labels(table_of(("a", "b"), ("a",)), ["a", "b"], False)
    assert found.y.tolist() == [-1, 0] and "several labels" in found.reasons[0]


def test_what_is_not_measured_is_counted_and_half_of_it_is_said_first():
    found = match_labels(table_of("a", "b", "serrated", "serrated", None), ["a", "b"], False)
    meant = np.array([True, True, True, True, False])  # the last cannot be read anyway
    said = left_out(found, meant)
    assert (said["n"], said["of"]) == (2, 4) and said["reasons"] == {"the model has no label 'serrated'": 2}
    assert said["sentence"].startswith("These numbers are about the smaller part")
    assert left_out(found, np.array([True, True, False, False, False])) == {}


def test_a_typing_mistake_comes_with_its_remedy():
    found = match_labels(table_of("malignnat"), ["benign", "malignant"], False)
    assert 'merge="malignant=malignnat"' in found.reasons[0]


@pytest.mark.parametrize("written", ["bénin", "be\u0301nin", "benin", "b\u200bénin", "BÉNIN"])
def test_accents_and_what_cannot_be_seen_make_no_other_label(written):
    assert match_labels(table_of(written), ["bénin", "malin"], False).y.tolist() == [0]


def test_no_number_is_spoken_of_where_nothing_is_measured():
    found = match_labels(table_of(None, None), ["a", "b"], False)
    sentence = left_out(found, np.array([True, True]))["sentence"]
    assert sentence == "None of the 2 images is measured: it has no label (2 images)."


@pytest.mark.parametrize("written", ["ｐolyp", "рolyp", "\ufb01brosis"], ids=["full-width", "Cyrillic", "ligature"])
def test_letters_that_look_the_same_make_no_other_label(written):
    assert match_labels(table_of(written), ["fibrosis", "polyp"], False).known.all()


def test_one_label_an_image_for_a_model_of_several_is_told():
    found = match_labels(table_of("a", "b"), ["a", "b"], True)
    assert "all others count as absent" in left_out(found, np.array([True, True]))["sentence"]
    found = match_labels(table_of(("a",), ("b",)), ["a", "b"], True)
    assert left_out(found, np.array([True, True])) == {}


@pytest.mark.parametrize(
    ("label", "row"),
    [("a|b", [-1, -1, 0]), (("a|b",), [-1, -1, 0]), (("a", "b;x"), [1, -1, 0]), (("c", "A/B"), [-1, -1, 1])],
)
def test_several_labels_in_one_count_neither_for_nor_against_these(label, row):
    found = match_labels(table_of("a", "b", "c", "d", label), ["a", "b", "c"], True)
    assert found.y.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], row]
    said = left_out(found, np.array([True] * 5))["sentence"]
    assert "may be several labels in one, and counts neither for nor against them: label_delim" in said
    assert "does not know the label d (1 image); they count as having none" in said
    found = match_labels(table_of("a", "b", "a|b"), ["a", "b"], True)
    assert found.reasons[2] == "none of its labels is known"

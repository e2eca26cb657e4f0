"""What a scan says of odd labels, each by a table that has them."""

import shutil

import pandas as pd
import pytest

from medclf.dataset.label_warnings import label_warnings, partition_warnings

from .test_scan import PAIRS, scan_noting


def test_odd_labels_are_named(make_images):
    root = make_images(*PAIRS, "lone/5.png", "A/6.png", "A/7.png")
    (root / "hollow").mkdir()
    (root / "lost").mkdir()
    (root / "lost/8.png").write_text("no picture")
    _, said = scan_noting(root)
    assert "label 'lone' has one image only" in said
    assert "folder 'hollow' holds no image" in said
    assert "label 'lost' has no usable image" in said
    assert "labels 'A', 'a' differ only in spelling" in said


def test_labels_of_one_partition_alone_are_named():
    parts = ["train"] * 4 + ["valid"] * 4
    assert partition_warnings(["a", "a", "b", "b", "a", "a", "c", "c"], parts) == [
        "label 'c' is only in valid, never in train: it cannot be learned",
        "label 'b' is in train and not in valid: it cannot be measured",
    ]
    assert partition_warnings(["a", "b"], ["train", None]) == []  # not split yet
    many = partition_warnings(["a", "a", *"bcdefgh"], ["train", "valid"] + ["train"] * 7, "Do this")
    assert many == [
        "labels 'b', 'c', 'd', 'e', 'f' and 2 more are in train and not in valid: they cannot be measured. Do this"
    ]


def test_studies_before_the_label_are_named():
    labels = ["study1_negative", "study1_positive", "study2_positive"] * 2
    said = label_warnings(pd.DataFrame({"path": map(str, range(6)), "label": labels, "problem": ""}))
    assert said == [
        "labels name a study before what it shows, first 'study1_negative': merge=['negative=study1_negative', "
        "'positive=study1_positive+study2_positive'] leaves the study out"
    ]


def test_one_class_is_named(make_images):
    _, said = scan_noting(make_images("a/1.png", "a/2.png"))
    assert "all images have one label, 'a'" in said


def test_labels_that_hold_several_in_one_are_told(make_images):
    root = make_images(*[f"{i}.png" for i in range(6)])
    frame = pd.DataFrame({"path": [f"{i}.png" for i in range(6)], "label": ["a", "a", "b", "b", "a|b", "a|b"]})
    _, said = scan_noting(frame, root=root)
    assert "looks like several labels in one" in said and 'label_delim="|"' in said
    _, said = scan_noting(frame.assign(label=["1", "1", "1.0", "1.0", "b", "b"]), root=root)
    assert "'1', '1.0' differ only in spelling" in said


@pytest.mark.parametrize("word", ["nan", "NA", "unknown", "?"])
def test_a_label_that_may_stand_for_none_is_told(make_images, word):
    root = make_images(*PAIRS, "c/5.png", "c/6.png")
    frame = pd.DataFrame({"path": [*PAIRS, "c/5.png", "c/6.png"], "label": ["a", "a", "b", "b", word, word]})
    _, said = scan_noting(frame, root=root)
    assert f"label '{word}' (2 images) may stand for a missing label" in said
    table, said = scan_noting(frame, root=root, drop=word)
    assert len(table) == 4 and "its 2 images are left out" in said


def test_no_finding_among_several_labels_is_told(make_images):
    cells = ["mass", "No Finding", "mass|edema", "No Finding|edema"]
    frame = pd.DataFrame({"path": PAIRS, "label": cells})
    root = make_images(*PAIRS)
    _, said = scan_noting(frame, root=root, label_delim="|")
    assert "label 'No Finding' (2 images) says that an image has no other label" in said
    assert "1 of them have another label" in said
    table, said = scan_noting(frame, root=root, label_delim="|", drop=["No Finding"])
    assert list(table["label"]) == [("mass",), (), ("mass", "edema"), ("edema",)] and "says that" not in said


def noted(counts, **attrs):
    table = pd.DataFrame({"label": [label for label, n in counts.items() for _ in range(n)], "problem": ""})
    table.attrs |= attrs
    return "\n".join(label_warnings(table))


@pytest.mark.parametrize(
    "label, other",
    [("pneumonia", "pnuemonia"), ("polyp", "Polyps"), ("tumor", "tumour"), ("cecum", "caecum"), ("edema", "edema.")],
)
def test_a_label_that_may_be_misspelt_is_told(label, other):
    assert f"'{other}' (2 images) and '{label}' (9) differ in a letter" in noted({label: 9, other: 2})


@pytest.mark.parametrize(
    "labels",
    [
        "typical atypical",
        "grade1 grade2",
        "type-a type-b",
        "groupA groupB",
        "basal nasal",
        "stageI stageII",
        "her2+ her2-",
    ],
)
def test_labels_of_one_letter_that_tells_are_not(labels):
    assert not noted(dict.fromkeys(labels.split(), 5))


def test_yes_and_no_in_several_words_are_told():
    said = noted({"1": 3, "True": 3, "0": 4})
    assert "labels '1', 'True' may say the same" in said and 'merge="1=1+True"' in said
    assert not noted({"yes": 3, "no": 3})


def test_several_labels_are_looked_at_as_single_ones_are():
    said = noted({("a", "nan"): 2, ("a", "b,c"): 2, ("a", "b"): 2}, multi_label=True)
    assert "'nan' (2 images) may stand for a missing label" in said
    assert "'b,c' looks like several labels in one" in said
    assert "all images have the label 'a'" in said


def test_copies_of_a_file_under_another_label_are_told(make_images):
    root = make_images(*PAIRS)
    shutil.copy(root / PAIRS[0], root / "b/copy.png")
    _, said = scan_noting(root)
    assert "1 files are exact copies of files with another label, first 'a/1.png' and 'b/copy.png'" in said


@pytest.mark.parametrize(
    "labels", ["no_tumor notumor", "MildDemented mild_demented", "COVID-19 covid19", "grade-1 grade–1", "o'n o’n"]
)
def test_labels_of_the_same_letters_are_told(labels):
    assert "differ only in spelling" in noted(dict.fromkeys(labels.split(), 5))
    assert not noted({"0-1": 5, "01": 5, "2 3": 5, "23": 5})


def test_numbers_written_with_zeros_before_them_are_told():
    assert 'merge="01=01+1"' in noted({"01": 5, "1": 5, "2": 5})
    assert not noted({"00": 5, "01": 5, "10": 5})


def test_a_third_word_beside_0_and_1_may_stand_for_uncertain():
    assert "label '-1' (2 images) may stand for a missing label" in noted({"0": 5, "1": 5, "-1": 2})
    assert "label '-1.0' (2 images) may stand for a missing label" in noted({"0.0": 5, "1.0": 5, "-1.0": 2})
    assert not noted({"1": 5, "-1": 5})
    assert not noted({"0": 5, "1": 5})


def test_many_labels_of_one_image_are_one_sentence():
    said = noted({f"case {n} of {n + 1000}": 1 for n in range(40)})
    assert "40 labels have one image only: 'case 0 of 1000'" in said and said.count("one image only") == 1


def test_labels_that_differ_in_spelling_become_the_more_frequent():
    assert 'merge="polyp=Polyp+polyp" makes them one' in noted({"Polyp": 2, "polyp": 9, "other": 5})


def test_labels_with_signs_between_findings_are_told_where_no_finding_stands_alone():
    assert 'label_delim=";"' in noted({"Cardiomegaly;Effusion": 5, "Mass;Nodule": 5, "normal": 9})
    assert 'label_delim="|"' in noted({"Cardiomegaly|Effusion": 5, "Mass|Nodule": 5})
    assert not noted({"a;b": 5, "normal": 9})
    assert not noted({"NOS, benign": 5, "NOS, malignant": 9})

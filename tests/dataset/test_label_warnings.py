"""What a scan says of odd labels, each by a table that has them."""

import pandas as pd
import pytest

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


def test_a_label_only_in_valid_is_named(make_images):
    names = ["train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/2.png", "valid/a/3.png", "valid/a/4.png"]
    _, said = scan_noting(make_images(*names, "valid/c/5.png", "valid/c/6.png"))
    assert said.splitlines() == [
        "label 'c' is only in valid, never in train: it cannot be learned with the partitions that the data has",
        "label 'b' is in train and not in valid: it cannot be measured with the partitions that the data has",
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

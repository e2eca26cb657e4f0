"""Metrics by group: those of the group's own images, its size told, and no gap told that chance could make."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from medclf.errors import DataError
from medclf.metrics.intervals import as_plain
from medclf.results.predictions import Predictions
from medclf.results.subgroups import subgroups


def predictions(right, group, y=None, patient=None):
    """Answers that are right or wrong as given, for labels that alternate."""
    right = np.asarray(right, bool)
    y = np.arange(len(right)) % 2 if y is None else np.asarray(y)
    said = np.where(right, y, 1 - y)
    probs = np.eye(2)[said] * 0.8 + 0.1
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(len(y))], "partition": "valid", "view": group})
    if patient is not None:
        table["patient"] = patient
    return Predictions(["no", "yes"], False, y, probs, np.zeros(len(y)), table)


def test_each_group_has_the_metrics_of_its_images():
    random = np.random.default_rng(0)
    view, y = random.choice(["ap", "pa"], 150), random.integers(0, 2, 150)
    right = random.random(150) < np.where(view == "ap", 0.7, 0.9)
    found = subgroups(predictions(right, view, y), ["view"], n_boot=100)["view"]
    said = np.where(right, y, 1 - y)
    for row, each in zip(found["groups"], found["sensitivity"], strict=True):
        own = view == row["group"]
        assert row["n"] == own.sum()
        assert row["accuracy"].value == pytest.approx(right[own].mean())
        assert row["balanced_accuracy"].value == pytest.approx(oracle.balanced_accuracy_score(y[own], said[own]))
        assert each["yes"].value == pytest.approx(oracle.recall_score(y[own], said[own]))
        assert row["accuracy"].low < row["accuracy"].value < row["accuracy"].high
        assert row["remark"] == ""


def test_an_image_counts_for_the_labels_that_are_known_of_it():
    random = np.random.default_rng(1)
    y, view = random.integers(0, 2, (120, 3)), np.repeat(["ap", "pa"], 60)
    y[:, 2], y[::3, 0] = -1, -1  # the last label was read on no image
    probs = np.where(random.random((120, 3)) < 0.8, y == 1, y != 1) * 0.8 + 0.1
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(120)], "partition": "valid", "view": view})
    shown = Predictions(["a", "b", "c"], True, y, probs, np.zeros(120), table)
    for row in subgroups(shown, ["view"], n_boot=50)["view"]["groups"]:
        own = view == row["group"]
        right = [((probs[:, k] >= 0.5) == (y[:, k] == 1))[own & (y[:, k] >= 0)].mean() for k in (0, 1)]
        assert row["n"] == 60 and row["accuracy"].value == pytest.approx(np.mean(right))


def test_a_gap_is_told_where_the_intervals_lie_apart():
    right = np.r_[np.arange(100) < 95, np.arange(100) < 50]
    sentence = subgroups(predictions(right, ["ap"] * 100 + ["pa"] * 100), ["view"], n_boot=50)["view"]["finding"]
    assert sentence.startswith("The accuracy differs: 50.0 %") and "95.0 %" in sentence
    right = np.r_[np.arange(100) < 90, np.arange(100) < 85]
    sentence = subgroups(predictions(right, ["ap"] * 100 + ["pa"] * 100), ["view"], n_boot=50)["view"]["finding"]
    assert sentence.startswith("No clear difference in accuracy")


def test_small_groups_are_called_small_and_not_judged():
    found = subgroups(predictions([True] * 100 + [False] * 8, ["ap"] * 100 + ["pa"] * 8), ["view"], n_boot=50)["view"]
    assert found["groups"][1]["remark"] == "small group: 8 images"
    assert found["finding"].startswith("Fewer than two groups")
    one = subgroups(predictions([True] * 41, ["ap"] * 40 + [None], y=[0] * 41), ["view"], n_boot=50)["view"]["groups"]
    assert one[1]["group"] == "(missing)" and one[1]["remark"] == "small group: 1 image; none has yes"


def test_patients_are_counted_and_widen():
    right, view, patient = np.arange(80) % 10 != 0, ["ap"] * 40 + ["pa"] * 40, [f"p{i // 10}" for i in range(80)]
    right = np.repeat(np.arange(8) % 2 == 0, 10) | right
    alone = subgroups(predictions(right, view), ["view"], n_boot=200)["view"]["groups"][0]
    found = subgroups(predictions(right, view, patient=patient), ["view"], n_boot=200)["view"]["groups"][0]
    assert found["n_patients"] == 4 and found["remark"] == "4 patients" and "n_patients" not in alone
    assert found["accuracy"].high - found["accuracy"].low > alone["accuracy"].high - alone["accuracy"].low


def test_unknown_labels_are_left_out():
    given = predictions([True] * 60, ["ap", "pa"] * 30)
    given.y[:10] = -1
    found = subgroups(given, ["view"], n_boot=50)["view"]["groups"]
    assert [row["n"] for row in found] == [25, 25]


def test_facts_are_json():
    found = subgroups(predictions([True] * 60, ["ap", "pa"] * 30), ["view"], n_boot=50)
    assert json.loads(json.dumps(as_plain(found)))["view"]["groups"][0]["accuracy"]["n"] == 30


def test_one_column_needs_no_list():
    given = predictions([True] * 60, ["ap", "pa"] * 30)
    assert as_plain(subgroups(given, "view", n_boot=50)) == as_plain(subgroups(given, ["view"], n_boot=50))


def test_columns_that_are_not_there():
    given = predictions([True] * 4, [None] * 4)
    with pytest.raises(DataError, match=r"no column 'sex' to group by\nthe table has: partition, view"):
        subgroups(given, ["sex"])
    with pytest.raises(DataError, match="column 'view' is empty"):
        subgroups(given, ["view"])


def test_what_holds_predictions_is_taken_and_other_things_are_named():
    given = predictions([True] * 60, ["ap", "pa"] * 30)
    held = SimpleNamespace(predictions=given, table=given.table)
    assert as_plain(subgroups(held, "view", n_boot=50)) == as_plain(subgroups(given, "view", n_boot=50))
    with pytest.raises(DataError, match="subgroups takes predictions, not a DataFrame"):
        subgroups(given.table, "view")

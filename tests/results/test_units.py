"""Predictions by unit: hand-worked labels, probabilities, deciding images and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclf.metrics.units import UnitRule
from medclf.results.predictions import Predictions, losses_of
from medclf.results.units import by_unit


def _images(y: list[int], units: list[str], p: list[float], **columns: list[object]) -> Predictions:
    probs = np.stack([1 - np.array(p), np.array(p)], axis=1)
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(len(y))], "unit_id": units, **columns})
    found = Predictions(["normal", "polyp"], False, np.array(y), probs, losses_of(np.array(y), probs, False), table)
    found.features = np.arange(2 * len(y), dtype=np.float32).reshape(-1, 2)
    return found


RULE = UnitRule("patient", "mean", finding=1)


def test_a_unit_has_its_images_label_mean_probability_and_mean_features() -> None:
    made = by_unit(_images([1, 0, 1], ["a", "b", "a"], [0.9, 0.2, 0.5]), RULE).units
    assert made.table["unit_id"].tolist() == ["a", "b"]
    assert made.y.tolist() == [1, 0]
    assert made.probs[:, 1] == pytest.approx([0.7, 0.2])
    assert made.losses == pytest.approx([-np.log(0.7), -np.log(0.8)])
    assert made.features is not None
    assert made.features.tolist() == [[2, 3], [2, 3]]


def test_the_image_that_speaks_most_for_the_answer_stands_for_its_unit() -> None:
    table = by_unit(_images([1, 1, 1], ["a"] * 3, [0.3, 0.95, 0.8]), RULE).units.table
    assert table.loc[0, "path"] == "1.png"
    assert table.loc[0, "unit_images"] == "1.png|2.png|0.png"
    assert table.loc[0, "n_images"] == 3


def test_the_images_that_decided_are_those_that_speak_for_the_decision() -> None:
    made = by_unit(_images([1, 1, 1], ["a"] * 3, [0.1, 0.4, 0.3]), RULE)
    assert made.units.table.loc[0, "unit_images"] == "0.png|2.png|1.png"  # normal, the most probable
    called = replace(made.units, decided=np.array([[False, True]]))  # a polyp, from a lower threshold on
    again = made.decided_by(RULE, called)
    assert again.units.table.loc[0, "path"] == "1.png"
    assert again.units.table.loc[0, "unit_images"] == "1.png|2.png|0.png"
    assert again.images.table["contribution"].tolist() == [0.1, 0.4, 0.3]


@pytest.mark.parametrize("answer", ["max", "noisy-or"])
def test_what_speaks_most_for_the_finding_decides_where_the_answer_rests_on_it(answer: str) -> None:
    rule = UnitRule("patient", answer, finding=1)  # type: ignore[arg-type]
    table = by_unit(_images([0, 0], ["a", "a"], [0.1, 0.3]), rule).units.table
    assert table.loc[0, "path"] == "1.png"


def test_rows_are_called_what_they_answer_for() -> None:
    images = _images([0, 0, 1], ["a", "a", "b"], [0.1, 0.3, 0.8])
    units = by_unit(images, RULE).units
    assert (images.counted(), units.counted(), units.counted(1)) == ("images", "patients", "patient")
    assert Predictions.concat([units, units]).counted() == "patients"


def test_images_of_different_labels_leave_their_unit_without_one_and_are_named() -> None:
    made = by_unit(_images([1, 0, 0, -1], ["a", "a", "b", "b"], [0.9, 0.2, 0.2, 0.4]), RULE)
    assert made.units.y.tolist() == [-1, 0]


def test_a_unit_with_several_labels_has_those_of_any_image() -> None:
    y, probs = np.array([[1, 0], [0, -1]]), np.array([[0.9, 0.1], [0.2, 0.3]])
    table = pd.DataFrame({"path": ["0.png", "1.png"], "unit_id": ["a", "a"]})
    images = Predictions(["mass", "nodule"], True, y, probs, losses_of(y, probs, True), table)
    made = by_unit(images, UnitRule("patient", "max", multi_label=True)).units
    assert made.y.tolist() == [[1, 0]]
    assert made.probs[0] == pytest.approx([0.9, 0.3])


def test_columns_that_a_units_images_share_stay_and_others_are_blank() -> None:
    images = _images([1, 1], ["a", "a"], [0.9, 0.8], sex=["f", "f"], view=["ap", "pa"], sha256=["x", "y"])
    table = by_unit(images, RULE).units.table
    assert table.loc[0, "sex"] == "f"
    assert table.loc[0, "view"] is None
    assert "sha256" not in table


def test_units_are_linked_by_near_duplicates_of_any_of_their_images() -> None:
    images = _images([0, 0, 0, 0], ["a", "a", "b", "c"], [0.1] * 4, group=[None, "twins-1", "twins-1", None])
    groups = by_unit(images, RULE).units.groups
    assert groups is not None
    assert groups[0] == groups[1] != groups[2]


def test_what_is_known_of_images_is_known_of_their_units() -> None:
    made = by_unit(_images([0, 0, 0], ["a", "b", "a"], [0.1] * 3), RULE)
    assert made.any_of(np.array([False, False, True])).tolist() == [True, False]


def test_predictions_by_unit_are_read_back(tmp_path: Path) -> None:
    made = by_unit(_images([1, 0], ["007", "008"], [0.9, 0.2]), RULE).units
    made.save(tmp_path / "predictions.csv")
    again = Predictions.load(tmp_path / "predictions.csv", made.vocab, False)
    assert again.table["unit_id"].tolist() == ["007", "008"]
    assert again.probs == pytest.approx(made.probs)

"""Limits that were chosen before, on other images."""

import numpy as np
import pandas as pd
import pytest

from medclf.auditing.assess import apply_calibration, chosen_in_training, evaluate_limits, seen_in_training
from medclf.auditing.calibrate import calibrate
from medclf.auditing.calibration_set import CalibrationSet
from medclf.auditing.decisions import DecisionPolicy
from medclf.dataset.groups import leaking
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions

from .test_calibrate import population


def test_limits_from_elsewhere():
    shown, _ = population(500, sharpness=1.0, vocab=("normal", "polyp"))
    facts = evaluate_limits(shown, Calibration(abstain_below=0.8, thresholds={"polyp": 0.3}))
    sure = shown.probs.max(1) >= 0.8
    right = shown.probs.argmax(1) == shown.y
    assert facts["abstain"]["numbers"]["accuracy"]["value"] == pytest.approx(right[sure].mean())
    assert facts["operating_point"]["table"]["tp"] == ((shown.probs[:, 1] >= 0.3) & (shown.y == 1)).sum()


@pytest.mark.parametrize("way", ["accuracy", "balanced", "threshold"])
def test_other_images_are_decided_as_in_training_and_nothing_is_chosen_on_them(way):
    first, _ = population(600, vocab=("normal", "polyp"))
    found = calibrate(first, CalibrationSet.of(first, "the others"), DecisionPolicy(decide=way, prevalence=0.1))
    other, _ = population(300, seed=9, vocab=("normal", "polyp"))
    shown = apply_calibration(other, found.calibration)
    facts = evaluate_limits(shown, found.calibration, **chosen_in_training(found.sections))
    point, chosen = facts["operating_point"], found.sections["operating_point"]
    assert (point["threshold"], point["by"]) == (chosen["threshold"], "youden") and "restated" in point
    assert point["decides"] == (way == "threshold") == chosen["decides"]
    assert facts["decision"]["rule"] == way
    assert set(facts["decision"]["scores"]) == {
        "accuracy",
        "balanced",
        "threshold",
    }
    right = (shown.predicted.argmax(1) == shown.y).mean()
    assert facts["decision"]["scores"][way]["accuracy"] == pytest.approx(right)
    alone = evaluate_limits(shown, found.calibration)["decision"]  # a bundle without its run
    assert alone["rule"] == way and alone["scores"][way] == facts["decision"]["scores"][way]


def test_unknown_labels_are_counted_in_the_decision():
    y, probs = np.array([[1, -1], [0, 1]]), np.array([[0.9, 0.4], [0.2, 0.8]])
    shown = Predictions(["a", "b"], True, y, probs, np.zeros(2), pd.DataFrame({"path": ["x", "y"]}))
    found = evaluate_limits(shown, Calibration(multi_label=True, thresholds={"a": 0.5, "b": 0.3}))
    assert found["decision"]["unknown"] == 1 and "1 of 4 labels are unknown" in found["decision"]["sentence"]
    assert found["operating_point"]["b"]["table"] == {"tp": 1, "fp": 0, "fn": 0, "tn": 0}


def test_images_that_a_column_group_links_to_training_images_leak():
    """The comparison of two runs counted them, and the run itself did not."""
    table = pd.DataFrame({"path": list("abcdef"), "partition": ["train", *["valid"] * 5], "problem": ""})
    table = table.assign(patient=["p", "p", *[None] * 4], group=["x", "x", "x", "y", "y", None])
    shown = Predictions(
        ["normal", "polyp"],
        False,
        np.zeros(5, int),
        np.full((5, 2), 0.5),
        np.zeros(5),
        table[1:].reset_index(drop=True),
    )
    twin, known, grouped = seen_in_training(shown, table, None)
    assert known.tolist() == [True, *[False] * 4] and grouped.tolist() == [False, True, *[False] * 3] and not twin.any()
    assert set(shown.table.loc[known | grouped, "path"]) == set(table.loc[leaking(table), "path"])

"""The one rule by which labels are chosen."""

import numpy as np
import pandas as pd
import pytest

from medclf.results.calibration import Calibration, decided
from medclf.results.predictions import Predictions

VOCAB = ["a", "b", "c"]


def test_each_label_is_held_against_its_weight():
    """By Bayes: argmax of p(label | image) / p(label), worked out by hand."""
    probs = np.array([[0.6, 0.3, 0.1], [0.6, 0.35, 0.05], [0.9, 0.08, 0.02]])
    shares = {"a": 0.7, "b": 0.2, "c": 0.1}
    found = decided(probs, VOCAB, False, weights={label: 1 / share for label, share in shares.items()})
    assert found.argmax(axis=1).tolist() == [1, 1, 0]  # ratios 0.86 1.5 1; 0.86 1.75 0.5; 1.29 0.4 0.2
    assert found.sum(axis=1).tolist() == [1, 1, 1]


def test_a_rule_goes_through_json():
    calibration = Calibration(weights={"a": 1.5, "b": 4.0})
    assert Calibration.from_dict(calibration.as_dict(), multi_label=False) == calibration
    many = Calibration(thresholds={"a": 0.1}, multi_label=True)
    assert Calibration.from_dict(many.as_dict(), multi_label=True) == many


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_was_predicted_comes_back_from_the_file(tmp_path, multi_label):
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    y = np.array([[1, 0, 0], [0, 1, 1]]) if multi_label else np.array([0, 2])
    chosen = np.array([[True, True, False], [False, False, False]]) if multi_label else np.eye(3, dtype=bool)[[1, 2]]
    shown = Predictions(VOCAB, multi_label, y, probs, np.zeros(2), pd.DataFrame({"path": ["x", "y"]}), decided=chosen)
    shown.save(tmp_path / "p.csv")
    back = Predictions.load(tmp_path / "p.csv", VOCAB, multi_label)
    assert (back.predicted == chosen).all() and back.preds == shown.preds
    both = Predictions.concat([back, back.subset([1])])
    assert (both.predicted == chosen[[0, 1, 1]]).all()

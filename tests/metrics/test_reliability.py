"""Reliability, calibration error and Brier score beside scikit-learn and by hand."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from medclf.errors import DataError
from medclf.metrics.classification import classification_metrics
from medclf.metrics.reliability import brier, ece, reliability

from .test_calibration import drawn


@pytest.mark.parametrize(("adaptive", "strategy"), [(False, "uniform"), (True, "quantile")])
def test_reliability_agrees_with_scikit_learn(adaptive, strategy):
    rng = np.random.default_rng(7)
    probs = rng.random(500) ** 2
    y = (rng.random(500) < probs).astype(int)
    bars = [bar for bar in reliability(y, probs, 8, adaptive=adaptive) if bar.frequency.n]
    frequency, confidence = calibration_curve(y, probs, n_bins=8, strategy=strategy)
    assert [bar.frequency.value for bar in bars] == pytest.approx(frequency)
    assert [bar.confidence for bar in bars] == pytest.approx(confidence)
    assert sum(bar.frequency.n for bar in bars) == 500


def test_reliability_of_the_predicted_label_and_of_nothing():
    bars = reliability([0, 1, -1], [[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]], 10)
    by_low = {round(bar.low, 1): bar for bar in bars}
    assert by_low[0.9].frequency.value == 1.0 and by_low[0.8].frequency.value == 0.0
    assert by_low[0.1].as_dict() == {
        "low": pytest.approx(0.1),
        "high": pytest.approx(0.2),
        "confidence": None,
        "frequency": {"value": None, "low": None, "high": None, "n": 0, "note": "no image in this bar"},
    }
    assert all(bar.frequency.n == 0 for bar in reliability([], np.zeros((0, 2))))
    with pytest.raises(DataError, match="n_bins"):
        reliability([0], [0.5], 0)
    with pytest.raises(DataError, match="shape"):
        reliability([[0, 1]], [[0.5, 0.5]])


def test_ece_is_the_one_of_the_metrics():
    y, logits = drawn(200, 3, seed=8, factor=2)
    probs, groups = special.softmax(logits, axis=1), np.arange(200) // 4
    wanted = classification_metrics(y, probs, ["a", "b", "c"], groups=groups, n_boot=100)["ece"]
    found = ece(y, probs, groups=groups, n_boot=100)
    assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high))


def test_ece_is_the_mean_gap_of_the_reliability_diagram():
    y, logits = drawn(300, 4, seed=9, factor=2)
    probs = special.softmax(logits, axis=1)
    for adaptive in (False, True):
        bars = [bar for bar in reliability(y, probs, 10, adaptive=adaptive) if bar.frequency.n]
        wanted = sum(bar.frequency.n * abs(bar.confidence - bar.frequency.value) for bar in bars) / 300
        assert ece(y, probs, 10, adaptive=adaptive, n_boot=20).value == pytest.approx(wanted)


def test_ece_of_calibrated_and_of_too_sure_probabilities():
    y, logits = drawn(1500, 3, seed=10)
    assert ece(y, special.softmax(logits, axis=1)).low == 0.0
    sure = ece(y, special.softmax(3 * logits, axis=1))
    assert sure.low > 0.05 and sure.low < sure.value < sure.high


def test_brier_agrees_with_scikit_learn():
    y, logits = drawn(120, 3, seed=11)
    probs = special.softmax(logits, axis=1)
    assert brier(y, probs, n_boot=50).value == pytest.approx(oracle.brier_score_loss(y, probs))
    two = special.softmax(logits[:, :2], axis=1)
    for given_probs in (two, two[:, 1]):
        assert brier(y % 2, given_probs, n_boot=50).value == pytest.approx(oracle.brier_score_loss(y % 2, two[:, 1]))
    assert brier([-1], [0.5]).n == ece([-1], [0.5]).n == 0
    perfect = brier([0, 1] * 10, [0.0, 1.0] * 10)
    assert perfect.value == perfect.low == 0 < perfect.high < 0.2

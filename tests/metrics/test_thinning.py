"""Large sets: what a part of the images says of the spread, against formulas for all of them."""

import numpy as np
import pytest
from scipy import stats

from medclf.metrics import thinning
from medclf.metrics.classification import classification_metrics, estimate_all
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import Sampling
from medclf.metrics.thinning import LARGE, Part, part_of
from medclf.metrics.weighted import read_task

N = 100_000


def binary(n, seed=0, prevalence=0.3):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < prevalence).astype(int)
    score = stats.norm.cdf(rng.normal(size=n) + 1.2 * y - 0.8)
    return y, np.stack([1 - score, score], axis=1)


def delong(y, scores):
    """Variance of the AUROC. Source: DeLong, DeLong & Clarke-Pearson 1988."""
    positive, negative = scores[y == 1], scores[y == 0]
    above = np.searchsorted(np.sort(negative), positive) / len(negative)
    below = 1 - np.searchsorted(np.sort(positive), negative) / len(positive)
    return above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative)


def draws_of(task, key, n_boot=800):
    from medclf.metrics.table import statistics

    part = part_of(task)
    few = part.of_task(task)
    assert len(few.positive) < N
    return part.resample(lambda weights: statistics(few, weights)[key][:, None], n_boot)[:, 0]


def test_few_images_are_all_resampled():
    sampling = Sampling.of(None, LARGE)
    assert Part.of(sampling, []).rows is None
    assert Part.of(Sampling.of(None, LARGE + 1), []).rows is not None


@pytest.mark.slow
def test_the_spread_is_that_of_all_images():
    y, probs = binary(N)
    task = read_task(y, probs, ["a", "b"])
    right = (probs.argmax(1) == y).mean()
    assert draws_of(task, "accuracy").var() == pytest.approx(right * (1 - right) / N, rel=0.2)
    assert draws_of(task, "auroc").var() == pytest.approx(delong(y, probs[:, 1]), rel=0.2)


@pytest.mark.slow
def test_a_rare_label_keeps_its_images():
    y, probs = binary(N, prevalence=0.003)
    task = read_task(y, probs, ["a", "b"])
    n, found = (y == 1).sum(), (probs[y == 1].argmax(1) == 1).mean()
    assert draws_of(task, "b/sensitivity").var() == pytest.approx(found * (1 - found) / n, rel=0.25)
    assert draws_of(task, "auroc").var() == pytest.approx(delong(y, probs[:, 1]), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("per_patient", [4, 1000])
def test_images_of_a_patient_stay_together(per_patient):
    rng = np.random.default_rng(1)
    patients = np.arange(N) // per_patient
    ease = rng.normal(size=patients.max() + 1)[patients]  # right or wrong together
    y = rng.integers(0, 2, N)
    right = rng.random(N) < stats.norm.cdf(1 + ease)
    probs = np.where((right == y)[:, None], [0.2, 0.8], [0.8, 0.2])
    task = read_task(y, probs, ["a", "b"], groups=patients)
    sums = np.bincount(patients, weights=right - right.mean())
    expected = (sums**2).sum() / N**2  # Cochran 1977, section 6.3
    assert draws_of(task, "accuracy").var() == pytest.approx(expected, rel=0.25)


def test_values_come_from_all_images_and_intervals_are_narrow():
    y, probs = binary(N)
    found = classification_metrics(y, probs, ["a", "b"], n_boot=200)
    assert found["accuracy"].value == pytest.approx((probs.argmax(1) == y).mean())
    half = 1.96 * np.sqrt(delong(y, probs[:, 1]))
    assert found["auroc"].high - found["auroc"].low == pytest.approx(2 * half, rel=0.2)
    assert found["ece"].low <= found["ece"].value <= found["ece"].high
    assert found["ece"].high - found["ece"].low < 0.02
    assert found["confusion_matrix"][0][0] + found["confusion_matrix"][0][1] == (y == 0).sum()


def test_the_part_agrees_with_the_whole(monkeypatch):
    y, probs = binary(6_000)
    whole = estimate_all(read_task(y, probs, ["a", "b"]), n_boot=1000)
    for name, value in (("LARGE", 1_000), ("_IMAGES", 2_000), ("_ENOUGH", 300)):
        monkeypatch.setattr(thinning, name, value)
    part = estimate_all(read_task(y, probs, ["a", "b"]), n_boot=1000)
    for name in ("balanced_accuracy", "auroc", "auprc", "f1", "mcc", "brier", "b/auprc"):
        assert part[name].value == whole[name].value
        assert part[name].high - part[name].low == pytest.approx(whole[name].high - whole[name].low, rel=0.2), name


def test_two_models_are_compared_on_the_same_part():
    y, probs = binary(N)
    same = compare_predictions(y, probs, probs, ["a", "b"], n_boot=100)["auroc"]
    assert same.value == 0 and same.high < 1e-3
    worse = np.where(np.arange(N)[:, None] % 10 == 0, probs[:, ::-1], probs)
    assert compare_predictions(y, probs, worse, ["a", "b"], n_boot=100)["accuracy"].high < 0

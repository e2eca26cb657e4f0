"""Resamples, cluster variances and tests agree with scikit-learn, scipy and statsmodels to rounding.

The plain values and Wilson's interval are held in test_metrics.py and test_intervals.py, McNemar and kappa in
test_comparison.py, calibration in test_calibration.py, thresholds in test_operating.py.
"""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn import metrics as oracle

from medclf.metrics.classification import classification_metrics, proportion
from medclf.metrics.comparison import mcnemar
from medclf.metrics.intervals import Sampling, bounded_interval, wilson
from medclf.metrics.table import statistics
from medclf.metrics.weighted import read_task


def drawn(n, n_labels, seed):
    random = np.random.default_rng(seed)
    y = random.integers(0, n_labels, n)
    logits = random.normal(size=(n, n_labels)) + 1.2 * np.eye(n_labels)[y]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y, probs, [f"label{k}" for k in range(n_labels)], [f"p{k}" for k in random.integers(0, n // 3, n)]


def of_scikit_learn(y, probs, weights):
    """Every overall metric of images that were drawn so many times each."""
    pred, marks, labels = probs.argmax(1), np.eye(probs.shape[1])[y], range(probs.shape[1])
    kept = weights > 0
    given = {"sample_weight": weights}
    return {
        "accuracy": oracle.accuracy_score(y, pred, **given),
        "balanced_accuracy": oracle.balanced_accuracy_score(y[kept], pred[kept], sample_weight=weights[kept]),
        "f1": oracle.f1_score(y, pred, average="macro", **given),
        "mcc": oracle.matthews_corrcoef(y, pred, **given),
        "auroc": np.mean([oracle.roc_auc_score(marks[:, k], probs[:, k], **given) for k in labels]),
        "auprc": np.mean([oracle.average_precision_score(marks[:, k], probs[:, k], **given) for k in labels]),
        "brier": np.average(((probs - marks) ** 2).sum(1), weights=weights) / (2 if probs.shape[1] == 2 else 1),
    }


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("by_patient", [False, True])
def test_every_resample_is_scikit_learns_of_the_images_drawn(n_labels, by_patient):
    y, probs, vocab, patients = drawn(90, n_labels, seed=n_labels)
    task = read_task(y, probs, vocab, patients if by_patient else None, False)
    kept = []

    def statistic(weights):
        kept.append(weights)
        found = statistics(task, weights)
        return np.stack([found[name] for name in NAMES], axis=1)

    draws = task.sampling.resample(statistic, 8, seed=3)
    weights = np.concatenate(kept).astype(float)
    wanted = np.array([[of_scikit_learn(y, probs, row)[name] for name in NAMES] for row in weights])
    assert draws == pytest.approx(wanted, abs=1e-6)  # weights are single precision
    units = task.sampling.count
    assert task.sampling.variance(draws) == pytest.approx(wanted.var(0, ddof=0) * units / (units - 1), rel=1e-3)
    if by_patient:  # whole patients are drawn
        for row in weights:
            assert all(len(set(row[np.array(patients) == patient])) == 1 for patient in set(patients))


NAMES = ("accuracy", "balanced_accuracy", "f1", "mcc", "auroc", "auprc", "brier")


def test_the_spread_of_resamples_is_scipys():
    y, probs, vocab, _ = drawn(150, 2, seed=8)
    right = (probs.argmax(1) == y).astype(float)
    task = read_task(y, probs, vocab, None, False)
    draws = task.sampling.resample(lambda w: statistics(task, w)["accuracy"][:, None], 4000, seed=1)
    found = stats.bootstrap((right,), np.mean, n_resamples=4000, rng=np.random.default_rng(2), method="percentile")
    assert np.sqrt(task.sampling.variance(draws)[0]) == pytest.approx(found.standard_error, rel=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_a_proportion_of_patients_has_the_cluster_variance_of_statsmodels(seed):
    random = np.random.default_rng(seed)
    patients = random.integers(0, 25, 140)
    hits = random.random(140) < random.beta(8, 2, 25)[patients]
    fit = sm.OLS(hits.astype(float), np.ones(140)).fit(
        cov_type="cluster", cov_kwds={"groups": patients, "use_correction": False}
    )
    sampling, everything, count = Sampling.of(patients), np.ones(140, bool), len(set(patients))
    variance = float(fit.cov_params()[0, 0]) * count / (count - 1)
    freedom = sampling.groups() - 1
    wanted = bounded_interval(
        hits.mean(), variance, units=sampling.units(everything), level=0.95, freedom=freedom, at_most=140
    )
    found = proportion(hits, everything, sampling)
    assert found.value == pytest.approx(fit.params[0])
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-9)


def test_swapping_patients_is_scipys_permutation_test():
    random = np.random.default_rng(5)
    patients = np.repeat(np.arange(12), 6)
    first, second = random.random(72) < 0.7, random.random(72) < 0.8
    votes = [np.bincount(patients, weights=right) for right in (first, second)]
    exact = stats.permutation_test(
        votes, lambda a, b: b.sum() - a.sum(), permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert mcnemar(first, second, groups=patients).p_groups == pytest.approx(exact.pvalue, abs=0.015)


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (7, 12), (12, 12), (431, 500)])
def test_wilson_is_scipys(hits, n):
    ends = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((ends.low, ends.high), abs=1e-12)


def test_ppv_and_npv_have_wilsons_interval_of_the_called():
    y, probs, vocab, _ = drawn(120, 2, seed=9)
    found = classification_metrics(y, probs, vocab, n_boot=20)["per_class"]["label1"]
    pred = probs.argmax(1)
    for name, mask in (("ppv", pred == 1), ("npv", pred == 0), ("sensitivity", y == 1), ("specificity", y == 0)):
        ends = stats.binomtest(int((pred == y)[mask].sum()), int(mask.sum())).proportion_ci(method="wilson")
        assert (found[name].low, found[name].high) == pytest.approx((ends.low, ends.high), abs=1e-12)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_grades_are_scikit_learns(n_labels):
    y, probs, vocab, patients = drawn(90, n_labels, seed=n_labels)
    pred = probs.argmax(1)
    kept = []

    def statistic(weights):
        kept.append(weights)
        found = statistics(task, weights)
        return np.stack([found["quadratic_kappa"], found["grade_error"]], axis=1)

    task = read_task(y, probs, vocab, patients, ordinal=True)
    draws = task.sampling.resample(statistic, 8, seed=3)
    for row, (kappa, error) in zip(np.concatenate(kept).astype(float), draws, strict=True):
        assert kappa == pytest.approx(oracle.cohen_kappa_score(y, pred, weights="quadratic", sample_weight=row))
        assert error == pytest.approx(oracle.mean_absolute_error(y, pred, sample_weight=row))


def test_grades_have_intervals_within_their_bounds():
    y, probs, vocab, patients = drawn(90, 5, seed=1)
    found = classification_metrics(y, probs, vocab, groups=patients, ordinal=True, n_boot=200)
    for name, most in (("quadratic_kappa", 1), ("grade_error", 4)):
        one = found[name]
        assert -1 <= one.low < one.value < one.high <= most and one.n == 90
    assert "quadratic_kappa" not in classification_metrics(y, probs, vocab, n_boot=10)

"""What a set of predictions is worth: arrays in, estimates out; no torch, no fastai."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np

from medclf.metrics.intervals import (
    PHANTOM,
    Estimate,
    Sampling,
    as_plain,
    bounded_interval,
    critical,
    gap_interval,
    plan_size,
    undefined,
    wilson,
)
from medclf.metrics.table import METRICS, Metric, class_metrics, mean_of, overall_metrics, statistics
from medclf.metrics.thinning import part_of
from medclf.metrics.weighted import Task, calibration_gaps, read_task

__all__ = [
    "Estimate",
    "as_plain",
    "classification_metrics",
    "plan_size",
    "proportion",
    "undefined",
    "wilson",
]


_NAMED = 3  # labels that a note names


class Metrics(TypedDict, total=False):
    """What `classification_metrics` returns; a metric that is added to the table is there too, under its key."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    exact_match: Estimate
    auroc: Estimate
    auprc: Estimate
    f1: Estimate
    mcc: Estimate
    quadratic_kappa: Estimate
    grade_error: Estimate
    brier: Estimate
    ece: Estimate
    per_class: dict[str, ClassMetrics]
    confusion_matrix: list[list[int]] | dict[str, list[list[int]]]
    vocab: list[str]
    n: int
    n_groups: int | None


class ClassMetrics(TypedDict, total=False):
    """One label's."""

    n: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    auroc: Estimate
    auprc: Estimate
    f1: Estimate


def classification_metrics(
    y: Any,
    probs: Any,
    vocab: Sequence[str],
    *,
    groups: Any = None,
    multi_label: bool = False,
    thresholds: float | Sequence[float] = 0.5,
    predicted: Any = None,
    ordinal: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = True,
) -> Metrics:
    """All metrics of a set of predictions, each an `Estimate` with its interval and n.

    Args:
        y: the reference standard: (n,) indices into `vocab`, or (n, L) of 0 and 1 for multi-label; -1 is
            unknown and left out.
        probs: (n, L) probabilities, in the order of `vocab`; for single-label each row sums to 1 and the
            highest is the prediction.
        vocab: the label names.
        groups: (n,) patient of each image; intervals then count patients. None: images.
        multi_label: whether an image may have several labels.
        thresholds: multi-label only: from which probability a label is predicted, one for all or one a label.
        predicted: (n, L) bool, which labels are predicted, where another rule decides.
        ordinal: `vocab` is an order, lowest grade first: adds quadratic_kappa, and grade_error, in grades.
        n_boot: bootstrap resamples.
        seed: of the resamples; the same seed gives the same intervals.
        level: of the intervals.
        progress: show a progress bar when it lasts.

    Returns:
        accuracy, balanced_accuracy (mean sensitivity), auroc, auprc, f1 (means over the labels; with two labels
        auroc is the second's, which equals the first's), mcc, brier (0 to 1; three labels or more: 0 to 2,
        summed over the labels), ece (of the predicted label's probability, 15 bins), per_class {label: {n,
        sensitivity, specificity, ppv, npv, f1, auroc, auprc}}, confusion_matrix (rows are the actual labels),
        vocab, n (images), n_groups (None without `groups`).

        Multi-label: every overall metric is the mean over the labels, confusion_matrix is {label: [[tn, fp],
        [fn, tp]]}, and exact_match is the share of images with every label right.

        Labels that no image has are left out of the means, and the estimate's note says so.

        Of more than 40,000 images the values come from all, and the resamples from about 20,000 that stand for them;
        see `medclf.metrics.thinning`.

    Raises:
        DataError: shapes that do not fit, a label outside the vocabulary, numbers that are no probabilities.

    Example:
        >>> probs = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
        >>> result = classification_metrics([0, 0, 1, 1], probs, ["normal", "polyp"])
        >>> print(result["accuracy"])
        0.750 (0.301 to 0.954), n = 4
        >>> result["confusion_matrix"]
        [[1, 1], [0, 2]]
    """
    task = read_task(y, probs, vocab, groups, multi_label, thresholds, predicted, ordinal)
    estimates = estimate_all(task, n_boot=n_boot, seed=seed, level=level, progress=progress)
    keys = [metric.key for metric in class_metrics()]
    per_class = {
        label: {"n": n, **{name: estimates[f"{label}/{name}"] for name in keys}}
        for label, n in zip(task.vocab, (task.positive & task.known).sum(axis=0).tolist(), strict=True)
    }
    found = {metric.key: estimates[metric.key] for metric in overall_metrics() if metric.key in estimates}
    rest = {
        "per_class": per_class,
        "confusion_matrix": confusion_matrix(task),
        "vocab": list(task.vocab),
        "n": task.n,
        "n_groups": None if groups is None else task.sampling.count,
    }
    return cast(Metrics, found | rest)


def estimate_all(
    task: Task, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95, progress: bool = True
) -> dict[str, Estimate]:
    """Every metric of `table.statistics` as an Estimate, under the same names."""
    ones = np.ones((1, task.n))
    values = {name: float(column[0]) for name, column in statistics(task, ones).items()}
    if not task.n:
        return {name: undefined(0, "no image with a known label") for name in values}

    part = part_of(task, seed)
    few = part.of_task(task)

    def statistic(weights: np.ndarray) -> np.ndarray:
        columns = list(statistics(few, weights).values())
        return np.concatenate([np.stack(columns, axis=1), calibration_gaps(few, weights)], axis=1)

    gaps = calibration_gaps(task, ones)[0]
    draws = part.resample(statistic, n_boot, seed, centre=np.array([*values.values(), *gaps]), progress=progress)
    variances = task.sampling.variance(draws[:, : len(values)])
    estimates = {
        name: _estimate(task, name, value, float(variance), level)
        for (name, value), variance in zip(values.items(), variances, strict=True)
    }
    estimates["ece"] = calibration_error(gaps, draws[:, len(values) :], task.sampling, level)
    return estimates


def _estimate(task: Task, name: str, value: float, variance: float, level: float) -> Estimate:
    label, _, key = name.rpartition("/")
    metric, index = METRICS[key], task.vocab.index(label) if label else None
    mask = metric.counted(task, index)
    if math.isnan(value):
        return undefined(int(mask.sum()), _reason(task, metric, index))
    missing = mean_of(metric, task) if index is None else None
    note = left_out(missing, key)
    if metric.share and missing is None:
        agree = (task.positive == task.predicted) | ~task.known
        right = agree.all(axis=1) if index is None else agree[:, index]
        return proportion(right, mask, task.sampling, level=level, note=note)
    parts = balanced_parts(task, metric, index)
    return bounded(value, variance, task.sampling, mask, level=level, parts=parts, span=metric.bounds(task), note=note)


def bounded(
    value: float,
    variance: float,
    sampling: Sampling,
    mask: np.ndarray,
    *,
    level: float = 0.95,
    parts: Sequence[np.ndarray] = (),
    span: tuple[float, float] = (0.0, 1.0),
    at_most: float = math.inf,
    note: str = "",
) -> Estimate:
    """A metric with bounds as an Estimate; see `intervals.bounded_interval`.

    Args:
        value: the metric.
        variance: when patients are resampled.
        sampling: which images are one patient's.
        mask: (n,) bool, the images counted.
        level: of the interval.
        parts: (n,) bool each: the labels, where the metric weighs them alike; its variance then rests on the
            patients of the rarest.
        span: the metric's least and greatest value.
        at_most: it is never read as more independent images than this.
        note: passed on.
    """
    n = int(mask.sum())
    if _one_patient(sampling, mask) or math.isnan(variance):
        return Estimate(value, math.nan, math.nan, n, _joined(note, no_interval(n)))
    if parts:
        freedom, units = sampling.freedom(*parts), sampling.units(*parts)
    if not parts or not units:  # every label of the parts is on no image, or on all
        freedom = math.inf if sampling.independent else sampling.groups(mask) - 1
        units = sampling.units(mask)
    ends = bounded_interval(value, variance, units=units, level=level, freedom=freedom, span=span, at_most=at_most)
    return Estimate(value, *ends, n, note)


def proportion(
    hits: np.ndarray, mask: np.ndarray, sampling: Sampling, *, level: float = 0.95, note: str = ""
) -> Estimate:
    """The share of hits among the masked images: Wilson's interval, widened by the design effect of patients.

    Args:
        hits: (n,) bool.
        mask: (n,) bool, the images counted.
        sampling: which images are one patient's.
        level: of the interval.
        note: passed on.

    Source: Wilson 1927; with several images a patient, the variance of a ratio (Cochran 1977, section 6.3) gives the
    effective number of images, as in Dean & Pagano 2015.

    Example:
        >>> everything = np.ones(10, dtype=bool)
        >>> print(proportion(everything, everything, Sampling.of(None, 10)))
        1.000 (0.722 to 1.000), n = 10
        >>> print(proportion(everything, everything, Sampling.of("aaaaabbbbb")))
        1.000 (0.115 to 1.000), n = 10
    """
    n = int(mask.sum())
    if not n:
        return undefined(0, note or "no image to count")
    share = float(hits[mask].mean())
    if sampling.independent:
        return Estimate(share, *wilson(share * n, n, level), n, note)
    surplus = np.bincount(sampling.codes[mask], weights=hits[mask] - share, minlength=sampling.count)
    patients = sampling.patients(mask)
    variance = float((surplus**2).sum()) / n**2 * patients / max(patients - 1, 1)
    return bounded(share, variance, sampling, mask, level=level, note=note, at_most=n)


def calibration_error(
    gaps: np.ndarray, draws: np.ndarray, sampling: Sampling, level: float = 0.95, note: str = ""
) -> Estimate:
    """The ECE with its interval, from signed gaps (k,) and their resamples (b, k).

    The lower end is 0 where the miscalibration seen could be noise alone.
    """
    n, value = len(sampling.codes), float(np.abs(gaps).sum())
    if _one_patient(sampling, np.ones(n, dtype=bool)):
        return Estimate(value, math.nan, math.nan, n, _joined(note, no_interval(n)))
    freedom = math.inf if sampling.independent else sampling.groups() - 1
    draws = draws[np.isfinite(draws).all(axis=1)]
    occupied = int((np.abs(draws).max(axis=0) > 0).sum())
    few = n / max(n - occupied, 1) * sampling.count / max(sampling.count - 1, 1)
    low, high = gap_interval(gaps, draws, level, math.sqrt(few) * critical(level, freedom) / critical(level))
    variance, units = float(draws.sum(axis=1).var()), sampling.units()
    if variance * units**2 < PHANTOM:  # all right, or nearly: the resamples cannot show what could go wrong
        high = max(high, bounded_interval(value, variance, units=units, level=level, freedom=freedom)[1])
    return Estimate(value, low, min(high, 1.0), n, note)


def no_interval(n: int) -> str:
    """Why `n` images that belong together have no interval."""
    return "1 image: no interval" if n == 1 else "all of one patient or of near-duplicates: no interval"


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _one_patient(sampling: Sampling, mask: np.ndarray) -> bool:
    return bool(not sampling.independent and sampling.patients(mask) < 2)


def balanced_parts(task: Task, metric: Metric, index: int | None = None) -> list[np.ndarray]:
    """The labels, (n,) bool each, that a metric weighs alike; none for a plain mean over images."""
    if metric.by_image:
        return []
    if index is not None:
        known, actual = task.known[:, index], task.positive[:, index]
        return [known & actual, known & ~actual]
    return list((task.positive & task.known).T)


def _reason(task: Task, metric: Metric, index: int | None) -> str:
    if index is None:
        return metric.undefined
    label, known, actual = task.vocab[index], task.known[:, index], task.positive[:, index]
    if not known.any():
        return f"{label!r} is known of no image"
    if metric.among == "called":
        return f"no image was called {label!r}"
    if metric.among == "not called":
        return f"every image was called {label!r}"
    return f"every image has the label {label!r}" if actual[known].all() else f"no image has the label {label!r}"


def left_out(labels: Sequence[str] | None, key: str = "") -> str:
    """Which labels a mean over the labels, the metric of this key, had to leave out.

    Example:
        >>> left_out(["polyp"])
        "'polyp' not scored: no image has it, or every image has it"
        >>> left_out(["a", "b", "c", "d", "e"], "mcc")
        "'a', 'b', 'c' and 2 more not scored: no image, or every image, has or was given them"
    """
    if not labels:
        return ""
    it = "it" if len(labels) == 1 else "them"
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    why = f"no image, or every image, has or was given {it}"
    why = why if key == "mcc" else f"no image has {it}, or every image has {it}"
    return f"{', '.join(map(repr, labels[:_NAMED]))}{more} not scored: {why}"


def confusion_matrix(task: Task) -> Any:
    """Counts with the actual labels as rows; multi-label: `{label: [[tn, fp], [fn, tp]]}`."""
    if not task.multi_label:
        return (task.positive.T.astype(float) @ task.predicted.astype(float)).astype(int).tolist()
    matrices = {}
    for index, label in enumerate(task.vocab):
        actual, called = (column[task.rows[index], index].astype(int) for column in (task.positive, task.predicted))
        matrices[label] = np.bincount(2 * actual + called, minlength=4).reshape(2, 2).tolist()
    return matrices

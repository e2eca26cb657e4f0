"""Every metric as one row of one table: its words, its unit, its bounds, and its function of weighted images.

`METRICS` is read wherever metrics are computed, compared, printed or drawn. To add one, write its function and its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from medclf.metrics.weighted import Task, all_right, calibration_gaps

Among = Literal["all", "actual", "not actual", "called", "not called"]


class Counts:
    """What metrics are made of, under each row of (b, n) weights: (b, L) weighted numbers of images, and areas.

    Args:
        task: the reference standard and the predictions.
        weights: (b, n); ones give the metrics' values, resampled ones their spread.

    `actual` have the label, `called` were predicted as it, `both` are both, `neither` are neither, of `total` images.
    """

    def __init__(self, task: Task, weights: np.ndarray) -> None:
        self.task, self.weights = task, weights
        self.actual = self.count(task.positive)
        self.called = self.count(task.predicted)
        self.both = self.count(task.positive & task.predicted)
        self.total = self.count(np.ones_like(task.known))
        self.neither = self.total - self.actual - self.called + self.both

    def count(self, chosen: np.ndarray) -> np.ndarray:
        """(b, L) weighted numbers of the chosen (n, L) images among those whose label is known."""
        return np.asarray(self.weights @ (chosen & self.task.known).astype(self.weights.dtype))

    @property
    def sensitivity(self) -> np.ndarray:
        """(b, L)."""
        return np.asarray(self.both / self.actual)

    @property
    def specificity(self) -> np.ndarray:
        """(b, L)."""
        return np.asarray(self.neither / (self.total - self.actual))

    @cached_property
    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and average precision of each label, (b, L) each."""
        n = self.weights.shape[1]
        pairs = [
            ranking.areas(self.weights if len(rows) == n else self.weights[:, rows])
            for ranking, rows in zip(self.task.rankings, self.task.rows, strict=True)
        ]
        auroc, auprc = (np.stack(columns, axis=1) for columns in zip(*pairs, strict=True))
        return auroc, auprc


Function = Callable[[Counts], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Args:
        key: its name in `results.json`.
        title: its name where people read.
        meaning: what it says, in a few words.
        overall: `Counts` to (b,), or to (b, L), of which the mean over the labels is taken; None: of a class only.
        per_class: `Counts` to (b, L); None: overall only.
        meaning_of_many: what it says where an image may have several labels, if that is another thing.
        unit: "%" for a share.
        span: its least and greatest value, or a function of the `Task` that gives them.
        lower_is_better: as for an error.
        share: it is a share of images that are right, whose interval needs no resampling.
        among: of a class: the images that it counts.
        by_image: every image weighs alike; else every label does, and the rarest label limits the precision.
        multi_label_only: it says nothing new where an image has one label.
        ordinal_only: it asks how far apart labels are, which only labels with an order tell.
        short: shown where there is room for a few only (terminal, folds, leak-free numbers).
        undefined: why it may have no value.

    Example:
        >>> METRICS["ppv"].title, METRICS["balanced_accuracy"].name, METRICS["auroc"].name
        ('PPV', 'balanced accuracy', 'AUROC')
    """

    key: str
    title: str
    meaning: str
    overall: Function | None = None
    per_class: Function | None = None
    meaning_of_many: str = ""
    unit: Literal["", "%"] = ""
    span: tuple[float, float] | Callable[[Task], tuple[float, float]] = (0.0, 1.0)
    lower_is_better: bool = False
    share: bool = False
    among: Among = "all"
    by_image: bool = False
    multi_label_only: bool = False
    ordinal_only: bool = False
    short: bool = True
    undefined: str = "all images have one label"

    @property
    def name(self) -> str:
        """The title inside a sentence."""
        return self.title if self.title.isupper() else self.title[:1].lower() + self.title[1:]

    @property
    def compared(self) -> bool:
        """Whether two models' difference in it is shown: a positive one then always means better."""
        return self.overall is not None and not self.lower_is_better

    def describe(self, multi_label: bool = False) -> str:
        """What it says."""
        text = self.meaning_of_many if multi_label and self.meaning_of_many else self.meaning
        return text + (" (lower is better)" if self.lower_is_better else "")

    def applies_to(self, task: Task) -> bool:
        """Whether it is computed for this task."""
        return (task.multi_label or not self.multi_label_only) and (task.ordinal or not self.ordinal_only)

    def bounds(self, task: Task) -> tuple[float, float]:
        """Its least and greatest value for this task."""
        return self.span(task) if callable(self.span) else self.span

    def counted(self, task: Task, index: int | None) -> np.ndarray:
        """(n,) bool: the images that it counts; of the label at `index`, or overall."""
        if index is None:
            return np.asarray(task.known.any(axis=1))
        actual, called = task.positive[:, index], task.predicted[:, index]
        masks = {"actual": actual, "not actual": ~actual, "called": called, "not called": ~called}
        return np.asarray(np.logical_and(task.known[:, index], masks.get(self.among, True)))


def _accuracy(counts: Counts) -> np.ndarray:
    if counts.task.multi_label:
        return np.asarray((counts.both + counts.neither) / counts.total)
    return np.asarray(counts.both.sum(axis=1) / counts.total[:, 0])


def _balanced_accuracy(counts: Counts) -> np.ndarray:
    many = counts.task.multi_label
    return (counts.sensitivity + counts.specificity) / 2 if many else counts.sensitivity


def _exact_match(counts: Counts) -> np.ndarray:
    weights = counts.weights
    return np.asarray(weights @ all_right(counts.task).astype(weights.dtype) / weights.sum(axis=1))


def _f1(counts: Counts) -> np.ndarray:
    return np.where(counts.actual > 0, 2 * counts.both / (counts.actual + counts.called), np.nan)


def _auroc(counts: Counts) -> np.ndarray:
    """Of two labels, the second's, which equals the first's."""
    second = len(counts.task.vocab) == 2 and not counts.task.multi_label
    return counts.areas[0][:, 1] if second else counts.areas[0]


def _mcc(counts: Counts) -> np.ndarray:
    if not counts.task.multi_label:
        return _matthews(counts.both, counts.actual, counts.called)
    both = np.stack([counts.both, counts.neither], axis=-1)
    actual = np.stack([counts.actual, counts.total - counts.actual], axis=-1)
    called = np.stack([counts.called, counts.total - counts.called], axis=-1)
    return _matthews(both, actual, called)


def _matthews(both: np.ndarray, actual: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Matthews' coefficient from each label's counts, labels last. Source: Gorodkin 2004, R_K."""
    total = actual.sum(axis=-1)
    covariance = both.sum(axis=-1) * total - (actual * called).sum(axis=-1)
    spread = (total**2 - (actual**2).sum(axis=-1)) * (total**2 - (called**2).sum(axis=-1))
    return np.asarray(np.where(spread > 0, covariance / np.sqrt(spread), np.nan))


def _quadratic_kappa(counts: Counts) -> np.ndarray:
    """1 less the mean squared distance beside that of chance. Source: Cohen 1968, quadratic weights."""
    actual, called = _grades(counts.task)
    weights = counts.weights.astype(np.float64)
    total = weights.sum(axis=1)
    chance = weights @ (actual**2) + weights @ (called**2) - 2 * (weights @ actual) * (weights @ called) / total
    apart = weights @ ((actual - called) ** 2)
    return np.asarray(np.where(chance > 0, 1 - apart / chance, np.nan))


def _grade_error(counts: Counts) -> np.ndarray:
    actual, called = _grades(counts.task)
    weights = counts.weights.astype(np.float64)
    return np.asarray(weights @ np.abs(actual - called) / weights.sum(axis=1))


def _grades(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(n,) place of each image's actual and predicted label in their order."""
    return task.positive.argmax(axis=1).astype(np.float64), task.predicted.argmax(axis=1).astype(np.float64)


def _brier(counts: Counts) -> np.ndarray:
    task = counts.task
    squared = (task.probs - task.positive) ** 2 * (len(task.vocab) if _sums_squares(task) else 1)
    return np.asarray(counts.weights @ (squared * task.known).astype(counts.weights.dtype) / counts.total)


def _sums_squares(task: Task) -> bool:
    """Whether the Brier score sums the labels' squares, as in scikit-learn: three labels or more, one an image."""
    return not task.multi_label and len(task.vocab) > 2


def _ece(counts: Counts) -> np.ndarray:
    return np.asarray(np.abs(calibration_gaps(counts.task, counts.weights)).sum(axis=1))


_ROWS = (
    Metric(
        "accuracy",
        "Accuracy",
        "share of the images classified correctly",
        _accuracy,
        meaning_of_many="share of the images right on a label, mean over the labels",
        unit="%",
        share=True,
        by_image=True,
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean sensitivity of the classes: rare ones count as much",
        _balanced_accuracy,
        meaning_of_many="mean of sensitivity and specificity, over the labels",
        unit="%",
    ),
    Metric(
        "exact_match",
        "Exact match",
        "share of the images with every label right",
        _exact_match,
        unit="%",
        share=True,
        by_image=True,
        multi_label_only=True,
    ),
    Metric(
        "sensitivity",
        "Sensitivity",
        "share of the images with the label that were predicted as it",
        per_class=lambda counts: counts.sensitivity,
        unit="%",
        share=True,
        among="actual",
    ),
    Metric(
        "specificity",
        "Specificity",
        "share of the images without the label that were not predicted as it",
        per_class=lambda counts: counts.specificity,
        unit="%",
        share=True,
        among="not actual",
    ),
    Metric(
        "ppv",
        "PPV",
        "share of the images predicted as the label that have it",
        per_class=lambda counts: counts.both / counts.called,
        unit="%",
        share=True,
        among="called",
    ),
    Metric(
        "npv",
        "NPV",
        "share of the images not predicted as the label that do not have it",
        per_class=lambda counts: counts.neither / (counts.total - counts.called),
        unit="%",
        share=True,
        among="not called",
    ),
    Metric("auroc", "AUROC", "how well the probabilities rank; guessing gives 0.5", _auroc, lambda c: c.areas[0]),
    Metric(
        "auprc",
        "AUPRC",
        "average precision; guessing gives the share of the class",
        lambda counts: counts.areas[1],
        lambda counts: counts.areas[1],
        short=False,
    ),
    Metric("f1", "F1", "harmonic mean of sensitivity and PPV, mean over the classes", _f1, _f1),
    Metric(
        "mcc",
        "MCC",
        "correlation of actual and predicted; guessing gives 0",
        _mcc,
        span=(-1.0, 1.0),
        undefined="all images have, or were given, one label",
    ),
    Metric(
        "quadratic_kappa",
        "Quadratic kappa",
        "agreement of the grades, distant errors count most; guessing gives 0",
        _quadratic_kappa,
        span=(-1.0, 1.0),
        ordinal_only=True,
        undefined="all images have, and were given, one label",
    ),
    Metric(
        "grade_error",
        "Mean absolute error",
        "mean distance of actual and predicted label, in grades; 0 is best",
        _grade_error,
        span=lambda task: (0.0, max(len(task.vocab) - 1.0, 1.0)),
        lower_is_better=True,
        by_image=True,
        ordinal_only=True,
    ),
    Metric(
        "brier",
        "Brier score",
        "mean squared error of the probabilities; 0 is best",
        _brier,
        span=lambda task: (0.0, 2.0 if _sums_squares(task) else 1.0),
        lower_is_better=True,
        by_image=True,
        short=False,
    ),
    Metric(
        "ece",
        "Calibration error",
        "average gap between confidence and accuracy (ECE); 0 is best",
        _ece,
        lower_is_better=True,
        short=False,
    ),
)
METRICS: dict[str, Metric] = {row.key: row for row in _ROWS}


def overall_metrics(*, short: bool = False) -> list[Metric]:
    """The metrics of all classes together, in the order in which they are shown.

    Example:
        >>> [metric.key for metric in overall_metrics(short=True)]
        ['accuracy', 'balanced_accuracy', 'exact_match', 'auroc', 'f1', 'mcc', 'quadratic_kappa', 'grade_error']
    """
    return [row for row in METRICS.values() if row.overall and (row.short or not short)]


def class_metrics(*, short: bool = False) -> list[Metric]:
    """The metrics of each class, in the order in which they are shown.

    Example:
        >>> [metric.key for metric in class_metrics()]
        ['sensitivity', 'specificity', 'ppv', 'npv', 'auroc', 'auprc', 'f1']
    """
    return [row for row in METRICS.values() if row.per_class and (row.short or not short)]


def statistics(task: Task, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric under each row of (b, n) weights: `"accuracy"`, ..., `"<label>/sensitivity"`, ...

    NaN where a metric is undefined. Means over labels leave out the labels that no image has.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        counts = Counts(task, weights)
        result = {}
        for metric in overall_metrics():
            if metric.overall is not None and metric.applies_to(task):
                values = metric.overall(counts)
                result[metric.key] = values if values.ndim == 1 else _mean(values)
        columns = {row.key: row.per_class(counts) for row in class_metrics() if row.per_class is not None}
    for index, label in enumerate(task.vocab):
        result |= {f"{label}/{key}": column[:, index] for key, column in columns.items()}
    return result


def _mean(columns: np.ndarray) -> np.ndarray:
    """Mean over the labels for which the metric is defined."""
    defined = np.isfinite(columns)
    return np.asarray(np.where(defined, columns, 0).sum(axis=1) / defined.sum(axis=1))


def mean_of(metric: Metric, task: Task) -> list[str] | None:
    """The labels that an overall metric could not take into its mean; None where it is no mean over the labels."""
    if metric.overall is None:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        values = metric.overall(Counts(task, np.ones((1, len(task.positive)))))
    if values.ndim == 1:
        return None
    return [label for label, value in zip(task.vocab, values[0], strict=True) if not np.isfinite(value)]

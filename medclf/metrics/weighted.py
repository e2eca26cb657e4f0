"""Predictions laid out so that every metric is a function of weighted images; no torch, no fastai.

Weights of one give the value, weights drawn with replacement give its variance, and the same draws for
two models give paired differences. So no metric is written twice; `table.py` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.metrics.intervals import Sampling

N_BINS = 15
_FEW_PLACES, _SMALL = 32, 1_000_000  # for which a product of matrices is quicker than running sums


@dataclass(frozen=True)
class Ranking:
    """One label's images in falling order of their scores; ties are kept together.

    Args:
        order: (n,) rows, highest score first.
        hits: (p,) places in `order` of the images with the label.
        first: (p,) where each hit's run of tied scores begins, and `past` where it has ended.

    Example:
        >>> ranking = Ranking.of([True, False, True, False], [0.9, 0.4, 0.4, 0.1])
        >>> auroc, auprc = ranking.areas(np.ones((1, 4)))
        >>> float(auroc[0]), round(float(auprc[0]), 3)
        (0.875, 0.833)
    """

    order: np.ndarray
    hits: np.ndarray
    first: np.ndarray
    past: np.ndarray

    @classmethod
    def of(cls, positive: Any, scores: Any) -> Ranking:
        """Sort once; `areas` is then linear in the number of images."""
        positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores)
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else order
        run = np.searchsorted(begins, np.flatnonzero(positive[order]), side="right") - 1
        ends = np.append(begins[1:], len(order))
        return cls(order, np.flatnonzero(positive[order]), begins[run], ends[run])

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """AUROC and average precision under each row of (b, n) weights; tied scores count half.

        NaN where no image has the label, or all have it. Source: Mann & Whitney 1947 for the AUROC; average
        precision is the sum of precision times gained sensitivity, as in scikit-learn.
        """
        own = weights[:, self.order[self.hits]]
        true = _running(own)
        true_first = true[:, np.searchsorted(self.hits, self.first)]
        true_past = true[:, np.searchsorted(self.hits, self.past)]
        called_first, called_past = np.split(self._before(weights, np.append(self.first, self.past)), 2, axis=1)
        positives, negatives = true[:, -1], weights.sum(axis=1) - true[:, -1]
        above = np.einsum("ij,ij->i", own, called_past - true_past + called_first - true_first) / 2
        precision = np.divide(true_past, called_past, out=np.zeros_like(true_past), where=called_past > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc = 1 - above / (positives * negatives)
            auprc = np.einsum("ij,ij->i", own, precision) / positives
        return auroc, np.where(negatives > 0, auprc, np.nan)

    def _before(self, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(b, places) what the images weigh that stand before each place of `order`."""
        if len(places) > _FEW_PLACES or len(places) * len(self.order) > _SMALL:
            return np.asarray(_running(weights[:, self.order])[:, places])
        before = np.zeros((len(self.order), len(places)), weights.dtype)
        for column, place in enumerate(places):
            before[self.order[:place], column] = 1
        return np.asarray(weights @ before)


def _running(columns: np.ndarray) -> np.ndarray:
    """Running sums along each row, with a zero before."""
    sums = np.zeros((columns.shape[0], columns.shape[1] + 1), columns.dtype)
    np.cumsum(columns, axis=1, out=sums[:, 1:])
    return sums


@dataclass(frozen=True)
class Task:
    """Reference and prediction as one column a label, for single- and multi-label alike.

    Args:
        vocab: the L label names.
        multi_label: whether an image may have several.
        positive: (n, L) bool, the reference standard.
        predicted: (n, L) bool.
        known: (n, L) bool, False where the reference is unknown.
        probs: (n, L).
        sampling: which images were drawn together.
        ordinal: the labels have an order, lowest first.
    """

    vocab: list[str]
    multi_label: bool
    positive: np.ndarray
    predicted: np.ndarray
    known: np.ndarray
    probs: np.ndarray
    sampling: Sampling
    ordinal: bool = False
    rows: list[np.ndarray] = field(init=False)  # the known images of each label
    rankings: list[Ranking] = field(init=False)

    def __post_init__(self) -> None:
        rows = [np.flatnonzero(column) for column in self.known.T]
        pairs = [(self.positive[kept, i], self.probs[kept, i]) for i, kept in enumerate(rows)]
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "rankings", [Ranking.of(*pair) for pair in pairs])

    @property
    def n(self) -> int:
        """How many images have a known reference."""
        return int(self.known.any(axis=1).sum())


def read_task(
    y: Any,
    probs: Any,
    vocab: Sequence[str],
    groups: Any = None,
    multi_label: bool = False,
    thresholds: float | Sequence[float] = 0.5,
    predicted: Any = None,
    ordinal: bool = False,
) -> Task:
    """Check arrays and lay them out as a `Task`; arguments as in `classification_metrics`.

    Raises:
        DataError: shapes that do not fit, a label outside the vocabulary, a probability outside 0 to 1.
    """
    names = [str(label) for label in vocab]
    columns = [str(label) for label in getattr(probs, "columns", ())]
    if columns != names and sorted(columns) == sorted(names):  # a table that names its columns, in another order
        probs = probs.iloc[:, [columns.index(label) for label in names]]
    truth, scores = _numbers(y), np.asarray(probs, dtype=np.float64)
    n = len(truth)
    if len(set(names)) != len(names) or not names:
        raise DataError(f"vocab {names} is empty or names a label twice", "give each label once")
    if scores.shape != (n, len(names)):
        raise DataError(
            f"probs has the shape {scores.shape}, not {(n, len(names))}", "one row an image, one column a label"
        )
    wrong = ~((scores >= 0) & (scores <= 1)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        diverged = np.isnan(scores[row]).any()
        remedy = "train again at a lower learning rate" if diverged else "apply softmax or sigmoid first"
        raise DataError(f"probs, row {row}: {scores[row]} are no probabilities", remedy)
    sampling = Sampling.of(groups, n)
    if multi_label:
        task = _read_multi(truth, scores, names, sampling, np.asarray(thresholds))
    else:
        task = _read_single(truth, scores, names, sampling)
    if ordinal and not multi_label:
        task = replace(task, ordinal=True)
    return task if predicted is None else _with_predicted(task, np.asarray(predicted), truth)


def _numbers(y: Any) -> np.ndarray:
    truth = np.asarray(y)
    if truth.dtype.kind in "biuf":
        return truth
    for value in truth.ravel().tolist():
        if not isinstance(value, Real):
            text = f"y holds {value!r}, which is no number"
            raise DataError(text, "give indices into vocab, such as vocab.index(label), and -1 where unknown")
    return np.asarray(truth.astype(np.float64))


def _with_predicted(task: Task, predicted: np.ndarray, truth: np.ndarray) -> Task:
    if predicted.dtype != bool or predicted.shape != (len(truth), len(task.vocab)):
        raise DataError(f"predicted has the shape {predicted.shape}", "give True or False, one row an image")
    if not task.multi_label and len(truth) and (predicted.sum(axis=1) != 1).any():
        raise DataError("predicted names several labels of an image, or none", "one an image")
    known = truth >= 0 if truth.ndim == 1 else (truth >= 0).any(axis=1)
    return replace(task, predicted=predicted[known])


def _read_single(truth: np.ndarray, scores: np.ndarray, names: list[str], sampling: Sampling) -> Task:
    if truth.ndim != 1:
        raise DataError(f"y has the shape {truth.shape}, not (n,)", "pass multi_label=True for 0 or 1 a label")
    if len(truth) and (truth != np.floor(truth)).any():
        raise DataError("y holds numbers that are not whole", "give indices into vocab, -1 where unknown")
    if len(truth) and not (truth.min() >= -1 and truth.max() < len(names)):
        raise DataError(f"y runs from {truth.min()} to {truth.max()}, but vocab has {len(names)} labels")
    off = np.abs(scores.sum(axis=1) - 1) > 0.01
    if off.any():
        row = int(off.argmax())
        raise DataError(
            f"probs, row {row}: they sum to {scores[row].sum():.3f}, not 1", "apply softmax, or pass multi_label=True"
        )
    kept = np.flatnonzero(truth >= 0)
    truth, scores = truth[kept].astype(np.int64), scores[kept]
    identity = np.eye(len(names), dtype=bool)
    predicted = identity[scores.argmax(axis=1)]
    return Task(
        names, False, identity[truth], predicted, np.ones(scores.shape, dtype=bool), scores, sampling.keep(kept)
    )


def _read_multi(
    truth: np.ndarray, scores: np.ndarray, names: list[str], sampling: Sampling, thresholds: np.ndarray
) -> Task:
    if truth.shape != scores.shape:
        raise DataError(f"y has the shape {truth.shape}, not {scores.shape}", "multi-label wants 0 or 1 a label")
    if not np.isin(truth, (-1, 0, 1)).all():
        raise DataError("y holds other numbers than 0, 1 and -1 (unknown)", "give 1 where the image has the label")
    if thresholds.ndim and thresholds.shape != (len(names),):
        raise DataError(f"{thresholds.size} thresholds for {len(names)} labels", "give one, or one a label")
    kept = np.flatnonzero((truth >= 0).any(axis=1))
    truth, scores = truth[kept], scores[kept]
    return Task(names, True, truth == 1, scores >= thresholds, truth >= 0, scores, sampling.keep(kept))


def all_right(task: Task) -> np.ndarray:
    """(n,) bool: whether every known label of an image is as it should be."""
    return np.asarray(((task.positive == task.predicted) | ~task.known).all(axis=1))


def calibration_gaps(task: Task, weights: np.ndarray) -> np.ndarray:
    """(b, k) signed gaps between probability and frequency, bin by bin, whose absolute sum is the ECE."""
    if not task.multi_label:
        right = task.positive[np.arange(len(task.probs)), task.probs.argmax(axis=1)]
        return bin_gaps(weights, task.probs.max(axis=1, initial=0), right)
    parts = [
        bin_gaps(weights[:, rows], task.probs[rows, index], task.positive[rows, index])
        for index, rows in enumerate(task.rows)
        if len(rows)
    ]
    return np.concatenate(parts, axis=1) / len(parts) if parts else np.full((len(weights), 1), np.nan)


def bin_gaps(
    weights: np.ndarray, confidence: np.ndarray, right: np.ndarray, edges: np.ndarray | None = None
) -> np.ndarray:
    """(b, k) gaps between mean confidence and frequency of each bin, times its share of the images.

    Args:
        weights: (b, n).
        confidence: (n,) probabilities.
        right: (n,) whether they came true.
        edges: (k + 1,) of the bins; by default 15 of equal width.
    """
    edges = np.linspace(0, 1, N_BINS + 1) if edges is None else edges
    bins = np.searchsorted(edges[1:-1], confidence, side="right")
    gaps = np.eye(len(edges) - 1)[bins] * (confidence - right)[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ gaps.astype(weights.dtype) / weights.sum(axis=1, keepdims=True))

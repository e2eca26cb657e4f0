"""What a set of predictions is worth: arrays in, estimates out; no torch, no fastai.

Every metric is a function of weighted images, (b, n) weights to (b,) values: weights of one give the
value, weights drawn with replacement give its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.evaluation.intervals import (
    Estimate,
    as_plain,
    bounded_interval,
    group_codes,
    resample,
    undefined,
    wilson,
)

__all__ = ["Estimate", "as_plain", "classification_metrics", "undefined", "wilson"]

OVERALL = ("accuracy", "balanced_accuracy", "auroc", "auprc", "f1", "mcc", "brier", "ece")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")
PROPORTIONS = ("sensitivity", "specificity", "ppv", "npv")
N_BINS = 15


@dataclass(frozen=True)
class Task:
    """Reference and prediction as one column a label, for single- and multi-label alike."""

    vocab: list[str]
    multi_label: bool
    positive: np.ndarray  # (n, L) bool: the reference standard
    predicted: np.ndarray  # (n, L) bool
    known: np.ndarray  # (n, L) bool: False where the reference is unknown
    probs: np.ndarray  # (n, L) float64


def classification_metrics(
    y: Any,
    probs: Any,
    vocab: Sequence[str],
    *,
    groups: Any = None,
    multi_label: bool = False,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """All metrics of a set of predictions, each an `Estimate` with its interval and n.

    Args:
        y: the reference standard: (n,) indices into `vocab`, or (n, L) of 0 and 1 for multi-label; -1 is
            unknown and left out.
        probs: (n, L) probabilities, in the order of `vocab`; for single-label each row sums to 1.
        vocab: the label names.
        groups: (n,) patient (or cluster) of each image; intervals then resample patients. None: images.
        multi_label: whether an image may have several labels; a label is predicted from 0.5.
        n_boot: bootstrap resamples.
        seed: of the resamples; the same seed gives the same intervals.
        level: of the intervals.

    Returns:
        accuracy, balanced_accuracy, auroc, auprc, f1, mcc, brier, ece (auroc, auprc and f1 are means over
        the labels; for two labels auroc is the second's, which equals the first's; multi-label: all are means
        over the labels), per_class {label: {n, sensitivity, specificity, ppv, npv, f1, auroc, auprc}},
        confusion_matrix (rows are the actual labels; multi-label: {label: [[tn, fp], [fn, tp]]}), vocab,
        n and n_groups.

    Raises:
        DataError: shapes that do not fit, a label outside the vocabulary, a probability outside 0 to 1.

    Example:
        >>> probs = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]]
        >>> result = classification_metrics([0, 0, 1, 1], probs, ["normal", "polyp"])
        >>> print(result["accuracy"])
        0.750 (0.301 to 0.954), n = 4
        >>> result["confusion_matrix"]
        [[1, 1], [0, 2]]
    """
    task, codes = _read(y, probs, vocab, groups, multi_label)
    n, count = len(codes), int(codes.max(initial=-1)) + 1
    names = list(OVERALL) + [f"{label}/{name}" for label in task.vocab for name in PER_CLASS]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.stack(list(_statistics(task, weights).values()), axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(np.ones((1, n)))[0]
        draws = resample(statistic, codes, n_boot, seed) if n else np.full((1, len(values)), np.nan)
        deviations = [np.nanstd(column) if np.isfinite(column).any() else np.nan for column in draws.T]
    table = _counts(task)
    estimates = {
        name: _estimate(name, value, deviation, table, task, level)
        for name, value, deviation in zip(names, values, deviations, strict=True)
    }
    per_class = {
        label: {
            "n": int(table["positive"][index]),
            **{name: estimates[f"{label}/{name}"] for name in PER_CLASS},
        }
        for index, label in enumerate(task.vocab)
    }
    return {
        **{name: estimates[name] for name in OVERALL},
        "per_class": per_class,
        "confusion_matrix": _confusion_matrix(task, table),
        "vocab": list(task.vocab),
        "n": n,
        "n_groups": count,
    }


def _read(
    y: Any, probs: Any, vocab: Sequence[str], groups: Any, multi_label: bool
) -> tuple[Task, np.ndarray]:
    names = [str(label) for label in vocab]
    truth, scores = np.asarray(y), np.asarray(probs, dtype=np.float64)
    wanted = (len(truth), len(names))
    if scores.shape != wanted:
        raise DataError(
            f"probs has the shape {scores.shape}, not {wanted}", "give one row an image, one column a label"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        row = int(np.argmin(((scores >= 0) & (scores <= 1)).all(axis=1)))
        raise DataError(
            f"probs, row {row}: {scores[row]} are no probabilities", "apply softmax or sigmoid first"
        )
    codes = group_codes(groups, len(truth))
    if multi_label:
        if truth.shape != wanted:
            raise DataError(
                f"y has the shape {truth.shape}, not {wanted}", "multi-label wants 0 or 1 a label"
            )
        return Task(names, True, truth == 1, scores >= 0.5, truth >= 0, scores), codes
    if truth.ndim != 1:
        raise DataError(
            f"y has the shape {truth.shape}, not (n,)", "pass multi_label=True for several labels an image"
        )
    if len(truth) and truth.max() >= len(names):
        raise DataError(f"y holds {truth.max()}, but the vocabulary has {len(names)} labels")
    keep = truth >= 0
    truth, scores = truth[keep].astype(np.int64), scores[keep]
    identity = np.eye(len(names), dtype=bool)
    predicted = identity[scores.argmax(axis=1)] if len(truth) else identity[:0]
    task = Task(names, False, identity[truth], predicted, np.ones(scores.shape, bool), scores)
    return task, np.unique(codes[keep], return_inverse=True)[1]


def _statistics(task: Task, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric under each row of weights."""
    kind = weights.dtype
    positive = weights @ (task.positive & task.known).astype(kind)
    predicted = weights @ (task.predicted & task.known).astype(kind)
    both = weights @ (task.positive & task.predicted & task.known).astype(kind)
    total = weights @ task.known.astype(kind)
    neither = total - positive - predicted + both
    sensitivity, specificity = both / positive, neither / (total - positive)
    f1 = np.where(positive > 0, 2 * both / (positive + predicted), np.nan)
    ranked = [
        ranking(weights[:, rows], task.positive[rows, index], task.probs[rows, index])
        for index, rows in enumerate(task.known.T)
    ]
    auroc, auprc = (np.stack(column, axis=1) for column in zip(*ranked, strict=True))
    if task.multi_label:
        accuracy = _mean((both + neither) / total)
        balanced = _mean((sensitivity + specificity) / 2)
        mcc = _mean(
            (both * total - positive * predicted)
            / np.sqrt(positive * predicted * (total - positive) * (total - predicted))
        )
    else:
        accuracy, balanced = both.sum(axis=1) / total[:, 0], _mean(sensitivity)
        mcc = _multiclass_mcc(both, positive, predicted, total[:, 0])
    overall_auroc = auroc[:, 1] if len(task.vocab) == 2 and not task.multi_label else _mean(auroc)
    result = dict(
        zip(
            OVERALL,
            (accuracy, balanced, overall_auroc, _mean(auprc), _mean(f1), mcc, *_probability(task, weights)),
            strict=True,
        )
    )
    columns = (sensitivity, specificity, both / predicted, neither / (total - predicted), f1, auroc, auprc)
    for index, label in enumerate(task.vocab):
        for name, column in zip(PER_CLASS, columns, strict=True):
            result[f"{label}/{name}"] = column[:, index]
    return result


def _mean(columns: np.ndarray) -> np.ndarray:
    """Mean over the labels for which the metric is defined."""
    defined = np.isfinite(columns)
    return np.where(defined, columns, 0).sum(axis=1) / defined.sum(axis=1)


def _multiclass_mcc(
    both: np.ndarray, actual: np.ndarray, predicted: np.ndarray, total: np.ndarray
) -> np.ndarray:
    """Gorodkin's R_K; for two labels, Matthews' coefficient."""
    covariance = both.sum(axis=1) * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return covariance / np.sqrt(spread)


def ranking(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of one label under each row of weights; tied scores count half."""
    if not len(scores):
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ordered = weights[:, order]
    called = ordered.cumsum(axis=1)[:, ends]
    hits = (ordered * positive[order].astype(weights.dtype)).cumsum(axis=1)[:, ends]
    false = called - hits
    gained = np.diff(hits, axis=1, prepend=0)
    above = (gained * false).sum(axis=1) - (gained * np.diff(false, axis=1, prepend=0)).sum(axis=1) / 2
    auroc = 1 - above / (hits[:, -1] * false[:, -1])
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return auroc, (gained * precision).sum(axis=1) / hits[:, -1]


def _probability(task: Task, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brier score and expected calibration error."""
    squared = (task.probs - task.positive) ** 2
    if task.multi_label:
        total = weights @ task.known.astype(weights.dtype)
        brier = _mean((weights @ (squared * task.known).astype(weights.dtype)) / total)
        gaps = [
            _ece(weights[:, rows], task.probs[rows, index], task.positive[rows, index])
            for index, rows in enumerate(task.known.T)
        ]
        return brier, _mean(np.stack(gaps, axis=1))
    scale = 0.5 if len(task.vocab) == 2 else 1.0  # two labels: the usual Brier score of one of them
    brier = weights @ (scale * squared.sum(axis=1)).astype(weights.dtype) / weights.sum(axis=1)
    right = (task.positive & task.predicted).any(axis=1)
    return brier, _ece(weights, task.probs.max(axis=1, initial=0), right)


def _ece(weights: np.ndarray, confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.eye(N_BINS)[bins] * (confidence - right)[:, None]
    return np.abs(weights @ gaps.astype(weights.dtype)).sum(axis=1) / weights.sum(axis=1)


def _counts(task: Task) -> dict[str, np.ndarray]:
    known, positive, predicted = task.known, task.positive & task.known, task.predicted & task.known
    return {
        "total": known.sum(axis=0),
        "positive": positive.sum(axis=0),
        "predicted": predicted.sum(axis=0),
        "both": (positive & predicted).sum(axis=0),
    }


def _confusion_matrix(task: Task, table: dict[str, np.ndarray]) -> Any:
    if not task.multi_label:
        return (task.positive.T.astype(int) @ task.predicted.astype(int)).tolist()
    matrices = {}
    for index, label in enumerate(task.vocab):
        total, actual, called, both = (
            int(table[key][index]) for key in ("total", "positive", "predicted", "both")
        )
        matrices[label] = [[total - actual - called + both, called - both], [actual - both, both]]
    return matrices


def _estimate(
    name: str, value: float, deviation: float, table: dict[str, np.ndarray], task: Task, level: float
) -> Estimate:
    label, _, metric = name.rpartition("/")
    n = int(task.known.any(axis=1).sum())
    if label:
        index = task.vocab.index(label)
        total, actual, called = (int(table[key][index]) for key in ("total", "positive", "predicted"))
        counts = {"sensitivity": actual, "specificity": total - actual, "ppv": called, "npv": total - called}
        n = counts.get(metric, total)
    if not np.isfinite(value):
        return undefined(n, _reason(metric, label))
    span = {"mcc": (-1.0, 1.0), "brier": (0.0, 1.0 if task.multi_label or len(task.vocab) == 2 else 2.0)}
    return Estimate(
        float(value), *bounded_interval(value, deviation, n, level, span.get(metric, (0.0, 1.0))), n
    )


def _reason(metric: str, label: str) -> str:
    if metric in ("ppv", "npv"):
        return f"no image was {'called' if metric == 'ppv' else 'cleared of'} {label!r}"
    return f"{label!r} is on no image, or on all" if label else "too few images or labels"

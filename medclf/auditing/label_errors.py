"""Which labels are probably wrong: images that a classifier confidently takes for something else."""

from __future__ import annotations

from typing import Any

import numpy as np


def label_suspects(y: Any, probs: Any, *, multi_label: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Find labels that a classifier confidently disagrees with, by confident learning.

    A class's threshold is the mean probability of that class over the images that carry its label. An image is counted
    to the most probable of the classes whose threshold it reaches; where that is not its label, it is a suspect. So a
    class that the model is never sure of does not make all its images suspects.

    Args:
        y: (n,) classes, -1 where unknown; multi-label (n, n_labels) of 0 and 1, where each label is judged by itself.
        probs: (n, n_labels) in [0, 1], of images that the classifier was not trained on.
        multi_label: whether an image may have several labels.

    Returns:
        (n,) bool, the suspects; and (n,) float in [-1, 1], the probability of the label less that of the likeliest
        other one: the lower, the more suspect. NaN where the label is unknown.

    Source: Northcutt, Jiang and Chuang 2021, J Artif Intell Res 70: 1373, section 3.1 and the normalised margin.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95], [0.97, 0.03]])
        >>> suspect, margin = label_suspects([0, 0, 1, 1, 1], probs)
        >>> suspect.tolist(), round(float(margin[4]), 2)
        ([False, False, False, False, True], -0.94)
    """
    y, p = np.asarray(y), np.asarray(probs, float)
    if not multi_label:
        return _suspects(y.astype(int), p)
    each = [_suspects(y[:, k].astype(int), np.stack([1 - p[:, k], p[:, k]], 1)) for k in range(p.shape[1])]
    suspect, margin = (np.stack(column, 1) for column in zip(*each, strict=True))
    return np.asarray(suspect.any(1)), np.asarray(margin.min(1))


def _suspects(y: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, k = p.shape
    known = y >= 0
    thresholds = np.array([p[y == c, c].mean() if (y == c).any() else np.inf for c in range(k)])
    reached = np.where(p >= thresholds, p, -1.0)
    counted = np.where(reached.max(1) >= 0, reached.argmax(1), y)
    margin = np.full(n, np.nan)
    rows = np.flatnonzero(known)
    others = p[rows].copy()
    others[np.arange(len(rows)), y[rows]] = -np.inf
    margin[rows] = p[rows, y[rows]] - others.max(1)
    return np.logical_and(known, counted != y), margin

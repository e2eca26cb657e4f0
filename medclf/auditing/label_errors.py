"""Which labels are probably wrong: images that a classifier confidently takes for something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medclf.auditing.audit import Audit
from medclf.results.predictions import Predictions


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


class DoubtfulLabel(NamedTuple):
    """An image whose label is probably wrong.

    Args:
        row: which image.
        suggested: the classes that it should have instead; one, where an image has one.
        margin: probability of the label less that of the likeliest other one, in [-1, 1]: the lower, the more doubtful.
        conflict: the row of the near-duplicate that has another label; None where the classifier alone disagrees.
    """

    row: int
    suggested: tuple[int, ...]
    margin: float
    conflict: int | None = None


def doubtful_labels(
    y: Any,
    probs: Any,
    *,
    multi_label: bool = False,
    judges: Sequence[Any] | None = None,
    conflicts: Sequence[tuple[int, int]] = (),
) -> list[DoubtfulLabel]:
    """The labels that are probably wrong, the most doubtful first, each with what it should be instead.

    Args:
        y, probs, multi_label: see `label_suspects`.
        judges: (n,) what each image's probabilities come from: those of one classifier are judged among themselves.
        conflicts: pairs of near-duplicates with different labels. Of each pair the one is named whose label the
            classifier believes less.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95], [0.97, 0.03]])
        >>> doubtful_labels([0, 0, 1, 1, 1], probs)
        [DoubtfulLabel(row=4, suggested=(0,), margin=-0.94, conflict=None)]
        >>> [one.row for one in doubtful_labels([0, 0, 1, 1, 1], probs, conflicts=[(1, 2)])]
        [1, 4]
    """
    y, p = np.asarray(y), np.asarray(probs, float)
    if not len(y):
        return []
    kinds = np.array(["" if judges is None else str(judges[row]) for row in range(len(y))])
    margins, found = np.full(len(y), np.nan), dict[int, DoubtfulLabel]()
    for kind in dict.fromkeys(kinds):
        rows = np.flatnonzero(kinds == kind)
        suspect, margins[rows] = label_suspects(y[rows], p[rows], multi_label=multi_label)
        for row in map(int, rows[suspect]):
            found[row] = DoubtfulLabel(row, _suggested(y[row], p[row], multi_label), float(margins[row]))
    for pair in conflicts:
        row, other = sorted(pair, key=lambda one: margins[one])
        if np.isfinite(margins[[row, other]]).all():
            found[row] = DoubtfulLabel(row, _classes(y[other], multi_label), float(margins[row]), other)
    return sorted(found.values(), key=lambda one: (one.conflict is None, one.margin))


def _classes(y: Any, multi_label: bool) -> tuple[int, ...]:
    return tuple(int(k) for k in np.flatnonzero(y == 1)) if multi_label else (int(y),)


def _suggested(y: Any, p: np.ndarray, multi_label: bool) -> tuple[int, ...]:
    if not multi_label:
        return (int(p.argmax()),)
    return tuple(int(k) for k in np.flatnonzero(np.where(np.abs(y - p) > 0.5, p > 0.5, y == 1)))


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


def label_section(
    predictions: Predictions, out_of_fold: Predictions | None, table: pd.DataFrame, audit: Audit | None
) -> dict[str, Any]:
    """How many labels are doubtful, of how many that could be judged, for results.json.

    Args:
        predictions: of images that the model was not trained on.
        out_of_fold: of the training images, each by a classifier that was fitted without it.
        table: the data's.
        audit: of the data, for near-duplicates with different labels.
    """
    parts = [predictions] if out_of_fold is None else [predictions, out_of_fold]
    both = Predictions.concat(parts)
    known = (np.asarray(both.y).reshape(len(both), -1) >= 0).any(axis=1)
    both, judges = both.subset(known), np.repeat(np.arange(len(parts)), [len(part) for part in parts])[known]
    place = {path: row for row, path in enumerate(both.table["path"])}
    found = doubtful_labels(
        both.y, both.probs, multi_label=both.multi_label, judges=list(judges), conflicts=_conflicts(audit, place)
    )
    n_conflicts = sum(one.conflict is not None for one in found)
    labelled = (table["problem"] == "") & table["label"].notna()
    n_unjudged = int((labelled & ~table["path"].isin(place)).sum())
    section = {
        "n_judged": len(both),
        "n_doubtful": len(found) - n_conflicts,
        "n_conflicts": n_conflicts,
        "n_unjudged": n_unjudged,
    }
    return {"label_errors": {"sentence": _sentence(section, out_of_fold is not None), **section}}


def _conflicts(audit: Audit | None, place: dict[str, int]) -> list[tuple[int, int]]:
    """Rows of near-duplicates with different labels."""
    if audit is None:
        return []
    pairs = audit.findings[audit.findings["kind"] == "label-conflict"]
    named = zip(pairs["path_a"], pairs["path_b"], strict=True)
    return [(place[a], place[b]) for a, b in named if a in place and b in place]


def _sentence(section: dict[str, int], probed: bool) -> str:
    n, total = section["n_doubtful"], section["n_judged"]
    text = f"The model confidently disagrees with {n} of {total} labels."
    if section["n_conflicts"]:
        text += f" Pairs of near-duplicates with different labels: {section['n_conflicts']}."
    if probed:
        text += " Training images were judged by the linear probe, each by a fit without it."
    if section["n_unjudged"]:
        text += f" {section['n_unjudged']} labelled images were not judged: the model was trained on them."
    return text

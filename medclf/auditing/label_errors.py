"""Which labels are probably wrong: images that a classifier confidently takes for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax

from medclf.models.linear_probe import fit_linear, one_thread_if_small
from medclf.results.predictions import Predictions
from medclf.results.wording import WEAK_JUDGE, percent

if TYPE_CHECKING:
    from medclf.auditing.audit import Audit

_NEARBY = 10  # images that say what a similar one shows
_SHARE = 0.95  # of the thresholds: with it 12 wrong labels of 250 come first, and where none is wrong few are named
_BELIEVED = 0.5  # margin from which on a label stands although a near-duplicate has another
_TELLS = 0.2  # mean probability of a label where it is, less that where it is not: with less, nothing judges the label
_MOST = 5000  # images that are judged by their features: the probe's second fit would take minutes
_BY_PROBE = " Each image was judged by a linear probe that was fitted without it."
_BY_BOTH = " Training images were judged by a linear probe that was fitted without them, the others by the model."


def label_suspects(
    y: Any, probs: Any, *, multi_label: bool = False, share: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Find labels that a classifier confidently disagrees with, by confident learning.

    A class's threshold is the mean probability of that class over the images that carry its label. An image is counted
    to the most probable of the classes whose threshold it reaches; where that is not its label, and its label is not
    the most probable class, it is a suspect. So a class that the model is never sure of does not make all its images
    suspects. Of several labels, one is a suspect only where its probability is on the other side of 50 %, and none is
    that the model hardly tells (`tells_labels`).

    Args:
        y: (n,) classes, -1 where unknown; multi-label (n, n_labels) of 0 and 1, where each label is judged by itself.
        probs: (n, n_labels) in [0, 1], of images that the classifier was not trained on.
        multi_label: whether an image may have several labels.
        share: of a class's threshold that is enough to reach it.

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
        return _suspects(y.astype(int), p, share)
    judged = np.where(tells_labels(y, p), y, -1)
    each = [_suspects(judged[:, k].astype(int), np.stack([1 - p[:, k], p[:, k]], 1), share) for k in range(p.shape[1])]
    suspect, margin = (np.stack(column, 1) for column in zip(*each, strict=True))
    worst = np.where(np.isnan(margin), np.inf, margin).min(1)
    return np.asarray((suspect & (np.abs(y - p) > 0.5)).any(1)), np.where(np.isfinite(worst), worst, np.nan)


def tells_labels(y: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(n_labels,) bool: the labels whose mean probability is clearly higher where they are than where they are not.

    Args:
        y: (n, n_labels) of 0 and 1, -1 where unknown.
        probs: (n, n_labels) in [0, 1].

    Source: Tjur 2009, Am Stat 63: 366, the coefficient of discrimination.

    Example:
        >>> y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> tells_labels(y, np.array([[0.1, 0.5], [0.2, 0.5], [0.9, 0.5], [0.8, 0.6]])).tolist()
        [True, False]
    """
    means = [
        [p[c == side].mean() if (c == side).any() else np.nan for side in (0, 1)]
        for c, p in zip(y.T, probs.T, strict=True)
    ]
    absent, present = np.array(means).T
    return np.asarray(present - absent >= _TELLS)  # False where one of them is not known


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
    share: float = 1.0,
) -> list[DoubtfulLabel]:
    """The labels that are probably wrong, the most doubtful first, each with what it should be instead.

    Args:
        y, probs, multi_label: see `label_suspects`.
        judges: (n,) what each image's probabilities come from: those of one classifier are judged among themselves.
        conflicts: pairs of near-duplicates with different labels. Of each pair the one is named whose label the
            classifier believes less, unless it clearly believes both.
        share: of a class's threshold that is enough; see `label_suspects`.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95], [0.97, 0.03]])
        >>> doubtful_labels([0, 0, 1, 1, 1], probs)
        [DoubtfulLabel(row=4, suggested=(0,), margin=-0.94, conflict=None)]
        >>> doubtful_labels([0, 0, 1, 1, 1], probs, conflicts=[(1, 4)])
        [DoubtfulLabel(row=4, suggested=(0,), margin=-0.94, conflict=1)]
    """
    y, p = np.asarray(y), np.asarray(probs, float)
    if not len(y):
        return []
    kinds = np.array(["" if judges is None else str(judges[row]) for row in range(len(y))])
    margins, found = np.full(len(y), np.nan), dict[int, DoubtfulLabel]()
    for kind in dict.fromkeys(kinds):
        rows = np.flatnonzero(kinds == kind)
        suspect, margins[rows] = label_suspects(y[rows], p[rows], multi_label=multi_label, share=share)
        for row in map(int, rows[suspect]):
            found[row] = DoubtfulLabel(row, _suggested(y[row], p[row], multi_label), float(margins[row]))
    for pair in conflicts:
        row, other = sorted(pair, key=lambda one: margins[one])
        if margins[row] < _BELIEVED and np.isfinite(margins[other]):
            found[row] = DoubtfulLabel(row, _classes(y[other], multi_label), float(margins[row]), other)
    return sorted(found.values(), key=lambda one: one.margin - _BELIEVED * (one.conflict is not None))


def _classes(y: Any, multi_label: bool) -> tuple[int, ...]:
    return tuple(int(k) for k in np.flatnonzero(y == 1)) if multi_label else (int(y),)


def _suggested(y: Any, p: np.ndarray, multi_label: bool) -> tuple[int, ...]:
    if not multi_label:
        return (int(p.argmax()),)
    return tuple(int(k) for k in np.flatnonzero(np.where(np.abs(y - p) > 0.5, p > 0.5, y == 1)))


def _suspects(y: np.ndarray, p: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    n, k = p.shape
    known = y >= 0
    thresholds = np.array([p[y == c, c].mean() if (y == c).any() else np.inf for c in range(k)])
    reached = np.where(p >= share * thresholds, p, -1.0)
    counted = np.where(reached.max(1) >= 0, reached.argmax(1), y)
    margin = np.full(n, np.nan)
    rows = np.flatnonzero(known)
    others = p[rows].copy()
    others[np.arange(len(rows)), y[rows]] = -np.inf
    margin[rows] = p[rows, y[rows]] - others.max(1)
    return np.logical_and.reduce([known, counted != y, p.argmax(1) != y]), margin


def judge_labels(features: Any, y: Any, n_labels: int, groups: Any = None) -> np.ndarray:
    """What the other images say that each image shows.

    The mean of two: a linear probe by cross-validation, fitted once more without the images that it disagreed with, so
    that wrong labels do not teach it; and the labels of the most similar images, of other patients.

    Args:
        features: (n, f) of a pretrained body that was not trained on these labels.
        y: (n,) classes.
        n_labels: how many there are.
        groups: (n,) patients, or near-duplicates; their images do not judge each other.

    Returns:
        (n, n_labels) probabilities.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = np.repeat([0, 1], 30)
        >>> x = rng.normal(size=(60, 4)) + 4 * y[:, None]
        >>> wrong = np.where(np.arange(60) == 7, 1, y)
        >>> probs = judge_labels(x, wrong, 2)
        >>> int(probs[:, 1].argmin()) < 30, probs[7].argmax()
        (True, np.int64(0))
    """
    x, y = np.asarray(features, np.float32), np.asarray(y, int)
    with one_thread_if_small(x.size):
        first = fit_linear(x, y, n_labels, groups).held_out
        agreed = np.nan_to_num(first).argmax(1) == y
        if min(np.bincount(y[agreed], minlength=n_labels)[np.unique(y)]) < 2:
            agreed[:] = True
        second = fit_linear(x[agreed], y[agreed], n_labels, None if groups is None else groups[agreed])
    probs = softmax(x @ second.weight.T + second.bias, axis=1)
    probs[agreed] = np.where(np.isnan(second.held_out), first[agreed], second.held_out)
    return np.asarray(np.nan_to_num((probs + _shares_nearby(x, y, n_labels, agreed, groups)) / 2, nan=1 / n_labels))


def _shares_nearby(x: np.ndarray, y: np.ndarray, n_labels: int, trusted: np.ndarray, groups: Any) -> np.ndarray:
    """(n, n_labels) shares of the labels among the most similar trusted images, the more alike the more they weigh."""
    z = x - x.mean(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True) + 1e-9
    codes = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    others = np.flatnonzero(trusted)
    shares = np.zeros((len(y), n_labels))
    for row in range(len(y)):
        alike = np.where(codes[others] == codes[row], -1.0, z[others] @ z[row])
        nearest = np.argsort(-alike)[:_NEARBY]
        np.add.at(shares[row], y[others[nearest]], np.clip(alike[nearest], 0, None) ** 3 + 1e-9)
    return np.asarray(shares / shares.sum(1, keepdims=True))


@dataclass(frozen=True)
class CheckedLabels:
    """What is doubtful about the labels of a data set.

    Args:
        doubtful: path, label, suggested, margin and near_duplicate (a path, "" where the classifier alone disagrees),
            the most doubtful first; several labels are joined by `|`.
        section: counts and a sentence, for results.json.
    """

    doubtful: pd.DataFrame
    section: dict[str, Any]


def check_labels(
    predictions: Predictions,
    out_of_fold: Predictions | None,
    table: pd.DataFrame,
    audit: Audit | None,
    features: Mapping[str, np.ndarray] | None = None,
) -> CheckedLabels:
    """Which labels are doubtful, of all that can be judged.

    Args:
        predictions: of images that the model was not trained on.
        out_of_fold: of the training images, each by a classifier that was fitted without it.
        table: the data's.
        audit: of the data, for near-duplicates with different labels.
        features: of the images, by path, where the network was not tuned: then these judge; see `judge_labels`.
    """
    parts = [part.measured for part in (predictions, out_of_fold) if part is not None]
    both = Predictions.concat(parts)
    known = both.known
    both, judges = both.subset(known), np.repeat(np.arange(len(parts)), [len(part) for part in parts])[known]
    paths, probs, share = list(both.table["path"]), np.array(both.probs, float), 1.0
    by = "" if out_of_fold is None else _BY_BOTH
    featured = np.array([path in (features or {}) for path in paths], bool)
    if features and not both.multi_label and featured.all() and 0 < len(both) <= _MOST:
        x = np.stack([features[path] for path in paths])
        probs, share, judges = judge_labels(x, both.y, len(both.vocab), both.groups), _SHARE, np.zeros(len(both), int)
        by = _BY_PROBE
    place = {path: row for row, path in enumerate(paths)}
    found = doubtful_labels(
        both.y,
        probs,
        multi_label=both.multi_label,
        judges=list(judges),
        conflicts=_conflicts(audit, place),
        share=share,
    )
    labels, n_conflicts = both.labels, sum(one.conflict is not None for one in found)
    rows = [
        {
            "path": paths[one.row],
            "label": labels[one.row],
            "suggested": "|".join(both.vocab[k] for k in one.suggested),
            "margin": round(one.margin, 4),
            "near_duplicate": "" if one.conflict is None else paths[one.conflict],
        }
        for one in found
    ]
    judgeable = (table["problem"] == "") & table["label"].notna()
    section: dict[str, Any] = {
        "n_judged": len(both),
        "n_doubtful": len(found) - n_conflicts,
        "n_conflicts": n_conflicts,
        "n_unjudged": int((judgeable & ~table["path"].isin(place)).sum()),
    }
    if not both.multi_label and len(both):
        section["judge_agrees"] = float((probs.argmax(1) == both.y).mean())
    if both.multi_label and len(both):
        told = np.any([tells_labels(both.y[judges == k], probs[judges == k]) for k in np.unique(judges)], axis=0)
        section["labels_not_judged"] = [label for label, yes in zip(both.vocab, told, strict=True) if not yes]
        if not told.any():
            section |= {"n_judged": 0, "n_unjudged": section["n_unjudged"] + len(both)}
    columns = ["path", "label", "suggested", "margin", "near_duplicate"]
    sentence = _sentence(section, by, both)
    return CheckedLabels(pd.DataFrame(rows, columns=columns), {"sentence": sentence, **section})


def _conflicts(audit: Audit | None, place: dict[str, int]) -> list[tuple[int, int]]:
    """Rows of near-duplicates with different labels."""
    if audit is None:
        return []
    pairs = audit.findings[audit.findings["kind"] == "label-conflict"]
    named = zip(pairs["path_a"], pairs["path_b"], strict=True)
    return [(place[a], place[b]) for a, b in named if a in place and b in place]


def _sentence(section: Mapping[str, Any], by: str, judged: Predictions) -> str:
    own, conflicts, total = section["n_doubtful"], section["n_conflicts"], section["n_judged"]
    n = own + conflicts
    left = section.get("labels_not_judged") or []
    if left and len(left) == len(judged.vocab):
        text = "No label could be judged by what the images show, since the model hardly tells any of them."
        if conflicts:
            text += (
                f" {conflicts} {'is' if conflicts == 1 else 'are'} doubtful because a near-duplicate has another label."
            )
        return text
    text = f"{n or 'None'} of {total} labels {'is' if n < 2 else 'are'} doubtful"
    if conflicts:
        text += f": {own} by what the image shows, {conflicts} because a near-duplicate has another label"
    text += f".{by}"
    if own and section.get("judge_agrees", 1.0) < WEAK_JUDGE:
        share = percent(section["judge_agrees"], 0)
        text += f" What judged them agrees with {share} of all labels, so many of these may be its own errors."
    if missed := section["n_unjudged"]:
        text += f" {missed} labelled {judged.counted(missed)} {'was' if missed == 1 else 'were'} not judged."
    if left:
        text += f" Not judged, since the model hardly tells them: {', '.join(left)}."
    return text

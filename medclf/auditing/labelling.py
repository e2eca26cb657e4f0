"""What to label next: the images that leave a linear probe least unsure of all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.folds import folds, group_codes
from medclf.errors import DataError
from medclf.models.linear_probe import column_scale, one_thread_if_small

TYPICAL, UNSURE = "typical of images without a label", "unsure"
_AXES = 256
_SAME = 0.98  # cosine of centred features from which two images are near-duplicates
_INTERCEPT = 0.1  # of the usual length of an image's features
_NOISE = 0.5  # how many labels of an image itself it takes to halve what is not known of it
STRENGTH = 0.003  # scikit-learn's C of the probe that says where it is unsure; see benchmarks/label_next.py


def choose_next(
    features: np.ndarray,
    labelled: np.ndarray,
    n: int = 50,
    *,
    probs: np.ndarray | None = None,
    skill: float = 1.0,
    patients: Any = None,
    multi_label: bool = False,
) -> pd.DataFrame:
    """Choose the images whose labels would teach most.

    One after the other the image is taken whose label lowers most what a linear model of the features does not know
    of all images: the mean variance of its answers. Without probabilities all count alike, so that large groups
    without a label come first; with them each counts by the cube of 1 minus its margin between the two likeliest
    classes, and less so the less the probabilities can be trusted. Near-duplicates of an image that is labelled or
    chosen are passed over, and a patient is not taken twice while others are left.

    Args:
        features: (n, f) of all images, labelled or not.
        labelled: (n,) bool.
        n: how many to choose.
        probs: (n, n_labels) in [0, 1] of a model fitted on the labelled images; None where there are too few.
        skill: in [0, 1], how far they can be trusted; see `skill_of`.
        patients: (n,) patient of each image; None or NaN is a patient of its own.
        multi_label: whether an image may have several labels.

    Returns:
        row, why and margin (NaN without probabilities), at most `n` rows, the most wanted first.

    Raises:
        DataError: every image is labelled, or features hold NaN.

    Source: Yu, Bi and Tresp 2006, "Active learning via transductive experimental design"; with probabilities, Ash and
    others 2021, "Gone fishing".

    Example:
        >>> features = np.array([[0, 9], [0, 8], [1, 9], [9, 0], [8, 0], [9, 1]], float)
        >>> sorted(choose_next(features, np.zeros(6, bool), 2)["row"] // 3)
        [0, 1]
    """
    labelled = np.asarray(labelled, bool)
    if labelled.all():
        raise DataError("every image is labelled", "there is nothing to choose")
    if not np.isfinite(features).all():
        raise DataError("features hold NaN or infinity", "leave out images that cannot be read")
    vectors = directions(features)
    owners = group_codes(patients, len(vectors))
    margins = np.full(len(vectors), np.nan) if probs is None else margin_of(probs, multi_label)
    doubts = np.ones(len(vectors)) if probs is None else (1.001 - margins) ** skill
    rows = _designed(vectors, labelled, doubts, owners, n)
    why = TYPICAL if probs is None else UNSURE
    return pd.DataFrame({"row": np.array(rows, int), "why": why, "margin": margins[rows]})


def directions(features: np.ndarray) -> np.ndarray:
    """(n, k) unit vectors: of the features' main axes, centred, and an intercept: products are cosines of images."""
    from sklearn.decomposition import PCA

    values = np.asarray(features, np.float64)
    values = values - values.mean(0)
    if min(values.shape) > _AXES:
        values = PCA(_AXES, random_state=0).fit_transform(values)
    usual = np.sqrt((values**2).sum(1).mean())
    values = np.column_stack([values, np.full(len(values), _INTERCEPT * usual)])
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))


def margin_of(probs: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """How far the likeliest class is ahead of the next one; of several labels, of the least sure one.

    Example:
        >>> margin_of(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])).round(2).tolist()
        [0.5, 0.0]
    """
    if multi_label:
        return np.asarray(np.abs(2 * probs - 1).min(axis=1))
    if probs.shape[1] < 2:
        return np.ones(len(probs))
    ranked = np.sort(probs, axis=1)
    return np.asarray(ranked[:, -1] - ranked[:, -2])


def _designed(vectors: np.ndarray, labelled: np.ndarray, doubts: np.ndarray, owners: np.ndarray, n: int) -> list[int]:
    """Rows each of which lowers the weighed mean variance most; see `choose_next`."""
    wanted = (vectors.T * doubts**3) @ vectors / len(vectors)
    known = _NOISE * np.eye(vectors.shape[1]) + (vectors[labelled].T * doubts[labelled]) @ vectors[labelled]
    unknown = np.linalg.inv(known)
    variance = ((vectors @ unknown) * vectors).sum(1)
    gains = ((vectors @ (unknown @ wanted @ unknown)) * vectors).sum(1)
    free, left = np.ones(len(vectors), bool), ~labelled
    for part in np.array_split(vectors[labelled], 1 + labelled.sum() // 1000):
        if len(part):
            free &= (vectors @ part.T).max(axis=1) < _SAME
    met = np.zeros(owners.max() + 1, bool)
    chosen: list[int] = []
    while len(chosen) < n and left.any():
        allowed = free & left & ~met[owners]
        if not allowed.any():  # all patients had their turn, or near-duplicates alone are left
            free, met[:] = (free if (free & left).any() else left.copy()), False
            continue
        best = int(np.where(allowed, doubts * gains / (1 + doubts * variance), -1).argmax())
        axis, step = unknown @ vectors[best], doubts[best] / (1 + doubts[best] * variance[best])
        told, lost, cosines = (vectors @ np.stack([axis, unknown @ (wanted @ axis), vectors[best]], axis=1)).T
        gains += (step * told) ** 2 * (axis @ wanted @ axis) - 2 * step * told * lost
        variance -= step * told**2
        unknown -= step * np.outer(axis, axis)
        chosen.append(best)
        left[best], met[owners[best]] = False, True
        free &= cosines < _SAME
    return chosen


class Probe:
    """A logistic regression of one strength on standardised features: what is fitted again and again.

    Args:
        features: (n, f) of all images; they say what is usual. Of them the main axes are kept, at most 256.
        strength: scikit-learn's C; all classes weigh alike.
        n_classes: of the vocab.
        widths: how many columns each part of the features has; see `column_scale`.
    """

    def __init__(self, features: np.ndarray, strength: float, n_classes: int, widths: Sequence[int] = ()) -> None:
        from sklearn.decomposition import PCA

        values = np.asarray(features, np.float64)
        values = (values - values.mean(0)) / column_scale(values, widths)
        with one_thread_if_small(values.size):
            n_axes = min(*values.shape, _AXES)
            self.x = PCA(n_axes, svd_solver="auto", random_state=0).fit_transform(values)
        self.strength, self.n_classes = strength, n_classes

    def probs(self, rows: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """(len(asked), n_classes) probabilities, after a fit on `rows`, whose classes are `y`."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        found = np.zeros((len(asked), self.n_classes))
        present = np.unique(y)
        if len(present) == 1:
            found[:, present] = 1.0
            return found
        with warnings.catch_warnings(), one_thread_if_small(self.x.size):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=100, tol=1e-3)
            found[:, present] = model.fit(self.x[rows], y).predict_proba(self.x[asked])
        return found


def skill_of(probe: Probe, y: np.ndarray, groups: Any = None, seed: int = 0) -> float:
    """How much of what is not known the probe tells out of fold, in [0, 1]; all classes weigh alike.

    The square root of 1 minus the log loss, divided by that of saying nothing.

    Args:
        probe: of all images.
        y: (n,) classes, -1 where unknown.
        groups: (n,) patient of each image.
        seed: of the folds.
    """
    known = np.flatnonzero(y >= 0)
    fold_of = folds(y[known], None if groups is None else np.asarray(groups, object)[known], 5, seed=seed)
    losses = np.full(len(known), np.nan)
    for fold in np.unique(fold_of):
        train, valid = known[fold_of != fold], known[fold_of == fold]
        if len(np.unique(y[train])) > 1:
            held = probe.probs(train, y[train], valid)[np.arange(len(valid)), y[valid]]
            losses[fold_of == fold] = -np.log(held.clip(1e-3))
    judged = ~np.isnan(losses)
    if not judged.any():
        return 0.0
    weights = 1 / np.bincount(y[known])[y[known]]
    return _told(np.average(losses[judged], weights=weights[judged]), np.log(probe.n_classes))


def skill_of_labels(held_out: np.ndarray, y: np.ndarray) -> float:
    """As `skill_of`, where an image may have several labels, beside always saying each label's frequency.

    Args:
        held_out: (n, n_labels) out-of-fold probabilities; NaN where none held an image out.
        y: (n, n_labels) 0 and 1.

    Example:
        >>> y = np.array([[0], [1], [0], [1]])
        >>> skill_of_labels(np.full((4, 1), 0.5), y), skill_of_labels(np.abs(y - 0.1), y) > 0.9
        (0.0, True)
    """
    sure = 1e-3
    losses = -np.log(np.where(y == 1, held_out, 1 - held_out).clip(sure))
    often = y.mean(0)
    nothing = -(often * np.log(often.clip(sure)) + (1 - often) * np.log((1 - often).clip(sure))).mean()
    return 0.0 if np.isnan(losses).all() else _told(np.nanmean(losses), nothing)


def _told(loss: float, nothing: float) -> float:
    return float(np.sqrt(np.clip(1 - loss / max(nothing, 1e-12), 0, 1)))


def self_trained(probe: Probe, y: np.ndarray, groups: Any = None, seed: int = 0) -> tuple[np.ndarray, str]:
    """Count the surest half of what a fit calls each class as labelled, where that improves out-of-fold predictions.

    Args:
        probe: of all images.
        y: (n,) classes, -1 where unknown.
        groups: (n,) patient of each image.
        seed: of the folds.

    Returns:
        `y`, with the classes of the surest filled in where that is kept; and a sentence.

    Source: Lee 2013 (pseudo-labels).
    """
    known, unknown = np.flatnonzero(y >= 0), np.flatnonzero(y < 0)
    units = None if groups is None else np.asarray(groups, object)[known]
    fold_of = folds(y[known], units, 5, seed=seed)
    better: list[np.ndarray] = []
    for fold in np.unique(fold_of):
        train, valid = known[fold_of != fold], known[fold_of == fold]
        if not len(train) or not len(unknown):
            continue
        sure, called = _surest(probe.probs(train, y[train], unknown))
        alone = probe.probs(train, y[train], valid)
        both = np.concatenate([train, unknown[sure]])
        joint = probe.probs(both, np.concatenate([y[train], called]), valid)
        held = [p[np.arange(len(valid)), y[valid]].clip(1e-6) for p in (alone, joint)]
        better.append(np.log(held[1]) - np.log(held[0]))
    gain = np.concatenate(better) if better else np.zeros(1)
    kept = len(gain) > 1 and gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
    if not kept:
        return y, "Self-training on the surest images did not improve out-of-fold predictions; it is not used."
    sure, called = _surest(probe.probs(known, y[known], unknown))
    filled = y.copy()
    filled[unknown[sure]] = called
    return (
        filled,
        f"Self-training: {len(sure)} of the surest images count as labelled; out-of-fold predictions improved.",
    )


def _surest(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the surer half of each class that is called, and the classes."""
    called, sure = probs.argmax(1), probs.max(1)
    rows = [np.flatnonzero((called == one) & (sure >= np.median(sure[called == one]))) for one in np.unique(called)]
    kept = np.sort(np.concatenate(rows)) if rows else np.zeros(0, int)
    return kept, called[kept]

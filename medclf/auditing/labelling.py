"""What to label next: without labels by clusters of features, then where a linear probe is unsure, spread out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.folds import folds, group_codes
from medclf.errors import DataError
from medclf.models.linear_probe import column_scale, one_thread_if_small

TYPICAL, UNSURE = "typical of a cluster without a label", "unsure"
_AXES, _MOST_AXES = 64, 256
_NEIGHBOURS = 20
_UNSURE_POOL = 5  # of so many unsure images for each one wanted, those that differ most are taken
_SAME = 0.98  # cosine of centred features from which two images are near-duplicates
_MOST_CLUSTERS = 500
_BLOCK = 20_000_000  # cosines held at once
STRENGTH = 0.003  # scikit-learn's C of the probe that says where it is unsure; see benchmarks/label_next.py


def choose_next(
    features: np.ndarray,
    labelled: np.ndarray,
    n: int = 50,
    *,
    probs: np.ndarray | None = None,
    patients: Any = None,
    multi_label: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose the images whose labels would teach most.

    Without probabilities: the features are clustered, and of each cluster without a label, the largest first, the
    image is taken that is most like its neighbours. With them: of the images with the smallest margin between the two
    likeliest classes, clustered, the least sure of each cluster. Near-duplicates of an image that is labelled or
    chosen are passed over, and a patient is not taken twice while others are left.

    Args:
        features: (n, f) of all images, labelled or not.
        labelled: (n,) bool.
        n: how many to choose.
        probs: (n, n_labels) in [0, 1] of a model fitted on the labelled images; None where there are too few.
        patients: (n,) patient of each image; None or NaN is a patient of its own.
        multi_label: whether an image may have several labels.
        seed: of the clusters.

    Returns:
        row, why and margin (NaN without probabilities), at most `n` rows, the most wanted first.

    Raises:
        DataError: every image is labelled, or features hold NaN.

    Source: Hacohen, Dekel and Weinshall 2022 (TypiClust); Zhdanov 2019 (diverse mini-batches).

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
    taken = _Taken(vectors, owners, labelled)
    margins = np.full(len(vectors), np.nan) if probs is None else margin_of(probs, multi_label)
    clusters = list(
        _typical(vectors, labelled, n, seed) if probs is None else _unsure(vectors, labelled, margins, n, seed)
    )
    rows = taken.one_of_each(clusters, n)
    while len(rows) < min(n, (~labelled).sum()):  # only near-duplicates are left
        taken.allow_again(labelled, rows)
        rows += taken.one_of_each(clusters, n - len(rows))
    why = TYPICAL if probs is None else UNSURE
    return pd.DataFrame({"row": np.array(rows, int), "why": why, "margin": margins[rows]})


def directions(features: np.ndarray) -> np.ndarray:
    """(n, k) unit vectors: the features' main axes, centred, so that a product is the cosine of two images."""
    from sklearn.decomposition import PCA

    values = np.asarray(features, np.float64)
    values = values - values.mean(0)
    if min(values.shape) > _AXES:
        values = PCA(_AXES, random_state=0).fit_transform(values)
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


class _Taken:
    """Which images may still be chosen: no near-duplicate of what is taken; no patient twice, where that can be."""

    def __init__(self, vectors: np.ndarray, owners: np.ndarray, labelled: np.ndarray) -> None:
        self.vectors, self.owners = vectors, owners
        self.free = ~labelled
        for row in np.flatnonzero(labelled):
            self._pass_over_like(int(row))

    def _pass_over_like(self, row: int) -> None:
        self.free[row] = False
        self.free &= self.vectors @ self.vectors[row] < _SAME

    def allow_again(self, labelled: np.ndarray, chosen: list[int]) -> None:
        """Near-duplicates as well, but for what is labelled or chosen."""
        self.free = ~labelled
        self.free[chosen] = False

    def one_of_each(self, clusters: Iterable[Sequence[int]], n: int) -> list[int]:
        """One row of each cluster in turn, the first that may be; a patient again only when all had their turn."""
        chosen: list[int] = []
        waiting = [list(rows) for rows in clusters]
        met: set[int] = set()
        while len(chosen) < n and any(waiting):
            before = len(chosen)
            for rows in waiting:
                row = next((row for row in rows if self.free[row] and self.owners[row] not in met), None)
                if row is None or len(chosen) == n:
                    continue
                chosen.append(int(row))
                met.add(int(self.owners[row]))
                self._pass_over_like(row)
            if len(chosen) == before:
                waiting = [[row for row in rows if self.free[row]] for rows in waiting]
                if not met:
                    break
                met.clear()
        return chosen


def _typical(vectors: np.ndarray, labelled: np.ndarray, n: int, seed: int) -> Iterator[list[int]]:
    """Clusters with few labels first, then large ones; each with its most typical images first."""
    wanted = min(int(labelled.sum()) + n, _MOST_CLUSTERS, len(vectors))
    cluster = _clusters(vectors, wanted, seed)
    held = np.bincount(cluster, labelled, wanted)
    sizes = np.bincount(cluster[~labelled], minlength=wanted)
    for one in np.lexsort((-sizes, held)):
        rows = np.flatnonzero(cluster == one)
        ranked = rows[np.argsort(-_likeness(vectors[rows]), kind="stable")]
        yield [int(row) for row in ranked if not labelled[row]]


def _likeness(vectors: np.ndarray) -> np.ndarray:
    """(n,) mean cosine of each with its nearest others; in blocks, as one cluster may hold all images."""
    n = len(vectors)
    k, step = min(_NEIGHBOURS + 1, n), max(1, _BLOCK // n)
    if k < 2:
        return np.zeros(n)
    blocks = (vectors[start : start + step] @ vectors.T for start in range(0, n, step))
    nearest = (np.sort(np.partition(block, n - k, axis=1)[:, n - k :], axis=1)[:, ::-1] for block in blocks)
    return np.concatenate([near[:, 1:].mean(axis=1) for near in nearest])


def _unsure(vectors: np.ndarray, labelled: np.ndarray, margins: np.ndarray, n: int, seed: int) -> Iterator[list[int]]:
    """Clusters of the unsure images, each with the least sure first."""
    open_ = np.flatnonzero(~labelled)
    ranked = open_[np.argsort(margins[open_], kind="stable")]
    near, rest = ranked[: n * _UNSURE_POOL], ranked[n * _UNSURE_POOL :]
    cluster = _clusters(vectors[near], min(n, len(near)), seed, weights=1.001 - margins[near])
    for one in dict.fromkeys(cluster.tolist()):  # in the order of their least sure image
        yield near[cluster == one].tolist()
    yield rest.tolist()


def _clusters(vectors: np.ndarray, k: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    import warnings

    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    kind = KMeans if len(vectors) <= 10_000 else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters
        return np.asarray(kind(k, n_init=1, random_state=seed).fit(vectors, sample_weight=weights).labels_)


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
            n_axes = min(*values.shape, _MOST_AXES)
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

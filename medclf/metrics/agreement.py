"""How far two readers agree beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.metrics.classification import bounded
from medclf.metrics.intervals import Estimate, Sampling, undefined


def cohen_kappa(
    a: Any,
    b: Any,
    *,
    vocab: Sequence[Any] | None = None,
    weights: str | None = None,
    groups: Any = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Agreement of two readers beyond chance: 1 is full agreement, 0 what chance gives.

    Args:
        a: (n,) labels of the first reader.
        b: (n,) of the second.
        vocab: all labels, in order where they are grades; by default those that occur, sorted.
        weights: None; "linear" or "quadratic" where the labels are grades, so that near misses count less.
        groups: (n,) patient of each image.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the interval.

    Raises:
        DataError: the readers did not label the same images, or used a label outside `vocab`.

    Source: Cohen 1960, 1968.

    Example:
        >>> round(cohen_kappa(["x", "x", "y", "y"], ["x", "y", "y", "y"]).value, 3)
        0.5
    """
    first, second = list(a), list(b)
    if len(first) != len(second):
        raise DataError(f"{len(first)} labels of one reader, {len(second)} of the other", "give both for each image")
    labels = sorted({*first, *second}, key=str) if vocab is None else list(vocab)
    places = {label: place for place, label in enumerate(labels)}
    strange = [label for label in (*first, *second) if label not in places]
    if strange:
        raise DataError(f"label {strange[0]!r} is not in the vocabulary", "name all labels in vocab")
    size = len(labels)
    codes = np.array([[places[x], places[y]] for x, y in zip(first, second, strict=True)], dtype=int).reshape(-1, 2)
    cost = _cost(size, weights)
    sampling = Sampling.of(groups, len(codes))
    marks = [np.eye(size)[column] for column in codes.T]
    apart = cost[codes[:, 0], codes[:, 1]]

    def kappa(drawn: np.ndarray) -> np.ndarray:
        rows, columns = (drawn @ mark.astype(drawn.dtype) for mark in marks)
        seen = drawn @ apart.astype(drawn.dtype) * drawn.sum(axis=1)
        by_chance = np.einsum("bi,ij,bj->b", rows, cost, columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(by_chance > 0, 1 - seen / by_chance, np.nan)[:, None]

    value = float(kappa(np.ones((1, len(codes))))[0, 0]) if len(codes) else math.nan
    if math.isnan(value):
        return undefined(len(codes), "both readers gave one and the same label" if len(codes) else "no image")
    variance = float(sampling.variance(sampling.resample(kappa, n_boot, seed))[0])
    everything = np.ones(len(codes), dtype=bool)
    return bounded(value, variance, sampling, everything, level=level, span=(-1.0, 1.0))


def _cost(size: int, weights: str | None) -> np.ndarray:
    steps = np.abs(np.arange(size)[:, None] - np.arange(size)[None])
    costs = {None: (steps > 0).astype(float), "linear": steps.astype(float), "quadratic": steps.astype(float) ** 2}
    if weights not in costs:
        raise DataError(f"weights={weights!r} is unknown", "choose None, 'linear' or 'quadratic'")
    return np.asarray(costs[weights])

"""Whether probabilities mean what they say: the reliability diagram, the calibration error, the Brier score."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.files import Json
from medclf.metrics.classification import bounded, calibration_error
from medclf.metrics.intervals import Estimate, Sampling, undefined, wilson
from medclf.metrics.logits import to_logits as to_logits
from medclf.metrics.thinning import Part
from medclf.metrics.weighted import bin_gaps

N_BINS = 15


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram.

    Args:
        low: probability from which it counts.
        high: probability to which it counts.
        confidence: mean probability in it; NaN where it is empty.
        frequency: how often the label was there, with Wilson's interval and n.
    """

    low: float
    high: float
    confidence: float
    frequency: Estimate

    def as_dict(self) -> dict[str, Json]:
        """For JSON."""
        confidence = None if math.isnan(self.confidence) else self.confidence
        return {
            "low": self.low,
            "high": self.high,
            "confidence": confidence,
            "frequency": self.frequency.as_dict(),
        }


def reliability(y: Any, probs: Any, n_bins: int = N_BINS, *, adaptive: bool = False, level: float = 0.95) -> list[Bin]:
    """The bars of a reliability diagram: how often what was said with a probability came true.

    Args:
        y: (n,) indices, or (n,) of 0 and 1 where `probs` is (n,). -1 is unknown and left out.
        probs: (n, L): the predicted label's probability is taken; or (n,) of one label.
        n_bins: at most this many bars.
        adaptive: as many images in each bar, instead of bars of equal width.
        level: of the intervals, which count images.

    Returns:
        a `Bin` each, from low to high; empty ones have n = 0.

    Example:
        >>> low, high = reliability([0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], n_bins=2)
        >>> low.frequency.value, high.frequency.value, round(high.confidence, 2)
        (0.0, 1.0, 0.8)
    """
    confidence, right = confidence_and_right(y, probs)
    edges = _edges(confidence, n_bins, adaptive)
    places = np.searchsorted(edges[1:-1], confidence, side="right")
    bars = []
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = places == index
        n, true = int(inside.sum()), int(right[inside].sum())
        frequency = Estimate(true / n, *wilson(true, n, level), n) if n else undefined(0, "no image in this bar")
        mean = float(confidence[inside].mean()) if n else math.nan
        bars.append(Bin(float(low), float(high), mean, frequency))
    return bars


def ece(
    y: Any,
    probs: Any,
    n_bins: int = N_BINS,
    *,
    adaptive: bool = False,
    groups: Any = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Expected calibration error: how far, on average, a probability is from how often it comes true.

    Args:
        y: as in `reliability`.
        probs: as in `reliability`.
        n_bins: how many bins.
        adaptive: bins of as many images each.
        groups: (n,) patient of each image.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the interval.

    Returns:
        0 (perfect) to 1. Chance alone makes it positive, the more so the fewer the images: where the lower end
        is 0, the probabilities could be right.

    Source: Naeini et al. 2015; Guo et al. 2017.
    """
    confidence, right = confidence_and_right(y, probs)
    edges = _edges(confidence, n_bins, adaptive)

    if not len(confidence):
        return undefined(0, "no image with a known label")
    sampling = _sampling(y, groups)
    part = Part.of(sampling, [right > 0, right == 0], seed)
    few = part.take(confidence), part.take(right)
    gaps = bin_gaps(np.ones((1, len(confidence))), confidence, right, edges)[0]
    draws = part.resample(lambda weights: bin_gaps(weights, *few, edges), n_boot, seed, centre=gaps)
    return calibration_error(gaps, draws, sampling, level)


def brier(
    y: Any, probs: Any, *, groups: Any = None, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean squared error of the probabilities: 0 is perfect.

    Args:
        y: as in `reliability`.
        probs: (n,) or (n, 2): from 0 to 1; (n, L) with more labels: summed over them, from 0 to 2.
        groups: (n,) patient of each image.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the interval.

    Source: Brier 1950; scaled as in scikit-learn.

    Example:
        >>> round(brier([0, 1], [0.1, 0.8]).value, 3)
        0.025
    """
    confidence_and_right(y, probs)  # checks the shapes
    truth, scores = np.asarray(y), np.asarray(probs, dtype=np.float64)
    kept = truth >= 0
    if not kept.any():
        return undefined(0, "no image with a known label")
    scores, truth = scores[kept], truth[kept].astype(int)
    if scores.ndim == 2 and scores.shape[1] == 2:
        scores = scores[:, 1]
    squares = (scores - truth) ** 2 if scores.ndim == 1 else ((scores - np.eye(scores.shape[1])[truth]) ** 2).sum(1)
    sampling = _sampling(y, groups)
    part = Part.of(sampling, [], seed)
    variance = float(sampling.variance(part.resample(_mean_of(part.take(squares)), n_boot, seed))[0])
    span = (0.0, 1.0 if scores.ndim == 1 else 2.0)
    everything = np.ones(len(squares), dtype=bool)
    return bounded(float(squares.mean()), variance, sampling, everything, level=level, span=span)


def confidence_and_right(y: Any, probs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probability and whether it came true: of the predicted label, or of the one label for (n,) probs.

    Raises:
        DataError: shapes that do not fit.
    """
    truth, scores = np.asarray(y), np.asarray(probs, dtype=np.float64)
    if truth.ndim != 1 or len(scores) != len(truth) or scores.ndim > 2:
        raise DataError(
            f"y has the shape {truth.shape} and probs {scores.shape}",
            "give (n,) and (n, L) for single-label, or (n,) of 0 and 1 and (n,) for one label of several",
        )
    kept = truth >= 0
    truth, scores = truth[kept], scores[kept]
    if scores.ndim == 1:
        return scores, truth == 1
    return scores.max(axis=1, initial=0), scores.argmax(axis=1) == truth


def _edges(confidence: np.ndarray, n_bins: int, adaptive: bool) -> np.ndarray:
    if n_bins < 1:
        raise DataError(f"n_bins={n_bins}", "give 1 or more; 15 is the default")
    if not adaptive or not len(confidence):
        return np.linspace(0, 1, n_bins + 1)
    inner = np.quantile(confidence, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _sampling(y: Any, groups: Any) -> Sampling:
    known = np.flatnonzero(np.asarray(y) >= 0)
    return Sampling.of(groups, len(np.asarray(y))).keep(known)


def _mean_of(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(weights @ values.astype(weights.dtype) / weights.sum(axis=1))[:, None]

    return statistic

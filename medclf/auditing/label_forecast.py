"""What the next labels are expected to bring: a learning curve of out-of-fold predictions, carried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from medclf.auditing.labelling import Probe
from medclf.dataset.folds import folds, group_codes
from medclf.metrics.intervals import Estimate

_SHARES = (0.3, 0.45, 0.67, 1.0)  # of the images to train on, in each fold
_REPEATS = 3
_DRAWS = 400
_BINS = 5
_SAMPLE = 400  # unlabelled images that stand for all
_WIDER, _FLOOR = 1.0, 0.0  # of the bootstrap's interval: see benchmarks/label_next.py
FEWEST = 20  # labels, and two classes of five or more, before a curve says anything
_WORTH = 0.01


@dataclass(frozen=True)
class Forecast:
    """Accuracy on images like all those given, now and after more labels.

    Args:
        n: labels now.
        more: labels to come.
        now: with the labels that there are.
        later: with so many more.
        gain: of the second over the first; its interval is narrower than the two would have it.
        stop: whether more labels are unlikely to be worth their time: 1 point lies above the gain's interval, or above
            the expected gain.
    """

    n: int
    more: int
    now: Estimate
    later: Estimate
    gain: Estimate
    stop: bool

    def sentences(self) -> list[str]:
        """For the terminal and the page."""
        level = "90 % interval"
        now, later, gain = ([100 * v for v in (e.value, e.low, e.high)] for e in (self.now, self.later, self.gain))
        return [
            f"{self.n} labels: expected accuracy {now[0]:.0f} % ({level} {now[1]:.0f} to {now[2]:.0f} %).",
            f"{self.more} more labels should bring it to {later[0]:.0f} % ({later[1]:.0f} to {later[2]:.0f} %): "
            f"{gain[0]:+.1f} points ({gain[1]:+.1f} to {gain[2]:+.1f}).",
            "You can stop: less than 1 point is expected of them."
            if self.stop
            else "Go on: 1 point or more is expected of them.",
        ]


def forecast(
    probe: Probe,
    features: np.ndarray,
    y: np.ndarray,
    more: int = 50,
    *,
    groups: Any = None,
    seed: int = 0,
    level: float = 0.9,
) -> Forecast | None:
    """Carry on the learning curve of the labels that there are.

    Each fold is predicted by fits on a growing share of the others; the errors follow a power law of the number of
    labels, whose parameters are fitted again for each bootstrap sample of the images (or patients). XX

    Args:
        probe: of all images.
        features: (n, f) of all images.
        y: (n,) classes, -1 where unknown.
        more: labels to come.
        groups: (n,) patient of each image.
        seed: of folds, draws and samples.
        level: of the intervals.

    Returns:
        None where there are fewer than 20 labels, or fewer than two classes of 5 or more.

    Source: Figueroa et al. 2012 (learning curves by power laws, weighted fit).
    """
    known, open_ = np.flatnonzero(y >= 0), np.flatnonzero(y < 0)
    more = min(more, len(open_))
    counts = np.unique(y[known], return_counts=True)[1]
    if len(known) < FEWEST or (counts >= 5).sum() < 2 or more < 1:
        return None
    units = group_codes(None if groups is None else np.asarray(groups, object)[known], len(known))
    rng = np.random.default_rng(seed)
    sample = rng.permutation(open_)[:_SAMPLE]
    n_units = int(units.max()) + 1
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), _DRAWS).astype(float)
    drawn = np.concatenate([np.ones((1, n_units)), draws])[:, units]  # (1 + draws, n_known)
    curve = _curve(probe, known, y[known], units, sample, seed)
    labelled = len(known) / len(y)
    errors = np.stack([1 - _accuracy(one, drawn, labelled) for one in curve], axis=1)
    now, later = _carried_on(np.array([one.size for one in curve]), errors, len(known), len(known) + more)
    ends = [100 * (1 - level) / 2, 100 * (1 + level) / 2]

    def estimate(values: np.ndarray, least: float, most: float) -> Estimate:
        low, high = np.percentile(values[1:], ends)
        value = float(np.clip(values[0], low, high))
        low, high = value - _WIDER * (value - low) - _FLOOR, value + _WIDER * (high - value) + _FLOOR
        return Estimate(value, float(max(low, least)), float(min(high, most)), len(known))

    gain = estimate(later - now, -1, 1)
    return Forecast(len(known), more, estimate(now, 0, 1), estimate(later, 0, 1), gain, gain.value < _WORTH)


class _Point(NamedTuple):
    """One size of the learning curve: its mean training size, and by confidence what was right and what is asked."""

    size: float
    right: np.ndarray  # (bins, n_known) how often each labelled image had this confidence and was classified correctly
    seen: np.ndarray  # (bins, n_known) how often it had this confidence
    share: np.ndarray  # (bins,) of the unlabelled images
    sure: np.ndarray  # (bins,) their mean confidence


def _curve(
    probe: Probe, known: np.ndarray, y: np.ndarray, units: np.ndarray, sample: np.ndarray, seed: int
) -> list[_Point]:
    found: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in _SHARES]
    sizes = np.zeros(len(_SHARES))
    for repeat in range(_REPEATS):
        rng = np.random.default_rng((seed, repeat))
        fold_of = folds(y, units, 5, seed=seed + repeat)
        for fold in np.unique(fold_of):
            valid = np.flatnonzero(fold_of == fold)
            train = rng.permutation(np.flatnonzero(fold_of != fold))
            for place, share in enumerate(_SHARES):
                part = train[: max(2, round(share * len(train)))]
                probs = probe.probs(known[part], y[part], np.concatenate([known[valid], sample]))
                found[place].append((valid, probs[: len(valid)], probs[len(valid) :].max(1)))
                sizes[place] += len(part) * len(valid) / len(y) / _REPEATS
    return [_point(size, fits, y) for size, fits in zip(sizes, found, strict=True)]


def _point(size: float, fits: list[tuple[np.ndarray, np.ndarray, np.ndarray]], y: np.ndarray) -> _Point:
    asked = np.concatenate([sure for _, _, sure in fits])
    edges = np.quantile(asked, np.linspace(0, 1, _BINS + 1)[1:-1])
    right, seen = np.zeros((_BINS, len(y))), np.zeros((_BINS, len(y)))
    for valid, probs, _ in fits:
        place = np.searchsorted(edges, probs.max(1))
        np.add.at(right, (place, valid), probs.argmax(1) == y[valid])
        np.add.at(seen, (place, valid), 1.0)
    bins = np.searchsorted(edges, asked)
    count = np.bincount(bins, minlength=_BINS)
    return _Point(size, right, seen, count / len(asked), np.bincount(bins, asked, _BINS) / np.maximum(count, 1))


def _accuracy(point: _Point, drawn: np.ndarray, labelled: float) -> np.ndarray:
    """(draws,) accuracy on all images: of the labelled ones as seen, of the others by their confidence."""
    right, seen = drawn @ point.right.T, drawn @ point.seen.T
    prior = 2.0 * _REPEATS
    others = ((right + prior * point.sure) / (seen + prior)) @ point.share
    own = right.sum(1) / np.maximum(seen.sum(1), 1e-9)
    return np.asarray(labelled * own + (1 - labelled) * others)


def _carried_on(sizes: np.ndarray, errors: np.ndarray, n: int, later: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy at two sizes, by a power law through each row of errors; larger sizes weigh more."""
    x, y = np.log(sizes), np.log(np.clip(errors, 0.5 / n, 1))
    weights = sizes / sizes.sum()
    x_mean, y_mean = (weights * x).sum(), (weights * y).sum(1, keepdims=True)
    slope = (weights * (x - x_mean) * (y - y_mean)).sum(1) / (weights * (x - x_mean) ** 2).sum()
    slope = np.clip(slope, -1.0, 0.0)
    at = [1 - np.exp(np.clip(y_mean[:, 0] + slope * (np.log(size) - x_mean), None, 0)) for size in (n, later)]
    return at[0], at[1]

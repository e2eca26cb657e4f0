"""What the next labels are expected to bring: a learning curve of out-of-fold predictions, carried on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from medclf.auditing.labelling import Probe
from medclf.dataset.folds import folds, group_codes
from medclf.metrics.intervals import Estimate

_SHARES = (0.3, 0.45, 0.67, 1.0)  # of the images to train on, in each fold
_REPEATS = 3
_DRAWS = 400
_SAMPLE = 400  # unlabelled images that stand for all
_WIDER, _FLOOR = 1.3, 0.02  # of the bootstrap's interval: no power law holds exactly; see benchmarks/label_next.py
_TESTED = 100  # images of the test set whose score is told: a score is never measured without an error of its own
FEWEST = 20  # labels, and two classes of five or more, before a curve says anything
_WORTH = 0.01


@dataclass(frozen=True)
class Forecast:
    """Accuracy on images like all those given, now and after more labels.

    Of `now` and `later` only `low` is to be relied on, as the least that a test set of 100 such images should show. The
    images chosen for labelling are harder than the rest, so `value` is too low, and `high` is 1. The gain's interval is
    that of such a test set, too.

    Args:
        n: labels now.
        more: labels to come.
        now: with the labels that there are.
        later: with so many more.
        gain: of the second over the first; its interval is narrower than the two would have it, and the wider the more
            images other labels would call otherwise.
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
        now, later = 100 * self.now.low, 100 * self.later.low
        gain = [100 * value for value in (self.gain.value, self.gain.low, self.gain.high)]
        return [
            f"{self.n} labels: at least {now:.0f} % accuracy is expected on a test set of {_TESTED} images. "
            "It may be much higher where the labelled images were chosen because they are hard.",
            f"{self.more} more labels should bring {gain[0]:+.1f} points (90 % interval on such a test set "
            f"{gain[1]:+.1f} to {gain[2]:+.1f}), and at least {later:.0f} %.",
            "You can stop: less than 1 point is expected of them."
            if self.stop
            else "Go on: 1 point or more is expected of them.",
        ]


def forecast(
    probe: Probe,
    y: np.ndarray,
    more: int = 50,
    *,
    groups: Any = None,
    seed: int = 0,
    level: float = 0.9,
) -> Forecast | None:
    """Carry on the learning curve of the labels that there are.

    Each fold is predicted by fits on a growing share of the others; the errors follow a power law of the number of
    labels, whose parameters are fitted again for each bootstrap sample of the images (or patients).

    Args:
        probe: of all images.
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
    curve, changing = _curve(probe, known, y[known], units, sample, seed)
    labelled = len(known) / len(y)
    errors = np.stack([1 - _accuracy(one, drawn, labelled) for one in curve], axis=1)
    now, later = _carried_on(np.array([one.size for one in curve]), errors, len(known), len(known) + more)
    ends = [100 * (1 - level) / 2, 100 * (1 + level) / 2]

    def estimate(values: np.ndarray) -> Estimate:
        low, high = np.percentile(values[1:], ends)
        value = float(np.clip(values[0], low, high))
        low, high = value - _WIDER * (value - low) - _FLOOR, value + _WIDER * (high - value) + _FLOOR
        return Estimate(value, max(float(low), -1.0), min(float(high), 1.0), len(known))

    gain = estimate(later - now)
    sampled = _z(level) * np.sqrt(changing / _TESTED)
    low, high = (
        gain.value + side * np.hypot(end - gain.value, sampled) for side, end in ((-1, gain.low), (1, gain.high))
    )
    low = max(min(low, -_FLOOR), -1.0)  # chosen labels saturate sooner than random ones
    gain = replace(gain, low=float(low), high=float(min(high, 1.0)))
    scores = [_at_least(estimate(values), level) for values in (now, later)]
    return Forecast(len(known), more, scores[0], scores[1], gain, gain.value < _WORTH)


def _z(level: float) -> float:
    """How many standard errors an interval reaches to either side."""
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def _at_least(accuracy: Estimate, level: float) -> Estimate:
    """With the least that a test set is expected to show, and no upper end: chosen labels are of the hard images."""
    end = min(max(accuracy.low, 0.0), 1.0)
    sampled = _z(level) * np.sqrt(end * (1 - end) / _TESTED)
    return replace(accuracy, low=max(float(accuracy.value - np.hypot(accuracy.value - end, sampled)), 0.0), high=1.0)


_Fit = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows left out, whether each was right, log odds of all


class _Point(NamedTuple):
    """One size of the learning curve: its mean training size, and how sure its fits were, of which image."""

    size: float
    row: np.ndarray  # (m,) of the labelled images, each once a repeat
    sure: np.ndarray  # (m,) log odds of the likeliest class over the next one
    right: np.ndarray  # (m,) whether it was classified correctly
    asked: np.ndarray  # (k,) the log odds of unlabelled images


def _curve(
    probe: Probe, known: np.ndarray, y: np.ndarray, units: np.ndarray, sample: np.ndarray, seed: int
) -> tuple[list[_Point], float]:
    """The points; and the share of the sample that two fits on as many labels call otherwise."""
    found: list[list[_Fit]] = [[] for _ in _SHARES]
    sizes, called = np.zeros(len(_SHARES)), []
    for repeat in range(_REPEATS):
        rng = np.random.default_rng((seed, repeat))
        fold_of = folds(y, units, 5, seed=seed + repeat)
        for fold in np.unique(fold_of):
            valid = np.flatnonzero(fold_of == fold)
            train = rng.permutation(np.flatnonzero(fold_of != fold))
            for place, share in enumerate(_SHARES):
                part = train[: max(2, round(share * len(train)))]
                probs = probe.probs(known[part], y[part], np.concatenate([known[valid], sample]))
                right = probs[: len(valid)].argmax(1) == y[valid]
                found[place].append((valid, right, _odds(probs)))
                if share == 1:
                    called.append(probs[len(valid) :].argmax(1))
                sizes[place] += len(part) * len(valid) / len(y) / _REPEATS
    points = []
    for size, fits in zip(sizes, found, strict=True):
        rows, right = (np.concatenate([fit[place] for fit in fits]) for place in (0, 1))
        sure = np.concatenate([odds[: len(valid)] for valid, _, odds in fits])
        asked = np.concatenate([odds[len(valid) :] for valid, _, odds in fits])
        points.append(_Point(size, rows, sure, right.astype(float), np.quantile(asked, np.linspace(0.005, 0.995, 100))))
    shares = (np.stack(called)[..., None] == np.arange(probe.n_classes)).mean(0)  # of the fits, by image and class
    alike = np.square(shares).sum(1).mean()
    return points, float((1 - alike) * len(called) / (len(called) - 1))


def _odds(probs: np.ndarray) -> np.ndarray:
    ranked = np.sort(probs, axis=1).clip(1e-6)
    return np.asarray(np.log(ranked[:, -1] / ranked[:, -2]))


def _accuracy(point: _Point, drawn: np.ndarray, labelled: float) -> np.ndarray:
    """(draws,) accuracy on all images: of the labelled ones as seen, of the others by a logistic curve of the log odds.

    The curve is fitted on the labelled images, once for each row of weights, by Newton's method.
    """
    weights = drawn[:, point.row]
    scale = max(float(point.asked.std()), 1e-6)
    x = np.stack([np.ones(len(point.sure)), point.sure / scale], axis=1)  # (m, 2)
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), 4)
    theta = np.zeros((len(weights), 2))
    ridge = np.eye(2) * 0.5
    for _ in range(12):
        fitted = 1 / (1 + np.exp(-(theta @ x.T).clip(-30, 30)))
        slope = (weights * (point.right - fitted)) @ x - theta @ ridge
        bend = ((weights * fitted * (1 - fitted)) @ products).reshape(-1, 2, 2) + ridge
        theta += np.linalg.solve(bend, slope[..., None])[..., 0]
    theta[:, 1] = theta[:, 1].clip(0)  # the surer, the more often right
    curve = theta[:, :1] + theta[:, 1:] * (point.asked / scale)
    others = (1 / (1 + np.exp(-curve.clip(-30, 30)))).mean(1)
    own = (weights @ point.right) / np.maximum(weights.sum(1), 1e-9)
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

"""Estimates that carry their interval and their n: score intervals whose variance comes from resampling.

The percentile bootstrap is too narrow where medicine works: few patients, rare labels, metrics near 1
(an AUROC of 1.0 would get a width of nothing). So the resamples give a variance only; the metric is then
read as a proportion of as many independent images as would have that variance, and gets Wilson's
interval for that count, with Student's quantile where the variance itself rests on few.
`benchmarks/coverage.py` prints how often such intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from medclf.dataset.folds import group_codes
from medclf.errors import DataError, check_count
from medclf.files import Json

# One patient's images may be right and wrong together even where this sample does not show it (all right):
# a quarter of a phantom patient, its images correlated by 0.3, is added to what the resamples show.
PHANTOM = 0.25
PHANTOM_CORRELATION = 0.3
BLOCK = 2_000_000  # weights held at once, so that memory stays flat


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and the count it rests on.

    Args:
        value: the point estimate; NaN where it is undefined, and then `note` says why.
        low: lower end of the interval; NaN where there is none.
        high: upper end of the interval.
        n: how many images (for sensitivity: images with the label) the number rests on.
        note: what a reader must know beside the number; empty where nothing.

    Example:
        >>> print(Estimate(0.93, 0.916, 0.941, 1600))
        0.930 (0.916 to 0.941), n = 1600
    """

    value: float
    low: float
    high: float
    n: int
    note: str = ""

    def as_dict(self) -> dict[str, Json]:
        """`{"value", "low", "high", "n"}`, with `"note"` where there is one; NaN becomes None for JSON.

        Example:
            >>> undefined(0, "no image").as_dict()
            {'value': None, 'low': None, 'high': None, 'n': 0, 'note': 'no image'}
        """
        numbers = {name: _json_number(getattr(self, name)) for name in ("value", "low", "high")}
        return {**numbers, "n": int(self.n), **({"note": self.note} if self.note else {})}

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"undefined ({self.note}), n = {self.n}"
        ends = "no interval" if math.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.value:.3f} ({ends}), n = {self.n}"


def _json_number(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def undefined(n: int, note: str) -> Estimate:
    """An estimate that cannot be had, with the reason."""
    return Estimate(math.nan, math.nan, math.nan, int(n), note)


def as_plain(value: Any) -> Any:
    """`value` with every Estimate in it (or whatever has `as_dict`) as a dict, through dicts and lists: for JSON.

    Example:
        >>> as_plain({"accuracy": Estimate(0.5, 0.25, 0.75, 8)})
        {'accuracy': {'value': 0.5, 'low': 0.25, 'high': 0.75, 'n': 8}}
    """
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_plain(value.tolist())
    if isinstance(value, float):
        return _json_number(value)
    return value


def critical(level: float, freedom: float = math.inf) -> float:
    """Two-sided quantile: the normal's, or Student's where the variance rests on few.

    Raises:
        DataError: `level` is not between 0 and 1.

    Example:
        >>> round(critical(0.95), 2), round(critical(0.95, 9), 2)
        (1.96, 2.26)
    """
    if not 0 < level < 1:
        raise DataError(f"level={level} is not a confidence level", "give a number between 0 and 1, such as 0.95")
    if math.isinf(freedom):
        return float(special.ndtri((1 + level) / 2))
    return float(special.stdtrit(max(freedom, 1.0), (1 + level) / 2))


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; NaN where `n` is 0.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion".

    Example:
        >>> [round(end, 2) for end in wilson(10, 10)]
        [0.72, 1.0]
    """
    return score_interval(successes / n, n, critical(level)) if n > 0 else (math.nan, math.nan)


def score_interval(share: float, n: float, quantile: float) -> tuple[float, float]:
    """The ends p at which |share - p| = quantile * sqrt(p (1 - p) / n)."""
    spread = quantile * quantile / n
    centre = (share + spread / 2) / (1 + spread)
    half = quantile / (1 + spread) * math.sqrt(max(share * (1 - share), 0) / n + spread / (4 * n))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def bounded_interval(
    value: float,
    variance: float,
    *,
    units: float,
    level: float = 0.95,
    freedom: float = math.inf,
    span: tuple[float, float] = (0.0, 1.0),
    at_most: float = math.inf,
) -> tuple[float, float]:
    """Score interval of a metric that has bounds, from its resampling variance.

    The metric, moved to 0 to 1, is read as a proportion p of n independent images, where n is such that
    p (1 - p) / n is the variance. `units` sets what is added so that n stays sensible where the resamples do
    not vary (all right, an AUROC of 1): there n becomes `units`.

    Args:
        value: the metric.
        variance: of its resamples.
        units: how many independent images the sample is worth at least (`Sampling.units`).
        level: of the interval.
        freedom: degrees of freedom of the variance.
        span: the metric's least and greatest value.
        at_most: n is never taken above this (proportions: the number of images).

    Source: Wilson's interval with an effective sample size, as for clustered surveys in Dean & Pagano 2015;
    Korn & Graubard 1998 for Student's quantile in it.

    Example:
        >>> [round(end, 2) for end in bounded_interval(1.0, 0.0, units=10)]
        [0.72, 1.0]
        >>> [round(end, 3) for end in bounded_interval(0.9, 0.09 / 200, units=200)]
        [0.85, 0.934]
    """
    width = span[1] - span[0]
    share = min(max((value - span[0]) / width, 0.0), 1.0)
    smoothed = (units * share + PHANTOM) / (units + 2 * PHANTOM)
    edge = PHANTOM * (units + PHANTOM) / (units + 2 * PHANTOM) ** 2  # smoothed * (1 - smoothed) at 0 and 1
    n = smoothed * (1 - smoothed) / (variance / width**2 + edge / units)
    n *= (critical(level) / critical(level, freedom)) ** 2
    low, high = score_interval(share, max(min(n, at_most), 0.5), critical(level))
    return span[0] + width * low, span[0] + width * high


def difference_interval(
    value: float, variance: float, *, units: float, level: float = 0.95, freedom: float = math.inf
) -> tuple[float, float]:
    """Interval of a paired difference between two metrics that lie in 0 to 1.

    Half a phantom image that each model alone has right keeps it from a width of nothing where both models
    answer alike. Source: after Bonett & Price 2012, who add a whole one each, which holds the truth too often.

    Example:
        >>> [round(end, 3) for end in difference_interval(0.0, 0.0, units=100)]
        [-0.02, 0.02]
    """
    half = critical(level, freedom) * math.sqrt(variance + 1 / units**2)
    return max(-1.0, value - half), min(1.0, value + half)


def gap_interval(gaps: np.ndarray, draws: np.ndarray, level: float, inflation: float = 1.0) -> tuple[float, float]:
    """Interval of a sum of absolute gaps (the expected calibration error) from resampled gaps.

    Noise alone makes such a sum positive, so that its resamples lie above the truth. This asks instead: with
    true gaps of s times those seen, and the resamples' noise, which s would show a sum like the one seen?

    Args:
        gaps: (k,) signed gaps.
        draws: (b, k) the same in resamples.
        level: of the interval.
        inflation: factor on the noise, for few patients.

    Returns:
        the ends; 0 as the lower one means that the sum could be noise alone. The upper end is never below
        the sum itself.

    Example:
        >>> noise = np.random.default_rng(0).normal(0, 0.01, (2000, 10))
        >>> low, high = gap_interval(np.full(10, 0.006), noise + 0.006, 0.95)
        >>> low
        0.0
    """
    seen = np.abs(gaps).sum()
    noise = (draws - gaps) * inflation
    factors = np.linspace(0, 2.5, 26)
    tails = ((1 - level) / 2, (1 + level) / 2)
    shown = np.array([np.quantile(np.abs(factor * gaps + noise).sum(axis=1), tails) for factor in factors])
    least, most = np.maximum.accumulate(shown, axis=0).T
    low = 0.0 if seen <= most[0] else min(float(np.interp(seen, most, factors) * seen), float(seen))
    return low, max(float(np.interp(seen, least, factors) * seen), float(seen))


@dataclass(frozen=True)
class Sampling:
    """Which images were drawn together: single images, or all images of a patient.

    Args:
        codes: (n,) patient of each image, 0 ... count - 1.
        count: how many patients.

    Example:
        >>> sampling = Sampling.of(["a", "a", "b", None])
        >>> sampling.count, sampling.independent
        (3, False)
    """

    codes: np.ndarray
    count: int

    @classmethod
    def of(cls, groups: Any, n: int | None = None) -> Sampling:
        """From each image's group; None or NaN is a group of its own, `groups=None` means single images.

        Raises:
            DataError: there are not `n` groups.
        """
        if groups is None:
            return cls(np.arange(n or 0), n or 0)
        names = list(groups)
        codes = group_codes(names, len(names) if n is None else n)
        return cls(codes, int(codes.max(initial=-1)) + 1)

    @property
    def independent(self) -> bool:
        """Whether every image is a group of its own."""
        return self.count == len(self.codes)

    def keep(self, rows: np.ndarray) -> Sampling:
        """The same for some of the images."""
        codes = np.unique(self.codes[rows], return_inverse=True)[1]
        return Sampling(codes, int(codes.max(initial=-1)) + 1)

    def _sizes(self, mask: np.ndarray | None) -> np.ndarray:
        return np.bincount(self.codes if mask is None else self.codes[mask], minlength=self.count).astype(float)

    def groups(self, mask: np.ndarray | None = None) -> float:
        """Effective number of groups among the masked images: Kish's (sum m)^2 / sum m^2."""
        sizes = self._sizes(mask)
        return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.any() else 0.0

    def units(self, *masks: np.ndarray) -> float:
        """How many independent images the masked ones are worth, at the phantom's correlation.

        With several masks (the labels), as many as a set would have that is worth as much and holds each label alike:
        five images with a label and a thousand without are worth twenty.
        """
        worths = [worth for worth in (self._worth(mask) for mask in masks or (None,)) if worth]
        if not worths:
            return 0.0
        return min(len(worths) ** 2 / sum(1 / worth for worth in worths), self._worth())

    def _worth(self, mask: np.ndarray | None = None) -> float:
        sizes = self._sizes(mask)
        if not sizes.any():
            return 0.0
        together = (sizes**2).sum() / sizes.sum()
        return float(sizes.sum() / (1 + (together - 1) * PHANTOM_CORRELATION))

    def freedom(self, *masks: np.ndarray) -> float:
        """Degrees of freedom of a metric that averages over disjoint sets of images (the labels).

        Source: Satterthwaite 1946, each set's variance taken as 1 / its effective number of groups.
        """
        counts = np.array([count for count in (self.groups(mask) for mask in masks) if count])
        if not len(counts):
            return 1.0
        return max(1.0, float((1 / counts).sum() ** 2 / (1 / (counts**2 * np.maximum(counts - 1, 0.5))).sum()))

    @staticmethod
    def check(n_boot: int) -> None:
        """Raise DataError where that many resamples give no interval."""
        check_count("n_boot", n_boot, "give 200 or more; 2000 is the default", least=2)

    def patients(self, mask: np.ndarray) -> int:
        """How many groups the masked images are of."""
        return int(np.count_nonzero(np.bincount(self.codes[mask])))

    def resample(self, statistic: Callable[[np.ndarray], np.ndarray], n_boot: int = 2000, seed: int = 0) -> np.ndarray:
        """Bootstrap a statistic of weighted images, drawing whole groups.

        Args:
            statistic: (b, n) weights (how often each image was drawn) -> (b, k) values.
            n_boot: how many resamples.
            seed: of the draws.

        Returns:
            (n_boot, k) values.

        Raises:
            DataError: `n_boot` is below 2.
        """
        self.check(n_boot)
        rng = np.random.default_rng(seed)
        block = max(1, BLOCK // max(len(self.codes), 1))
        parts = []
        for start in range(0, n_boot, block):
            rows = min(block, n_boot - start)
            drawn = rng.integers(0, self.count, (rows, self.count))
            drawn += np.arange(rows)[:, None] * self.count
            counts = np.bincount(drawn.ravel(), minlength=rows * self.count).reshape(rows, self.count)
            weights = counts.astype(np.float32)
            parts.append(statistic(weights if self.independent else weights[:, self.codes]))
        return np.concatenate(parts)

    def variance(self, draws: np.ndarray) -> np.ndarray:
        """Variance of resamples (b, k), over those in which the metric is defined; NaN where in none.

        A bootstrap of G groups is too small by (G - 1) / G.
        """
        defined = np.isfinite(draws)
        count = defined.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(defined, draws, 0).sum(axis=0) / count
            spread = np.where(defined, (draws - mean) ** 2, 0).sum(axis=0) / count
        return np.asarray(spread * self.count / max(self.count - 1, 1), dtype=float)


def plan_size(wished_width: float, expected: float = 0.9, level: float = 0.95, design_effect: float = 1.0) -> int:
    """How many validation images give an interval of a wished width around an expected proportion.

    Args:
        wished_width: from the interval's lower to its upper end, such as 0.1.
        expected: the accuracy (or sensitivity: then the answer counts images with the label) expected.
        level: of the interval.
        design_effect: how many images are worth one independent image: 1 + (images a patient - 1) x
            their correlation; 1 where each patient has one image.

    Returns:
        The least number of images for which Wilson's interval is that narrow.

    Raises:
        DataError: a width, expectation or design effect that no number of images can meet.

    Example:
        >>> plan_size(0.05)  # 90 % right, to be known within about 2.5 points on either side
        557
        >>> plan_size(0.05, design_effect=2.5)  # several images a patient
        1393
    """
    if not (0 < wished_width < 1 and 0 <= expected <= 1 and design_effect >= 1):
        raise DataError(
            f"no size for wished_width={wished_width}, expected={expected}, design_effect={design_effect}",
            "give a width between 0 and 1, an expectation from 0 to 1 and a design effect of 1 or more",
        )

    def width(n: int) -> float:
        low, high = score_interval(expected, n, quantile)
        return high - low

    quantile = critical(level)
    few, enough = 0, 1
    while width(enough) > wished_width:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if width(middle) <= wished_width else (middle, enough)
    return math.ceil(enough * design_effect)

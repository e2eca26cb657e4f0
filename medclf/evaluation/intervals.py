"""Estimates that carry their interval and their n: Wilson for proportions, resampling for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from medclf.errors import DataError


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and the count it rests on.

    Args:
        value: the point estimate; NaN where it is undefined, and then `note` says why.
        low: lower end of the interval; NaN where there is none.
        high: upper end of the interval.
        n: how many images (or, for sensitivity, images with the label) the number rests on.
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

    def as_dict(self) -> dict[str, Any]:
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
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}), n = {self.n}"


def _json_number(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def undefined(n: int, note: str) -> Estimate:
    """An estimate that cannot be had, with the reason."""
    return Estimate(math.nan, math.nan, math.nan, n, note)


def as_plain(value: Any) -> Any:
    """`value` with every Estimate in it replaced by its dict, through dicts and lists: ready for JSON.

    Example:
        >>> as_plain({"accuracy": Estimate(0.5, 0.25, 0.75, 8)})
        {'accuracy': {'value': 0.5, 'low': 0.25, 'high': 0.75, 'n': 8}}
    """
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value


def wilson(successes: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; NaN where `n` is 0.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, "Interval estimation for a binomial proportion".

    Example:
        >>> [round(end, 2) for end in wilson(10, 10)]
        [0.72, 1.0]
    """
    return score_interval(successes / n, n, _normal_quantile(level)) if n > 0 else (math.nan, math.nan)


def score_interval(share: float, n: float, quantile: float) -> tuple[float, float]:
    """The ends where |share - p| = quantile * sqrt(p (1 - p) / n)."""
    spread = quantile * quantile / n
    centre = (share + spread / 2) / (1 + spread)
    half = quantile / (1 + spread) * math.sqrt(max(share * (1 - share), 0) / n + spread / (4 * n))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(
            f"level={level} is no confidence level", "give a number between 0 and 1, such as 0.95"
        )
    return float(stats.norm.ppf((1 + level) / 2))


def bounded_interval(
    value: float, deviation: float, n: int, level: float, span: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Score interval of a bounded metric from its standard error.

    The metric is read as a proportion of as many independent images as would give that standard error;
    where the resamples do not vary (all right, AUROC of 1) it counts `n`.
    """
    width = span[1] - span[0]
    share = min(max((value - span[0]) / width, 0.0), 1.0)
    variance = (deviation / width) ** 2
    effective = share * (1 - share) / variance if variance > 0 and 0 < share < 1 else float(n)
    low, high = score_interval(share, max(min(effective, n), 1.0), _normal_quantile(level))
    return span[0] + width * low, span[0] + width * high


def group_codes(groups: Any, n: int) -> np.ndarray:
    """0, 1, ... for each image's group; an image without one (None, NaN) is a group of its own.

    Raises:
        DataError: there are not `n` groups.
    """
    if groups is None:
        return np.arange(n)
    values = pd.Series(list(groups), dtype=object)
    if len(values) != n:
        raise DataError(
            f"groups has {len(values)} entries for {n} images", "give one group (patient) an image"
        )
    codes = pd.factorize(values)[0].astype(np.int64)
    missing = codes < 0
    codes[missing] = codes.max(initial=-1) + 1 + np.arange(missing.sum())
    return codes


def resample(
    statistic: Callable[[np.ndarray], np.ndarray], codes: np.ndarray, n_boot: int, seed: int
) -> np.ndarray:
    """Bootstrap a statistic of weighted images, drawing whole groups.

    Args:
        statistic: (b, n) weights (how often each image was drawn) -> (b, k) values.
        codes: (n,) group of each image, 0 ... G-1.
        n_boot: how many resamples.
        seed: of the draws.

    Returns:
        (n_boot, k) values; resamples are drawn in blocks, so memory stays flat.
    """
    n_groups = int(codes.max(initial=-1)) + 1
    single = n_groups == len(codes) and bool((codes == np.arange(n_groups)).all())
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // max(len(codes), 1))
    parts = []
    for start in range(0, n_boot, block):
        rows = min(block, n_boot - start)
        drawn = rng.integers(0, n_groups, (rows, n_groups), dtype=np.int64)
        drawn += np.arange(rows)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=rows * n_groups).reshape(rows, n_groups)
        weights = counts.astype(np.float32)
        parts.append(statistic(weights if single else weights[:, codes]))
    return np.concatenate(parts)

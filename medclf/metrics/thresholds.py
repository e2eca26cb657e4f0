"""From probabilities to decisions: an operating point, and what it means for patients.

Choose on one part of the data, report on another: `choose_threshold` takes the first part and returns a
point, `evaluate_threshold` takes the point and the second part. `calibration.split_parts` makes the parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np

from medclf.errors import DataError
from medclf.files import Json
from medclf.metrics.classification import estimate_all
from medclf.metrics.intervals import Estimate, undefined, wilson
from medclf.metrics.weighted import read_task

RULES = ("youden", "sensitivity", "specificity", "cost")
FEW = 10  # images below which a rate is not told as a count of patients


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability a label is called.

    Args:
        threshold: called where the probability is at least this.
        by: how it was chosen: youden, sensitivity, specificity, cost, or given.
        wish: what was asked for, such as {"at_least": 0.95}.
        n: how many images it was chosen on.
        sensitivity: on those images: flattering, as they chose it.
        specificity: on those images.
    """

    threshold: float
    by: str = "given"
    wish: dict[str, float] | None = None
    n: int = 0
    sensitivity: float = math.nan
    specificity: float = math.nan

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `OperatingPoint.from_dict` reads it back."""
        facts = asdict(self)
        return {key: None if value != value else value for key, value in facts.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OperatingPoint:
        """From what `as_dict` gave."""
        rates = {name: math.nan if values[name] is None else values[name] for name in ("sensitivity", "specificity")}
        return cls(**{**values, **rates})


def choose_threshold(
    y: Any,
    probs: Any,
    by: str = "youden",
    *,
    at_least: float = 0.95,
    surely: bool = False,
    miss_cost: float = 1.0,
    alarm_cost: float = 1.0,
    prevalence: float | None = None,
) -> OperatingPoint:
    """The threshold for one label that serves a purpose best on these images.

    Args:
        y: (n,) of 0 and 1; -1 is unknown and left out.
        probs: (n,) probability of the label.
        by: "youden" (sensitivity + specificity greatest), "sensitivity" (at least `at_least`, and then the
            specificity greatest), "specificity" (the same the other way), "cost" (expected cost least).
        at_least: the wished sensitivity or specificity.
        surely: the lower end of Wilson's 95 % interval must reach it, not the share seen.
        miss_cost: by cost: of an image with the label that is not called.
        alarm_cost: by cost: of an image without it that is called.
        prevalence: by cost: of the label where the classifier will be used; by default as in `y`.

    Returns:
        an `OperatingPoint`; the threshold lies midway between two probabilities seen.

    Raises:
        DataError: an unknown rule, a label that no image or every image has, or a wish that none meets.

    Source: Youden 1950.

    Example:
        >>> point = choose_threshold([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.9], "sensitivity", at_least=1.0)
        >>> round(point.threshold, 2), round(point.specificity, 2)
        (0.35, 0.67)
    """
    if by not in RULES:
        raise DataError(f"by={by!r} is not a rule to choose a threshold by", f"choose one of {', '.join(RULES)}")
    truth, scores = _one_label(y, probs)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise DataError("a threshold needs images with the label and images without it", "choose it on more images")
    thresholds, missed, alarms = _candidates(truth, scores)
    sensitivity, specificity = 1 - missed / positives, 1 - alarms / negatives
    wish: dict[str, float] | None = None
    if by == "youden":
        worth = sensitivity + specificity
    elif by == "cost":
        share = positives / len(truth) if prevalence is None else _probability("prevalence", prevalence)
        wish = {"miss_cost": miss_cost, "alarm_cost": alarm_cost, "prevalence": share}
        worth = -(miss_cost * share * (1 - sensitivity) + alarm_cost * (1 - share) * (1 - specificity))
    else:
        wish = {"at_least": _probability("at_least", at_least), "surely": float(surely)}
        pair = (sensitivity, specificity) if by == "sensitivity" else (specificity, sensitivity)
        worth = _worth_of_wish(by, *pair, positives if by == "sensitivity" else negatives, at_least, surely)
    best = _best(worth)
    return OperatingPoint(
        float(thresholds[best]), by, wish, len(truth), float(sensitivity[best]), float(specificity[best])
    )


def _worth_of_wish(by: str, wished: np.ndarray, other: np.ndarray, n: int, at_least: float, surely: bool) -> np.ndarray:
    """The other rate where the wish is met, -1 where not."""
    proven = np.array([wilson(share * n, n)[0] for share in wished]) if surely else wished
    if proven.max() < at_least - 1e-12:
        raise DataError(
            f"no threshold has a {by} of {at_least} {'with certainty ' if surely else ''}on {n} images",
            f"the highest is {proven.max():.3f}; ask for less or choose on more images",
        )
    return np.where(proven >= at_least - 1e-12, other, -1.0)


def _best(worth: np.ndarray) -> int:
    """The middle one of the candidates that are equally good."""
    equal = np.flatnonzero(worth >= worth.max() - 1e-12)
    return int(equal[len(equal) // 2])


def _candidates(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every threshold that tells the images apart differently, with its misses and false alarms."""
    levels = np.unique(scores)
    thresholds = np.concatenate([[0.0], (levels[:-1] + levels[1:]) / 2])
    if levels[-1] < 1:
        thresholds = np.append(thresholds, (levels[-1] + 1) / 2)
    missed = np.searchsorted(np.sort(scores[truth]), thresholds, side="left")
    cleared = np.searchsorted(np.sort(scores[~truth]), thresholds, side="left")
    return thresholds, missed, (~truth).sum() - cleared


def _one_label(y: Any, probs: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, scores = np.asarray(y), np.asarray(probs, dtype=np.float64)
    if truth.ndim != 1 or scores.shape != truth.shape:
        raise DataError(
            f"y has the shape {truth.shape} and probs {scores.shape}, not both (n,)", "give one label's column"
        )
    if not np.isin(truth, (-1, 0, 1)).all():
        raise DataError("y holds other numbers than 0, 1 and -1 (unknown)", "give y == the label's index")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("probs holds numbers that are no probabilities", "apply softmax or sigmoid first")
    return truth[truth >= 0] == 1, scores[truth >= 0]


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise DataError(f"{name}={value} is not a share", "give a number from 0 to 1")
    return float(value)


class ThresholdReport(TypedDict, total=False):
    """What `evaluate_threshold` returns."""

    threshold: float
    n: int
    table: dict[str, int]
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    f1: Estimate
    accuracy: Estimate
    balanced_accuracy: Estimate
    mcc: Estimate


def evaluate_threshold(
    y: Any,
    probs: Any,
    threshold: float | OperatingPoint,
    *,
    groups: Any = None,
    label: str = "label",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> ThresholdReport:
    """What a threshold is worth on images that did not choose it.

    Args:
        y: (n,) of 0 and 1; -1 is unknown and left out.
        probs: (n,) probability of the label.
        threshold: the label is called where the probability is at least this.
        groups: (n,) patient of each image.
        label: its name, for notes.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the intervals.

    Returns:
        threshold, n, table {tp, fp, fn, tn} and the estimates sensitivity, specificity, ppv, npv, accuracy,
        balanced_accuracy, f1, mcc.

    Example:
        >>> result = evaluate_threshold([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9], 0.5)
        >>> result["table"]
        {'tp': 1, 'fp': 1, 'fn': 1, 'tn': 1}
        >>> print(result["sensitivity"])
        0.500 (0.095 to 0.905), n = 2
    """
    cut = threshold.threshold if isinstance(threshold, OperatingPoint) else float(threshold)
    _one_label(y, probs)
    columns = np.asarray(y)[:, None], np.asarray(probs, dtype=np.float64)[:, None]
    task = read_task(*columns, [label], groups, True, cut)
    estimates = estimate_all(task, n_boot=n_boot, seed=seed, level=level)
    actual, called = task.positive[:, 0], task.predicted[:, 0]
    pairs = {"tp": actual & called, "fp": ~actual & called, "fn": actual & ~called, "tn": ~actual & ~called}
    return ThresholdReport(
        threshold=cut,
        n=task.n,
        table={name: int(cells.sum()) for name, cells in pairs.items()},
        sensitivity=estimates[f"{label}/sensitivity"],
        specificity=estimates[f"{label}/specificity"],
        ppv=estimates[f"{label}/ppv"],
        npv=estimates[f"{label}/npv"],
        f1=estimates[f"{label}/f1"],
        accuracy=estimates["accuracy"],
        balanced_accuracy=estimates["balanced_accuracy"],
        mcc=estimates["mcc"],
    )


@dataclass(frozen=True)
class Restated:
    """What a sensitivity and a specificity mean where a label is rarer or commoner than in the data.

    Args:
        prevalence: the share of patients that have the label.
        ppv: of those called, how many have it.
        npv: of those not called, how many do not.
        per: patients in the sentence.
        missed: of these, who have it and are not called.
        called_back: of these, who are called, rightly or not.
        sentence: the same in words, with 95 % intervals where the rates have some; "" where a rate rests on fewer than
            10 images.
    """

    prevalence: float
    ppv: Estimate
    npv: Estimate
    per: int
    missed: float
    called_back: float
    sentence: str

    def as_dict(self) -> dict[str, Json]:
        """For JSON."""
        return {**asdict(self), "ppv": self.ppv.as_dict(), "npv": self.npv.as_dict()}


def restate_prevalence(
    sensitivity: float | Estimate,
    specificity: float | Estimate,
    prevalence: float,
    *,
    label: str = "it",
    unit: str = "patients",
    per: int = 1000,
) -> Restated:
    """PPV and NPV at another prevalence than the data's, by Bayes' rule.

    Args:
        sensitivity: as a number, or an Estimate: then ppv and npv have intervals too.
        specificity: likewise.
        prevalence: share of patients with the label where the classifier will be used.
        label: its name, for the sentence.
        unit: what is counted: patients, or images where no patient is known.
        per: how many, in the sentence.

    Returns:
        a `Restated`.

    Raises:
        DataError: a number that is no share.

    Source: Bayes; the intervals join those of sensitivity and specificity on the log likelihood ratio, as in Zou &
    Donner 2008 (MOVER).

    Example:
        >>> print(restate_prevalence(0.9, 0.95, 0.01).sentence)
        Of 1,000 patients, 10 have it: 1 would be missed. 59 would be flagged, 50 of them wrongly.
    """
    _probability("prevalence", prevalence)
    rates = [
        rate if isinstance(rate, Estimate) else Estimate(rate, rate, rate, 0) for rate in (sensitivity, specificity)
    ]
    for name, rate in zip(("sensitivity", "specificity"), rates, strict=True):
        if not math.isnan(rate.value):
            _probability(name, rate.value)
    hit, clear = rates
    have = per * prevalence
    missed, vain = have * (1 - hit.value), (per - have) * (1 - clear.value)
    called = have - missed + vain
    return Restated(
        prevalence=prevalence,
        ppv=_predictive(hit, clear, prevalence),
        npv=_predictive(clear, hit, 1 - prevalence),
        per=per,
        missed=missed,
        called_back=called,
        sentence=_sentence(hit, clear, have, per, label, unit),
    )


def _sentence(hit: Estimate, clear: Estimate, have: float, per: int, label: str, unit: str) -> str:
    if math.isnan(hit.value + clear.value):
        return f"Sensitivity or specificity is undefined here: nothing can be said of {unit}."
    if any(0 < rate.n < FEW for rate in (hit, clear)):
        return ""

    def out_of(total: float, rate: Estimate) -> tuple[int, str]:
        low, high = (round(total * (1 - end)) for end in (rate.high, rate.low))
        return round(total * (1 - rate.value)), f" ({low:,} to {high:,})" if rate.n else ""

    ill = round(have)
    missed, missed_range = out_of(have, hit)
    wrong, wrong_range = out_of(per - have, clear)
    have_it = f"{ill:,} {'has' if ill == 1 else 'have'} {label}"
    return (
        f"Of {per:,} {unit}, {have_it}: {missed:,} would be missed{missed_range}. "
        f"{ill - missed + wrong:,} would be flagged, {wrong:,} of them wrongly{wrong_range}."
    )


def _predictive(right: Estimate, other: Estimate, prior: float) -> Estimate:
    """P(label | call) from the rate of right calls, that of the other class, and the share of the class."""
    n = min(right.n, other.n) if right.n and other.n else max(right.n, other.n)
    if math.isnan(right.value + other.value) or not prior * right.value + (1 - prior) * (1 - other.value):
        return undefined(n, "no patient would be called so" if not math.isnan(right.value) else right.note)

    def posterior(hits: float, alarms: float) -> float:
        both = prior * hits + (1 - prior) * alarms
        return prior * hits / both if both else math.nan

    alarm, fewest, most = 1 - other.value, 1 - other.high, 1 - other.low
    value = posterior(right.value, alarm)
    if math.isnan(right.low + other.low):
        return Estimate(value, math.nan, math.nan, n, right.note or other.note)
    if not right.value or not alarm:  # no ratio to take the logarithm of: the ends of the rate that is not at its edge
        return Estimate(value, posterior(right.low, most), posterior(right.high, fewest), n)
    down = math.hypot(math.log(right.value / right.low) if right.low else math.inf, math.log(most / alarm))
    up = math.hypot(math.log(right.high / right.value), math.log(alarm / fewest) if fewest else math.inf)
    ratio = right.value / alarm
    low, high = (
        posterior(ratio * math.exp(step), 1.0) if math.isfinite(step) else float(step > 0) for step in (-down, up)
    )
    return Estimate(value, low, high, n)

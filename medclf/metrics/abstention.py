"""When to leave an image to a reader: coverage against accuracy, and a threshold that keeps an accuracy.

Choose on one part of the data, report on another, as in `operating`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import numpy as np

from medclf.errors import DataError
from medclf.files import Json
from medclf.metrics.classification import proportion
from medclf.metrics.intervals import Estimate, Sampling, wilson
from medclf.metrics.reliability import confidence_and_right


def abstain_curve(y: Any, probs: Any, *, n_points: int = 101, level: float = 0.95) -> dict[str, np.ndarray]:
    """Accuracy on the images answered, if the least sure are left to a reader.

    Args:
        y: (n,) indices, or (n,) of 0 and 1 where `probs` is (n,); -1 is unknown and left out.
        probs: (n, L), or (n,) of one label.
        n_points: at most this many points.
        level: of the intervals, which count images.

    Returns:
        arrays threshold, coverage, accuracy, low, high and n, from the surest image on; an image is
        answered where the probability of its predicted label is at least the threshold.

    Example:
        >>> curve = abstain_curve([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
        >>> curve["coverage"].round(2).tolist(), curve["accuracy"].round(2).tolist()
        ([0.33, 0.67, 1.0], [1.0, 1.0, 0.67])
    """
    confidence, right = _sureness(y, probs)
    thresholds, answered, correct = _answered(confidence, right, np.ones(len(right), int))
    if len(thresholds) > n_points:
        kept = np.unique(np.linspace(0, len(thresholds) - 1, n_points).round().astype(int))
        thresholds, answered, correct = thresholds[kept], answered[kept], correct[kept]
    ends = np.array([wilson(k, n, level) for k, n in zip(correct, answered, strict=True)]).reshape(-1, 2)
    return {
        "threshold": thresholds,
        "coverage": answered / max(len(confidence), 1),
        "accuracy": correct / answered,
        "low": ends[:, 0],
        "high": ends[:, 1],
        "n": answered,
    }


def _answered(
    confidence: np.ndarray, right: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Falling thresholds with the number answered and the number right; equal confidences go together."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    return confidence[order][ends], np.cumsum(weights[order])[ends], np.cumsum((right * weights)[order])[ends]


def _sureness(y: Any, probs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the predicted label, and whether it is the actual one."""
    confidence, right = confidence_and_right(y, probs)
    if np.ndim(probs) == 1:  # of the one label, present or not
        return np.maximum(confidence, 1 - confidence), (confidence >= 0.5) == right
    return confidence, right


@dataclass(frozen=True)
class AbstainPoint:
    """Below which probability of the predicted label the answer is "unsure".

    Args:
        threshold: an image is answered where its predicted label's probability is at least this.
        wished: the accuracy asked for.
        coverage: share of images answered, on those it was chosen on.
        accuracy: of those answered, likewise: flattering, as they chose it.
        n: how many images it was chosen on.
    """

    threshold: float
    wished: float
    coverage: float
    accuracy: float
    n: int

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `AbstainPoint(**facts)` reads it back."""
        return asdict(self)


def choose_abstain(
    y: Any, probs: Any, *, accuracy: float = 0.95, surely: bool = False, weights: Any = None
) -> AbstainPoint:
    """The threshold that answers most images and keeps a wished accuracy on those answered.

    Args:
        y: as in `abstain_curve`.
        probs: as in `abstain_curve`.
        accuracy: the wish.
        surely: the lower end of Wilson's 95 % interval must reach it, not the share seen.
        weights: (n,) how many images each stands for, as for another prevalence; one each where None.

    Raises:
        DataError: `surely` with weights, of which Wilson's interval knows nothing; no threshold keeps it.

    Example:
        >>> choose_abstain([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], accuracy=0.9).threshold
        0.7
    """
    if not 0 <= accuracy <= 1:
        raise DataError(f"accuracy={accuracy} is not a share", "give a number from 0 to 1")
    if surely and weights is not None:
        raise DataError("surely cannot be had with weights", "leave one of them out")
    confidence, right = _sureness(y, probs)
    counted = np.ones(len(right), int) if weights is None else np.asarray(weights, float)[np.asarray(y) >= 0]
    thresholds, answered, correct = _answered(confidence, right, counted)
    kept = np.array([wilson(k, n)[0] for k, n in zip(correct, answered, strict=True)]) if surely else correct / answered
    good = np.flatnonzero(kept >= accuracy - 1e-12)
    if not len(good):
        best = f"the highest is {kept.max():.3f}" if len(kept) else "no image has a known label"
        raise DataError(f"no threshold keeps an accuracy of {accuracy} on {len(right)} images", f"{best}; ask for less")
    last = int(good[-1])
    below = thresholds[last + 1] if last + 1 < len(thresholds) else thresholds[last]
    threshold = round(float((thresholds[last] + below) / 2), 12)
    return AbstainPoint(
        threshold, accuracy, float(answered[last] / counted.sum()), float(correct[last] / answered[last]), len(right)
    )


class AbstentionReport(TypedDict, total=False):
    """What `evaluate_abstain` returns."""

    threshold: float
    coverage: Estimate
    accuracy: Estimate
    accuracy_unsure: Estimate


def evaluate_abstain(
    y: Any,
    probs: Any,
    threshold: float | np.ndarray | AbstainPoint,
    *,
    groups: Any = None,
    level: float = 0.95,
) -> AbstentionReport:
    """What abstaining is worth on images that did not choose the threshold.

    Args:
        y: as in `abstain_curve`.
        probs: as in `abstain_curve`.
        threshold: an image is answered where its predicted label's probability is at least this; or (n,), one an
            image, each chosen without it.
        groups: (n,) patient of each image.
        level: of the intervals.

    Returns:
        threshold (the median of several), and the estimates coverage, accuracy (of those answered) and
        accuracy_unsure (of the others).
    """
    limit = threshold.threshold if isinstance(threshold, AbstainPoint) else threshold
    confidence, right = _sureness(y, probs)
    known = np.flatnonzero(np.asarray(y) >= 0)
    cuts = np.broadcast_to(np.asarray(limit, np.float64), len(np.asarray(y)))[known]
    sampling = Sampling.of(groups, len(np.asarray(y))).keep(known)
    sure, everything = confidence >= cuts, np.ones(len(right), dtype=bool)
    return AbstentionReport(
        threshold=float(np.median(limit)),
        coverage=proportion(sure, everything, sampling, level=level),
        accuracy=proportion(right, sure, sampling, level=level),
        accuracy_unsure=proportion(right, ~sure, sampling, level=level),
    )

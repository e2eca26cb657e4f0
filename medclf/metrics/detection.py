"""Predicted boxes against given ones: mean average precision, FROC, hits, false alarms; intervals by patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from medclf.errors import DataError
from medclf.images.box_places import iou
from medclf.metrics.intervals import Estimate, Sampling, bounded_interval, critical, undefined

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
FALSE_ALARMS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Per image; LUNA16's, as its FROC score averages over them."""
_MOST = 100  # predictions of a label an image, the surest; COCO's maxDets
_SIDES = ["x_min", "y_min", "x_max", "y_max"]
_RECALLS = np.linspace(0, 1, 101)


def centres_in(predicted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """(n, m) whether the centre of each of (n, 4) predicted boxes lies in each of (m, 4) given ones."""
    x, y = ((predicted[:, side, None] + predicted[:, side + 2, None]) / 2 for side in (0, 1))
    return np.asarray((given[:, 0] <= x) & (x <= given[:, 2]) & (given[:, 1] <= y) & (y <= given[:, 3]))


@dataclass(frozen=True)
class _OfLabel:
    """What of one label was given and predicted, the predictions by falling prob.

    Args:
        image, prob: (n,) of each prediction.
        right: (n, 10) whether it is matched at each IoU of `IOUS`, each finding by one prediction, as COCO does.
        false: (n,) whether its centre lies in no finding.
        owner: (m,) image of each finding.
        found: (m, 2) highest prob of a prediction whose centre lies in it, or whose IoU with it is 0.5; -inf if none.
        first: (m,) whether the image's surest prediction of the label has its centre in it.
    """

    image: np.ndarray
    prob: np.ndarray
    right: np.ndarray
    false: np.ndarray
    owner: np.ndarray
    found: np.ndarray
    first: np.ndarray


def _greedy(overlaps: np.ndarray) -> np.ndarray:
    """(n, 10): each prediction, the surest first, takes the free finding that it covers best."""
    n, m = overlaps.shape
    right = np.zeros((n, len(IOUS)), bool)
    for column, least in enumerate(IOUS):
        free = np.ones(m, bool)
        for row in range(n):
            best = int(np.where(free, overlaps[row], -1).argmax()) if m else -1
            if best >= 0 and free[best] and overlaps[row, best] >= min(least, 1 - 1e-10):
                right[row, column], free[best] = True, False
    return right


class Detections:
    """Given and predicted boxes of a set of images, matched once and measured often.

    Args:
        images: paths of all images, those without a finding too.
        given: a row a finding: path, label, x_min, y_min, x_max, y_max.
        predicted: the same, with prob in [0, 1].
        patients: of each image; an image is a patient of its own where None.

    Raises:
        DataError: a box is of an image that is not among the images.

    Example:
        >>> given = pd.DataFrame({"path": ["a"], "label": ["polyp"], "x_min": [0], "y_min": [0], "x_max": [9],
        ...     "y_max": [9]})
        >>> found = Detections(["a", "b"], given, given.assign(prob=0.9))
        >>> found.value("map50"), found.value("hit_rate", threshold=0.5)
        (1.0, 1.0)
    """

    def __init__(
        self, images: Sequence[str], given: pd.DataFrame, predicted: pd.DataFrame, patients: Any = None
    ) -> None:
        self.images = list(images)
        self.place = {path: place for place, path in enumerate(self.images)}
        for boxes, what in ((given, "given"), (predicted, "predicted")):
            strange = sorted(set(boxes["path"]) - set(self.place))
            if strange:
                raise DataError(f"a {what} box is of {strange[0]}, which is not among the images", "give all images")
        self.given, self.predicted = given, predicted
        self.sampling = Sampling.of(patients, len(self.images))
        self.vocab = sorted({*given["label"], *predicted["label"]})

    @cached_property
    def labels(self) -> dict[str, _OfLabel]:
        """Label -> what was given and predicted of it."""
        return {label: self._of(label) for label in self.vocab}

    def _of(self, label: str) -> _OfLabel:
        given = self.given[self.given["label"] == label]
        mine = self.predicted[self.predicted["label"] == label].sort_values("prob", ascending=False, kind="stable")
        mine = mine.groupby("path", sort=False).head(_MOST)
        every = [(frame[_SIDES].to_numpy(float), frame.groupby("path").indices) for frame in (given, mine)]
        (given_boxes, given_rows), (mine_boxes, mine_rows) = every
        probs, none = mine["prob"].to_numpy(float), np.zeros(0, int)
        parts: dict[str, list[Any]] = {name: [] for name in _OfLabel.__dataclass_fields__}
        for path, place in self.place.items():
            findings = given_boxes[given_rows.get(path, none)]
            rows = mine_rows.get(path, none)
            boxes, prob = mine_boxes[rows], probs[rows]
            overlaps, inside = iou(boxes, findings), centres_in(boxes, findings)
            hits = [np.where(hit, prob[:, None], -np.inf).max(0, initial=-np.inf) for hit in (inside, overlaps >= 0.5)]
            parts["image"].append(np.full(len(prob), place))
            parts["prob"].append(prob)
            parts["right"].append(_greedy(overlaps))
            parts["false"].append(np.logical_not(inside.any(1)))
            parts["owner"].append(np.full(len(findings), place))
            parts["found"].append(np.stack(hits, 1))
            parts["first"].append(inside[0] if len(prob) else np.zeros(len(findings), bool))
        whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        order = np.argsort(-whole["prob"], kind="stable")
        return _OfLabel(**{**whole, **{name: whole[name][order] for name in ("image", "prob", "right", "false")}})

    def _pooled(self, name: str) -> np.ndarray:
        """A column of all labels; empty where there is none."""
        return np.concatenate([getattr(one, name) for one in self.labels.values()] or [np.zeros((0, 2))[:, 0]])

    def average_precision(self, label: str, weights: np.ndarray | None = None) -> np.ndarray:
        """(10,) average precision of a label at each IoU of `IOUS`, by COCO's rule.

        Precision is made to fall with recall and read at 101 recalls. Source: pycocotools' COCOeval, which the tests
        compare it with.

        Args:
            label: of the given boxes.
            weights: (n,) how often each image counts; once where None.
        """
        one = self.labels[label]
        weights = np.ones(len(self.images)) if weights is None else weights
        total = weights[one.owner].sum()
        if not total:
            return np.full(len(IOUS), np.nan)
        drawn = weights[one.image][:, None]
        right, wrong = (one.right * drawn).cumsum(0), (~one.right * drawn).cumsum(0)
        with np.errstate(invalid="ignore"):
            precision = np.nan_to_num(right / (right + wrong))
        falling = np.maximum.accumulate(precision[::-1], 0)[::-1]
        found = np.zeros(len(IOUS))
        for column in range(len(IOUS)):
            at = np.searchsorted(right[:, column] / total, _RECALLS, side="left")
            found[column] = np.append(falling[:, column], 0.0)[at].mean()
        return found

    def _map(self, weights: np.ndarray) -> tuple[float, float]:
        """mAP over all of `IOUS`, and at 0.5."""
        every = [self.average_precision(label, weights) for label in self.vocab]
        known = [one for one in every if not np.isnan(one).any()]
        if not known:
            return math.nan, math.nan
        mean = np.mean(known, axis=0)
        return float(mean.mean()), float(mean[0])

    def sensitivities(self, weights: np.ndarray | None = None, rule: int = 0) -> np.ndarray:
        """(b, 7) share of the findings found, where the threshold lets through as many false alarms as `FALSE_ALARMS`.

        A prediction hits a finding of its label where its centre lies in it (rule 0), or where their IoU is 0.5 or more
        (rule 1). What lies in no finding is a false alarm. Source: Setio et al. 2017 (LUNA16).

        Args:
            weights: (b, n) how often each image counts.
            rule: of a hit.
        """
        weights = np.ones((1, len(self.images))) if weights is None else weights
        false, image, prob = self._pooled("false").astype(bool), self._pooled("image").astype(int), self._pooled("prob")
        order = np.argsort(-prob[false], kind="stable")
        alarms = np.append(prob[false][order], -np.inf)
        counted = weights[:, image[false][order]].cumsum(1)
        owner, found = self._pooled("owner").astype(int), self._findings(rule)
        of_finding = weights[:, owner]
        shares = np.full((len(weights), len(FALSE_ALARMS)), np.nan)
        for column, allowed in enumerate(FALSE_ALARMS):
            over = counted > allowed * weights.sum(1, keepdims=True) + 1e-9
            first = (
                np.where(over.any(1), over.argmax(1), len(alarms) - 1) if over.shape[1] else np.zeros(len(over), int)
            )
            above = found[None] > alarms[first][:, None]
            with np.errstate(invalid="ignore"):
                shares[:, column] = (above * of_finding).sum(1) / of_finding.sum(1)
        return shares

    def _findings(self, rule: int) -> np.ndarray:
        return np.concatenate([one.found[:, rule] for one in self.labels.values()] or [np.zeros(0)])

    def _shares(self, threshold: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> (value, image) of what is averaged."""
        owner, image = self._pooled("owner").astype(int), self._pooled("image").astype(int)
        alarms = (self._pooled("false").astype(bool)) & (self._pooled("prob") >= threshold)
        per_image = np.bincount(image[alarms], minlength=len(self.images)).astype(float)
        return {
            "hit_rate": (self._findings(0) >= threshold, owner),
            "iou_hit_rate": (self._findings(1) >= threshold, owner),
            "first_hit_rate": (self._pooled("first").astype(float), owner),
            "false_alarms": (per_image, np.arange(len(self.images))),
        }

    def value(self, name: str, threshold: float = 0.5) -> float:
        """One metric of `estimates`, without its interval."""
        every = np.ones((1, len(self.images)))
        if name in ("map", "map50"):
            return self._map(every[0])[name == "map50"]
        if name == "froc":
            return float(self.sensitivities().mean())
        values, _ = self._shares(threshold)[name]
        return float(np.mean(values)) if len(values) else math.nan

    def best_threshold(self) -> float:
        """The prob at which hits and false alarms balance best: the highest F1 of findings and predictions.

        Returns:
            0.5 where nothing was predicted.
        """
        prob, found = self._pooled("prob"), self._findings(0)
        false = np.sort(prob[self._pooled("false").astype(bool)])
        candidates = np.unique(found[np.isfinite(found)])
        if not len(candidates):
            return 0.5
        hits = (found[None] >= candidates[:, None]).sum(1)
        alarms = len(false) - np.searchsorted(false, candidates)
        return float(candidates[np.argmax(2 * hits / (hits + alarms + len(found)))])

    def estimates(self, threshold: float, n_boot: int = 500, seed: int = 0) -> dict[str, Estimate]:
        """Every metric with its 95 % interval from resampled patients.

        Args:
            threshold: prob from which a prediction is shown.
            n_boot: resamples.
            seed: of the draws.

        Returns:
            map (mean average precision over IoU 0.5 to 0.95 and labels), map50 (at IoU 0.5), froc (mean sensitivity
            over `FALSE_ALARMS`), sensitivity_at_N for each of them, and at the threshold hit_rate (findings in which
            the centre of a prediction lies), iou_hit_rate (that a prediction covers with IoU 0.5), first_hit_rate
            (findings in which the image's surest prediction has its centre, whatever its prob), and false_alarms
            (predictions an image that lie in no finding).
        """
        n_findings = len(self.given)
        if not n_findings:
            return {"map": undefined(0, "no finding was given")}
        draws = self.sampling.resample(lambda weights: self._statistics(weights, threshold), n_boot, seed)
        values = self._statistics(np.ones((1, len(self.images))), threshold)[0]
        variances = self.sampling.variance(draws)
        mask = np.bincount(self._pooled("owner").astype(int), minlength=len(self.images)) > 0
        units, freedom = self.sampling.units(mask), self.sampling.freedom(mask)
        found = {}
        for name, value, variance in zip(self._names(), values, variances, strict=True):
            if name == "false_alarms":
                half = critical(0.95, self.sampling.freedom()) * math.sqrt(variance)
                found[name] = Estimate(float(value), max(0.0, value - half), value + half, len(self.images))
                continue
            low, high = bounded_interval(float(value), float(variance), units=units, freedom=freedom)
            found[name] = Estimate(float(value), low, high, n_findings)
        return found

    @staticmethod
    def _names() -> list[str]:
        shares = ["hit_rate", "iou_hit_rate", "first_hit_rate", "false_alarms"]
        return ["map", "map50", "froc", *(f"sensitivity_at_{rate:g}" for rate in FALSE_ALARMS), *shares]

    def _statistics(self, weights: np.ndarray, threshold: float) -> np.ndarray:
        """(b, k) in the order of `_names`."""
        maps = np.array([self._map(row) for row in weights])
        found = self.sensitivities(weights)
        columns: list[np.ndarray] = []
        for values, image in self._shares(threshold).values():
            drawn = weights[:, image]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns.append((drawn * values).sum(1) / drawn.sum(1))
        return np.column_stack([maps, found.mean(1), found, *columns])

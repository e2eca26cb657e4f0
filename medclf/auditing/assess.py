"""PREDICTIONS -> what they are worth: calibrated, with a limit below which to abstain, and thresholds to decide by.

All of it is fitted on a `Basis`, images that the network was not trained on, and reported on others. Where there are
no others, each reported image is judged by what was fitted on the folds that do not hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medclf.auditing.calibration_set import FEWEST, Basis
from medclf.auditing.decisions import Wishes, column_of, decide, decision_facts
from medclf.errors import DataError
from medclf.metrics.abstention import abstain_curve, choose_abstain, evaluate_abstain
from medclf.metrics.calibration import (
    Temperature,
    brier,
    calibrate_out_of_fold,
    ece,
    fit_temperature,
    reliability,
    to_logits,
)
from medclf.metrics.classification import classification_metrics, proportion
from medclf.metrics.intervals import Sampling, as_plain
from medclf.metrics.thresholds import OperatingPoint
from medclf.results.predictions import Predictions, losses_of

CURVE = ("coverage", "accuracy", "low", "high")


@dataclass
class Worth:
    """What came of it.

    Args:
        predictions: with calibrated probabilities, and a column flags where some are unsure.
        facts: sections of results.json: calibration, abstain, operating_point.
        calibration: what `save_bundle` takes.
        temperature: that the bundle divides by; None where there was too little to fit one.
    """

    predictions: Predictions
    facts: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    temperature: Temperature | None = None


def judge(shown: Predictions, basis: Basis, wishes: Wishes | None = None) -> Worth:
    """Calibrate predictions, and choose and judge the limits that a bundle carries.

    Args:
        shown: the predictions to report.
        basis: what to fit on.
        wishes: what is asked of the decisions; the defaults where None.

    Returns:
        A `Worth`.

    Example:
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> p = rng.random(400)
        >>> y = (rng.random(400) < p).astype(int)
        >>> table = pd.DataFrame({"path": [f"{i}.png" for i in range(400)]})
        >>> shown = Predictions(["normal", "polyp"], False, y, np.stack([1 - p, p], 1), p * 0, table)
        >>> found = judge(shown, Basis.of(shown, "the other images"))
        >>> sorted(found.facts), bool(0.8 < found.temperature.values[0] < 1.25)
        (['abstain', 'calibration', 'operating_point'], True)
    """
    wishes = wishes or Wishes()
    if len(basis) < FEWEST:
        text = (
            f"Nothing was fitted: {len(basis)} images are too few to calibrate on or to choose a limit by "
            f"(at least {FEWEST}). The probabilities are the network's own."
        )
        return Worth(shown, {"calibration": {"sentence": text}})
    try:
        result, basis = _calibrated(shown, basis)
    except DataError as error:
        return Worth(shown, {"calibration": {"sentence": f"Not calibrated: {error.message}."}})
    _abstaining(result, basis, wishes.keep_accuracy)
    points, chosen = decide(result.predictions, basis, wishes)
    if points:
        result.facts["operating_point"] = points
    if chosen:
        result.calibration["operating_point"] = chosen
    return result


def at_temperature(shown: Predictions, temperature: Temperature | None) -> Predictions:
    """The predictions with their logits divided by a temperature; as they are where it is None."""
    return shown if temperature is None else _with_probs(shown, temperature.apply_to_probs(shown.probs))


def _with_probs(shown: Predictions, probs: np.ndarray) -> Predictions:
    return replace(shown, probs=probs, losses=losses_of(shown.y, probs, shown.multi_label))


def _calibrated(shown: Predictions, basis: Basis) -> tuple[Worth, Basis]:
    """Both with calibrated probabilities, and what that did to them."""
    multi = shown.multi_label
    if basis.own:
        logits = to_logits(shown.probs, multi_label=multi)
        probs, temperature = calibrate_out_of_fold(logits, shown.y, groups=shown.groups, multi_label=multi)
        after, basis = _with_probs(shown, probs), replace(basis, probs=probs)
        how = f"Each image here was judged by a temperature fitted on {basis.words}; the bundle's is fitted on all"
    else:
        logits = to_logits(basis.probs, multi_label=multi)
        temperature = fit_temperature(logits, basis.y, multi_label=multi, shared=True)
        after, basis = at_temperature(shown, temperature), replace(basis, probs=temperature.apply(logits))
        how = f"It was fitted on {basis.words}, none of which is reported here"
    value = temperature.values[0]
    was = "too sure" if value > 1.05 else "not sure enough" if value < 0.95 else "about as sure as it should be"
    divided = f"The logits are divided by a temperature of {value:.2f}: the network was {was}."
    sentence = f"{divided} {how} ({temperature.n} images)."
    facts = {
        "sentence": sentence,
        "temperature": value,
        "n_fitted_on": temperature.n,
        **_before_and_after(shown, after),
    }
    return Worth(after, {"calibration": facts}, {"temperature": temperature.as_dict()}, temperature), basis


def _before_and_after(shown: Predictions, after: Predictions) -> dict[str, Any]:
    parts = {"before": shown, "after": after}
    errors = {name: calibration_errors(part) for name, part in parts.items()}
    return {
        "ece": {name: found["ece"] for name, found in errors.items()},
        "brier": {name: found["brier"] for name, found in errors.items()},
        "reliability": {name: reliability_bars(part) for name, part in parts.items()},
    }


def calibration_errors(shown: Predictions) -> dict[str, Any]:
    """{"ece", "brier"}, each {"value", "low", "high", "n"}; means over the labels where an image may have several."""
    y, probs, groups = shown.y, shown.probs, shown.groups
    if shown.multi_label:
        found = classification_metrics(y, probs, shown.vocab, groups=groups, multi_label=True)
        return as_plain({name: found[name] for name in ("ece", "brier")})
    return as_plain({"ece": ece(y, probs, groups=groups), "brier": brier(y, probs, groups=groups)})


def reliability_bars(shown: Predictions, n_bins: int = 10) -> list[dict[str, Any]]:
    """The bars of the reliability diagram; of several labels an image, all labels together."""
    flat = shown.multi_label
    y, probs = (shown.y.ravel(), shown.probs.ravel()) if flat else (shown.y, shown.probs)
    return [one.as_dict() for one in reliability(y, probs, n_bins) if one.frequency.n]


def answers(y: np.ndarray, probs: np.ndarray, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """What the functions of `abstain` take: of several labels an image, whether all are right, and the least sure one's
    probability.
    """
    if not multi_label:
        return y, probs
    right = (((probs >= 0.5) == (y == 1)) | (y < 0)).all(axis=1)
    known = (y >= 0).any(axis=1)
    return np.where(known, right.astype(int), -1), np.maximum(probs, 1 - probs).min(axis=1)


def _abstaining(result: Worth, basis: Basis, wished: float) -> None:
    """Choose below which probability the answer is "unsure", and judge it."""
    shown = result.predictions
    y, probs = answers(shown.y, shown.probs, shown.multi_label)
    chosen_y, chosen_probs = answers(basis.y, basis.probs, shown.multi_label)
    curve = abstain_curve(y, probs)
    facts: dict[str, Any] = {"wished": wished, "curve": {name: curve[name].tolist() for name in CURVE}}
    try:
        point = choose_abstain(chosen_y, chosen_probs, accuracy=wished)
    except DataError as error:
        facts["sentence"] = f"{error.message[0].upper()}{error.message[1:]}: no answer is marked as unsure."
        result.facts["abstain"] = facts
        return
    cuts = basis.limits(lambda rows: choose_abstain(chosen_y[rows], chosen_probs[rows], accuracy=wished).threshold)
    limit = point.threshold if cuts is None else cuts
    worth = evaluate_abstain(y, probs, limit, groups=shown.groups)
    worth.pop("threshold")
    unsure = _surety(probs) < limit
    facts |= {
        "threshold": point.threshold,
        "sentence": _abstain_sentence(point.threshold, wished, int(unsure.sum()), len(unsure), basis.words),
        "numbers": as_plain(worth),
    }
    result.facts["abstain"] = facts
    result.calibration["abstain"] = {"threshold": point.threshold, "wished": wished}
    result.predictions = flagged(shown, unsure, "unsure")


def _surety(probs: np.ndarray) -> np.ndarray:
    """(n,) probability of each answer: (n, n_labels) hold those of all labels, (n,) of the answer alone."""
    return np.asarray(probs.max(axis=1) if probs.ndim == 2 else probs)


def _abstain_sentence(limit: float, wished: float, unsure: int, n: int, whence: str) -> str:
    return (
        f"Below a probability of {limit:.3f} the answer is marked as unsure, so that {wished:.0%} of the others should "
        f"be right. The limit was chosen on {whence}. Here it marks {unsure} of {n} images."
    )


def flagged(shown: Predictions, marked: np.ndarray, flag: str) -> Predictions:
    """The predictions with a flag more in the column flags of those that are marked."""
    before = shown.table["flags"] if "flags" in shown.table else [""] * len(shown)
    both = ["|".join(filter(None, (old, flag if new else ""))) for old, new in zip(before, marked, strict=True)]
    return replace(shown, table=shown.table.assign(flags=both))


def judge_at(
    shown: Predictions, limit: float | None, points: dict[str, OperatingPoint], prevalence: float | None = None
) -> dict[str, Any]:
    """What limits that were chosen elsewhere are worth on these images.

    Args:
        shown: calibrated predictions.
        limit: below which probability of the predicted label an answer is unsure; None where there is none.
        points: thresholds by label.
        prevalence: to restate ppv and npv for; as in the images where None.

    Returns:
        Sections of results.json: calibration, abstain, operating_point, as far as there are any.
    """
    errors = calibration_errors(shown)
    facts: dict[str, Any] = {"calibration": {**errors, "reliability": {"here": reliability_bars(shown)}}}
    if limit is not None:
        y, probs = answers(shown.y, shown.probs, shown.multi_label)
        worth = evaluate_abstain(y, probs, limit, groups=shown.groups)
        curve = abstain_curve(y, probs)
        sure = _surety(probs)
        facts["abstain"] = {
            "threshold": worth.pop("threshold"),
            "sentence": f"At training's limit {int((sure < limit).sum())} of {len(sure)} images are unsure.",
            "numbers": as_plain(worth),
            "curve": {name: curve[name].tolist() for name in CURVE},
        }
    found = {}
    for label, point in points.items():
        if label in shown.vocab:
            column = column_of(shown.y, shown.probs, shown, label)
            found[label] = decision_facts(*column, label, point, shown.groups, prevalence)
    if found:
        facts["operating_point"] = found if shown.multi_label else next(iter(found.values()))
    return facts


def ood_facts(unlike: np.ndarray, part: Predictions, n: int, quantile: float) -> dict[str, Any]:
    """How many images were found not like the training images.

    Args:
        unlike: (n,) bool.
        part: the predictions.
        n: images that the detector knows.
        quantile: share of images of the right kind that it lets pass.
    """
    sampling = Sampling.of(part.groups, len(part))
    share = proportion(unlike, np.ones(len(part), bool), sampling)
    sentence = (
        f"{int(unlike.sum())} of {len(part)} images are not like the {n} training images, by their features in the "
        f"network. Of images of the right kind, {1 - quantile:.0%} are expected to be flagged."
    )
    return {"sentence": sentence, "flagged": as_plain(share), "n_train": n}

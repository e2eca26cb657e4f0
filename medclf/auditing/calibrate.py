"""PREDICTIONS -> calibrated, with limits below which to abstain and thresholds to decide by, chosen and judged.

All of it is fitted on a `CalibrationSet`, images that the network was not trained on, and reported on others. Where
there are no others, each reported image is judged by what was fitted on the folds that do not hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medclf.auditing.assess import (
    CURVE,
    Sections,
    answers,
    at_temperature,
    by_label,
    calibration_errors,
    confidence_of,
    if_too_often,
    of_prevalence,
    reliability_bars,
    rules_section,
    temperature_text,
    with_flag,
)
from medclf.auditing.calibration_set import FEWEST, CalibrationSet
from medclf.auditing.decisions import DecisionPolicy, balanced, decide, labels_to_decide
from medclf.errors import DataError
from medclf.metrics.abstention import abstain_curve, choose_abstain, evaluate_abstain
from medclf.metrics.calibration import FEWEST_OF_A_LABEL, calibrate_out_of_fold, fit_calibration, too_few
from medclf.metrics.intervals import as_plain
from medclf.metrics.logits import to_logits
from medclf.metrics.prevalence import PrevalenceShift
from medclf.results.calibration import UNSURE, Calibration
from medclf.results.predictions import Predictions
from medclf.results.wording import confidence_gap, counted_as, percent


@dataclass
class Calibrated:
    """What `calibrate` gives.

    Args:
        predictions: with calibrated probabilities, and a column flags where some are unsure.
        sections: of results.json: calibration, abstain, operating_point.
        calibration: what `save_bundle` takes; its temperature is None where there was too little to fit one.
    """

    predictions: Predictions
    sections: Sections = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)


def calibrate(
    predictions: Predictions,
    calibration_set: CalibrationSet,
    policy: DecisionPolicy | None = None,
    shares: np.ndarray | None = None,
) -> Calibrated:
    """Calibrate predictions, and choose and judge the limits that a bundle carries.

    Args:
        predictions: to report.
        calibration_set: what to fit on.
        policy: how decisions are to be made; the defaults where None.
        shares: (n_labels,) of the training images or units that have each label; of the calibration set where None.

    Example:
        >>> import pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> p = rng.random(400)
        >>> y = (rng.random(400) < p).astype(int)
        >>> table = pd.DataFrame({"path": [f"{i}.png" for i in range(400)]})
        >>> predictions = Predictions(["normal", "polyp"], False, y, np.stack([1 - p, p], 1), p * 0, table)
        >>> found = calibrate(predictions, CalibrationSet.of(predictions, "the other images"))
        >>> sorted(found.sections), bool(0.8 < found.calibration.temperature.values[0] < 1.25)
        (['abstain', 'calibration', 'decision', 'operating_point'], True)
    """
    policy = policy or DecisionPolicy()
    if policy.prevalence is not None:
        policy.check(predictions.vocab, predictions.multi_label)
    shares = shares_of(calibration_set.y, len(predictions.vocab)) if shares is None else shares
    why = _why_not(calibration_set)
    try:
        if why:
            raise DataError(why, "give more images")
        result, calibration_set = _at_fitted_temperature(predictions, calibration_set)
        if policy.prevalence is not None:
            calibration_set, shares = _shift(result, calibration_set, policy, shares)
        section, thresholds = decide(result.predictions, calibration_set, policy)
    except DataError as error:
        text = f"Not calibrated: {error.message}. The probabilities are the network's own."
        text += " They do not stand for the prevalence that was given." if policy.prevalence is not None else ""
        result, section, thresholds = Calibrated(predictions, {"calibration": {"sentence": text}}), {}, {}
        why = text
    if section:
        result.sections["operating_point"] = section
    _decide(result, policy, shares, thresholds)
    if not why:
        _abstain(result, calibration_set, policy.keep_accuracy)
    return result


def _why_not(calibration_set: CalibrationSet) -> str:
    n = len(calibration_set)
    return f"{n} {counted_as(calibration_set.unit, n)} are too few (at least {FEWEST} are needed)" if n < FEWEST else ""


def shares_of(y: np.ndarray, n_labels: int) -> np.ndarray:
    """(n_labels,) share of the known images that have each label."""
    if y.ndim == 2:
        return np.asarray((y == 1).sum(axis=0) / np.maximum((y >= 0).sum(axis=0), 1))
    return np.asarray(np.bincount(y[y >= 0].astype(int), minlength=n_labels) / max((y >= 0).sum(), 1))


def _decide(result: Calibrated, policy: DecisionPolicy, shares: np.ndarray, thresholds: dict[str, float]) -> None:
    """Choose what is predicted, and say how each way to choose would score."""
    shown = result.predictions
    ways: dict[str, dict[str, Any]] = {"accuracy": {}, "balanced": balanced(shares, shown.vocab, shown.multi_label)}
    ways |= {"threshold": {"thresholds": thresholds}} if thresholds else {}
    if policy.decision in ways:
        result.calibration = replace(result.calibration, multi_label=shown.multi_label, **ways[policy.decision])
    chosen = result.calibration.decided(shown.probs, shown.vocab)
    if chosen is not None or shown.decided is not None:
        result.predictions = replace(shown, decided=chosen)
    used = policy.decision if policy.decision in ways else "accuracy"
    result.sections["decision"] = rules_section(shown, used, ways) | {"ways": ways}


def _at_fitted_temperature(before: Predictions, fitted_on: CalibrationSet) -> tuple[Calibrated, CalibrationSet]:
    """Both with calibrated probabilities, and what that did to them."""
    multi, images = before.multi_label, counted_as(fitted_on.unit)
    if fitted_on.reported:
        logits = to_logits(before.probs, multi_label=multi)
        probs, temperature = calibrate_out_of_fold(logits, before.y, groups=before.groups, multi_label=multi)
        after, fitted_on = before.with_probs(probs), replace(fitted_on, probs=probs)
        how = "The model's confidence was {0}. Each "
        how += f"{before.counted(1)} here was calibrated by {fitted_on.described} ({{1}})."
    else:
        logits = to_logits(fitted_on.probs, multi_label=multi)
        temperature = fit_calibration(logits, fitted_on.y, groups=fitted_on.groups, multi_label=multi)
        after, fitted_on = at_temperature(before, temperature), replace(fitted_on, probs=temperature.apply(logits))
        how = f"On {fitted_on.described} ({{1}}), the model's confidence was {{0}}."
    value, _ = temperature.overall
    unfit = too_few(fitted_on.y, len(before.vocab), groups=fitted_on.groups, multi_label=multi)
    was = "too high" if value > 1.05 else "too low" if value < 0.95 else "about right"
    if value == 1 and (~unfit).sum() < (1 if multi else 2):  # nothing was fitted, or it would have made them surer
        was = "not shown to be too high"
    few = [label for label, one in zip(before.vocab, unfit, strict=True) if one]
    sentence = how.format(f"{was} ({temperature_text(temperature)})", f"{temperature.n} {images}")
    judged = _before_and_after(before, after)
    if (gap := judged["ece"]["after"])["value"] is not None:
        sentence += f" On the {gap['n']} {before.counted(gap['n'])} here {confidence_gap(gap)}."
    if few:
        once = "" if fitted_on.groups is None else " (those of one patient, and near-duplicates, count once)"
        sentence += f" Uncalibrated, with fewer than {FEWEST_OF_A_LABEL} {images}{once}: {', '.join(few)}."
    section = {
        "sentence": sentence,
        "temperature": value,
        "n_fitted_on": temperature.n,
        "uncalibrated": few,
        **judged,
        "by_label": by_label(after),
    }
    calibration = Calibration(temperature, multi_label=multi)
    return Calibrated(after, {"calibration": section}, calibration), fitted_on


def _shift(
    result: Calibrated, calibration_set: CalibrationSet, policy: DecisionPolicy, shares: np.ndarray
) -> tuple[CalibrationSet, np.ndarray]:
    """Let the probabilities stand for a prevalence; the same of those that choose thresholds, and of the shares."""
    shown, temperature, section = result.predictions, result.calibration.temperature, result.sections["calibration"]
    (label, *_), prevalence = labels_to_decide(shown, policy.positive), policy.prevalence
    vocab, multi, k = shown.vocab, shown.multi_label, shown.vocab.index(label)
    known = shares if label in section["uncalibrated"] else shares_of(calibration_set.y, len(vocab))
    if temperature is None or prevalence is None or not 0 < known[k] < 1:
        told = f"of the {shown.counted()} they were fitted on none, or all, have {label}"
        section["sentence"] += f" The probabilities do not stand for the prevalence that was given: {told}."
        return calibration_set, shares
    shift = PrevalenceShift(label, float(known[k]), prevalence)
    section |= of_prevalence(shift, section["sentence"])
    bias = shift.bias(vocab, multi) + (temperature.bias or 0.0)
    result.calibration = replace(
        result.calibration, temperature=replace(temperature, bias=tuple(bias.tolist())), shift=shift
    )
    result.predictions = shown.shifted(shift)
    probs = shift.apply(calibration_set.probs, vocab, multi)
    return replace(calibration_set, probs=probs), shift.shares(shares, vocab, multi)


def _before_and_after(before: Predictions, after: Predictions) -> Sections:
    parts = {"before": before, "after": after}
    errors = {name: calibration_errors(part) for name, part in parts.items()}
    return {
        "ece": {name: found["ece"] for name, found in errors.items()},
        "brier": {name: found["brier"] for name, found in errors.items()},
        "reliability": {name: reliability_bars(part) for name, part in parts.items()},
    }


def _abstain(result: Calibrated, calibration_set: CalibrationSet, keep_accuracy: float) -> None:
    """Choose below which confidence an answer is unsure, and judge that."""
    predictions, multi = result.predictions, result.predictions.multi_label
    y, probs = answers(predictions.y, predictions.probs, multi, predictions.decided)
    elsewhere = result.calibration.decided(calibration_set.probs, predictions.vocab)
    chosen_y, chosen_probs = answers(calibration_set.y, calibration_set.probs, multi, elsewhere)
    curve = abstain_curve(y, probs)
    section: Sections = {"wished": keep_accuracy, "curve": {name: curve[name].tolist() for name in CURVE}}
    result.sections["abstain"] = section

    shift = result.calibration.shift
    weights = None if shift is None else shift.weights(calibration_set.y, predictions.vocab, multi)

    def choose(rows: Any) -> float:
        counted = None if weights is None else weights[rows]
        return choose_abstain(chosen_y[rows], chosen_probs[rows], accuracy=keep_accuracy, weights=counted).threshold

    try:
        threshold = choose(slice(None))
    except DataError:
        n = int((chosen_y >= 0).sum())
        told = f"No threshold keeps an accuracy of {keep_accuracy} on {n} {counted_as(calibration_set.unit, n)}"
        section["sentence"] = f"{told}: no answer is flagged unsure."
        return
    held_out = calibration_set.held_out_thresholds(choose)
    limit = threshold if held_out is None else held_out
    found = evaluate_abstain(y, probs, limit, groups=predictions.groups)
    found.pop("threshold")
    unsure = confidence_of(probs) < limit
    where = "" if shift is None else f" at a prevalence of {shift}"
    sentence = (
        f"Answers below {100 * threshold:.0f} % confidence are flagged unsure: {unsure.sum()} of {len(unsure)} here. "
        f"About {percent(keep_accuracy, 0)} of the rest should be correct{where}. "
        f"The limit was chosen on {calibration_set.described}."
    )
    sentence += if_too_often(unsure)
    section |= {"threshold": threshold, "sentence": sentence, "numbers": as_plain(found)}
    result.calibration = replace(result.calibration, abstain_below=threshold, keep_accuracy=keep_accuracy)
    result.predictions = with_flag(predictions, unsure, UNSURE)

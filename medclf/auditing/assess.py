"""PREDICTIONS -> what they are worth: calibrated, with limits below which to abstain, and thresholds to decide by.

All of it is fitted on a `CalibrationSet`, images that the network was not trained on, and reported on others. Where
there are no others, each reported image is judged by what was fitted on the folds that do not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.audit import Audit
from medclf.auditing.calibration_set import FEWEST, CalibrationSet
from medclf.auditing.decisions import (
    DecisionPolicy,
    balanced,
    column_of,
    decide,
    decision_scores,
    decision_section,
)
from medclf.auditing.fusion import fused
from medclf.dataset.groups import unit_of
from medclf.dataset.labels import objects
from medclf.errors import DataError
from medclf.metrics.abstention import abstain_curve, choose_abstain, evaluate_abstain
from medclf.metrics.calibration import (
    FEWEST_OF_A_LABEL,
    Temperature,
    brier,
    calibrate_out_of_fold,
    ece,
    fit_calibration,
    reliability,
    to_logits,
    too_few,
)
from medclf.metrics.classification import classification_metrics, proportion
from medclf.metrics.intervals import Sampling, as_plain
from medclf.metrics.thresholds import OperatingPoint
from medclf.metrics.weighted import bin_gaps
from medclf.results.calibration import OUT_OF_DISTRIBUTION, UNSURE, Calibration
from medclf.results.predictions import Predictions, losses_of
from medclf.results.wording import RULES, counted_as, percent

_BARS = 10  # of a reliability diagram
CURVE = ("coverage", "accuracy", "low", "high")

Sections = dict[str, Any]  # of results.json, by name


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
        shares: (n_labels,) of the training images that have each label; those of the calibration set where None.

    Example:
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
    shares = _shares(calibration_set.y, len(predictions.vocab)) if shares is None else shares
    why = _why_not(calibration_set)
    try:
        if why:
            raise DataError(why, "give more images")
        result, calibration_set = _at_fitted_temperature(predictions, calibration_set)
        section, thresholds = decide(result.predictions, calibration_set, policy)
    except DataError as error:
        text = f"Not calibrated: {error.message}. The probabilities are the network's own."
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


def _shares(y: np.ndarray, n_labels: int) -> np.ndarray:
    """(n_labels,) share of the known images that have each label."""
    if y.ndim == 2:
        return np.asarray((y == 1).sum(axis=0) / np.maximum((y >= 0).sum(axis=0), 1))
    return np.asarray(np.bincount(y[y >= 0].astype(int), minlength=n_labels) / max((y >= 0).sum(), 1))


_FIELDS = ("thresholds", "weights")  # of `Calibration`, that choose labels
_RULES = {
    "accuracy": "The most probable label is predicted",
    "balanced": "The label is predicted whose probability is highest beside its share of the training {images}",
    "threshold": "Labels are predicted from their operating point on",
}
_RULES_OF_MANY = {
    "accuracy": "Each label is predicted from a probability of 50 % on",
    "balanced": "Each label is predicted from its share of the training {images} on",
}


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
    result.sections["decision"] = _decision(shown, used, ways) | {"ways": ways}


def _decision(shown: Predictions, used: str, ways: Mapping[str, Mapping[str, Any]]) -> Sections:
    """Which rule chooses the labels, and how each way to choose scores.

    Args:
        shown: calibrated.
        used: the way that is taken.
        ways: by name, what each asks of a `Calibration`: thresholds or weights.
    """
    multi, known = shown.multi_label, np.asarray(shown.y) >= 0
    rules = _RULES | (_RULES_OF_MANY if multi else {})
    calibrations = {way: Calibration(multi_label=multi, **fields) for way, fields in ways.items()}
    scores = decision_scores(shown, calibrations) if known.any() else {}
    pairs = {way: (row["accuracy"], row["balanced_accuracy"]) for way, row in scores.items()}
    told = [f"{RULES[way]}: {' and '.join(map(percent, pair))}" for way, pair in pairs.items()]
    sentence = f"{rules[used].format(images=shown.counted())}."
    if told:
        sentence += f" Accuracy and balanced accuracy {'; '.join(told)}."
    if unknown := int((~known).sum()):
        of = (
            f"{unknown} of {known.size} labels"
            if multi
            else f"The labels of {unknown} of {known.size} {shown.counted()}"
        )
        sentence += f" {of} are unknown and do not count."
    return {"rule": used, "sentence": sentence, "scores": scores, "unknown": unknown}


def at_temperature(predictions: Predictions, temperature: Temperature | None) -> Predictions:
    """The predictions with their logits divided by a temperature; as they are where it is None."""
    return (
        predictions if temperature is None else _with_probs(predictions, temperature.apply_to_probs(predictions.probs))
    )


def _with_probs(predictions: Predictions, probs: np.ndarray) -> Predictions:
    losses = losses_of(predictions.y, probs, predictions.multi_label)
    return replace(predictions, probs=probs, losses=losses, decided=None)


def _at_fitted_temperature(before: Predictions, fitted_on: CalibrationSet) -> tuple[Calibrated, CalibrationSet]:
    """Both with calibrated probabilities, and what that did to them."""
    multi = before.multi_label
    if fitted_on.reported:
        logits = to_logits(before.probs, multi_label=multi)
        probs, temperature = calibrate_out_of_fold(logits, before.y, groups=before.groups, multi_label=multi)
        after, fitted_on = _with_probs(before, probs), replace(fitted_on, probs=probs)
        how = f"Each {before.counted(1)} here was judged by one fitted on {fitted_on.described}"
    else:
        logits = to_logits(fitted_on.probs, multi_label=multi)
        temperature = fit_calibration(logits, fitted_on.y, multi_label=multi)
        after, fitted_on = at_temperature(before, temperature), replace(fitted_on, probs=temperature.apply(logits))
        how = f"It was fitted on {fitted_on.described}"
    value = float(np.exp(np.mean(np.log(temperature.values))))
    was = "too high" if value > 1.05 else "too low" if value < 0.95 else "about right"
    unfit = too_few(fitted_on.y, len(before.vocab), multi_label=multi)
    few = [label for label, one in zip(before.vocab, unfit, strict=True) if one]
    images = counted_as(fitted_on.unit)
    sentence = f"The model's confidence was {was} (temperature {value:.2f}). {how} ({temperature.n} {images})."
    if few:
        sentence += f" Uncalibrated, with fewer than {FEWEST_OF_A_LABEL} {images}: {', '.join(few)}."
    section = {
        "sentence": sentence,
        "temperature": value,
        "n_fitted_on": temperature.n,
        "uncalibrated": few,
        **_before_and_after(before, after),
        "by_label": by_label(after),
    }
    calibration = Calibration(temperature, multi_label=multi)
    return Calibrated(after, {"calibration": section}, calibration), fitted_on


def _before_and_after(before: Predictions, after: Predictions) -> Sections:
    parts = {"before": before, "after": after}
    errors = {name: calibration_errors(part) for name, part in parts.items()}
    return {
        "ece": {name: found["ece"] for name, found in errors.items()},
        "brier": {name: found["brier"] for name, found in errors.items()},
        "reliability": {name: reliability_bars(part) for name, part in parts.items()},
    }


def calibration_errors(predictions: Predictions) -> Sections:
    """{"ece", "brier"}, each {"value", "low", "high", "n"}; means over the labels where an image may have several."""
    y, probs, groups = predictions.y, predictions.probs, predictions.groups
    if predictions.multi_label:
        found = classification_metrics(y, probs, predictions.vocab, groups=groups, multi_label=True)
        estimates = {name: found[name] for name in ("ece", "brier")}
    else:
        estimates = {"ece": ece(y, probs, groups=groups), "brier": brier(y, probs, groups=groups)}
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def by_label(predictions: Predictions) -> dict[str, dict[str, Any]]:
    """How true each label's probabilities are, whether or not it is the predicted one.

    Returns:
        By label: n (images where it is known), share (that have it), mean_probability, ece, brier, brier_of_share (the
        Brier score of always saying the share), reliability (bars, see `reliability_bars`).
    """
    found = {}
    for label in predictions.vocab:
        y, p = column_of(predictions.y, predictions.probs, predictions, label)
        y, p = y[y >= 0], p[y >= 0]
        if not len(y):
            continue
        gaps, share = bin_gaps(np.ones((1, len(y))), p, y == 1), float(y.mean())
        bars = [one.as_dict() for one in reliability(y, p, _BARS) if one.frequency.n]
        found[label] = {
            "n": len(y),
            "share": share,
            "mean_probability": float(p.mean()),
            "ece": float(np.abs(gaps).sum()),
            "brier": float(((p - y) ** 2).mean()),
            "brier_of_share": share * (1 - share),
            "reliability": bars,
        }
    return found


def reliability_bars(predictions: Predictions, n_bins: int = _BARS) -> list[dict[str, Any]]:
    """The bars of the reliability diagram; of several labels an image, all labels together."""
    y, probs = predictions.y, predictions.probs
    if predictions.multi_label:
        y, probs = y.ravel(), probs.ravel()
    return [one.as_dict() for one in reliability(y, probs, n_bins) if one.frequency.n]


def answers(
    y: np.ndarray, probs: np.ndarray, multi_label: bool, predicted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What the functions of `abstention` take: which answers are right, and how sure they are.

    Of several labels an image: whether all are right, and the least sure one's probability. Where another rule than the
    highest probability decides, the label is one that the highest is, or is not, as the rule's answer is right or not.

    Args:
        y: as in `Predictions`.
        probs: (n, n_labels).
        multi_label: whether an image may have several.
        predicted: (n, n_labels) bool, where another rule decides.
    """
    if not multi_label:
        if predicted is None:
            return y, probs
        right, top = predicted[np.arange(len(y)), np.maximum(y, 0)], probs.argmax(axis=1)
        return np.where(y < 0, -1, np.where(right, top, (top + 1) % probs.shape[1])), probs
    right = (((probs >= 0.5 if predicted is None else predicted) == (y == 1)) | (y < 0)).all(axis=1)
    known = (y >= 0).any(axis=1)
    return np.where(known, right.astype(int), -1), np.maximum(probs, 1 - probs).min(axis=1)


def _confidence(probs: np.ndarray) -> np.ndarray:
    """(n,) probability of each answer: (n, n_labels) hold those of all labels, (n,) of the answer alone."""
    return np.asarray(probs.max(axis=1) if probs.ndim == 2 else probs)


def _abstain(result: Calibrated, calibration_set: CalibrationSet, keep_accuracy: float) -> None:
    """Choose below which confidence an answer is unsure, and judge that."""
    predictions, multi = result.predictions, result.predictions.multi_label
    y, probs = answers(predictions.y, predictions.probs, multi, predictions.decided)
    elsewhere = result.calibration.decided(calibration_set.probs, predictions.vocab)
    chosen_y, chosen_probs = answers(calibration_set.y, calibration_set.probs, multi, elsewhere)
    curve = abstain_curve(y, probs)
    section: Sections = {"wished": keep_accuracy, "curve": {name: curve[name].tolist() for name in CURVE}}
    result.sections["abstain"] = section

    def choose(rows: Any) -> float:
        return choose_abstain(chosen_y[rows], chosen_probs[rows], accuracy=keep_accuracy).threshold

    try:
        threshold = choose(slice(None))
    except DataError as error:
        section["sentence"] = f"{error.message[0].upper()}{error.message[1:]}: no answer is flagged unsure."
        return
    held_out = calibration_set.held_out_thresholds(choose)
    limit = threshold if held_out is None else held_out
    found = evaluate_abstain(y, probs, limit, groups=predictions.groups)
    found.pop("threshold")
    unsure = _confidence(probs) < limit
    sentence = (
        f"Answers below {threshold:.0%} confidence are flagged unsure; about {keep_accuracy:.0%} of the rest should be "
        f"correct. The limit was chosen on {calibration_set.described}; it flags {unsure.sum()} of {len(unsure)} here."
    )
    sentence += _too_often(unsure)
    section |= {"threshold": threshold, "sentence": sentence, "numbers": as_plain(found)}
    result.calibration = replace(result.calibration, abstain_below=threshold, keep_accuracy=keep_accuracy)
    result.predictions = with_flag(predictions, unsure, UNSURE)


def _too_often(unsure: np.ndarray) -> str:
    """What to say where the limit leaves few answers.

    Example:
        >>> _too_often(np.array([True, False])), _too_often(np.array([True, True, False]))[:23]
        ('', ' More than half are uns')
    """
    if 2 * unsure.sum() <= len(unsure):
        return ""
    return (
        " More than half are unsure, so the limit leaves few answers. Improve the model, or ask for a lower accuracy."
    )


def with_flag(predictions: Predictions, marked: np.ndarray, flag: str) -> Predictions:
    """The predictions with one more flag in the column flags of the images that are marked."""
    before = predictions.table["flags"] if "flags" in predictions.table else [""] * len(predictions)
    both = ["|".join(filter(None, (old, flag if new else ""))) for old, new in zip(before, marked, strict=True)]
    return replace(predictions, table=predictions.table.assign(flags=both))


def apply_calibration(predictions: Predictions, calibration: Calibration) -> Predictions:
    """The predictions as a bundle with this calibration gives them: calibrated probabilities, and flags.

    Args:
        predictions: of the network; out of distribution is flagged where they have features.
        calibration: fitted on other images.
    """
    found = predictions if calibration.fusion is None else fused(predictions, calibration.fusion)
    found = at_temperature(found, calibration.temperature)
    found = replace(found, decided=calibration.decided(found.probs, found.vocab))
    if calibration.abstain_below is not None:
        confidence = _confidence(answers(found.y, found.probs, found.multi_label)[1])
        found = with_flag(found, confidence < calibration.abstain_below, UNSURE)
    return flag_out_of_distribution(found, calibration)


def flag_out_of_distribution(predictions: Predictions, calibration: Calibration) -> Predictions:
    """The predictions with a flag where an image is out of distribution, as far as features are known."""
    if calibration.ood is None or predictions.features is None:
        return predictions
    return with_flag(predictions, calibration.ood.unlike(predictions.features), OUT_OF_DISTRIBUTION)


def evaluate_limits(
    predictions: Predictions,
    calibration: Calibration,
    points: Mapping[str, OperatingPoint] | None = None,
    prevalence: float | None = None,
    ways: Mapping[str, Mapping[str, Any]] | None = None,
) -> Sections:
    """How the limits that were chosen elsewhere do on these images.

    Args:
        predictions: calibrated, with flags: see `apply_calibration`.
        calibration: whose limits.
        points: decision thresholds by label, and how each was chosen; those that decide are the calibration's.
        prevalence: to restate PPV and NPV for; None leaves that out.
        ways: to choose labels that training knew, as `calibrate` has them in the section decision; those that the
            calibration itself shows where None.

    Returns:
        Sections of results.json: calibration, decision, abstain, ood, operating_point, as far as there are any.
    """
    errors = calibration_errors(predictions)
    section: Sections = {**errors, "reliability": {"here": reliability_bars(predictions)}}
    section["by_label"] = by_label(predictions)
    if calibration.temperature is not None:
        value = float(np.exp(np.mean(np.log(calibration.temperature.values))))
        others = f"other {predictions.counted()}"
        sentence = f"The bundle's temperature ({value:.2f}) was fitted during training, on {others}."
        section = {"sentence": sentence, **section}
    used, known = _ways(calibration, ways or {}, predictions.vocab)
    decision = _decision(predictions, used, known)
    decision["sentence"] += " Nothing was chosen on these images: rules and thresholds are those of training."
    found: Sections = {"calibration": section, "decision": decision}
    if calibration.abstain_below is not None:
        found["abstain"] = _evaluate_abstention(predictions, calibration.abstain_below)
    found |= ood_section(predictions, calibration)
    points = dict(points or {})
    if used == "threshold":  # those that decide, whatever is known of them
        cuts = calibration.thresholds
        same = {label: point for label, point in points.items() if point.threshold == cuts.get(label)}
        points = {label: OperatingPoint(cut) for label, cut in cuts.items()} | same
    decided = {}
    for label, point in points.items():
        if label in predictions.vocab:
            column = column_of(predictions.y, predictions.probs, predictions, label)
            decided[label] = decision_section(
                *column, label, point, predictions.groups, prevalence, unit=unit_of(predictions.table)
            )
            decided[label]["decides"] = used == "threshold"
            decided[label]["sentence"] += " It was chosen in training."
    if decided:
        found["operating_point"] = decided if predictions.multi_label else next(iter(decided.values()))
    return found


def chosen_in_training(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a training say of decisions, as arguments of `evaluate_limits`.

    Example:
        >>> chosen_in_training({"operating_point": {"label": "polyp", "threshold": 0.3}})["points"]["polyp"].threshold
        0.3
    """
    found = results.get("operating_point") or {}
    rows = [found] if "label" in found else [row for row in found.values() if isinstance(row, Mapping)]
    rows = [row for row in rows if row.get("threshold") is not None and "label" in row]
    return {
        "points": {
            row["label"]: OperatingPoint(row["threshold"], row.get("by", "given"), row.get("wish")) for row in rows
        },
        "ways": (results.get("decision") or {}).get("ways"),
        "prevalence": next((row["prevalence"] for row in rows if row.get("prevalence")), None),
    }


def _ways(
    calibration: Calibration, told: Mapping[str, Mapping[str, Any]], vocab: Sequence[str]
) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The way by which a calibration chooses labels, and all that are known, by name."""
    own = {name: dict(values) for name in _FIELDS if (values := getattr(calibration, name))}
    known: dict[str, Mapping[str, Any]] = {"accuracy": {}}
    for way in set(told) & set(_RULES):
        fields = {name: told[way][name] for name in _FIELDS if name in told[way]}
        known |= {way: fields} if all(set(values) <= set(vocab) for values in fields.values()) else {}
    named = "balanced" if "weights" in own else "threshold" if own else "accuracy"
    used = next((way for way, fields in known.items() if fields == own), named)
    return used, {way: found for way in _RULES if (found := ({**known, used: own}).get(way)) is not None}


def _evaluate_abstention(predictions: Predictions, abstain_below: float) -> Sections:
    y, probs = answers(predictions.y, predictions.probs, predictions.multi_label, predictions.decided)
    found, curve = evaluate_abstain(y, probs, abstain_below, groups=predictions.groups), abstain_curve(y, probs)
    unsure = _confidence(probs) < abstain_below
    sentence = f"Training's limit flags {unsure.sum()} of {len(unsure)} {predictions.counted()} unsure."
    return {
        "threshold": found.pop("threshold"),
        "sentence": sentence + _too_often(unsure),
        "numbers": as_plain(found),
        "curve": {name: curve[name].tolist() for name in CURVE},
    }


def ood_section(predictions: Predictions, calibration: Calibration) -> Sections:
    """The section ood of results.json: how many images are flagged out of distribution; {} where none can be."""
    detector = calibration.ood
    if detector is None or "flags" not in predictions.table:
        return {}
    outside = np.array([OUT_OF_DISTRIBUTION in flags for flags in predictions.table["flags"]], bool)
    images = predictions.counted()
    share = proportion(outside, np.ones(len(outside), bool), Sampling.of(predictions.groups, len(outside)))
    sentence = (
        f"{outside.sum()} of {len(outside)} {images} are out of distribution: "
        f"unlike the {detector.n} training {images}. "
        f"About {1 - detector.quantile:.0%} of ordinary {images} are flagged too."
    )
    return {"ood": {"sentence": sentence, "flagged": as_plain(share), "n_train": detector.n}}


def seen_in_training(part: Predictions, table: pd.DataFrame, audit: Audit | None) -> tuple[np.ndarray, np.ndarray]:
    """Which images are not independent of the training images.

    Args:
        part: the predictions.
        table: the data's table, with partitions.
        audit: of that table.

    Returns:
        (n,) whether each image has a near-duplicate among the training images, and (n,) whether its patient has images
        there.
    """
    paths = part.table["path"]
    twin = np.zeros(len(part), bool)
    if audit is not None:
        twin = audit.twin_in_train(table["partition"]).reindex(paths).fillna(False).to_numpy(bool)
    train = set(table.loc[(table["partition"] == "train") & table["patient"].notna(), "patient"])
    return twin, np.array([patient in train for patient in objects(part.table, "patient")], bool)

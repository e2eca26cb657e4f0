"""PREDICTIONS and limits chosen before (see `calibrate`) -> what these limits do on them.

What both say of a set of predictions in results.json, its calibration and its decisions, is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.audit import Audit, with_groups
from medclf.auditing.decisions import column_of, decision_scores, decision_section
from medclf.auditing.fusion import fused
from medclf.dataset.groups import leaking, trained_on, unit_of
from medclf.dataset.labels import objects
from medclf.metrics.abstention import abstain_curve, evaluate_abstain
from medclf.metrics.calibration import Temperature
from medclf.metrics.classification import classification_metrics, proportion
from medclf.metrics.intervals import Sampling, as_plain
from medclf.metrics.prevalence import PrevalenceShift
from medclf.metrics.reliability import brier, ece, reliability
from medclf.metrics.thresholds import OperatingPoint
from medclf.metrics.weighted import bin_gaps
from medclf.results.calibration import OUT_OF_DISTRIBUTION, UNSURE, Calibration
from medclf.results.predictions import Predictions
from medclf.results.wording import RULES, percent

_BARS = 10  # of a reliability diagram
CURVE = ("coverage", "accuracy", "low", "high")

Sections = dict[str, Any]  # of results.json, by name

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


def rules_section(shown: Predictions, used: str, ways: Mapping[str, Mapping[str, Any]]) -> Sections:
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
    if shown.shift is not None:
        sentence += f" Probabilities are for a prevalence of {shown.shift}."
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


def temperature_text(temperature: Temperature) -> str:
    """In words; of several labels the mean, which leaves out those that were not fitted."""
    value, n = temperature.overall
    return f"temperature {value:.2f}" + (f", the mean of {n} labels" if n > 1 else "")


def of_prevalence(shift: PrevalenceShift, before: str) -> Sections:
    """What the section calibration says of probabilities for another prevalence, after the sentence `before`."""
    half = shift.prevalence * (1 - shift.fitted)
    half /= half + shift.fitted * (1 - shift.prevalence)
    sentence = (
        f"Probabilities stand for a prevalence of {shift}; of the images they were "
        f"fitted on {percent(shift.fitted)} have it: 50 % became {percent(half)}. "
        "Calibration error, Brier score and log loss are judged before that."
    )
    return {"sentence": f"{before} {sentence}".strip(), "prevalence": {**shift.as_dict(), "sentence": sentence}}


def at_temperature(predictions: Predictions, temperature: Temperature | None) -> Predictions:
    """The predictions with their logits divided by a temperature; as they are where it is None."""
    if temperature is None:
        return predictions
    return predictions.with_probs(temperature.apply_to_probs(predictions.probs))


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


def confidence_of(probs: np.ndarray) -> np.ndarray:
    """(n,) probability of each answer: (n, n_labels) hold those of all labels, (n,) of the answer alone."""
    return np.asarray(probs.max(axis=1) if probs.ndim == 2 else probs)


def if_too_often(unsure: np.ndarray) -> str:
    """What to say where the limit leaves few answers.

    Example:
        >>> if_too_often(np.array([True, False])), if_too_often(np.array([True, True, False]))[:23]
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
    found = replace(found, decided=calibration.decided(found.probs, found.vocab), shift=calibration.shift)
    if calibration.abstain_below is not None:
        confidence = confidence_of(answers(found.y, found.probs, found.multi_label)[1])
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
    measured = predictions.measured
    errors = calibration_errors(measured)
    section: Sections = {**errors, "reliability": {"here": reliability_bars(measured)}}
    section["by_label"] = by_label(measured)
    if calibration.temperature is not None:
        sentence = f"The bundle's calibration ({temperature_text(calibration.temperature)}) was fitted during training."
        section = {"sentence": sentence, **section}
    if calibration.shift is not None:
        section |= of_prevalence(calibration.shift, section.get("sentence", ""))
    used, known = _ways(calibration, ways or {}, predictions.vocab)
    decision = rules_section(predictions, used, known)
    decision["sentence"] += " Nothing was chosen here: rules and thresholds are those of training."
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
                *column,
                label,
                point,
                predictions.groups,
                prevalence,
                unit=unit_of(predictions.table),
                decides=used == "threshold",
            )
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
    unsure = confidence_of(probs) < abstain_below
    sentence = f"Training's limit flags {unsure.sum()} of {len(unsure)} {predictions.counted()} unsure."
    return {
        "threshold": found.pop("threshold"),
        "sentence": sentence + if_too_often(unsure),
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
        f"{outside.sum()} of {len(outside)} {images} {'is' if outside.sum() == 1 else 'are'} out of distribution: "
        f"unlike the {detector.n} training {images}. "
        f"About {percent(1 - detector.quantile, 0)} of ordinary {images} are flagged too."
    )
    return {"ood": {"sentence": sentence, "flagged": as_plain(share), "n_train": detector.n}}


def seen_in_training(part: Predictions, table: pd.DataFrame, audit: Audit | None) -> tuple[np.ndarray, ...]:
    """Which images are not independent of the training images.

    Args:
        part: the predictions.
        table: the data's table, with partitions.
        audit: of that table.

    Returns:
        (n,) whether each image has a near-duplicate among the training images, is one or was trained on before, (n,)
        whether its patient has images there, and (n,) whether only the table's own column `group` links it to them.
    """
    paths = part.table["path"]
    twin = np.zeros(len(part), bool)
    if audit is not None:
        twin = audit.twin_in_train(table["partition"]).reindex(paths).fillna(False).to_numpy(bool)
    twin = twin | paths.isin(trained_on(table)).to_numpy()
    train = set(table.loc[(table["partition"] == "train") & table["patient"].notna(), "patient"])
    known = np.array([patient in train for patient in objects(part.table, "patient")], bool)
    linked = table if audit is None else with_groups(table, audit)
    grouped = paths.isin(set(linked.loc[leaking(linked), "path"])).to_numpy()
    return twin, known, grouped & ~twin & ~known

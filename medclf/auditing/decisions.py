"""From calibrated predictions to decisions: a threshold chosen on one part, judged on another, told in patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medclf.auditing.calibration_set import CalibrationSet
from medclf.config import Decide, TrainConfig
from medclf.dataset.groups import unit_of
from medclf.errors import DataError, argument
from medclf.metrics.intervals import as_plain
from medclf.metrics.positive_label import positive_label
from medclf.metrics.table import statistics
from medclf.metrics.thresholds import (
    RULES,
    OperatingPoint,
    ThresholdReport,
    choose_threshold,
    evaluate_threshold,
    restate_prevalence,
)
from medclf.metrics.weighted import read_task
from medclf.options import options
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions
from medclf.results.wording import percent

_WHY = {"rarer": " It is the rarer of the two labels.", "order": " Neither name says which label is the finding."}


@dataclass(frozen=True)
class DecisionPolicy:
    """How probabilities become decisions.

    Args:
        keep_accuracy: on the images that are answered; the least sure are left to a reader.
        positive: the label that decisions are about; where None, of two the finding, see `positive_label`.
        rule: "youden", "sensitivity=0.95", "specificity=0.9", or "cost=10": what a miss costs, in false alarms; youden
            where None.
        prevalence: share of patients with the label where the classifier will be used; the probabilities then stand
            for it. None is not known: they stand for the images they were fitted on.
        decide: "accuracy": the most probable label is predicted, of several an image each from 0.5. "balanced": the
            label whose probability is greatest beside its share of the training images, which serves balanced accuracy.
            "threshold": the positive label from the rule's threshold on. None: "threshold" where a rule is given, else
            "accuracy".
    """

    keep_accuracy: float = 0.95
    positive: str | None = None
    rule: str | None = None
    prevalence: float | None = None
    decide: Decide | None = None

    @property
    def decision(self) -> Decide:
        """How labels are chosen."""
        return self.decide or ("threshold" if self.rule else "accuracy")

    def __post_init__(self) -> None:
        for name in ("keep_accuracy", "prevalence", "decide"):
            options(TrainConfig)[name].checked(getattr(self, name))
        self.rule_arguments()

    def check(self, labels: Iterable[str], multi_label: bool) -> None:
        """See that what is asked can be done with these labels.

        Raises:
            DataError: the positive label is none of them, or of several it is not said which one is decided on, or
                which one is as frequent as `prevalence` says.
        """
        known = sorted(labels)
        if self.positive is not None and self.positive not in known:
            raise DataError(
                f"{argument('positive')} must be a label, not {self.positive!r}", f"choose one of {', '.join(known)}"
            )
        by_threshold = self.decide if self.decide == "threshold" else None
        wishes = {"operating_point": self.rule, "decide": by_threshold, "prevalence": self.prevalence}
        if multi_label:  # each label may have a threshold, but no share of positives is that of each
            wishes = {"prevalence": self.prevalence}
        asked = [argument(name, wish) for name, wish in wishes.items() if wish]
        if asked and self.positive is None and len(known) > (1 if multi_label else 2):
            raise DataError(
                f"{asked[0]} needs one of the {len(known)} labels",
                f"name it with {argument('positive', 'LABEL')}",
            )

    def rule_arguments(self) -> dict[str, Any]:
        """The arguments of `choose_threshold`.

        Example:
            >>> DecisionPolicy(rule="sensitivity=0.9").rule_arguments()
            {'by': 'sensitivity', 'at_least': 0.9}
        """
        by, _, number = (self.rule or "youden").partition("=")
        name = {"sensitivity": "at_least", "specificity": "at_least", "cost": "miss_cost"}.get(by)
        try:
            values = {name: float(number)} if name and number else {}
        except ValueError:
            values, by = {}, ""
        sound = by in RULES and bool(number) == bool(name)
        sound = sound and all(0 < value <= (1 if name == "at_least" else 1e6) for value in values.values())
        if not sound:
            raise DataError(
                f"{argument('operating_point')} must be a rule, not {self.rule!r}",
                "for example youden, sensitivity=0.95, specificity=0.9, cost=10",
            )
        prevalence = {"prevalence": self.prevalence} if by == "cost" and self.prevalence else {}
        return {"by": by, **values, **prevalence}


def labels_to_decide(shown: Predictions, positive: str | None) -> dict[str, str]:
    """Which labels get a threshold, and what is to be said of that choice.

    It is the positive one; else all of several an image, or of two the finding.
    """
    if positive is not None:
        return {positive: ""}
    if shown.multi_label:
        return dict.fromkeys(shown.vocab, "")
    if len(shown.vocab) != 2:
        return {}
    counts = {label: int((shown.y == k).sum()) for k, label in enumerate(shown.vocab)}
    found = positive_label(shown.vocab, counts)
    return {found.label: _WHY.get(found.by, "")}


def decide(
    predictions: Predictions, calibration_set: CalibrationSet, policy: DecisionPolicy
) -> tuple[dict[str, Any], dict[str, float]]:
    """Choose a threshold for each label to decide, and judge it.

    Args:
        predictions: to report, calibrated.
        calibration_set: what to choose on, calibrated.
        policy: how to choose.

    Returns:
        The section operating_point of results.json, and the thresholds by label; empty where there is nothing to
        decide.
    """
    points: dict[str, Any] = {}
    for label, why in labels_to_decide(predictions, policy.positive).items():
        points[label] = _decided(predictions, calibration_set, policy, label)
        points[label]["sentence"] += why
    section = points if predictions.multi_label else next(iter(points.values()), {})
    found = {label: row["threshold"] for label, row in points.items() if "threshold" in row}
    return section, found


def _decided(
    predictions: Predictions, calibration_set: CalibrationSet, policy: DecisionPolicy, label: str
) -> dict[str, Any]:
    chosen_y, chosen_probs = column_of(calibration_set.y, calibration_set.probs, predictions, label)
    rule = policy.rule_arguments()
    try:
        point = choose_threshold(chosen_y, chosen_probs, **rule)
    except DataError as error:
        return {"label": label, "sentence": f"No threshold for {label}: {error.message}."}
    cuts = calibration_set.held_out_thresholds(
        lambda rows: choose_threshold(chosen_y[rows], chosen_probs[rows], **rule).threshold
    )
    y, probs = column_of(predictions.y, predictions.probs, predictions, label)
    section = decision_section(
        y,
        probs,
        label,
        point,
        predictions.groups,
        policy.prevalence,
        cuts,
        unit_of(predictions.table),
        decides=policy.decision == "threshold",
    )
    section["sentence"] += f" It was chosen on {calibration_set.described}."
    return section


def balanced(shares: np.ndarray, vocab: Sequence[str], multi_label: bool) -> dict[str, dict[str, float]]:
    """What serves balanced accuracy, as fields of `Calibration`: each label is held against its share.

    Args:
        shares: (n_labels,) of the training images that have each label.
        vocab: the labels.
        multi_label: whether an image may have several.

    Example:
        >>> balanced(np.array([0.9, 0.1]), ["normal", "polyp"], False)
        {'weights': {'normal': 1.1111111111111112, 'polyp': 10.0}}
        >>> balanced(np.array([0.2, 0.0]), ["polyp", "ulcer"], True)
        {'thresholds': {'polyp': 0.2}}
    """
    known = {label: float(share) for label, share in zip(vocab, shares, strict=True) if 0 < share < 1}
    return {"thresholds": known} if multi_label else {"weights": {label: 1 / share for label, share in known.items()}}


def decision_scores(predictions: Predictions, calibrations: Mapping[str, Calibration]) -> dict[str, dict[str, float]]:
    """Accuracy and balanced accuracy of each way to decide on the same probabilities.

    Args:
        predictions: calibrated.
        calibrations: by the name of the way.
    """
    found = {}
    for name, calibration in calibrations.items():
        chosen = calibration.decided(predictions.probs, predictions.vocab)
        task = read_task(
            predictions.y,
            predictions.probs,
            predictions.vocab,
            None,
            predictions.multi_label,
            predicted=chosen if chosen is not None else replace(predictions, decided=None).predicted,
        )
        values = statistics(task, np.ones((1, len(task.probs))))
        found[name] = {key: float(values[key][0]) for key in ("accuracy", "balanced_accuracy")}
    return found


def column_of(y: np.ndarray, probs: np.ndarray, shown: Predictions, label: str) -> tuple[np.ndarray, np.ndarray]:
    """0, 1 or -1, and the probability, of one label."""
    k = shown.vocab.index(label)
    return (y[:, k] if shown.multi_label else np.where(y < 0, -1, y == k)).astype(int), probs[:, k]


def decision_section(
    y: np.ndarray,
    probs: np.ndarray,
    label: str,
    point: OperatingPoint,
    groups: np.ndarray | None,
    prevalence: float | None = None,
    cuts: np.ndarray | None = None,
    unit: str = "images",
    decides: bool = True,
) -> dict[str, Any]:
    """How a threshold does, for results.json.

    Args:
        y: (n,) 1, 0, or -1 where unknown.
        probs: (n,) of the label.
        label: its name.
        point: the threshold and how it was chosen.
        groups: (n,) which images belong together, or None.
        prevalence: to restate ppv and npv for; None leaves that out.
        cuts: (n,) thresholds instead, each chosen without its image.
        unit: what `groups` are; see `medclf.dataset.groups.unit_of`.
        decides: whether labels are predicted by it.

    Returns:
        label, threshold, by, wish, decides, table, the rates with intervals, a sentence; with a prevalence, that and
        restated.
    """
    called = probs >= (point.threshold if cuts is None else cuts)
    rates = evaluate_threshold(y, called.astype(float), 0.5, groups=groups, label=label)
    rates.pop("threshold")
    rules = {
        "youden": "sensitivity + specificity are highest there (Youden)",
        "sensitivity": f"a sensitivity of {percent((point.wish or {}).get('at_least', 0), 0)} was asked for",
        "specificity": f"a specificity of {percent((point.wish or {}).get('at_least', 0), 0)} was asked for",
        "cost": f"a miss was said to cost {(point.wish or {}).get('miss_cost', 1):g} false alarms",
    }
    by = rules.get(point.by, "it was given")
    cut = f"{point.threshold:.3f}" if point.threshold >= 0.01 else f"{point.threshold:.2g}"
    use = "is predicted from" if decides else "has an operating point, which does not decide here, at"
    return {
        "label": label,
        "sentence": f"{label} {use} a probability of {cut}: {by}.",
        "threshold": point.threshold,
        "by": point.by,
        "wish": point.wish,
        "decides": decides,
        **as_plain(rates),
        **_restated(rates, label, prevalence, unit),
    }


def _restated(rates: ThresholdReport, label: str, prevalence: float | None, unit: str) -> dict[str, Any]:
    if prevalence is None:
        return {}
    counted = "patients" if unit.startswith("patients") else "images"
    found = restate_prevalence(rates["sensitivity"], rates["specificity"], prevalence, label=label, unit=counted)
    return {"prevalence": prevalence, "restated": as_plain(found.as_dict())}

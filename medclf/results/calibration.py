"""What a bundle decides with: a temperature, the limits for "unsure" and "out of distribution", decision thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # a prediction needs neither scipy nor scikit-learn
    from medclf.metrics.calibration import Temperature
    from medclf.metrics.ood import OodDetector
    from medclf.metrics.prevalence import PrevalenceShift
    from medclf.metrics.units import UnitRule
    from medclf.models.table_fusion import Fusion

UNSURE, OUT_OF_DISTRIBUTION = "unsure", "not like the training images"  # as predictions.csv and answers have them
FIELDS_UNKNOWN, FIELDS_NEW = "fields unknown", "fields unlike training"


@dataclass(frozen=True)
class Calibration:
    """What turns a network's logits into probabilities, a label and flags.

    Args:
        temperature: what the logits are divided by, and what is added; None leaves them as they are.
        abstain_below: confidence in [0, 1] below which an answer is flagged unsure; None flags none.
        keep_accuracy: share of the other answers that should be correct, for which that limit was chosen.
        thresholds: label -> probability from which it is called. Empty: the most probable label, or, where an image may
            have several, each from 0.5.
        weights: label -> what its probability is multiplied by before the greatest is chosen; {} multiplies none.
        multi_label: whether an image may have several labels.
        ood: tells which images are out of distribution; None flags none.
        fusion: adds a table's columns to the network's logits, before the temperature; None where the image stands
            alone.
        unit: how the images of a patient, study or series become one answer; None where each has its own.
        shift: to the prevalence that the probabilities stand for: the temperature's bias holds it already, and
            thresholds and weights are for such probabilities. None: they stand for the images they were fitted on.

    Example:
        >>> Calibration(abstain_below=0.6, keep_accuracy=0.95, thresholds={"polyp": 0.3}).as_dict()
        {'abstain': {'threshold': 0.6, 'wished': 0.95}, 'operating_point': {'label': 'polyp', 'threshold': 0.3}}
    """

    temperature: Temperature | None = None
    abstain_below: float | None = None
    keep_accuracy: float | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    multi_label: bool = False
    ood: OodDetector | None = None
    fusion: Fusion | None = None
    unit: UnitRule | None = None
    shift: PrevalenceShift | None = None

    def as_dict(self) -> dict[str, Any]:
        """The form that bundle.json has, as medclf 0.1 wrote it; see docs/bundle.md."""
        found: dict[str, Any] = {}
        if self.temperature is not None:
            found["temperature"] = self.temperature.as_dict()
        if self.abstain_below is not None:
            found["abstain"] = {"threshold": self.abstain_below, "wished": self.keep_accuracy}
        if self.thresholds and self.multi_label:
            found["operating_point"] = {"thresholds": dict(self.thresholds)}
        elif self.thresholds:
            label, threshold = next(iter(self.thresholds.items()))
            found["operating_point"] = {"label": label, "threshold": threshold}
        if self.weights:
            found["decision"] = {"weights": dict(self.weights)}
        if self.ood is not None:
            found["ood"] = self.ood.as_dict()
        if self.fusion is not None:
            found["tabular"] = self.fusion.as_dict()
        if self.unit is not None:
            found["unit"] = self.unit.as_dict()
        if self.shift is not None:
            found["prevalence"] = self.shift.as_dict()
        return found

    def decided(self, probs: np.ndarray, vocab: Sequence[str]) -> np.ndarray | None:
        """(n, n_labels) bool, which labels are predicted; None where the most probable one is, or each from 0.5."""
        if not self.thresholds and not self.weights:
            return None
        return decided(probs, vocab, self.multi_label, self.thresholds, self.weights)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, multi_label: bool) -> Calibration:
        """Back from what `as_dict` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is of another form.

        Example:
            >>> Calibration.from_dict({"abstain": {"threshold": 0.6}}, multi_label=False).abstain_below
            0.6
        """
        from medclf.metrics.calibration import Temperature
        from medclf.metrics.ood import OodDetector
        from medclf.metrics.prevalence import shift_in
        from medclf.metrics.units import UnitRule
        from medclf.models.table_fusion import fusion_in

        fitted = values.get("temperature")
        if fitted and not isinstance(fitted, Mapping):  # a number, or one a label, that somebody gave
            fitted = {"temperature": np.atleast_1d(fitted).tolist(), "multi_label": multi_label, "n": 0}
        point, abstain = values.get("operating_point") or {}, values.get("abstain") or {}
        thresholds = point.get("thresholds", {}) if multi_label else {}
        if "label" in point and not multi_label:
            thresholds = {point["label"]: point["threshold"]}
        return cls(
            temperature=Temperature.from_dict(dict(fitted)) if fitted else None,
            abstain_below=abstain.get("threshold"),
            keep_accuracy=abstain.get("wished"),
            thresholds=thresholds,
            weights=(values.get("decision") or {}).get("weights", {}),
            multi_label=multi_label,
            ood=OodDetector.from_dict(values["ood"]) if values.get("ood") else None,
            fusion=fusion_in(values, multi_label),
            unit=UnitRule.from_dict(values["unit"], multi_label=multi_label) if values.get("unit") else None,
            shift=shift_in(values.get("prevalence")),
        )


def decided(
    probs: np.ndarray,
    vocab: Sequence[str],
    multi_label: bool,
    thresholds: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Which labels are predicted: the one rule of predictions.csv, of the numbers, and of whatever a bundle answers.

    Args:
        probs: (n, n_labels) in [0, 1], calibrated.
        vocab: the labels.
        multi_label: whether an image may have several: then each is predicted from its threshold on, 0.5 where it has
            none. Else one is: the label of the threshold where it reaches that, or the greatest of the others.
        thresholds: by label.
        weights: label -> what its probability is multiplied by before the greatest is chosen.

    Returns:
        (n, n_labels) bool.

    Example:
        >>> probs = np.array([[0.8, 0.2], [0.4, 0.6]])
        >>> decided(probs, ["normal", "polyp"], False).tolist()
        [[True, False], [False, True]]
        >>> decided(probs, ["normal", "polyp"], False, weights={"polyp": 10.0})[0].tolist()
        [False, True]
        >>> decided(probs, ["normal", "polyp"], False, {"polyp": 0.7})[1].tolist()
        [True, False]
    """
    thresholds, weights = thresholds or {}, weights or {}
    if multi_label:
        return np.asarray(probs >= [thresholds.get(label, 0.5) for label in vocab])
    weighed = probs * [weights.get(label, 1.0) for label in vocab]
    for label, threshold in thresholds.items():
        k = list(vocab).index(label)
        weighed[:, k] = np.where(probs[:, k] >= threshold, np.inf, -1.0)
    return np.asarray(np.eye(len(vocab), dtype=bool)[weighed.argmax(axis=1)])

"""Many images, one answer: the probabilities of a patient's, study's or series' images become one row."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from medclf.config import UnitAnswer
from medclf.errors import DataError, argument
from medclf.metrics.logits import to_probs

_LEAST = 1e-12  # of a probability, so that a product of many has a logarithm


def mean_by(values: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """(n_units, d) means of the rows of `values` by unit.

    Example:
        >>> mean_by(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 1]), 2).tolist()
        [[2.0], [5.0]]
    """
    sums = np.zeros((n_units, values.shape[1]))
    np.add.at(sums, unit, values)
    return np.asarray(sums / np.bincount(unit, minlength=n_units)[:, None])


def noisy_or(probs: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """(n_units, d): the probability that at least one image has the finding, were images independent.

    Source: Pearl 1988, "Probabilistic reasoning in intelligent systems", 4.3.

    Example:
        >>> noisy_or(np.array([[0.5], [0.5]]), np.array([0, 0]), 1).tolist()
        [[0.75]]
    """
    logs = np.zeros((n_units, probs.shape[1]))
    np.add.at(logs, unit, np.log1p(-np.clip(probs, 0, 1 - _LEAST)))
    return np.asarray(-np.expm1(logs))


def most_certain(values: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """(n_units,) the row of the greatest of `values`, (n,), in each unit; the first where several are.

    Example:
        >>> most_certain(np.array([0.2, 0.9, 0.4]), np.array([0, 0, 1]), 2).tolist()
        [1, 2]
    """
    found = np.full(n_units, -1)
    for row in np.argsort(values, kind="stable")[::-1]:
        if found[unit[row]] < 0 or values[found[unit[row]]] == values[row]:
            found[unit[row]] = row
    return found


def softmax_by(values: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """(n,) softmax of `values` among the rows of each unit.

    Example:
        >>> softmax_by(np.array([0.0, 0.0, 7.0]), np.array([0, 0, 1]), 2).tolist()
        [0.5, 0.5, 1.0]
    """
    top = np.full(n_units, -np.inf)
    np.maximum.at(top, unit, values)
    powers = np.exp(values - top[unit])
    return np.asarray(powers / np.bincount(unit, weights=powers, minlength=n_units)[unit])


@dataclass(frozen=True)
class Attention:
    """A linear score of each image for each label, and its mean over a unit's images with weights that the score tells.

    An image's weight for a label is softmax(r * score) among the images of its unit: between mean (r = 0) and maximum
    (r large).

    Source: McFee, Salamon and Bello 2018, "Adaptive pooling operators for weakly labeled sound event detection",
    equation 5, with r held; without the gates of Ilse et al. 2018, which have more to fit than some hundred units bear.

    Args:
        mean: (f,) of the features.
        axes: (k, f) what they are projected on.
        out: (n_labels, k + 1) of the scores, the bias last.
        r: (1,).
    """

    mean: np.ndarray
    axes: np.ndarray
    out: np.ndarray
    r: np.ndarray

    def __post_init__(self) -> None:
        (f,), (k, f2), (n, k2) = self.mean.shape, self.axes.shape, self.out.shape
        fits = f == f2 and k2 == k + 1 and n > 0 and self.r.shape == (1,)
        if not fits or not all(np.isfinite(getattr(self, one.name)).all() for one in fields(self)):
            raise ValueError("attention")

    def weights(self, features: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
        """(n, n_labels) what each image counts for each label of its unit; they add up to 1 in each unit."""
        return self._weighted(features, unit, n_units)[0]

    def logits(self, features: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
        """(n_units, n_labels)."""
        weights, scores = self._weighted(features, unit, n_units)
        found = np.zeros((n_units, len(self.out)))
        np.add.at(found, unit, weights * scores)
        return found

    def _weighted(self, features: np.ndarray, unit: np.ndarray, n_units: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self._projected(features) @ self.out[:, :-1].T + self.out[:, -1]
        return np.stack([softmax_by(column, unit, n_units) for column in (self.r * scores).T], axis=1), scores

    def _projected(self, features: np.ndarray) -> np.ndarray:
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            text = f"features of the shape {features.shape}, not (n, {len(self.mean)})"
            raise DataError(text, "use the encoder that the attention was fitted on")
        return np.asarray((features.astype(np.float64) - self.mean) @ self.axes.T)

    def as_dict(self) -> dict[str, Any]:
        """The arrays for JSON, as base64 of little-endian float32."""
        arrays = {one.name: np.asarray(getattr(self, one.name), "<f4") for one in fields(self)}
        return {
            name: {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}
            for name, array in arrays.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Attention:
        """Back from what `as_dict` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is of another form.
        """

        def array(name: str) -> np.ndarray:
            found = np.frombuffer(base64.b64decode(values[name]["float32"], validate=True), "<f4")
            return found.reshape(values[name]["shape"]).astype(np.float64)

        return cls(**{one.name: array(one.name) for one in fields(cls)})


@dataclass(frozen=True)
class UnitRule:
    """How the images of a unit become one answer.

    Args:
        unit: what a unit is: "patient", "study", "series", "folder", or the name of a column.
        answer: "mean" of the images' probabilities; "noisy-or", the probability that one image or more has the finding;
            "max", the image that is most certain of the finding (without one: of its label); or "attention".
        finding: of two labels, the position of the one that is a finding.
        multi_label: whether an image may have several labels: each is then a finding.
        attention: for the answer "attention".

    Raises:
        ValueError: an answer that is not known, or one that lacks what it needs.

    Example:
        >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
        >>> rule = UnitRule("patient", "max", finding=1)
        >>> rule.probs(probs, None, np.array([0, 0, 1]), 2).tolist()
        [[0.2, 0.8], [0.7, 0.3]]
    """

    unit: str
    answer: UnitAnswer
    finding: int | None = None
    multi_label: bool = False
    attention: Attention | None = None

    def __post_init__(self) -> None:
        sound = self.answer in ("mean", "noisy-or", "max", "attention") and isinstance(self.unit, str)
        sound = sound and (self.finding is None or self.finding in (0, 1))
        if not sound or (self.answer == "attention") != (self.attention is not None):
            raise ValueError("unit")
        if self.answer == "noisy-or" and self.finding is None and not self.multi_label:
            text = f"{argument('unit_answer', 'noisy-or')} is about a finding, and there are more than two labels"
            raise DataError(text, f"use {argument('unit_answer', 'mean')}")

    def probs(self, probs: np.ndarray, features: np.ndarray | None, unit: np.ndarray, n_units: int) -> np.ndarray:
        """(n_units, n_labels) probabilities, not yet calibrated.

        Args:
            probs: (n, n_labels) of the images, not calibrated.
            features: (n, f) of the images; attention alone needs them.
            unit: (n,) from 0 to n_units - 1, which unit each image is of.
            n_units: how many there are; each has one image or more.
        """
        probs = np.asarray(probs, np.float64)
        if self.attention is not None:
            logits = self.attention.logits(_needed(features), unit, n_units)
            return to_probs(logits, multi_label=self.multi_label)
        if self.answer == "mean":
            return mean_by(probs, unit, n_units)
        if self.answer == "noisy-or":
            found = noisy_or(probs if self.multi_label else probs[:, [self.finding or 0]], unit, n_units)
            return found if self.multi_label else _of_two(found[:, 0], self.finding or 0)
        if self.multi_label:
            columns = [probs[most_certain(column, unit, n_units), k] for k, column in enumerate(probs.T)]
            return np.stack(columns, axis=1)
        certain = probs.max(axis=1) if self.finding is None else probs[:, self.finding]
        return np.asarray(probs[most_certain(certain, unit, n_units)])

    def contributions(
        self, probs: np.ndarray, features: np.ndarray | None, unit: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray:
        """(n,) in [0, 1], how much each image speaks for its unit's answer; the greatest of a unit decided it.

        It is attention's weight; of "max" and "noisy-or" the image's own probability of the finding, which their
        answer rests on either way; else that of what was predicted.

        Args:
            probs, features, unit: see `probs`.
            predicted: (n_units, n_labels) bool; of several labels the most probable is meant.
        """
        theirs, rests_on_finding = predicted[unit], self.answer in ("attention", "max", "noisy-or")
        if self.attention is not None:
            probs = self.attention.weights(_needed(features), unit, len(predicted))
        if self.finding is not None and rests_on_finding:
            return np.asarray(probs[:, self.finding])
        if self.multi_label:
            given = np.where(theirs, probs, 0.0).max(axis=1)
            return np.asarray(np.where(theirs.any(axis=1), given, probs.max(axis=1)))
        return np.asarray(np.where(theirs, probs, 0.0).max(axis=1))

    def as_dict(self) -> dict[str, Any]:
        """For a bundle's JSON."""
        found: dict[str, Any] = {"by": self.unit, "answer": self.answer}
        found |= {} if self.finding is None else {"finding": self.finding}
        return found | ({} if self.attention is None else {"attention": self.attention.as_dict()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, multi_label: bool) -> UnitRule:
        """Back from what `as_dict` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is of another form.
        """
        attention = Attention.from_dict(values["attention"]) if "attention" in values else None
        return cls(values["by"], values["answer"], values.get("finding"), multi_label, attention)


def _needed(features: np.ndarray | None) -> np.ndarray:
    if features is None:
        raise DataError("attention over a unit's images needs their features", "predict with the bundle itself")
    return features


def _of_two(finding: np.ndarray, at: int) -> np.ndarray:
    both = [1 - finding, finding] if at else [finding, 1 - finding]
    return np.stack(both, axis=1)

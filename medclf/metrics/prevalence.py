"""Probabilities restated for another share of a label than that of the images they were fitted on.

Source: Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori probabilities".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medclf.files import Json
from medclf.metrics.logits import to_logits, to_probs


@dataclass(frozen=True)
class PrevalenceShift:
    """From one share of a label to another; of one label an image, the others keep their shares of each other.

    It holds where images of a label look alike at both places, and only their number differs.

    Args:
        label: whose share is another.
        fitted: its share of the images that the probabilities stand for, in (0, 1).
        prevalence: its share where they will be used, in (0, 1).

    Example:
        >>> shift = PrevalenceShift("polyp", fitted=0.5, prevalence=0.02)
        >>> shift.apply([[0.1, 0.9]], ["normal", "polyp"], False).round(3).tolist()
        [[0.845, 0.155]]
    """

    label: str
    fitted: float
    prevalence: float

    @property
    def times(self) -> tuple[float, float]:
        """How many times as frequent an image with the label becomes, and one without it."""
        return self.prevalence / self.fitted, (1 - self.prevalence) / (1 - self.fitted)

    def __str__(self) -> str:
        return f"{100 * self.prevalence:.3g} % of {self.label}"

    def bias(self, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
        """(n_labels,) what is added to the logits."""
        own, others = np.log(self.times)
        is_label = np.array([label == self.label for label in vocab])
        return np.where(is_label, own - others, 0.0) if multi_label else np.where(is_label, own, others)

    def apply(self, probs: Any, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
        """(n, n_labels) probabilities at the prevalence, of those that stand for the images they were fitted on."""
        return _shifted(probs, self.bias(vocab, multi_label), multi_label)

    def undo(self, probs: Any, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
        """The other way round."""
        return _shifted(probs, -self.bias(vocab, multi_label), multi_label)

    def shares(self, shares: Any, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
        """(n_labels,) shares of the images that have each label, at the prevalence.

        Example:
            >>> shift = PrevalenceShift("polyp", fitted=0.5, prevalence=0.1)
            >>> shift.shares([0.3, 0.2, 0.5], ["normal", "ulcer", "polyp"], False).round(2).tolist()
            [0.54, 0.36, 0.1]
        """
        found, is_label = np.asarray(shares, np.float64), np.array([label == self.label for label in vocab])
        rest = found if multi_label else found * (1 - self.prevalence) / max(1 - found[is_label].sum(), 1e-12)
        return np.where(is_label, self.prevalence, rest)

    def weights(self, y: Any, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
        """(n,) how many times as frequent each image is at the prevalence; 1 where its label is unknown.

        Args:
            y: (n,) indices, or (n, n_labels) of 0 and 1; -1 is unknown.
            vocab: the labels.
            multi_label: whether an image may have several.
        """
        truth, k = np.asarray(y), list(vocab).index(self.label)
        column = truth[:, k] if multi_label else np.where(truth < 0, -1, truth == k)
        own, others = self.times
        return np.where(column < 0, 1.0, np.where(column == 1, own, others))

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `PrevalenceShift(**facts)` reads it back."""
        return asdict(self)


def shift_in(facts: Mapping[str, Any] | None) -> PrevalenceShift | None:
    """From what `PrevalenceShift.as_dict` gave, with whatever else stands there; None where there is nothing."""
    if not facts:
        return None
    return PrevalenceShift(str(facts["label"]), float(facts["fitted"]), float(facts["prevalence"]))


def _shifted(probs: Any, bias: np.ndarray, multi_label: bool) -> np.ndarray:
    return to_probs(to_logits(probs, multi_label=multi_label) + bias, multi_label=multi_label)

"""What a temperature or a threshold is fitted on, so that no image is judged by what it helped to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medclf.dataset.folds import folds
from medclf.errors import DataError
from medclf.results.predictions import Predictions

FEWEST = 20  # images below which nothing is fitted: chance would speak


@dataclass(frozen=True)
class CalibrationSet:
    """Predictions of images that the network was not trained on, to fit a temperature and thresholds on.

    Args:
        y: as in `Predictions`.
        probs: (n, n_labels) in [0, 1].
        groups: (n,) which images belong together, or None.
        described: what these images are, for the report.
        reported: they are the reported images themselves; each is then judged by what the other folds fitted.
        unit: what each is the answer for, such as "patient"; None for an image.
    """

    y: np.ndarray
    probs: np.ndarray
    groups: np.ndarray | None
    described: str
    reported: bool = False
    unit: str | None = None

    @classmethod
    def of(cls, predictions: Predictions, described: str) -> CalibrationSet:
        """The reported images themselves."""
        return cls(predictions.y, predictions.probs, predictions.groups, described, True, predictions.unit)

    def __len__(self) -> int:
        return len(self.probs)

    def held_out_thresholds(self, choose: Callable[[np.ndarray], float]) -> np.ndarray | None:
        """The threshold for each reported image, chosen on the folds that do not hold it.

        Args:
            choose: rows -> a threshold; it may raise DataError where it finds none.

        Returns:
            (n,), infinite where none was found; None where these are not the reported images: one threshold serves all.
        """
        if not self.reported:
            return None
        fold_of = folds(self.y, self.groups)
        thresholds = np.full(len(self), np.inf)
        for fold in np.unique(fold_of):
            try:
                thresholds[fold_of == fold] = choose(np.flatnonzero(fold_of != fold))
            except DataError:
                continue
        return thresholds

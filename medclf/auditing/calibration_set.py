"""What a temperature or a limit is fitted on, so that no image is judged by what it helped to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medclf.dataset.folds import folds
from medclf.errors import DataError
from medclf.results.predictions import Predictions

FEWEST = 20  # images below which nothing is fitted: chance would speak


@dataclass(frozen=True)
class Basis:
    """What temperature and thresholds are fitted on.

    Args:
        y: as in `Predictions`.
        probs: (n, n_labels), of a network that was not trained on these images.
        groups: (n,) which images belong together, or None.
        words: what these images are, for the report.
        own: they are the reported images themselves.
    """

    y: np.ndarray
    probs: np.ndarray
    groups: np.ndarray | None
    words: str
    own: bool = False

    @classmethod
    def of(cls, shown: Predictions, words: str) -> Basis:
        """The reported images themselves."""
        return cls(shown.y, shown.probs, shown.groups, words, own=True)

    def __len__(self) -> int:
        return len(self.probs)

    def limits(self, choose: Callable[[np.ndarray], float]) -> np.ndarray | None:
        """The limit for each reported image, chosen on the folds that do not hold it.

        Args:
            choose: rows -> a limit; it may raise DataError where it finds none.

        Returns:
            (n,), infinite where no limit was found; None where these are not the reported images: one limit serves.
        """
        if not self.own:
            return None
        fold_of = folds(self.y, self.groups)
        limits = np.full(len(self), np.inf)
        for fold in np.unique(fold_of):
            try:
                limits[fold_of == fold] = choose(np.flatnonzero(fold_of != fold))
            except DataError:
                continue
        return limits

"""Is this image like the training images at all? A distance in the backbone's embedding, with a threshold.

The distance is that of probabilistic PCA: squared deviations along the training features' main axes, each in
units of its variance, plus what lies off these axes in units of the variance there. It is the
Mahalanobis distance with a covariance that a few hundred images can support, needs a few hundred kB in a
bundle, and costs one small matrix product an image.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medclf.dataset.folds import folds
from medclf.errors import DataError
from medclf.files import Json

_FEW = 128
N_AXES = 64
N_FOLDS = 5
FEWEST = 10


@dataclass(frozen=True)
class OodDetector:
    """Knows the training images' features; scores others.

    Args:
        mean: (d,) of the features.
        axes: (k, d) main axes.
        spread: (k,) variance along each.
        rest: variance along every other direction.
        threshold: a score above it is "not like the training images".
        quantile: share of images like the training images that stay below the threshold.
        n: how many images it was fitted on.
    """

    mean: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    rest: float
    threshold: float
    quantile: float
    n: int

    def score(self, features: Any) -> np.ndarray:
        """(n, d) pooled features to (n,) squared distances a dimension: about 1 for training images.

        Raises:
            DataError: features of another backbone.
        """
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.mean):
            raise DataError(
                f"features of the shape {values.shape}, not (n, {len(self.mean)})", "use the bundle's own backbone"
            )
        centred = values - self.mean
        along = centred @ self.axes.T
        off = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        return np.asarray(((along**2 / self.spread).sum(axis=1) + off / self.rest) / len(self.mean))

    def unlike(self, features: Any) -> np.ndarray:
        """(n,) bool: whether each image is not like the training images."""
        return ~(self.score(features) <= self.threshold)  # what is no number is not like them either

    def facts(self) -> dict[str, Json]:
        """The numbers, for a bundle's JSON."""
        return {"rest": self.rest, "threshold": self.threshold, "quantile": self.quantile, "n": self.n}

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays, float32, for a bundle's tensors."""
        return {name: getattr(self, name).astype(np.float32) for name in ("mean", "axes", "spread")}

    def as_dict(self) -> dict[str, Json]:
        """For JSON: the numbers, and the arrays as base64 of little-endian float32; `from_dict` reads it back."""
        arrays: dict[str, Json] = {
            name: {"shape": list(array.shape), "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}
            for name, array in self.arrays().items()
        }
        return self.facts() | {"arrays": arrays}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OodDetector:
        """From what `as_dict` gave.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is of another form.
        """
        arrays = {
            name: np.frombuffer(base64.b64decode(array["float32"], validate=True), "<f4").reshape(array["shape"])
            for name, array in values["arrays"].items()
        }
        return cls.from_state(dict(values), arrays)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> OodDetector:
        """From what `facts` and `arrays` gave."""
        mean, axes, spread = (np.asarray(arrays[name], dtype=np.float64) for name in ("mean", "axes", "spread"))
        rest, threshold, quantile = (float(state[name]) for name in ("rest", "threshold", "quantile"))
        return cls(mean, axes, spread, rest, threshold, quantile, int(state["n"]))


def ood_fit(
    features: Any, *, held_out: Any = None, groups: Any = None, quantile: float = 0.99, seed: int = 0
) -> OodDetector:
    """Learn what the training images look like to the backbone, and from which distance an image is unlike.

    Args:
        features: (n, d) pooled features of the training images, unaugmented.
        held_out: (m, d) of images like them that training did not use; they set the threshold. None: each
            training image is scored by a detector fitted on the other folds.
        groups: (n,) patient of each training image; folds keep patients whole.
        quantile: share of images like the training images to stay below the threshold.
        seed: of the folds.

    Returns:
        an `OodDetector`.

    Raises:
        DataError: fewer than 10 images, NaN, or a quantile that is none.

    Source: Tipping & Bishop 1999 (probabilistic PCA); Lee et al. 2018 (Mahalanobis distance of features).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> detector = ood_fit(rng.normal(size=(200, 8)))
        >>> detector.unlike(np.stack([np.zeros(8), np.full(8, 9.0)])).tolist()
        [False, True]
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < FEWEST:
        raise DataError(
            f"features of the shape {values.shape} are too few to know what is usual", f"give {FEWEST} images or more"
        )
    if not np.isfinite(values).all():
        raise DataError("features holds NaN or infinity", "check the backbone's weights")
    if not 0 < quantile < 1:
        raise DataError(f"quantile={quantile} is not a share", "give a number between 0 and 1, such as 0.99")
    detector = _fit(values, quantile, seed)
    usual = _out_of_fold(values, groups, quantile, seed) if held_out is None else detector.score(held_out)
    place = min(len(usual), math.ceil((len(usual) + 1) * quantile))  # as in conformal prediction: cautious when few
    return replace(detector, threshold=float(np.sort(usual)[place - 1]))


def _fit(values: np.ndarray, quantile: float, seed: int) -> OodDetector:
    from sklearn.decomposition import PCA  # only fitting needs scikit-learn: a bundle scores without it

    n, d = values.shape
    n_axes = max(1, min(N_AXES, n // 4, d - 1))
    with np.errstate(invalid="ignore", divide="ignore"):  # its ratios of features that never vary
        solver = "full" if n <= _FEW else "auto"  # of few images all axes at once cost less than some by sampling
        pca = PCA(n_axes, svd_solver=solver, random_state=seed).fit(values)
    total = float(values.var(axis=0, ddof=1).sum())
    least = max(total, 1e-12) * 1e-6 / d  # constant features: nothing is divided by zero
    rest = max((total - float(pca.explained_variance_.sum())) / max(d - n_axes, 1), least)
    spread = np.maximum(pca.explained_variance_, rest)
    return OodDetector(pca.mean_, pca.components_, spread, rest, np.inf, quantile, n)


def _out_of_fold(values: np.ndarray, groups: Any, quantile: float, seed: int) -> np.ndarray:
    fold_of = folds(np.zeros(len(values)), groups, N_FOLDS, seed=seed)
    parts = [
        _fit(values[fold_of != fold], quantile, seed).score(values[fold_of == fold])
        for fold in np.unique(fold_of)
        if (fold_of != fold).sum() >= 2
    ]
    return np.concatenate(parts) if parts else _fit(values, quantile, seed).score(values)

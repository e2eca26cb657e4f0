"""Logistic regression along a path of penalties: what scikit-learn's gives, in a fraction of its time.

The features are rotated to their principal axes once, in which the Hessian is nearly diagonal; L-BFGS, scaled by that
diagonal, then takes a handful of steps, and each strength begins where the last one ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, qr
from scipy.optimize import minimize
from scipy.special import log_expit, logsumexp

_MOST_STEPS = 300


class Logistic(NamedTuple):
    """A fitted model.

    Args:
        weight: (k, f); of two classes one row, which speaks for the second.
        bias: (k,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def probs(self, x: np.ndarray) -> np.ndarray:
        """(n, n_classes) probabilities."""
        logits = x @ self.weight.T.astype(x.dtype) + self.bias
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
        return np.asarray(np.exp(logits - logsumexp(logits, axis=1, keepdims=True)), np.float64)


def principal_axes(x: np.ndarray) -> np.ndarray:
    """(r, f) orthonormal axes that span the rows of (n, f) features, along which these are uncorrelated.

    A penalty on the sum of squared weights is the same before and after a rotation, so a fit on `x @ axes.T` is the fit
    on `x`, turned: its weights times `axes` are those of `x`.

    Example:
        >>> axes = principal_axes(np.array([[1.0, 1, 0], [2, 2, 0]]))
        >>> axes.shape, bool(np.allclose(axes @ axes.T, np.eye(2)))
        ((2, 3), True)
    """
    basis = qr(x.T, mode="economic", check_finite=False)[0].T if len(x) < x.shape[1] else None
    inside = x if basis is None else x @ basis.T
    axes = eigh(inside.T @ inside, driver="evd", check_finite=False)[1].T
    return np.asarray(axes if basis is None else axes @ basis)


def fit_path(
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    strengths: Sequence[float],
    *,
    weights: np.ndarray | None = None,
    tolerance: float = 1e-7,
) -> Iterator[Logistic]:
    """Fit one model a strength, each begun at the last one's weights.

    The objective is scikit-learn's: half the sum of the squared weights, and C times the summed log loss; the bias is
    free. Two classes have one row of weights, as there.

    Args:
        x: (n, f) features, best along their `principal_axes`: then it is quick.
        y: (n,) classes in [0, n_classes).
        n_classes: two or more.
        strengths: C, rising.
        weights: (n,) of the images; ones where None.
        tolerance: of the objective, relative.

    Yields:
        The models, in the order of the strengths.

    Example:
        >>> x, y = np.array([[-1.0], [0.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
        >>> weak, strong = fit_path(x, y, 2, [0.01, 100.0])
        >>> bool(weak.weight[0, 0] < strong.weight[0, 0])
        True
    """
    k = 1 if n_classes == 2 else n_classes
    weights = np.ones(len(x)) if weights is None else weights
    actual = y[:, None] == (np.arange(k) if k > 1 else [1])
    spread = np.einsum("i,ij,ij->j", weights.astype(x.dtype), x, x)
    share = weights @ actual / weights.sum()
    curvature = (share * (1 - share)).clip(1e-3)
    found = np.zeros((k, x.shape[1] + 1))
    for strength in strengths:
        scale = np.empty_like(found)
        scale[:, :-1] = 1 / np.sqrt(1 + strength * curvature[:, None] * spread)
        scale[:, -1] = 1 / np.sqrt(strength * curvature * weights.sum())

        def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
            w = u.reshape(found.shape) * scale  # noqa: B023 - called within this turn alone
            loss, slope = _log_loss(x @ w[:, :-1].astype(x.dtype).T, w[:, -1], actual, weights)
            gradient = np.empty_like(w)
            gradient[:, :-1], gradient[:, -1] = slope.astype(x.dtype).T @ x, slope.sum(axis=0)
            gradient *= strength  # noqa: B023
            gradient[:, :-1] += w[:, :-1]
            value = strength * loss + (w[:, :-1] ** 2).sum() / 2  # noqa: B023
            gradient *= scale  # noqa: B023
            return value, gradient.ravel()

        limits = {"maxiter": _MOST_STEPS, "ftol": tolerance, "gtol": 1e-9, "maxcor": 20}
        done = minimize(objective, (found / scale).ravel(), jac=True, method="L-BFGS-B", options=limits)
        found = done.x.reshape(found.shape) * scale
        yield Logistic(found[:, :-1].copy(), found[:, -1].copy())


def _log_loss(
    logits: np.ndarray, bias: np.ndarray, actual: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """The weighted sum of the log loss, and its (n, k) slope in the logits. Of many classes it is most of the time."""
    logits = logits.astype(np.float64)
    logits += bias
    if logits.shape[1] == 1:
        signed = np.where(actual, logits, -logits)
        loss = -weights @ log_expit(signed)[:, 0]
        return float(loss), (np.exp(log_expit(logits)) - actual) * weights[:, None]
    logits -= logits.max(axis=1, keepdims=True)
    own = logits[actual]
    slope = np.exp(logits, out=logits)
    total = slope.sum(axis=1)
    slope *= (weights / total)[:, None]
    slope[actual] -= weights
    return float(weights @ (np.log(total) - own)), slope

"""Image, table and both, fitted beside each other: the columns move what the network says, as far as that helps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, softmax

from medclf.dataset.folds import folds
from medclf.models.linear_probe import fit_linear
from medclf.models.table_fusion import Fusion, settled
from medclf.models.tabular import Columns, TableEncoder

_LEAST_SPREAD = 0.2  # a category that few rows have is not blown up
_FOLDS = 5
STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # scikit-learn's C, on standardised columns


class HeldOut(NamedTuple):
    """What cross-validation inside the training images says of three models, (n, n_out) probabilities each.

    Args:
        image: on the network's logits alone.
        table: on the columns alone.
        both: on both.
        columns: on each column alone.
    """

    image: np.ndarray
    table: np.ndarray
    both: np.ndarray
    columns: dict[str, np.ndarray]


class ThreeModels(NamedTuple):
    """Image, table, and both, each fitted on the training images.

    Args:
        table: (weight, bias) on the encoded columns.
        fusion: of both.
        held_out: their predictions of the images that a fold held out.
    """

    table: tuple[np.ndarray, np.ndarray]
    fusion: Fusion
    held_out: HeldOut

    def table_logits(self, rows: Columns) -> np.ndarray:
        """(n, n_out) of the table alone."""
        weight, bias = self.table
        return np.asarray(self.fusion.encoder.encode(rows) @ weight.T + bias)


def fit_fusion(
    logits: np.ndarray,
    encoder: TableEncoder,
    rows: Columns,
    targets: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 42,
) -> ThreeModels:
    """Fit image, table and both; the same folds hold out the same images of image and both.

    Both is `scale * logits + weight @ columns + bias`: what the network says stays as it is, and the columns move it.
    The penalty is on weight and bias alone, so the stronger it is, the nearer both comes to the image.

    Args:
        logits: (n, n_out) of the network for images that it was not fitted on.
        encoder: fitted on the training rows.
        rows: the columns' values of these images.
        targets: (n,) classes, or (n, n_out) of 0 and 1.
        groups: (n,) patients or clusters, which stay in one fold.
        seed: of the folds.

    Source: Wolpert 1992, stacked generalization; logistic regression with an offset.
    """
    n_out, many = logits.shape[1], targets.ndim == 2
    image, table = settled(logits, many), encoder.encode(rows)
    truth = targets if many else np.eye(n_out)[targets]
    fold_of = folds(targets, groups, _FOLDS, seed=seed)
    _, alone = _best(image, table[:, :0], truth, fold_of, many)
    fitted, both = _best(image, table, truth, fold_of, many)
    beside = fit_linear(table, targets, n_out, groups, seed)
    single = {name: fit_linear(table[:, part], targets, n_out, groups, seed) for name, part in encoder.parts().items()}
    weight = np.concatenate([np.diag(fitted.scale), fitted.weight], axis=1)
    held_out = HeldOut(alone, beside.held_out, both, {name: one.held_out for name, one in single.items()})
    return ThreeModels((beside.weight, beside.bias), Fusion(encoder, weight, fitted.bias, many), held_out)


class _Offset(NamedTuple):
    scale: np.ndarray  # (n_out,); of one label an image the same for all
    weight: np.ndarray  # (n_out, k)
    bias: np.ndarray  # (n_out,)

    def probs(self, image: np.ndarray, table: np.ndarray, many: bool) -> np.ndarray:
        return _probs(image * self.scale + table @ self.weight.T + self.bias, many)


def _probs(logits: np.ndarray, many: bool) -> np.ndarray:
    return np.asarray(expit(logits) if many else softmax(logits, axis=1))


def _best(
    image: np.ndarray, table: np.ndarray, truth: np.ndarray, fold_of: np.ndarray, many: bool
) -> tuple[_Offset, np.ndarray]:
    """Fitted at the strength whose held-out log loss is least, and its held-out probabilities."""
    spread = table.std(axis=0)
    centre, scale = table.mean(axis=0), np.maximum(spread, _LEAST_SPREAD)
    x = (table - centre) / scale
    found = []
    for strength in STRENGTHS:
        held_out = np.empty(truth.shape)
        for fold in np.unique(fold_of):
            out = fold_of == fold
            fitted = _offset(image[~out], x[~out], truth[~out], strength, many)
            held_out[out] = fitted.probs(image[out], x[out], many)
        found.append((_log_loss(held_out, truth, many), strength, held_out))
    _, strength, held_out = min(found, key=lambda one: one[0])
    fitted = _offset(image, x, truth, strength, many)
    weight = fitted.weight / scale
    return _Offset(fitted.scale, weight, fitted.bias - weight @ centre), held_out


def _log_loss(probs: np.ndarray, truth: np.ndarray, many: bool) -> float:
    p = probs.clip(1e-12, 1 - 1e-12)
    return float(-(truth * np.log(p) + (many * (1 - truth)) * np.log(1 - p)).sum())


def _offset(image: np.ndarray, x: np.ndarray, truth: np.ndarray, strength: float, many: bool) -> _Offset:
    """Scale, weight and bias of least log loss, with an L2 penalty on weight and bias."""
    n_out, k = truth.shape[1], x.shape[1]
    n_scales = n_out if many else 1

    def parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scale, rest = values[:n_scales], values[n_scales:].reshape(n_out, k + 1)
        return scale, rest[:, :-1], rest[:, -1]

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale, weight, bias = parts(values)
        probs = _probs(image * scale + x @ weight.T + bias, many)
        slope = strength * (probs - truth)
        of_scale = (slope * image).sum(axis=0) if many else np.array([(slope * image).sum()])
        of_rest = np.concatenate([slope.T @ x + weight, (slope.sum(axis=0) + bias)[:, None]], axis=1)
        value = strength * _log_loss(probs, truth, many) + float((weight**2).sum() + (bias**2).sum()) / 2
        return value, np.concatenate([of_scale, of_rest.ravel()])

    start = np.concatenate([np.ones(n_scales), np.zeros(n_out * (k + 1))])
    done = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    scale, weight, bias = parts(done.x)
    return _Offset(np.broadcast_to(scale, n_out), weight, bias)

"""A linear classifier on features: its strength chosen by cross-validation, its weights folded back to raw features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, softmax

from medclf.config import Balance
from medclf.dataset.folds import folds, group_codes
from medclf.errors import MedclfWarning
from medclf.models.balance import WEIGHTED, class_weights, focal_weights, taken_back
from medclf.models.logistic import Logistic, fit_path, principal_axes

_FALLBACK = 0.01
_LEAST_SPREAD = 0.1  # of the features' mean standard deviation
_SMALL = 5_000_000  # values of the features, such as 4,000 images' 1,280
_EXACT = 1e-9  # of the objective, relative, in the last fit
_ROUGH = 1e-5  # and in those that choose the strength
_QUICK = 500_000  # values of the features; below it every strength is tried, as a fold of few images may mislead
_VAST = 1_000_000_000  # values of the features times classes, such as 1,000 images' and 1,000 classes
_FOLDS = 5
_LEAST = 1e-15  # probability, in a logarithm
_PATIENCE = 2  # strengths in a row that are worse, before no further one is tried
STRENGTHS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)  # scikit-learn's C, on standardised features
_TOO_FEW = (
    "too few images of a class for cross-validation to judge it: there is one, or all are one patient's. The other "
    f"classes choose the head's regularisation; where fewer than two are left, it is C={_FALLBACK}"
)


class LinearFit(NamedTuple):
    """A linear classifier on raw features, and what its cross-validation said of the images it was fitted on."""

    weight: np.ndarray  # (n_out, f) float32
    bias: np.ndarray  # (n_out,) float32
    strength: float  # the chosen C
    folds: int
    held_out: np.ndarray  # (n, n_out) probabilities, NaN where no fold held the image out
    n_untold: int  # fits that stay at the frequencies, since nothing else surely helps: one, or one a label of several


def one_thread_if_small(n_values: int) -> Any:
    """A context in which small sums use one thread: more would wait for each other longer than they compute."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if n_values < _SMALL else None)


def column_scale(features: np.ndarray, widths: Sequence[int] = ()) -> np.ndarray:
    """(f,) what each column is divided by before a fit: its standard deviation, and what makes parts count alike.

    What hardly varies among these images may vary elsewhere, so that no deviation counts as less than a tenth of the
    mean one: it must not come out as a hundred deviations.

    Args:
        features: (n, f).
        widths: how many columns each part of the features has, where they are of several, such as a network's stages:
            the penalty then spares the columns of a narrow part, so that all parts count alike.

    Example:
        >>> features = np.array([[0.0, 0, 0], [2, 2, 2]])
        >>> column_scale(features).round(3).tolist(), column_scale(features, (1, 2)).round(3).tolist()
        ([1.0, 1.0, 1.0], [0.816, 1.155, 1.155])
    """
    spread = features.std(0)
    scale = np.maximum(spread, _LEAST_SPREAD * spread.mean()) + 1e-6
    if len(widths):
        scale = scale * np.repeat(np.sqrt(np.array(widths) / np.mean(widths)), widths)
    return np.asarray(scale)


def fit_linear(
    features: np.ndarray,
    targets: np.ndarray,
    n_out: int,
    groups: np.ndarray | None = None,
    seed: int = 42,
    *,
    balance: Balance = "none",
    weights: np.ndarray | None = None,
    widths: Sequence[int] = (),
) -> LinearFit:
    """Weights of a linear classifier on raw features: logistic regression on standardised ones, folded back.

    Its probabilities stand for the frequencies of `targets`, whatever the balance: see `medclf.models.balance`.

    Args:
        features: (n, f).
        targets: (n,) classes in [0, n_out), or (n, n_out) 0/1.
        n_out: outputs of the head.
        groups: (n,) patients or clusters.
        seed: of the folds.
        balance: how rare classes are made to count in the fit.
        weights: (n_out,) of a loss function: what an image of each class weighs, or, of several labels, one with the
            label beside one without. The probabilities are then those that the weights ask for.
        widths: how many columns each part of the features has; see `column_scale`.

    Returns:
        A `LinearFit`.
    """
    mean, scale = features.mean(0), column_scale(features, widths)
    x = (features - mean) / scale
    axes = principal_axes(x)  # a rotation, which only saves time
    x = x @ axes.T
    weight, bias = np.zeros((n_out, x.shape[1])), np.full(n_out, -_certain(len(x)))
    held_out = np.full((len(x), n_out), np.nan)
    chosen, n_folds = [], 0
    one_a_label = targets.ndim == 2
    weights = class_weights(targets, n_out) if balance in WEIGHTED else weights
    for label, y in enumerate(targets.T) if one_a_label else [(slice(None), targets)]:
        y = y.astype(int)
        present = np.unique(y)
        if len(present) < 2:
            if one_a_label:
                bias[label] = _certain(len(x)) * (1 if present[0] else -1)
                held_out[:, label] = expit(bias[label])
            else:
                bias[present] = _certain(len(x))
            continue
        own = None if weights is None else np.where(y == 1, weights[label], 1.0) if one_a_label else weights[y]
        fitted = _fit_logistic(x, y, groups, seed, own)
        if balance == "focal":
            fitted = _fit_logistic(x, y, groups, seed, focal_weights(_probs_of(fitted, x), np.searchsorted(present, y)))
        model, strength, tried, probs = fitted
        chosen.append(strength)
        n_folds = max(n_folds, tried)
        if one_a_label:
            weight[label], bias[label] = model.weight[0], model.bias[0]
            unjudged = np.isnan(probs[:, 1]) & (y == (y.mean() > 0.5))  # not the few, of which nothing is known
            held_out[:, label] = np.where(unjudged, np.average(y, weights=own), probs[:, 1])
            continue
        held_out[~np.isnan(probs[:, 0])] = 0.0
        held_out[:, present] = probs
        if len(present) == 2:
            weight[present], bias[present] = _two_outputs(model)
        else:
            weight[present], bias[present] = model.weight, model.bias
    if balance != "none":
        weight, bias, held_out = taken_back(weight, bias, held_out, balance, weights, one_a_label)
    weight = weight @ axes / scale
    bias = bias - weight @ mean
    strength = float(np.mean(chosen or [0.0]))
    untold = chosen.count(STRENGTHS[0])
    return LinearFit(weight.astype(np.float32), bias.astype(np.float32), strength, n_folds, held_out, untold)


def _certain(n: int) -> float:
    """The logit of a label that all of n images have: that of half an image against it."""
    return math.log(2 * n + 1)


def _two_outputs(model: Logistic) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([-model.weight[0], model.weight[0]]) / 2, np.array([-1, 1]) * model.bias[0] / 2


def _probs_of(fitted: tuple[Logistic, float, int, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(n, classes) held-out probabilities, and the model's own where no fold held the image out."""
    probs = fitted[3]
    return np.where(np.isnan(probs), fitted[0].probs(x), probs)


def _fit_logistic(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, seed: int, weights: np.ndarray | None
) -> tuple[Logistic, float, int, np.ndarray]:
    """The fitted model, its C, the number of folds that chose it, and their held-out probabilities.

    A class that a fold's training part lacks has its share there, and its images in that fold are judged by none.

    `weights` are (n,), what each image counts; all alike where None.
    """
    weights = np.ones(len(y)) if weights is None else weights
    classes = np.unique(y, return_inverse=True)[1]
    shares = np.bincount(classes, weights) / weights.sum()
    n_classes = len(shares)
    pairs, judged = _folds(classes, groups, seed)
    if len(np.unique(classes[judged])) < n_classes:
        warnings.warn(MedclfWarning(_TOO_FEW), stacklevel=4)
    if len(np.unique(classes[judged])) < 2:
        (model,) = fit_path(x, classes, n_classes, [_FALLBACK], weights=weights, tolerance=_EXACT)
        return model, _FALLBACK, 0, np.full((len(y), n_classes), np.nan)
    probs = np.tile(shares, (len(STRENGTHS), len(y), 1))
    losses, steps, first = np.zeros(len(STRENGTHS)), [*range(len(STRENGTHS))], True
    for train, valid in pairs:
        seen, inner = np.unique(classes[train], return_inverse=True)
        known = valid[judged[valid]]
        if len(seen) < 2 or not len(known):
            continue
        least, worse = np.inf, 0
        strengths = [STRENGTHS[i] for i in steps]
        path = fit_path(x[train], inner, len(seen), strengths, weights=weights[train], tolerance=_ROUGH)
        for i, model in zip(steps, path, strict=False):
            probs[i, valid[:, None], seen] = model.probs(x[valid]) * shares[seen].sum()
            loss = _log_loss(probs[i, known], classes[known], weights[known])
            losses[i] += loss
            least, worse = (loss, 0) if loss < least else (least, worse + 1)
            if first and worse == _PATIENCE and x.size > _QUICK:  # the others go as far, so that all can be summed
                steps = steps[: i + 1]
                break
        if first and x.size * n_classes > _VAST:  # where the first fold has its best, the others have it next to it
            near = min(steps, key=losses.__getitem__)
            steps = [0, *(i for i in steps[1:] if i >= near - 1)]
        first = False
    best = min(steps, key=losses.__getitem__)
    sure = _sure_part(probs[[0, best]], classes, weights * judged, groups)
    best = best if sure else 0
    parts, strengths = np.array([1 - sure, sure]), [STRENGTHS[0], STRENGTHS[best]]
    weak, fitted = fit_path(x, classes, n_classes, strengths, weights=weights, tolerance=_EXACT)
    model = Logistic(*(np.tensordot(parts, both, 1) for both in zip(weak, fitted, strict=True)))
    held_out = softmax(np.tensordot(parts, np.log(probs[[0, best]].clip(_LEAST)), 1), axis=1)
    held_out[~judged] = np.nan
    return model, STRENGTHS[best], len(pairs), held_out


def _folds(
    classes: np.ndarray, groups: np.ndarray | None, seed: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """At most five, and (n,) which images have others of their class in the part that their fold is fitted on."""
    fold_of = folds(classes, groups, _FOLDS, seed=seed)
    pairs = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in np.unique(fold_of)]
    judged = np.zeros(len(classes), bool)
    for train, valid in pairs:
        judged[valid] = np.isin(classes[valid], classes[train])
    return pairs, judged


def _sure_part(probs: np.ndarray, y: np.ndarray, weights: np.ndarray, groups: np.ndarray | None) -> float:
    """How much of the second of two fits to keep, from 0 to 1, the rest being the first, which says the frequencies.

    It is 1 - (standard error / gain) ** 2 of the log loss, by groups, and 0 where the gain is not above its error:
    features that tell nothing let one of ten fits be better by chance, and what is learnt of few is told too boldly.

    Source: the positive part of James & Stein 1961; as a shrinkage of logits van Houwelingen & le Cessie 1990.
    """
    before, after = -np.log(probs[:, np.arange(len(y)), y].clip(_LEAST))
    gain = float(np.average(before - after, weights=weights))
    sums = np.bincount(group_codes(groups, len(y)), weights * (before - after - gain))
    error = math.sqrt((sums**2).sum()) / float(weights.sum())
    return 1 - (error / gain) ** 2 if gain > error else 0.0


def _log_loss(probs: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(-np.log(probs[np.arange(len(y)), y].clip(_LEAST)), weights=weights))

"""Probabilities that mean what they say: a temperature and a bias a label.

They are fitted on one part of the data and judged on another: `split_parts` makes two such parts,
`calibrate_out_of_fold` uses every image for both without ever judging an image by what it helped to fit.
Patients are kept whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from medclf.dataset.folds import folds, group_codes, sides
from medclf.errors import DataError
from medclf.files import Json
from medclf.metrics.logits import to_logits

LOG_TEMPERATURES = (math.log(0.02), math.log(50.0))
FEWEST_OF_A_LABEL = 10  # patients with it, and without it, below which a label gets no bias or temperature of its own
_BIAS = 0.5  # spread of a label's bias, as it is expected to be
_LOG_TEMPERATURE = 0.3  # likewise of the logarithm of a temperature


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by, and what is then added, before softmax (single-label) or sigmoid (multi-label).

    Args:
        values: one temperature, or one a label.
        multi_label: whether the logits go through a sigmoid.
        n: how many images it was fitted on.
        bias: what is added to each label's logit; () adds nothing.

    Example:
        >>> Temperature((2.0,), False, 100).apply([[2.0, 0.0]]).round(3).tolist()
        [[0.731, 0.269]]
    """

    values: tuple[float, ...]
    multi_label: bool
    n: int
    bias: tuple[float, ...] = ()

    def apply(self, logits: Any) -> np.ndarray:
        """(n, L) logits to calibrated probabilities. Without a bias the order of an image's labels stays as it was."""
        scaled = np.asarray(logits, dtype=np.float64) / np.array(self.values)
        return _probs(scaled + np.array(self.bias) if self.bias else scaled, self.multi_label)

    def apply_to_probs(self, probs: Any) -> np.ndarray:
        """The same for probabilities; equal to `apply` on the logits they came from."""
        return self.apply(to_logits(probs, multi_label=self.multi_label))

    @property
    def overall(self) -> tuple[float, int]:
        """One number for all, and of how many labels: the geometric mean of those that were fitted; 1.0 where none was.

        Example:
            >>> Temperature((4.0, 1.0, 1.0), True, 100, (0.0, 0.5, 0.0)).overall  # the third label was left as it is
            (2.0, 2)
        """
        bias = self.bias if len(self.bias) == len(self.values) else (np.nan,) * len(self.values)
        fitted = [value for value, added in zip(self.values, bias, strict=True) if (value, added) != (1.0, 0.0)]
        return float(np.exp(np.mean(np.log(fitted or [1.0])))), len(fitted)

    def as_dict(self) -> dict[str, Json]:
        """For JSON; `Temperature.from_dict` reads it back."""
        bias: dict[str, Json] = {"bias": list(self.bias)} if self.bias else {}
        return {"temperature": list(self.values), **bias, "multi_label": self.multi_label, "n": self.n}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Temperature:
        """From what `as_dict` gave."""
        found, bias = (tuple(float(value) for value in values.get(key, ())) for key in ("temperature", "bias"))
        return cls(found, bool(values["multi_label"]), int(values["n"]), bias)


def _probs(logits: np.ndarray, multi_label: bool) -> np.ndarray:
    return np.asarray(special.expit(logits) if multi_label else special.softmax(logits, axis=1))


def fit_temperature(logits: Any, y: Any, *, multi_label: bool = False, shared: bool = False) -> Temperature:
    """The temperature at which the probabilities fit the reference standard best.

    Fit it on images that the network was not trained on, and report on others than these.

    Args:
        logits: (n, L) of the network, or `to_logits(probs)`.
        y: (n,) indices; multi-label: (n, L) of 0 and 1. -1 is unknown and left out.
        multi_label: sigmoid instead of softmax.
        shared: multi-label: one temperature for all labels instead of one each.

    Returns:
        A `Temperature`: above 1 the network was too sure, below 1 not sure enough. A weak prior on 1, worth less
        than one image, keeps it finite where all images are right.

    Raises:
        DataError: shapes that do not fit, or no image with a known label.

    Source: Guo et al. 2017, "On calibration of modern neural networks".

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(2000, 3))
        >>> y = [rng.choice(3, p=row) for row in special.softmax(logits, axis=1)]
        >>> 2.4 < fit_temperature(logits * 2.5, y).values[0] < 2.6
        True
    """
    scores, truth = _checked(logits, y, multi_label)
    if not multi_label:
        kept = truth >= 0
        return Temperature((_fit(scores[kept], truth[kept].astype(int), False),), False, int(kept.sum()))
    known = truth >= 0
    n = int(known.any(axis=1).sum())
    if shared:
        return Temperature((_fit(scores[known][:, None], truth[known][:, None], True),), True, n)
    columns = zip(scores.T, truth.T, known.T, strict=True)
    return Temperature(tuple(_fit(s[kept][:, None], t[kept][:, None], True) for s, t, kept in columns), True, n)


def _checked(logits: Any, y: Any, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(y)
    wanted = scores.shape if multi_label else scores.shape[:1]
    if scores.ndim != 2 or truth.shape != wanted:
        raise DataError(f"y has the shape {truth.shape} and logits {scores.shape}", "one row an image in both")
    if not np.isfinite(scores).all():
        raise DataError("logits holds NaN or infinity", "a network that diverged cannot be calibrated")
    return scores, truth


def fit_calibration(logits: Any, y: Any, *, groups: Any = None, multi_label: bool = False) -> Temperature:
    """The temperature and the bias of each label at which the probabilities fit the reference standard best.

    A bias corrects a label that is called too likely or too unlikely throughout, which no temperature can. Both are
    drawn towards doing nothing, the more so the fewer images of the label there are; see `too_few`. Where images of one
    patient err alike they say less than as many of others: they count by their design effect (Kish 1965). Where fewer
    than two labels have images enough, probabilities may become less sure, not surer.

    A label that none of the images has says nothing of itself: the others are fitted among themselves.

    Args:
        logits: (n, L) of the network, or `to_logits(probs)`, of images that it was not trained on.
        y: (n,) indices; multi-label: (n, L) of 0 and 1. -1 is unknown and left out.
        groups: (n,) patient of each image; None where each is a patient's only one.
        multi_label: sigmoid instead of softmax, and a temperature a label.

    Returns:
        A `Temperature` with a bias.

    Raises:
        DataError: shapes that do not fit, or no image with a known label.

    Source: Platt 1999; Kull et al. 2019, "Beyond temperature scaling" (vector scaling), here as a penalised fit whose
    penalty is that of biases of about 0.5 and temperatures within a factor of about 1.35.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(size=(4000, 2))
        >>> y = [rng.choice(2, p=row) for row in special.softmax(logits, axis=1)]
        >>> bias = fit_calibration(logits + [0.0, 1.5], y).bias
        >>> bool(-1.7 < bias[1] - bias[0] < -1.3)
        True
    """
    scores, truth = _checked(logits, y, multi_label)
    few, codes = (
        too_few(truth, scores.shape[1], groups=groups, multi_label=multi_label),
        group_codes(groups, len(truth)),
    )
    if not multi_label:
        kept = truth >= 0
        scores, truth, codes = scores[kept], truth[kept].astype(int), codes[kept]
        met, bias, temperature = np.unique(truth), np.zeros(len(few)), 1.0
        if len(met) != 1:
            temperature, bias[met] = _fit_bias(scores[:, met], truth[:, None] == met, codes, ~few[met], False)
            temperature = temperature if (~few[met]).sum() > 1 else max(temperature, 1.0)
            middle, unmet = scores.mean(axis=0), np.setdiff1d(np.arange(len(few)), met)
            # A label that nobody was trained on may have a logit of -27, which is no fact: half an image of n is.
            middle[unmet] = np.maximum(middle[unmet], middle.max() - math.log(2 * len(truth) + 1))
            bias += middle * (1 - 1 / temperature)
        return Temperature((temperature,), False, len(truth), tuple((bias - bias.mean()).tolist()))
    values, biases, known = np.ones(len(few)), np.zeros(len(few)), truth >= 0
    for k in np.flatnonzero(~few):
        column, hits = (each[known[:, k], k : k + 1] for each in (scores, truth.astype(float)))
        values[k], (biases[k],) = _fit_bias(column, hits, codes[known[:, k]], np.ones(1, bool), True)
        biases[k] += column.mean() * (1 - 1 / values[k])
    return Temperature(tuple(values.tolist()), True, int(known.any(axis=1).sum()), tuple(biases.tolist()))


def too_few(y: Any, n_labels: int, *, groups: Any = None, multi_label: bool = False) -> np.ndarray:
    """(n_labels,) bool: which labels have too few images, with them or without them, to fit anything of their own.

    Where groups are given, patients count, not images.

    Example:
        >>> too_few([0] * 50 + [1] * 9, 2).tolist()
        [False, True]
        >>> too_few([0] * 50 + [1] * 50, 2, groups=[*range(50), *[50, 51] * 25]).tolist()  # of two patients alone
        [False, True]
    """
    truth, codes = np.asarray(y), group_codes(groups, len(y))
    if multi_label:
        counts = [min(len(np.unique(codes[column == value])) for value in (0, 1)) for column in truth.T]
    else:
        counts = [len(np.unique(codes[truth == k])) for k in range(n_labels)]
    return np.asarray(counts) < FEWEST_OF_A_LABEL


def _fit_bias(
    logits: np.ndarray, hits: np.ndarray, codes: np.ndarray, free: np.ndarray, multi_label: bool
) -> tuple[float, np.ndarray]:
    """A temperature, about the mean of the logits, and (L,) biases, those of labels that are not `free` being 0.

    Under softmax the others move against each other alone: together they would move those labels too.

    Args:
        logits: (n, L).
        hits: (n, L) of 0 and 1.
        codes: (n,) patient of each image.
        free: (L,).
        multi_label: sigmoid instead of softmax.
    """
    if not len(logits):
        raise DataError("no image with a known label to fit a temperature on", "give some, or leave it uncalibrated")

    from scipy import optimize  # only fitting needs it

    middle = logits.mean(axis=0)  # what the temperature leaves as it is, so that it does not move the mean
    surplus = _probs(logits, multi_label) - hits
    times = _design_effects(np.column_stack([(surplus * (logits - middle)).sum(axis=1), surplus]), codes)
    of_temperature, of_bias = times[0] / _LOG_TEMPERATURE**2, times[1:] / _BIAS**2

    def of_free(values: np.ndarray) -> np.ndarray:
        return np.where(free, values - (0 if multi_label or not free.any() else values[free].mean()), 0)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        log_temperature, bias = values[0], of_free(values[1:])
        spread = (logits - middle) / math.exp(log_temperature)
        scaled = spread + middle + bias
        each = np.logaddexp(0, scaled).sum() if multi_label else special.logsumexp(scaled, axis=1).sum()
        surplus = _probs(scaled, multi_label) - hits
        away = of_temperature * log_temperature**2 + (of_bias * bias**2).sum()
        slope = -(surplus * spread).sum() + of_temperature * log_temperature
        slopes = of_free(surplus.sum(axis=0) + of_bias * bias)
        return float(each - (scaled * hits).sum() + away / 2), np.concatenate([[slope], slopes])

    start = np.zeros(1 + logits.shape[1])
    bounds = [LOG_TEMPERATURES, *[(None, None)] * logits.shape[1]]
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return math.exp(found[0]), of_free(found[1:])


def _design_effects(slopes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(k,) how many times the variance of a sum is that of as many independent images, 1 or more.

    Args:
        slopes: (n, k) what each image adds to each sum.
        codes: (n,) patient of each image.

    Example:
        >>> _design_effects(np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([0, 0, 1, 1])).tolist()
        [2.0]
    """
    sums = np.stack([np.bincount(codes, column) for column in slopes.T], axis=1)
    alone = (slopes**2).sum(axis=0)
    times = np.divide((sums**2).sum(axis=0), alone, out=np.ones_like(alone), where=alone > 0)
    return np.asarray(np.maximum(times, 1.0))


def _fit(logits: np.ndarray, truth: np.ndarray, multi_label: bool) -> float:
    if not len(logits):
        raise DataError("no image with a known label to fit a temperature on", "give some, or leave it uncalibrated")

    from scipy import optimize  # only fitting needs it

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        if multi_label:
            fit = np.logaddexp(0, scaled).sum() - (scaled * truth).sum()
        else:
            fit = (special.logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]).sum()
        return float(fit + log_temperature**2 / 2)

    return math.exp(optimize.minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x)


def split_parts(y: Any, groups: Any = None, *, share: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two parts of the images, one to fit or choose on and one to report on; patients stay whole.

    Args:
        y: (n,) labels to stratify by, or (n, L) of 0 and 1.
        groups: (n,) patient of each image.
        share: of the first part.
        seed: of the draw.

    Returns:
        the row numbers of the fitting part and of the reporting part.

    Example:
        >>> fit, report = split_parts([0, 0, 1, 1], seed=1)
        >>> sorted([*fit.tolist(), *report.tolist()])
        [0, 1, 2, 3]
    """
    fits = sides(y, groups, (share, 1 - share), seed=seed) == 0
    return np.flatnonzero(fits), np.flatnonzero(~fits)


def calibrate_out_of_fold(
    logits: Any, y: Any, *, groups: Any = None, multi_label: bool = False, n_folds: int = 5, seed: int = 0
) -> tuple[np.ndarray, Temperature]:
    """Calibrated probabilities to report on, and the temperature and biases to ship; see `fit_calibration`.

    Each image's probability uses those fitted on the other folds, so that the report stays honest though all
    images serve; those returned are fitted on all of them.

    Args:
        logits: (n, L), of images the network was not trained on.
        y: as in `fit_temperature`.
        groups: (n,) patient of each image; patients stay whole.
        multi_label: sigmoid instead of softmax.
        n_folds: how many folds.
        seed: of the folds.

    Returns:
        (n, L) probabilities and a `Temperature`.

    Raises:
        DataError: all images are one patient's.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(y)
    codes = group_codes(groups, len(truth))
    final = fit_calibration(scores, truth, groups=codes, multi_label=multi_label)
    fold_of = folds(truth, groups, n_folds, seed=seed)
    if not fold_of.any():
        raise DataError("one patient cannot be both fitted and reported on", "fit the temperature on other images")
    probs = np.empty_like(scores)
    for fold in np.unique(fold_of):
        held = fold_of == fold
        fitted = fit_calibration(scores[~held], truth[~held], groups=codes[~held], multi_label=multi_label)
        probs[held] = fitted.apply(scores[held])
    return probs, final

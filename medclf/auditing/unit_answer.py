"""How the images of a unit become one answer: the candidates, and which is best inside the training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from medclf.config import UnitAnswer, UnitChoice
from medclf.dataset.folds import folds
from medclf.errors import DataError, argument
from medclf.metrics.calibration import calibrate_out_of_fold
from medclf.metrics.logits import to_logits, to_probs
from medclf.metrics.positive_label import positive_label
from medclf.metrics.table import statistics
from medclf.metrics.units import Attention, UnitRule
from medclf.metrics.weighted import read_task
from medclf.results.predictions import Predictions, losses_of
from medclf.results.units import ByUnit, by_unit
from medclf.results.wording import counted_as

FEWEST_UNITS = 20  # with a label, below which no answer is chosen and no attention is fitted
_SHOWN = ("accuracy", "balanced_accuracy", "auroc")

Fit = Callable[..., Attention]  # features, unit of each row, labels of the units, finding=


@dataclass
class ChosenAnswer:
    """Which answer was chosen, and why.

    Args:
        rule: to make answers by.
        out_of_fold: the training units, each answered by what was fitted without it; None where nothing was.
        candidates: by answer: log_loss (of calibrated probabilities), accuracy, balanced_accuracy, auroc; of the
            training units.
        sentence: how it was chosen.
    """

    rule: UnitRule
    out_of_fold: ByUnit | None
    candidates: Mapping[UnitAnswer, dict[str, float]]
    sentence: str


def choose_answer(
    unit: str,
    asked: UnitChoice,
    training: Predictions | None,
    vocab: list[str],
    *,
    multi_label: bool = False,
    positive: str | None = None,
    fit: Fit | None = None,
) -> ChosenAnswer:
    """The answer with the least log loss among the training units; the mean, unless another is surely better.

    Another answer is surely better where its log loss is lower by more than one standard error of the paired
    differences. Each candidate's probabilities are calibrated by folds first, so that not its scale but its order
    decides.

    Args:
        unit: what a unit is.
        asked: "auto", or the answer to take.
        training: predictions of training images by folds that held them out, their units in the table; None without.
        vocab: the labels.
        multi_label: whether an image may have several.
        positive: the label that is a finding; of two, found by their names where None.
        fit: fits attention; None where there is no frozen encoder, whose features it needs.

    Raises:
        DataError: the answer that is asked for cannot be had.
    """
    finding = _finding(vocab, positive, training) if not multi_label and len(vocab) == 2 else None
    if asked == "attention" and (fit is None or training is None or training.features is None):
        text = f"{argument('unit_answer', 'attention')} needs the features of a frozen encoder"
        remedy = f"use {argument('recipe', 'probe')} and a split without folds, or another {argument('unit_answer')}"
        raise DataError(text, remedy)
    mean = UnitRule(unit, "mean", finding, multi_label)
    first = None if training is None else by_unit(training, mean)
    if first is None or (n := int(first.units.known.sum())) < FEWEST_UNITS:
        few = "no training unit was predicted by a fold without it" if first is None else f"there are only {n} of them"
        if asked == "attention":
            raise DataError(f"attention needs {FEWEST_UNITS} training units with a label: {few}", "give more units")
        rule = mean if asked == "auto" else UnitRule(unit, asked, finding, multi_label)
        again = first if training is None or asked in ("auto", "mean") else by_unit(training, rule)
        return ChosenAnswer(rule, again, {}, f"Nothing was chosen among the training {counted_as(unit)}: {few}.")
    assert training is not None
    answers: list[UnitAnswer] = ["mean", "max"]
    answers += ["noisy-or"] if multi_label or finding is not None else []
    found = {one: by_unit(training, UnitRule(unit, one, finding, multi_label)) for one in answers}
    if fit is not None and training.features is not None and asked in ("auto", "attention"):
        found["attention"] = _attended(first, training, fit, finding)
    losses = {answer: _calibrated_losses(one.units) for answer, one in found.items()}
    candidates = {answer: _scores(found[answer].units, loss) for answer, loss in losses.items()}
    chosen = _best(losses) if asked == "auto" else asked
    rule = _fitted(first, mean, fit, training) if chosen == "attention" else replace(mean, answer=chosen)
    told = ", ".join(f"{answer} {row['log_loss']:.3f}" for answer, row in candidates.items())
    how = f"{chosen} was asked for" if asked != "auto" else f"{chosen} was chosen"
    sentence = (
        f"{how[0].upper()}{how[1:]}. Log loss of {n} training {counted_as(unit, n)}, each predicted without it: {told}."
    )
    return ChosenAnswer(rule, found[chosen], candidates, sentence)


def _finding(vocab: list[str], positive: str | None, training: Predictions | None) -> int:
    counts = {} if training is None else {label: int((training.y == k).sum()) for k, label in enumerate(vocab)}
    return vocab.index(positive or positive_label(vocab, counts).label)


def _calibrated_losses(units: Predictions) -> np.ndarray:
    """(n,) log loss of each unit whose label is known, of probabilities calibrated on the others."""
    known = units.subset(units.known)
    logits = to_logits(known.probs, multi_label=known.multi_label)
    try:
        probs, _ = calibrate_out_of_fold(logits, known.y, groups=known.groups, multi_label=known.multi_label)
    except DataError:  # all are of one group
        probs = known.probs
    return losses_of(known.y, probs, known.multi_label)


def _best(losses: Mapping[UnitAnswer, np.ndarray]) -> UnitAnswer:
    """The mean, or the best of those that are better by more than one standard error."""
    better: dict[UnitAnswer, float] = {"mean": float(losses["mean"].mean())}
    for answer, loss in losses.items():
        gain = losses["mean"] - loss
        if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
            better[answer] = float(loss.mean())
    return min(better, key=lambda answer: better[answer])


def _scores(units: Predictions, losses: np.ndarray) -> dict[str, float]:
    known = units.subset(units.known)
    task = read_task(known.y, known.probs, known.vocab, None, known.multi_label, predicted=known.predicted)
    found = statistics(task, np.ones((1, task.n)))
    shown = {name: float(found[name][0]) for name in _SHOWN if name in found}
    return {"log_loss": float(losses.mean()), **shown}


def _attended(first: ByUnit, training: Predictions, fit: Fit, finding: int | None) -> ByUnit:
    """The training units, each answered by an attention that was fitted on the other folds' units."""
    units, index = first.units, first.index
    assert training.features is not None
    known = np.flatnonzero(units.known)
    fold_of = np.full(len(units), -1)
    groups = units.groups
    fold_of[known] = folds(units.y[known], None if groups is None else groups[known])
    logits = np.zeros((len(units), len(units.vocab)))
    for fold in np.unique(fold_of):  # -1: those without a label, by what was fitted on all others
        rest, own = np.flatnonzero((fold_of != fold) & (fold_of >= 0)), np.flatnonzero(fold_of == fold)
        attention = _fit_on(rest, units, index, training.features, partial(fit, finding=finding))
        rows, renumbered = _rows_of(own, index)
        logits[own] = attention.logits(training.features[rows], renumbered, len(own))
    probs = to_probs(logits, multi_label=units.multi_label)
    made = replace(units, probs=probs, losses=losses_of(units.y, probs, units.multi_label), decided=None)
    return replace(first, units=made)


def _rows_of(units: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of some units, and the number of each one's unit among those."""
    place = np.full(index.max(initial=-1) + 1, -1)
    place[units] = np.arange(len(units))
    rows = np.flatnonzero(place[index] >= 0)
    return rows, place[index[rows]]


def _fit_on(units: np.ndarray, made: Predictions, index: np.ndarray, features: np.ndarray, fit: Fit) -> Attention:
    rows, renumbered = _rows_of(units, index)
    return fit(features[rows], renumbered, made.y[units])


def _fitted(first: ByUnit, mean: UnitRule, fit: Fit | None, training: Predictions) -> UnitRule:
    assert fit is not None and training.features is not None
    known = np.flatnonzero(first.units.known)
    attention = _fit_on(known, first.units, first.index, training.features, partial(fit, finding=mean.finding))
    return UnitRule(mean.unit, "attention", mean.finding, mean.multi_label, attention)

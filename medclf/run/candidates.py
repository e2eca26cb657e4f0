"""The candidates of a plan: tried inside the training set, each compared with what was best before it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medclf.config import Pooling, TrainConfig
from medclf.errors import DataError, MedclfError, MedclfWarning, SplitError
from medclf.learn import distributed
from medclf.learn.augment import Augment
from medclf.learn.linear_probe import UNTOLD, LinearProbe
from medclf.learn.training import MedLearner
from medclf.learn.trial import (
    LEVEL,
    LEVEL_IF_FREE,
    VIEWS,
    Trial,
    calibrated,
    compared,
    has_map,
    link_near_duplicates,
    try_tuning,
)
from medclf.results.wording import as_sentence, percent
from medclf.run.config import Say
from medclf.run.plan import Chosen, Outline


def decide(
    config: TrainConfig,
    outline: Outline,
    learn: MedLearner,
    loaders: Mapping[str, Any],
    make: Callable[[Any], MedLearner],
    say: Say,
) -> tuple[Chosen, list[dict[str, Any]]]:
    """Try what the outline says, and choose.

    Args:
        config, outline: of the run.
        learn: with the linear probe fitted; if augmented views are chosen, it comes back fitted on them too.
        loaders: what its loaders were made with.
        make: loaders -> a learner like it.
        say: called with a line for the user.

    Returns:
        What was chosen, and the candidates, for `plan.json`.
    """
    linked_by = learn.pooling if config.audit else None
    fit_probe(learn, replace(config, linked_by=linked_by), say)
    candidates: list[dict[str, Any]] = [{"name": "linear probe", "chosen": True}]
    chosen = Chosen(pooling=config.pooling, views=config.views, size=config.size, linked_by=linked_by)
    if config.pooling is None:
        kept = "the last stage's mean"
        helps = _probed(learn, "linear probe on all stages", kept, candidates, say, pooling="stages")
        chosen = replace(chosen, pooling="stages" if helps else None)
        name, problem = "linear probe on a generalised mean", "all stages are better than the last one alone"
        if not helps and has_map(learn):
            helps = _probed(learn, name, kept, candidates, say, pooling="gem")
            chosen = replace(chosen, pooling="gem" if helps else None)
        else:
            problem = problem if helps else "the network gives no feature map that is nowhere below zero"
            candidates.append({"name": name, "chosen": False, "problem": problem})
    if not config.views and any(isinstance(tfm, Augment) for tfm in learn.dls.train.after_batch.fs):
        name = f"linear probe with {VIEWS} augmented views"
        helps = _probed(learn, name, "the one without", candidates, say, views=VIEWS)
        chosen = replace(chosen, views=VIEWS if helps else 0)
    way = outline.tune
    if way is None:
        return chosen, [*candidates, {"name": "fine-tuning", "chosen": False, "problem": outline.why_not}]
    sizes = way.sizes if len(way.sizes) > 1 else None

    def tune(inner: MedLearner) -> None:
        with inner.distrib_ctx(), inner.no_bar(), inner.no_logging():
            inner.fine_tune(way.epochs, config.lr, train_from=way.train_from, size=sizes)

    try:
        blend, trial = try_tuning(learn, loaders, make, tune)
    except (SplitError, DataError) as error:
        say(f"fine-tuning was not tried: {error.message}")
        return chosen, [*candidates, {"name": f"fine-tuning: {way}", "chosen": False, "problem": error.message}]
    what = "fine-tuning" if blend == 1 else f"fine-tuning {percent(blend, 0)} of the way"
    candidates.append(_row(f"{what}: {way}", trial, what, "the linear probe", candidates, say))
    if distributed.from_first(lambda: {"helps": trial.helps})["helps"]:
        tuned = replace(chosen, epochs=way.epochs, blend=blend, train_from=way.train_from)
        chosen = replace(tuned, first_sizes=way.sizes[:-1])
    return chosen, candidates


def fit_probe(learn: MedLearner, config: TrainConfig, say: Say) -> None:
    """Fit the head, with near-duplicates in one fold where the settings look for them: in a plan, and in its repeat."""
    before = learn.pooling
    if config.linked_by not in (None, before):  # what the plan tried first, whose features found them
        learn.pooling = config.linked_by
    first = learn.head or learn.fit_head(views=config.views)
    linked = 0 if config.linked_by is None else link_near_duplicates(learn)
    if linked:
        say(f"{linked} training images are near-duplicates of others: folds of the training set keep them together")
    if learn.pooling != before:
        learn.pooling = before
    if linked or learn.head is None:
        _fitted_again(learn, config.views, first)


def _row(name: str, trial: Trial, what: str, kept: str, others: list[dict[str, Any]], say: Say) -> dict[str, Any]:
    """A candidate that was tried, which is said; where it helps, those before it are not chosen."""
    for other in others:
        other["chosen"] = other["chosen"] and not trial.helps
    sentence = trial.sentence(what, kept)
    say(sentence)
    return {"name": name, "chosen": trial.helps, "sentence": as_sentence(sentence), **trial.as_dict()}


def _probed(learn: MedLearner, name: str, kept: str, candidates: list[dict[str, Any]], say: Say, **how: Any) -> bool:
    """Try another linear probe, and tell of it; whether it is kept."""
    trial = _otherwise(learn, **how)
    if isinstance(trial, str):
        candidates.append({"name": name, "chosen": False, "problem": trial})
        return False
    candidates.append(_row(name, trial, f"a {name}", kept, candidates, say))
    return trial.helps


def _fitted_again(learn: MedLearner, views: int, before: LinearProbe | None) -> LinearProbe:
    """`fit_head`, which does not say again what the fit before it said: that the features tell little."""
    with warnings.catch_warnings():
        if before is not None and before.n_untold:
            warnings.filterwarnings("ignore", f".* {UNTOLD} ", MedclfWarning)
        return learn.fit_head(views=views)


def _otherwise(learn: MedLearner, pooling: Pooling | None = None, views: int = 0) -> Trial | str:
    """Fit the head in another way, and keep that where it surely helps; or why that was not tried."""
    plain, start, before = learn.head, learn.start, learn.pooling
    if distributed.n_ranks() > 1:
        return "it is not tried by several processes"
    if plain is None or start is None or plain.held_out is None or np.isnan(plain.held_out).all():
        return "no fold judges the training images: a class has too few, or the network was trained on them before"
    if pooling is not None:
        try:
            learn.pooling = pooling
        except MedclfError as error:
            return error.message
    other = _fitted_again(learn, views or plain.views, plain)
    assert plain.targets is not None and other.held_out is not None
    known = ~np.isnan(plain.held_out).any(axis=1) & ~np.isnan(other.held_out).any(axis=1)
    multi_label = plain.targets.ndim == 2
    groups = learn.groups()
    y, groups = plain.targets.astype(int)[known], _of(groups, known)
    try:
        held_out = (plain.held_out, other.held_out)
        probs = [calibrated(y, one[known], multi_label, groups) for one in held_out]
        level = LEVEL if pooling is None else LEVEL_IF_FREE
        trial: Trial | str = compared(y, probs[0], probs[1], multi_label, groups, level)
    except DataError as error:
        trial = error.message
    if isinstance(trial, str) or not trial.helps:
        if pooling is not None:
            learn.pooling = before
        learn.head, learn.start = plain, start
        learn.model.load_state_dict(start)
    return trial


def _of(groups: np.ndarray | None, known: np.ndarray) -> np.ndarray | None:
    return None if groups is None or len(groups) != len(known) else groups[known]

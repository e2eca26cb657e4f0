"""A TABLE -> a network fitted on it: once, or by fold and then on all images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medclf.config import TrainConfig
from medclf.dataset.scan import with_problems
from medclf.display import listed
from medclf.errors import DataError, argument
from medclf.learn import distributed
from medclf.learn.callbacks import Resumable, told_in_lines
from medclf.learn.checkpoint import load_checkpoint, save_checkpoint, seeded
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.maps import of_learner
from medclf.learn.outputs import Outputs, outputs_of, predict_held_out, train_features
from medclf.learn.partial import training_from
from medclf.learn.prediction import predict_loader
from medclf.learn.training import MedLearner
from medclf.results.predictions import Predictions
from medclf.results.wording import percent
from medclf.run.candidates import decide, fit_probe
from medclf.run.config import Say
from medclf.run.plan import PLAN, Outline, chosen_in, read_plan, write_plan
from medclf.run.resume import CHECKPOINTS
from medclf.run.tracking import epochs_tracked


def fit_network(
    config: TrainConfig, table: pd.DataFrame, say: Say, outline: Outline | None
) -> tuple[MedLearner, Outputs, TrainConfig]:
    """The network that the bundle holds, what it and its folds give, and the settings with what was decided."""
    return (_cross_validate if config.split == "kfold" else _fit_once)(config, table, say, outline)


def follow(config: TrainConfig, table: pd.DataFrame, outline: Outline | None) -> None:
    """What a process that is not the first does meanwhile: its part of each fit."""
    parts: list[dict[str, Any]] = [{}]
    if config.split == "kfold":
        parts = [*({"fold": fold} for fold in range(config.folds)), {"split": "all"}]
    for changes in parts:
        _fit(config, table, lambda _: None, outline, **changes)


class Fitted(NamedTuple):
    """A learner, trained, and what it predicts.

    Args:
        learn: the learner.
        valid: of the validation images.
        features: (n, f) of its training images; None of those of a fold.
        config: the settings, with what a plan decided.
    """

    learn: MedLearner
    valid: Predictions
    features: np.ndarray | None
    config: TrainConfig


def _fit_once(
    config: TrainConfig, table: pd.DataFrame, say: Say, outline: Outline | None
) -> tuple[MedLearner, Outputs, TrainConfig]:
    learn, valid, features, config = _fit(config, table, say, outline)
    return learn, outputs_of(learn, valid, features, saliency=config.saliency), config


def _cross_validate(
    config: TrainConfig, table: pd.DataFrame, say: Say, outline: Outline | None
) -> tuple[MedLearner, Outputs, TrainConfig]:
    """Every image predicted by the fold that did not train on it; then a network trained on all of them.

    Each fold has a plan of its own, made without the images that it reports.
    """
    parts: list[Predictions] = []
    pictures: dict[str, str] = {}
    problems: dict[str, str] = {}
    for fold in range(config.folds):
        say(f"fold {fold + 1} of {config.folds}")
        learn, valid, *_ = _fit(config, table, say, outline, fold=fold)
        problems |= learn.dls.problems
        valid.table["fold"] = fold
        parts.append(replace(valid, features=None))  # of another network each
        pictures |= of_learner(learn, valid, -(-config.saliency // config.folds))
    pooled = Predictions.concat(parts)
    say("all images, for the bundle")
    final, _, features, _ = _fit(config, table, say, outline, split="all")
    split = replace(learn.dls.settings.split, fold=None)
    folds = dict(zip(pooled.table["path"], pooled.table["fold"], strict=True))
    final.dls.settings = replace(final.dls.settings, split=split)
    held_out = predict_held_out(final)
    final.dls.table = with_problems(final.dls.table, problems | final.dls.problems)
    final.dls.table["fold"] = final.dls.table["path"].map(folds)
    return final, Outputs(pooled, features, held_out, cross_validated=True, saliency=pictures), config


def _fit(config: TrainConfig, table: pd.DataFrame, say: Say, outline: Outline | None, **changes: Any) -> Fitted:
    """One learner, trained, or brought to where a killed run left it and trained from there.

    All processes of a launch do this together, and what they find they have in common.
    """
    with distributed.group(config.device):
        return _fit_together(config, table, say, outline, **changes)


def _say_without_probe(config: TrainConfig, learn: MedLearner, say: Say) -> None:
    """Say what comes in place of a linear probe where nothing else is trained, and there is none."""
    if not learn.linear_probe and not config.n_epochs:
        why = "the network is not pretrained" if config.linear_probe else f"{argument('linear_probe', False)} is given"
        say(f"no linear probe, since {why}: the head is trained for one epoch")


def _fit_together(
    config: TrainConfig, table: pd.DataFrame, say: Say, outline: Outline | None, **changes: Any
) -> Fitted:
    dls = MedDataLoaders.from_table(table, **(loader_options(config) | changes))
    say(f"{len(dls.train_ds)} images to train on, {len(dls.valid_ds)} to validate on; labels: {listed(dls.vocab)}")
    if len(dls.train_ds) < 2:
        raise DataError("one image is too few to train on", f"add images, or raise {argument('limit')} if it is given")
    learn = _learner(dls, config)
    _say_without_probe(config, learn, say)
    if outline is not None and learn.linear_probe:
        config = _decided(config, learn, say, outline, changes)
        if config.pooling is not None:
            learn.pooling = config.pooling
    tunes = bool(config.n_epochs) or not learn.linear_probe
    part = f"fold-{changes['fold']}" if "fold" in changes else "model"
    kept = Path(config.out) / CHECKPOINTS / f"{part}.safetensors"
    sizes = (*config.first_sizes, config.size) if config.first_sizes else None
    valid = features = probe = None
    done = tunes and distributed.from_first(kept.is_file)
    if config.linked_by and learn.linear_probe and learn.head is None and not done:
        fit_probe(learn, config, say)  # now, since near-duplicates are told by images, not by what is kept of them
    with ExitStack() as scope:
        if config.train_from and tunes:  # now, since the linear probe and the last pass use what is kept
            scope.enter_context(training_from(learn, config.train_from, False if sizes else None))
        if done:
            load_checkpoint(learn, kept)
            say(f"what {kept} holds is not done again")
        else:
            if learn.linear_probe:
                head = learn.head or learn.fit_head(views=config.views)
                valid = probe = predict_loader(learn, learn.dls.valid, "valid", features=True)
                right = f"{percent(share_right(valid), 0)} of the validation images correct before calibration"
                say(f"linear probe: {head.seconds:.1f} s, {right}")
            if tunes and distributed.is_first():  # the linear probe alone is as soon done again
                with seeded(learn.seed):
                    save_checkpoint(learn, kept)
            distributed.wait()
        if tunes:
            with learn.distrib_ctx(), told_in_lines(learn, say):
                cbs = [Resumable(kept), *epochs_tracked(part if "fold" in changes else "")]
                learn.fine_tune(config.n_epochs, config.lr, size=sizes, blend=config.blend, cbs=cbs)
            learn.tuning = {
                **(learn.tuning or {}),
                "train_from": config.train_from,
            }  # which began with the linear probe
            valid = None
        if "fold" not in changes:
            features = train_features(learn)
    valid = valid or predict_loader(learn, dls.valid, "valid", features=True)
    if tunes and probe is not None and (told := without_gain(probe, valid)):
        say(told)
    return Fitted(learn, valid, features, config)


def _learner(dls: Any, config: TrainConfig) -> MedLearner:
    return med_learner(
        dls,
        config.arch,
        weights=config.weights,
        linear_probe=None if config.linear_probe else False,
        balance=config.balance,
        pooling=config.pooling,
        mixed_precision=config.mixed_precision,
    )


def _decided(
    config: TrainConfig, learn: MedLearner, say: Say, outline: Outline, changes: dict[str, Any]
) -> TrainConfig:
    """The settings, with what the plan decides for this training; as a killed run had decided already, if one has."""
    out, fold = Path(config.out), changes.get("fold")
    kept = distributed.from_first(lambda: read_plan(out) if (out / PLAN).is_file() else {})
    chosen = chosen_in(kept, str(out / PLAN), fold)
    here = str(out.absolute())
    if chosen is not None:
        return replace(chosen.applied(config), planned_in=here)
    loaders = loader_options(config) | changes
    chosen, candidates = decide(config, outline, learn, loaders, lambda dls: _learner(dls, config), say)
    if distributed.is_first():
        write_plan(out, chosen, candidates, table=learn.dls.table, config=config, device=learn.dls.device, fold=fold)
    return replace(chosen.applied(config), planned_in=here)


def loader_options(config: TrainConfig) -> dict[str, Any]:
    """What `MedDataLoaders.from_table` is called with."""
    return {
        "modality": config.modality,
        "aug": config.aug,
        "size": config.size,
        "resize": config.resize,
        "window": config.window,
        "frame": config.frame,
        "bs": config.bs,
        "split": config.split,
        "valid_pct": config.valid_pct,
        "seed": config.seed,
        "n_folds": config.folds,
        "cache": config.cache,
        "device": config.device,
    }


def share_right(predictions: Predictions) -> float:
    """Share of the images whose predicted label, or labels, are the actual ones."""
    return float(np.mean([a == b for a, b in zip(predictions.labels, predictions.preds, strict=True)]))


def without_gain(before: Predictions, after: Predictions) -> str:
    """What to say where fine-tuning made the linear probe's predictions no better; "" where it did."""
    shares = [share_right(one) for one in (before, after)]
    losses = [float(np.nanmean(one.losses)) for one in (before, after)]
    if shares[1] > shares[0] or (shares[1] == shares[0] and losses[1] <= losses[0]):
        return ""
    found = [f"{percent(share)} (log loss {loss:.3f})" for share, loss in zip(shares, losses, strict=True)]
    return f"Fine-tuning did not help: {found[0]} of the validation images right before it, {found[1]} after."

"""DATA -> RUN: scan, split, train, evaluate, report, bundle."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import distrib_barrier

from medclf.dataset.corrections import correct, read_corrections
from medclf.dataset.matching import left_out, match_labels
from medclf.dataset.scan import scan, with_problems
from medclf.dataset.splits import no_partition, unplaced
from medclf.files import finite, write_json
from medclf.inference.bundle import save_bundle
from medclf.learn import distributed, maps
from medclf.learn.batches import unread
from medclf.learn.callbacks import Resumable, told_in_lines
from medclf.learn.checkpoint import load_checkpoint, save_checkpoint
from medclf.learn.dataloaders import MedDataLoaders, decoding
from medclf.learn.features import image_features
from medclf.learn.learner import MedLearner, is_multi_label, med_learner
from medclf.learn.neighbours import similar_training_images
from medclf.learn.partial import training_from
from medclf.learn.precision import precision
from medclf.learn.prediction import predict_loader
from medclf.metrics.intervals import as_plain
from medclf.reporting.checklist.claim import bundle_card, with_card
from medclf.reporting.names import Names
from medclf.reporting.report import report
from medclf.results.predictions import Predictions, losses_of
from medclf.results.results import versions
from medclf.results.subgroups import check_columns, subgroups
from medclf.run.assess import Trained, link_first, policy_of, weigh
from medclf.run.budget import within_budget
from medclf.run.config import TrainConfig, check_early, check_machine
from medclf.run.evaluate import evaluate, external_facts
from medclf.run.resume import (
    CHECKPOINTS,
    RECORD,
    check_free,
    check_same,
    claimed,
    is_finished,
    located,
    read_record,
    settings_in,
    tidy,
)
from medclf.run.tables import as_table, for_followers, save_csv, save_table, table_hash

Say = Callable[[str], None]


def train(
    config: TrainConfig, say: Say = print, *, before: dict[str, Any] | None = None, going_on: bool = False
) -> Path:
    """Do the whole job and leave a RUN folder.

    Args:
        config: what to do.
        say: called with a line for the user at each step.
        before: the record of the run that this one repeats or goes on with, to compare with.
        going_on: go on where that run was killed; see `resume`.

    Returns:
        The RUN folder: run.json, table.csv, predictions.csv, results.json, report.html and bundle/.

    Raises:
        OutputError: RUN exists already, or cannot be written.
        DataError, SplitError, WeightsError: what their messages say.
    """
    check_early(config)
    if not going_on and distributed.is_first():
        check_free(config.out, config.overwrite)
    check_machine(config)
    config = located(config)
    if not distributed.is_first():
        return _follow(config)
    with claimed(config.out, overwrite=config.overwrite, resume=going_on) as out:
        start = time.perf_counter()
        begun = {"format": 1, "settings": config.as_dict(), "started": _now()}
        if not going_on:
            write_json(out / RECORD, begun)  # first of all: with it, a killed run can be gone on with
        policy_of(config)  # a rule that cannot be is said now, not after the training
        table = scan(config.data, **config.scan_kwargs(), check_pixels=decoding(**loader_options(config)))
        corrected: dict[str, Any] = {}
        if config.corrections:
            table, corrected = correct(table, read_corrections(config.corrections))
            say(corrected["sentence"])
        policy_of(config, table)
        say(f"{(table['problem'] == '').sum()} images, {(table['problem'] != '').sum()} left out")
        record = begun | start_record(table) | ({"corrections": corrected} if corrected else {})
        check_columns(table, config.subgroup or [])
        if before:
            check_same(before, record, resume=going_on)
        record["plan"] = (before or {}).get("plan") if going_on else None
        if config.budget:
            config, record["plan"] = within_budget(config, table, time.perf_counter() - start, say)
            record |= {"settings": config.as_dict()}
        write_json(out / RECORD, record)
        table, found = link_first(config, table, say)
        with distributed.group(config.device):
            distributed.from_first(lambda: {"table": for_followers(table), "settings": config.as_dict()})
        job = _cross_validate if config.split == "kfold" else _train_once
        trained = job(config, table, say)
        weighed = weigh(config, trained, found)
        predictions = weighed.predictions
        save_table(out / "table.csv", trained.learn.dls.table)
        predictions.save(out / "predictions.csv")
        save_csv(
            out / "neighbours.csv",
            similar_training_images(trained.learn, predictions.table["path"], known=weighed.features),
        )
        if weighed.found is not None:
            weighed.found.save_findings(out / "audit.csv")
        facts = weighed.facts | ({"corrections": corrected} if corrected else {})
        facts["seconds"] = round(time.perf_counter() - start, 1)
        facts |= not_measured(trained.learn.dls.table, list(trained.learn.dls.vocab))
        facts |= _by_group(config, predictions, facts["partition"])
        facts |= maps.described(trained.pictures)
        facts |= with_card(facts, config.card, config.as_dict())
        names = Names(list(predictions.table["path"]), config.hide_names)
        write_json(out / "results.json", names.scrub(finite(facts)))
        card, calibration = bundle_card(facts), weighed.calibration
        save_bundle(trained.learn, out / "bundle", overwrite=True, calibration=calibration, card=card)
        maps.save_maps(out, trained.pictures)
        if config.test:
            place = out / "evaluations" / "test" if config.hide_names else None  # else it bears the name of the folder
            page = evaluate(out, config.test, place, overwrite=True, saliency=config.saliency)
            facts["external"] = external_facts(page, out)
            facts |= with_card(facts, config.card, config.as_dict())
            write_json(out / "results.json", names.scrub(finite(facts)))
        report(out, out / "report.html", hide_names=config.hide_names, show_burned_in=config.show_burned_in)
        learn, seconds = trained.learn, round(time.perf_counter() - start, 1)
        took = {"finished": _now(), "device": str(learn.dls.device), "seconds": seconds}
        write_json(out / RECORD, record | took | {"precision": precision(learn)})
        tidy(out)
    return out


def resume(run: str | Path, say: Say = print) -> Path:
    """Go on with a run that was killed: at the epoch after the last whole one, or with what came after training.

    The finished weights are bit-identical to those of a run that was not killed, on the same machine, versions and
    threads.

    Args:
        run: the RUN folder.
        say: called with a line for the user at each step.

    Returns:
        The RUN folder; one that is finished already is left as it is.

    Raises:
        DataError: no training began there, or the data have changed since.
        BundleError: its checkpoint is damaged.
        OutputError: another process is writing to it, or it cannot be written.
    """
    record = read_record(run)
    if is_finished(record):
        say(f"{run} was finished on {record['finished']}: there is nothing to go on with")
        tidy(Path(run))
        return Path(run)
    return train(settings_in(record, out=str(run)), say, before=record, going_on=True)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: a run is a process of its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _train_once(config: TrainConfig, table: pd.DataFrame, say: Say) -> Trained:
    learn, valid, features = _fit(config, table, say)
    held_out = predict_held_out(learn)
    learn.dls.table = with_problems(learn.dls.table, learn.dls.problems)
    return Trained(learn, valid, features, held_out, pictures=maps.of_learner(learn, valid, config.saliency))


def predict_held_out(learn: MedLearner) -> list[Predictions]:
    """Predictions of the images that the data's own table holds back for test: those with labels, and those without."""
    table, vocab, several = learn.dls.table, list(learn.dls.vocab), is_multi_label(learn.dls)
    paths = [learn.dls.path / path for path in table.loc[_held_out(table), "path"]]
    if not paths:
        return []
    found = predict_loader(learn, learn.dls.test_dl(paths, problems=learn.dls.problems), "test", features=True)
    row_of = {path: row for row, path in enumerate(table["path"])}
    y = match_labels(table, vocab, several).y[[row_of[path] for path in found.table["path"]]]
    found = replace(found, y=y, losses=losses_of(y, found.probs, several))
    known = (y.reshape(len(y), -1) >= 0).any(axis=1)
    return [found.subset(part) for part in (known, ~known) if part.any()]


def _held_out(table: pd.DataFrame) -> np.ndarray:
    """(n,) which rows are of the test set."""
    return np.asarray(((table["partition"] == "test") & (table["problem"] == "")).to_numpy(bool))


def not_measured(table: pd.DataFrame, vocab: list[str]) -> dict[str, Any]:
    """What of the data no number of the run is about, for results.json and the page; {} where there is nothing."""
    several = bool(table.attrs.get("multi_label"))
    lost = left_out(match_labels(table, vocab, several), _held_out(table), vocab)
    sentences = [no_partition(table), f"Test set: {lost['sentence']}" if lost else ""]
    found = {"sentence": " ".join(filter(None, sentences)), "no_partition": len(unplaced(table)), "test": lost}
    return {"left_out": found} if found["sentence"] else {}


class Fitted(NamedTuple):
    """A learner, trained; what it predicts, and the (n, f) features of its training images; None of those of a fold."""

    learn: MedLearner
    valid: Predictions
    features: np.ndarray | None


def _fit(config: TrainConfig, table: pd.DataFrame, say: Say, **changes: Any) -> Fitted:
    """One learner, trained, or brought to where a killed run left it and trained from there.

    All processes of a launch do this together, and what they find they have in common.
    """
    with distributed.group(config.device):
        return _fit_together(config, table, say, **changes)


def _fit_together(config: TrainConfig, table: pd.DataFrame, say: Say, **changes: Any) -> Fitted:
    seed_everything(config.seed)
    dls = MedDataLoaders.from_table(table, **(loader_options(config) | changes))
    say(f"{len(dls.train_ds)} images to train on, {len(dls.valid_ds)} to validate on; labels: {', '.join(dls.vocab)}")
    learn = med_learner(
        dls,
        config.arch,
        weights=config.weights,
        linear_probe=None if config.linear_probe else False,
        mixed_precision=config.mixed_precision,
    )
    tunes = bool(config.epochs) or not learn.linear_probe
    part = f"fold-{changes['fold']}" if "fold" in changes else "model"
    kept = Path(config.out) / CHECKPOINTS / f"{part}.safetensors"
    sizes = (*config.first_sizes, config.size) if config.first_sizes else None
    valid = features = None
    with ExitStack() as scope:
        if config.train_from and tunes:  # now, since the linear probe and the last pass use what is kept
            scope.enter_context(training_from(learn, config.train_from, False if sizes else None))
        if tunes and distributed.from_first(kept.is_file):
            load_checkpoint(learn, kept)
            say(f"what {kept} holds is not done again")
        else:
            if learn.linear_probe:
                head = learn.fit_head(views=config.views)
                valid = predict_loader(learn, learn.dls.valid, "valid", features=True)
                say(f"linear probe: {head.seconds:.1f} s, {share_right(valid):.1%} of the validation images right")
            seed_everything(config.seed)  # whether the cache was warm has changed the random state
            if tunes and distributed.is_first():  # the linear probe alone is as soon done again
                save_checkpoint(learn, kept)
            distrib_barrier()
        if tunes:
            with learn.distrib_ctx(), told_in_lines(learn, say):
                learn.fine_tune(config.epochs, config.lr, size=sizes, cbs=Resumable(kept))
            valid = None
        if "fold" not in changes:
            features = train_features(learn, tuned=tunes)
    return Fitted(learn, valid or predict_loader(learn, dls.valid, "valid", features=True), features)


def train_features(learn: MedLearner, *, tuned: bool) -> np.ndarray:
    """(n, f) pooled features of the training images that can be read: the probe's own where nothing was tuned."""
    read = ~unread(learn.dls.train)
    known = None if tuned or learn.head is None else learn.head.features
    if known is not None and len(known) == read.sum():
        return known
    return np.asarray(image_features(learn.model, learn.dls.train)[0][read])


def loader_options(config: TrainConfig) -> dict[str, Any]:
    """What `MedDataLoaders.from_table` is called with."""
    return {
        "modality": config.modality,
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


def _by_group(config: TrainConfig, predictions: Predictions, partition: str) -> dict[str, Any]:
    """The section of metrics by group, of the images that are reported on."""
    if not config.subgroup:
        return {}
    reported = predictions.subset((predictions.table["partition"] == partition).to_numpy())
    return {"subgroups": as_plain(subgroups(reported, config.subgroup))}


def _follow(config: TrainConfig) -> Path:
    """What a process does that is not the first: its part of each fit, and nothing besides."""
    with distributed.group(config.device):
        told: dict[str, Any] = distributed.from_first(dict)  # a budget has changed the settings
    config, table = settings_in(told, out=config.out), as_table(told["table"])
    fits: list[dict[str, Any]] = [{}]
    if config.split == "kfold":
        fits = [*({"fold": fold} for fold in range(config.folds)), {"split": "all"}]
    for changes in fits:
        _fit(config, table, lambda _: None, **changes)
    return Path(config.out)


def _cross_validate(config: TrainConfig, table: pd.DataFrame, say: Say) -> Trained:
    """Every image predicted by the fold that did not train on it; then a network trained on all of them."""
    parts: list[Predictions] = []
    pictures: dict[str, str] = {}
    problems: dict[str, str] = {}
    for fold in range(config.folds):
        say(f"fold {fold + 1} of {config.folds}")
        learn, valid, _ = _fit(config, table, say, fold=fold)
        problems |= learn.dls.problems
        valid.table["fold"] = fold
        parts.append(replace(valid, features=None))  # of another network each
        pictures |= maps.of_learner(learn, valid, -(-config.saliency // config.folds))
    pooled = Predictions.concat(parts)
    say("all images, for the bundle")
    final, _, features = _fit(config, table, say, split="all")
    split = replace(learn.dls.settings.split, fold=None)
    folds = dict(zip(pooled.table["path"], pooled.table["fold"], strict=True))
    final.dls.settings = replace(final.dls.settings, split=split)
    held_out = predict_held_out(final)
    final.dls.table = with_problems(final.dls.table, problems | final.dls.problems)
    final.dls.table["fold"] = final.dls.table["path"].map(folds)
    return Trained(final, pooled, features, held_out, crossed=True, pictures=pictures)


def share_right(predictions: Predictions) -> float:
    """Share of the images whose predicted label, or labels, are the actual ones."""
    return float(np.mean([a == b for a, b in zip(predictions.labels, predictions.preds, strict=True)]))


def start_record(table: pd.DataFrame) -> dict[str, Any]:
    """What `run.json` holds besides the settings: versions, threads, and the hash of the data's table."""
    return {
        "root": table.attrs["root"],
        "multi_label": bool(table.attrs.get("multi_label")),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "table_sha256": table_hash(table),
    }


def _git_commit() -> str | None:
    """Of the folder that the user works in, if it is a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

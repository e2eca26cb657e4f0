"""DATA -> RUN: scan, split, train, evaluate, report, bundle."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medclf.data.loaders import MedDataLoaders
from medclf.data.table import scan
from medclf.deployment.bundle import save_bundle
from medclf.errors import OutputError
from medclf.evaluation.predictions import Predictions, predict_loader
from medclf.evaluation.results import summarize, versions
from medclf.files import write_json
from medclf.reporting.interpret import history_of
from medclf.reporting.report import report
from medclf.runs.config import TrainConfig
from medclf.runs.tables import save_table, table_hash
from medclf.training.learner import MedLearner, med_learner

Say = Callable[[str], None]


def train(config: TrainConfig, say: Say = print) -> Path:
    """Do the whole job and leave a RUN folder.

    Args:
        config: what to do.
        say: called with a line for the user at each step.

    Returns:
        The RUN folder: run.json, table.csv, predictions.csv, results.json, report.html and bundle/.

    Raises:
        OutputError: RUN exists already, or cannot be written.
        DataError, SplitError, WeightsError: what their messages say.
    """
    out = claim(Path(config.out), config.overwrite)
    start = time.perf_counter()
    seed_everything(config.seed)
    table = scan(config.data, **config.scan_kwargs())
    say(f"{(table['problem'] == '').sum()} images, {(table['problem'] != '').sum()} left out")
    record = start_record(config, table)
    write_json(out / "run.json", record)
    job = _cross_validate if config.split == "kfold" else _train_once
    learn, predictions, facts = job(config, table, say)
    save_table(out / "table.csv", learn.dls.table)
    predictions.save(out / "predictions.csv")
    facts["seconds"] = round(time.perf_counter() - start, 1)
    write_json(out / "results.json", facts)
    save_bundle(learn, out / "bundle", overwrite=True)
    write_json(out / "run.json", record | {"finished": _now(), "device": str(learn.dls.device)})
    report(out, out / "report.html", hide_names=config.hide_names)
    return out


def claim(out: Path, overwrite: bool) -> Path:
    """Make the RUN folder, or say why not.

    Raises:
        OutputError: it exists and is not to be overwritten, holds something that is no run, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise OutputError(f"{out} exists already", "choose another --out, or replace it with --overwrite")
        if not (out / "run.json").is_file():
            raise OutputError(f"{out} is not a run of medclf, so it is not overwritten", "choose another --out")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}", "choose another --out") from error
    return out


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: a run is a process of its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _train_once(config: TrainConfig, table: pd.DataFrame, say: Say) -> tuple[MedLearner, Predictions, dict[str, Any]]:
    learn = _fit(config, table, say)
    predictions = predict_loader(learn, learn.dls.valid, "valid")
    return learn, predictions, _facts(learn, predictions)


def _fit(config: TrainConfig, table: pd.DataFrame, say: Say, **changes: Any) -> MedLearner:
    """One learner, trained."""
    options = {
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
    dls = MedDataLoaders.from_table(table, **(options | changes))
    say(f"{len(dls.train_ds)} images to train on, {len(dls.valid_ds)} to validate on; labels: {', '.join(dls.vocab)}")
    learn = med_learner(dls, config.arch, weights=config.weights, head_start=None if config.head_start else False)
    if learn.head_start:
        head = learn.fit_head()
        first = predict_loader(learn, dls.valid, "valid")
        say(f"head start: {head.seconds:.1f} s, {share_right(first):.1%} of the validation images right")
    if config.epochs or not learn.head_start:
        learn.fine_tune(config.epochs, config.lr)
    return learn


def _facts(learn: MedLearner, predictions: Predictions) -> dict[str, Any]:
    return summarize(
        predictions,
        table=learn.dls.table,
        recipe=learn.recipe,
        history=history_of(learn),
        head_start=learn.head.as_dict() if learn.head else None,
    )


def _cross_validate(
    config: TrainConfig, table: pd.DataFrame, say: Say
) -> tuple[MedLearner, Predictions, dict[str, Any]]:
    """Every image predicted by the fold that did not train on it; then a network trained on all of them."""
    parts = []
    for fold in range(config.folds):
        say(f"fold {fold + 1} of {config.folds}")
        learn = _fit(config, table, say, fold=fold)
        parts.append(predict_loader(learn, learn.dls.valid, "valid"))
        parts[-1].table["fold"] = fold
    pooled = Predictions.concat(parts)
    say("all images, for the bundle")
    whole = table.assign(partition=["train" if p == "" else None for p in table["problem"]])
    final = _fit(config, whole, say, split="all")
    facts = _facts(final, pooled)
    facts["folds"] = [{"fold": i, "n": len(part), "accuracy": share_right(part)} for i, part in enumerate(parts)]
    return final, pooled, facts


def share_right(predictions: Predictions) -> float:
    """Share of the images whose predicted label, or labels, are the actual ones."""
    return float(np.mean([a == b for a, b in zip(predictions.labels, predictions.preds, strict=True)]))


def start_record(config: TrainConfig, table: pd.DataFrame) -> dict[str, Any]:
    """What `run.json` holds: settings, versions, threads, and the hash of the data's table."""
    return {
        "format": 1,
        "settings": config.as_dict(),
        "root": table.attrs["root"],
        "multi_label": bool(table.attrs.get("multi_label")),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "table_sha256": table_hash(table),
        "started": _now(),
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

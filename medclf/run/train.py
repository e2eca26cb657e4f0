"""DATA -> RUN: scan, split, train, evaluate, report, bundle."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medclf.auditing.audit import Audit, with_groups
from medclf.auditing.decisions import DecisionPolicy
from medclf.auditing.fusion import check_fields, column_names
from medclf.config import TrainConfig
from medclf.dataset.corrections import correct, read_corrections
from medclf.dataset.csv_files import save_rows
from medclf.dataset.groups import TRAINED_BEFORE
from medclf.dataset.labels import count_labels
from medclf.dataset.scan import scan
from medclf.dataset.units import check_labels, split_for_units, with_units
from medclf.errors import DataError, argument, check_known
from medclf.images.phi import withheld_among
from medclf.inference.bundle import save_bundle
from medclf.inference.runtimes import hash_in
from medclf.learn import distributed
from medclf.learn.assess import Assessment, assess
from medclf.learn.precision import precision
from medclf.learn.stores import decoding
from medclf.learn.training import MedLearner
from medclf.reporting.checklist.claim import with_card
from medclf.reporting.report import report
from medclf.reporting.view import withheld_note
from medclf.results import maps
from medclf.results.predictions import Predictions
from medclf.results.provenance import versions
from medclf.results.record import RECORD_FORMAT, now
from medclf.results.run_folder import AUDIT, EVALUATIONS, IMAGES, LABEL_ERRORS, NEIGHBOURS, OUT_OF_FOLD
from medclf.results.subgroups import check_columns
from medclf.results.wording import as_sentence, partition_name
from medclf.run.audit import audit_table
from medclf.run.config import Say, check_beside_boxes, check_early, check_machine
from medclf.run.evaluate import check_test, evaluate, external_facts
from medclf.run.fit import fit_network, follow, loader_options
from medclf.run.plan import PLAN, on_frozen_features, outlined, planned, planned_on, read_plan, reported_again
from medclf.run.resume import (
    check_free,
    check_not_emptied,
    check_resumable,
    check_same,
    claimed,
    is_finished,
    located,
    next_run,
    read_record,
    settings_in,
    started_from,
    tidy,
)
from medclf.run.run import Run
from medclf.run.tables import as_table, for_followers, table_hash
from medclf.run.tracking import tracked

LINKING = ("grouped", "kfold")  # splits that keep near-duplicates on one side


def train(
    data: TrainConfig | str | Path,
    say: Say = print,
    *,
    before: dict[str, Any] | None = None,
    going_on: bool = False,
    boxes: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Do the whole job, as `medclf train` does, and leave a RUN folder.

    Args:
        data: the folder of images or the CSV; or all settings.
        say: called with a line for the user at each step.
        before: the record of the run that this one repeats or goes on with, to compare with.
        going_on: go on where that run was killed; see `resume`.
        boxes: a file of boxes: a detector is trained. See `medclf.run.boxes.train_boxes`, whose `unlisted` and `neck`
            may be given too.
        settings: fields of `TrainConfig`; they win over those of `data`. Without `out` the RUN is the first free
            runs/DATA-N, which is said.

    Returns:
        The RUN folder: run.json, table.csv, predictions.csv, results.json, report.html and bundle/.

    Raises:
        MedclfError: there is no such setting.
        OutputError: RUN exists already, or cannot be written.
        DataError, SplitError, WeightsError: what their messages say.

    Example:
        >>> # train("images", out="RUN", modality="endoscopy", epochs=0)
    """
    if not callable(say):
        text = f"the second argument of train is called with what there is to say, and {say!r} cannot be"
        raise DataError(text, f"the RUN folder is given by name: {argument('out', say)}")
    if boxes is not None:
        from medclf.run.boxes import train_boxes

        check_beside_boxes(settings)
        own = {name: settings.pop(name) for name in ("unlisted", "neck") if name in settings}
        return train_boxes(_config_of(data, settings, say), boxes, say, **own)
    config = _config_of(data, settings, say)
    check_early(config)
    if not going_on and distributed.is_first():
        check_free(config.out, config.overwrite)
        check_not_emptied(config)
    config = planned(started_from(located(config), settings), settings)
    check_machine(config)
    if not distributed.is_first():
        return _follow(config)
    chosen_on = planned_on(config)
    with claimed(config.out, overwrite=config.overwrite, resume=going_on) as out, tracked(config) as tracking:
        start, run = time.perf_counter(), Run(out)
        begun = {"format": RECORD_FORMAT, "settings": config.as_dict(), "started": now()}
        if not going_on:
            run.write_record(begun)  # first of all: with it, a killed run can be gone on with
        policy_of(config)  # a rule that cannot be is said now, not after the training
        table, corrected = _scanned(config, say)
        config = _for_table(config, table)
        record = begun | start_record(table) | {"settings": config.as_dict()}
        record |= corrected
        of_test = check_test(config, table) if config.test else {}
        if before:
            check_same(before, record, resume=going_on)
        run.write_record(record | ({"outline": before.get("outline")} if before and going_on else {}))
        table, found = link_first(config, _trained_before(config, table, say), say)
        with distributed.group(config.device):
            distributed.from_first(lambda: {"table": for_followers(table), "settings": config.as_dict()})
            known = before.get("outline") if before and (going_on or _asks_the_same(before, config)) else None
            config, outline = outlined(config, table, time.perf_counter() - start, say, known)
        run.write_record(record | {"outline": outline and outline.as_dict()})
        learn, outputs, config = fit_network(config, table, say, outline)
        record |= {"settings": config.as_dict()}
        assessment = assess(
            learn,
            audit=found or config.audit,
            policy=policy_of(config),
            subgroups=config.subgroup or (),
            tabular=config.tabular or (),
            outputs=outputs,
            unit_answer=config.unit_answer,
        )
        again = reported_again(chosen_on, learn.dls.table, config.split)
        if again:
            say(again)
        results = assessment.results | corrected | _plan_section(run, config, again)
        results["seconds"] = round(time.perf_counter() - start, 1)
        _write(run, config, learn, assessment, results)
        if config.test:
            _add_external(run, config, results, of_test)
        report(out)
        if tracking:
            tracking.finish(run)
        _say_withheld(config, Path(table.attrs["root"]), assessment.predictions, say)
        seconds = round(time.perf_counter() - start, 1)
        record |= {"finished": now(), "device": str(learn.dls.device), "seconds": seconds}
        record |= {"bundle_hash": hash_in(out / "bundle"), "precision": precision(learn)}
        if outline and config.way == "auto":  # each fold had a plan of its own, and only this says what they tried
            record["outline"] = outline.as_dict()
        run.write_record(record)
        tidy(out)
    return out


def _asks_the_same(before: dict[str, Any], config: TrainConfig) -> bool:
    """Whether a run repeats an earlier one with its settings, so that the same is tried, on whatever machine."""
    return settings_in(before, out=config.out, overwrite=config.overwrite) == config


def _say_withheld(config: TrainConfig, root: Path, predictions: Predictions, say: Say) -> None:
    """How many pictures the page does not show although they could be read, and what shows them."""
    withheld = {} if config.show_burned_in else withheld_among(root, predictions.table["path"])
    if withheld:
        name = partition_name(str(predictions.table["partition"].iloc[0]))
        say(withheld_note(withheld, f"of {name} images"))  # the page has pictures of others, too, and counts them all


def _scanned(config: TrainConfig, say: Say) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of the data, corrected where a reader has; and the section of what was corrected."""
    table = scan(config.data, **config.scan_kwargs(), check_pixels=decoding(**loader_options(config)))
    corrected: dict[str, Any] = {}
    if config.unit:
        table = with_units(table, config.unit)
    if config.corrections:
        table, done = correct(table, read_corrections(config.corrections))
        corrected = {"corrections": done}
        say(done["sentence"])
    policy_of(config, table)
    if config.unit:
        check_labels(table)
    bad = int((table["problem"] != "").sum())
    say(f"{len(table) - bad} images" + (f"; {bad} more {'is' if bad == 1 else 'are'} left out" if bad else ""))
    return table, corrected


def _for_table(config: TrainConfig, table: pd.DataFrame) -> TrainConfig:
    """The settings as they are of this table.

    Raises:
        DataError: it lacks a column that they name, or a column is of no use.
    """
    check_columns(table, config.subgroup or [])
    check_fields(table, column_names(config.tabular or ()))
    return replace(config, split=split_for_units(table, config.split)) if config.unit else config


def _trained_before(config: TrainConfig, table: pd.DataFrame, say: Say) -> pd.DataFrame:
    """The table, with which images the network that `from_run` holds was trained on.

    Raises:
        DataError: each image would be reported, and some were trained on.
    """
    if not config.from_run:
        return table
    earlier = Run(config.from_run).trained_on
    if not earlier:
        say(f"{config.from_run} does not say what it was trained on: scores on any of that measure memory, not skill")
    before = table["sha256"].isin(earlier) & (table["problem"] == "")
    if before.any() and config.split == "kfold":
        text = f"{argument('split', 'kfold')} reports each image, and {config.from_run} was trained on {before.sum()}"
        remedy = f"choose another {argument('split')}, or leave out {argument('from_run')}"
        raise DataError(f"{text} of {len(table)}", remedy)
    if before.any():
        say(f"{before.sum()} of {len(table)} images are training images of {config.from_run}")
    return table.assign(**{TRAINED_BEFORE: before})


def _plan_section(run: Run, config: TrainConfig, again: str) -> dict[str, Any]:
    """What results.json says of how the training was chosen, where there is something to say."""
    if (run / PLAN).is_file():
        plan = read_plan(run / PLAN)
        return {"plan": {name: plan[name] for name in ("sentence", "candidates") if name in plan}}
    if again:
        return {"plan": {"sentence": again}}
    frozen = on_frozen_features(config)
    return {"plan": {"sentence": as_sentence(frozen)}} if frozen else {}


def _write(
    run: Run,
    config: TrainConfig,
    learn: MedLearner,
    assessment: Assessment,
    results: dict[str, Any],
) -> None:
    """All files of the RUN but its page."""
    run.write_table(assessment.table)
    run.write_predictions(assessment.predictions)
    if assessment.images is not None:
        assessment.images.save(run / IMAGES)
    if assessment.neighbours is not None:
        save_rows(run / NEIGHBOURS, assessment.neighbours)
    if assessment.audit is not None:
        assessment.audit.save_findings(run / AUDIT)
    if assessment.out_of_fold is not None:
        assessment.out_of_fold.save(run / OUT_OF_FOLD)
    if assessment.labels is not None:
        save_rows(run / LABEL_ERRORS, assessment.labels.doubtful)
    results = results | with_card(results, config.card, config.as_dict())
    run.write_results(results)
    card = results.get("card", {}) | assessment.card
    save_bundle(learn, run / "bundle", calibration=assessment.calibration, card=card, overwrite=True)
    maps.save_maps(run.path, assessment.saliency)
    run.write_augmentation(assessment.augmentation)


def _add_external(run: Run, config: TrainConfig, results: dict[str, Any], of_test: dict[str, Any]) -> None:
    """Evaluate the run on `test`, and put what that found into its results."""
    place = run / EVALUATIONS / "test" if config.hide_names else None  # else it bears the name of the folder
    page = evaluate(run.path, config.test, place, overwrite=True, saliency=config.saliency, **of_test)
    results = results | {"external": external_facts(page, run.path)}
    run.write_results(results | with_card(results, config.card, config.as_dict()))


def _config_of(data: TrainConfig | str | Path, settings: dict[str, Any], say: Say) -> TrainConfig:
    check_known(settings, train, TrainConfig)
    if isinstance(data, TrainConfig):
        return replace(data, **settings)
    if not isinstance(data, (str, Path)):
        remedy = "save it as a CSV; or make loaders of it with MedDataLoaders, and train with med_learner"
        raise DataError(f"train takes a folder or a CSV, not a {type(data).__name__}", remedy)
    out = settings.get("out")
    if not out:
        out = next_run(data, hide_names=bool(settings.get("hide_names")))
        say(f"RUN: {out}")
    return TrainConfig(str(data), **{**settings, "out": str(out)})


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
        Run(run).check_counts()  # what is shown of it must be its own
        say(f"{run} was finished on {record['finished']}: there is nothing to go on with")
        tidy(Path(run))
        return Path(run)
    check_resumable(record, run)
    return train(settings_in(record, out=str(run)), say, before=record, going_on=True)


def link_first(config: TrainConfig, table: pd.DataFrame, say: Say) -> tuple[pd.DataFrame, Audit | None]:
    """Before a split that keeps linked images on one side: find them.

    Args:
        config: of the run.
        table: as `scan` returns it.
        say: called with a line for the user.

    Returns:
        The table, with a column group where near-duplicates were found, and the audit that found them; None where the
        split needs none.
    """
    if config.split not in LINKING or not config.audit:
        return table, None
    found, _ = audit_table(table, embed=False, window=config.window, frame=config.frame)
    n, images = found.clusters.nunique(), len(found.clusters)
    say(f"{images} images in {n} group{'' if n == 1 else 's'} of near-duplicates: each group stays together")
    return with_groups(found.table, found), found


def policy_of(config: TrainConfig, table: pd.DataFrame | None = None) -> DecisionPolicy:
    """What the settings ask of the decisions.

    Args:
        config: of the run.
        table: where given, its labels are looked at too.

    Raises:
        DataError: a rule, share or label that cannot be.
    """
    decide = config.decide or ("balanced" if config.balance == "logits" and not config.operating_point else None)
    policy = DecisionPolicy(config.keep_accuracy, config.positive, config.operating_point, config.prevalence, decide)
    if table is not None:
        policy.check(count_labels(table["label"]), bool(table.attrs.get("multi_label")))
    return policy


def _follow(config: TrainConfig) -> Path:
    """What a process does that is not the first: its part of each fit, and nothing besides."""
    with distributed.group(config.device):
        told: dict[str, Any] = distributed.from_first(dict)
        config, table = settings_in(told, out=config.out), as_table(told["table"])
        config, outline = outlined(config, table, 0.0, lambda _: None)
    follow(config, table, outline)
    return Path(config.out)


def start_record(table: pd.DataFrame) -> dict[str, Any]:
    """What `run.json` holds besides the settings: versions, threads, and the hash of the data's table."""
    return {
        "root": table.attrs["root"],
        "multi_label": bool(table.attrs.get("multi_label")),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
        "table_sha256": table_hash(table),
        "own_windows": table.attrs.get("own_windows", {}),
    }


def _git_commit() -> str | None:
    """Of the folder that the user works in, if it is a git repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None

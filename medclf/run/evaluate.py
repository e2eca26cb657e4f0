"""A run's bundle on other images: the same numbers and the same page."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.assess import evaluate_limits
from medclf.dataset.matching import UNKNOWN, left_out, match_labels
from medclf.dataset.scan import scan, with_problems
from medclf.errors import DataError, MedclfWarning, OutputError, ReadError, argument
from medclf.files import finite, write_json
from medclf.inference.bundle import Bundle, load_bundle
from medclf.learn import maps
from medclf.metrics.intervals import as_plain
from medclf.metrics.thresholds import OperatingPoint
from medclf.progress import watch
from medclf.reporting.names import Names
from medclf.reporting.report import report
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions, losses_of
from medclf.results.results import leak_free, short_metrics, summarize
from medclf.results.subgroups import check_columns, subgroups
from medclf.run.predict import find_bundle
from medclf.run.tables import run_settings, save_table, table_hash


def evaluate(
    run: str | Path,
    data: Any,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    subgroup: Sequence[str] = (),
    saliency: int = maps.LIMIT,
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
    **scan_kwargs: Any,
) -> Path:
    """Evaluate a run's bundle on other labelled images.

    Args:
        run: a RUN folder, or a bundle.
        data: what `scan` takes: a folder, a CSV, a DataFrame.
        out: folder for table.csv, predictions.csv, results.json and report.html; where None, in RUN/evaluations.
        overwrite: replace what `out` holds.
        subgroup: columns of the table to give the metrics by; see `medclf.results.subgroups`.
        saliency: images of the report that get a map of where the network looked, the errors first.
        hide_names, show_burned_in: see `report`; as the run was made where None.
        scan_kwargs: of `scan`.

    Returns:
        The folder.

    Raises:
        OutputError: `out` exists.
        DataError: no image carries a label that the bundle knows.
        BundleError: the bundle is damaged, changed, or of another version.
    """
    run = Path(run)
    bundle = load_bundle(find_bundle(run))
    out = Path(out) if out else run / "evaluations" / (Path(data).stem if isinstance(data, (str, Path)) else "data")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise OutputError(
            f"{out} exists already",
            f"choose another {argument('out')}, or replace it with {argument('overwrite', True)}",
        )
    table = scan(data, **scan_kwargs)
    check_columns(table, subgroup)
    predictions, table, missing = predict_table(bundle, table)
    facts = summarize(predictions, partition="test", table=table.assign(partition="test"), recipe=bundle.spec.as_dict())
    facts |= {"subgroups": as_plain(subgroups(predictions, subgroup))} if subgroup else {}
    facts |= {"left_out": missing} if missing else {}
    calibration = Calibration.from_dict(bundle.calibration, multi_label=bundle.multi_label)
    facts |= evaluate_limits(predictions, calibration, _points(calibration, run))
    leak = leak_free(predictions, _trained_on(run, predictions), np.zeros(len(predictions), bool), facts)
    facts |= {"leak_free": leak} if leak else {}
    save_table(out / "table.csv", table)
    predictions.save(out / "predictions.csv")
    explain = partial(_maps, bundle)
    pictures = maps.map_pictures(predictions, Path(table.attrs["root"]), explain, bundle.preprocessing, saliency)
    maps.save_maps(out, pictures)
    settings = run_settings(run)
    hidden = bool(settings.get("hide_names")) if hide_names is None else hide_names
    shown = bool(settings.get("show_burned_in")) if show_burned_in is None else show_burned_in
    names = Names(list(predictions.table["path"]), hidden)
    write_json(out / "results.json", names.scrub(finite(facts | maps.described(pictures))))
    record = {
        "format": 1,
        "bundle": str(run),
        "root": table.attrs["root"],
        "multi_label": predictions.multi_label,
    }
    write_json(out / "run.json", record | {"table_sha256": table_hash(table)})
    report(out, out / "report.html", hide_names=hidden, show_burned_in=shown)
    return out


def _maps(bundle: Bundle, files: Sequence[Path], labels: Sequence[str]) -> list[np.ndarray]:
    return [bundle.saliency(file, label) for file, label in zip(files, labels, strict=True)]


def predict_table(bundle: Any, table: pd.DataFrame) -> tuple[Predictions, pd.DataFrame, dict[str, Any]]:
    """Predict the usable, labelled images of a table with a bundle.

    Returns:
        The predictions; the table with the problems of images that are not among them, since the bundle does not know
        their label or they could not be read again; and what is not measured, see `left_out`.

    Raises:
        DataError: no image carries a label that the bundle knows, or none could be read.
    """
    matched = match_labels(table, bundle.vocab, bundle.multi_label)
    usable = (table["problem"] == "").to_numpy()
    missing = left_out(matched, usable, bundle.vocab)
    rows = np.flatnonzero(usable & matched.known)
    if not len(rows):
        said = missing.get("sentence", "No image can be read.")
        known = ", ".join(bundle.vocab)
        raise DataError(
            f"no image carries a label of the bundle ({known}). {said}",
            f"give their labels with {argument('labels', 'labels.csv')}",
        )
    if missing:
        warnings.warn(MedclfWarning(missing["sentence"]), stacklevel=2)
    root = Path(table.attrs["root"])
    table = with_problems(
        table,
        {str(root / path): reason for path, reason in zip(table["path"], matched.reasons, strict=True) if reason},
    )
    paths = [root / path for path in table["path"].iloc[rows]]
    answers = list(watch(bundle.predict_stream(paths), len(paths), "Predicting"))
    broken = {str(p): a.problem for p, a in zip(paths, answers, strict=True) if isinstance(a, ReadError)}
    if broken:
        table = with_problems(table, broken)
        text = f"{len(broken)} images could be scanned and not be read again: {', '.join(list(broken)[:5])}"
        warnings.warn(MedclfWarning(text), stacklevel=2)
        rows = rows[[str(path) not in broken for path in paths]]
        answers = [answer for answer in answers if not isinstance(answer, ReadError)]
    if not answers:
        raise DataError(f"none of {len(broken)} images could be read", "see their problems with medclf scan")
    probs = np.array([[answer.probs[label] for label in bundle.vocab] for answer in answers])
    y, used = matched.y[rows], table.iloc[rows].reset_index(drop=True).drop(columns=["label", UNKNOWN], errors="ignore")
    if bundle.calibration.get("abstain") or bundle.calibration.get("ood"):
        used["flags"] = ["|".join(answer.flags) for answer in answers]
    losses = losses_of(y, probs, bundle.multi_label)
    return Predictions(list(bundle.vocab), bundle.multi_label, y, probs, losses, used), table, missing


def external_facts(folder: Path, run: Path) -> list[dict[str, Any]]:
    """What an evaluation says, for the results of the run that it is one of.

    Args:
        folder: that `evaluate` made.
        run: the RUN folder.

    Returns:
        One row: images, n, the metrics, and the page.
    """
    facts = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    page = (folder / "report.html").relative_to(run).as_posix() if folder.is_relative_to(run) else folder.name
    missing = {"left_out": facts["left_out"]["sentence"]} if facts.get("left_out") else {}
    return [{"images": folder.name, "n": facts["n"], **missing, **short_metrics(facts), "page": page}]


def _points(calibration: Calibration, run: Path) -> dict[str, OperatingPoint] | None:
    """The thresholds that the run's report shows, where the bundle decides by none."""
    results = run / "results.json"
    if calibration.thresholds or not results.is_file():
        return None
    facts = json.loads(results.read_text(encoding="utf-8")).get("operating_point", {})
    rows = [facts] if "label" in facts else facts.values()
    return {
        row["label"]: OperatingPoint(row["threshold"], row["by"], row["wish"]) for row in rows if "threshold" in row
    }


def _trained_on(run: Path, predictions: Predictions) -> np.ndarray:
    """(n,) whether each image's file is one of the run's training images; all False where the run's table is gone."""
    table = run / "table.csv"
    if not table.is_file() or "sha256" not in predictions.table:
        return np.zeros(len(predictions), bool)
    rows = pd.read_csv(table, usecols=["sha256", "partition"], dtype=str)
    return np.asarray(
        predictions.table["sha256"].isin(set(rows.loc[rows["partition"] == "train", "sha256"])).to_numpy(bool)
    )


def load_run(run: str | Path) -> tuple[dict[str, Any], Predictions]:
    """results.json and predictions.csv of a run.

    Raises:
        DataError: the folder is no run.
    """
    run = Path(run)
    if not (run / "results.json").is_file():
        raise DataError(
            f"{run} is not a RUN folder: it has no results.json",
            f"give the folder that a training made ({argument('out')})",
        )
    facts = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return facts, Predictions.load(run / "predictions.csv", facts["vocab"], facts["task"] == "multi-label")

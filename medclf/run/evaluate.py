"""A run's bundle on other images: the same numbers and the same page."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.assess import apply_calibration, chosen_in_training, evaluate_limits
from medclf.config import TrainConfig
from medclf.dataset.choice import merged, merges_in
from medclf.dataset.csv_reading import read_csv
from medclf.dataset.kinds import other_windows
from medclf.dataset.labels import count_labels, objects, usable
from medclf.dataset.matching import UNKNOWN, left_out, match_labels
from medclf.dataset.scan import note, scan, scanned_already, with_problems
from medclf.dataset.units import with_units
from medclf.errors import DataError, MedclfWarning, OutputError, ReadError, argument, check_known
from medclf.files import refuse_to_replace, writing
from medclf.images.preprocessing import Preprocessing
from medclf.images.windowing import resolve_window
from medclf.inference.bundle import Bundle
from medclf.learn.units import unit_rows, units_section
from medclf.metrics.intervals import as_plain
from medclf.metrics.logits import to_probs
from medclf.models.tabular import NEW_FIELDS
from medclf.progress import watch
from medclf.reporting.report import report
from medclf.results import maps
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions, losses_of
from medclf.results.record import RECORD, RECORD_FORMAT
from medclf.results.results import leak_free, short_metrics, summarize
from medclf.results.run_folder import EVALUATIONS, IMAGES, PAGE, RESULTS
from medclf.results.subgroups import check_columns, subgroups
from medclf.results.units import by_unit
from medclf.run.run import Run
from medclf.run.tables import table_hash


def evaluate(
    run: str | Path,
    data: Any,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    subgroup: Sequence[str] | str = (),
    saliency: int = maps.LIMIT,
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
    **scan_kwargs: Any,
) -> Run:
    """Evaluate a run's bundle on other labelled images.

    Args:
        run: a RUN folder, or a bundle.
        data: what `scan` takes: a folder, a CSV, a DataFrame; or the table that `scan` gave.
        out: folder for table.csv, predictions.csv, results.json and report.html; in RUN/evaluations where None; a
            bundle that lies in no RUN needs one.
        overwrite: replace what `out` holds.
        subgroup: columns of the table to give the metrics by; see `medclf.results.subgroups`.
        saliency: images of the report that get a map of where the network looked, the errors first.
        hide_names, show_burned_in: see `report`; as the run was made where None.
        scan_kwargs: of `scan`.

    Returns:
        The folder that was made: a `Run` without a bundle of its own.

    Raises:
        OutputError: `out` exists, or is to be overwritten and holds something else than an evaluation.
        DataError: no image carries a label that the bundle knows.
        BundleError: the bundle is damaged, changed, or of another version.
    """
    check_known(scan_kwargs, evaluate, scan)
    origin = _run_of(run)
    bundle = origin.bundle
    out = Path(out) if out else _place_in(origin, data)
    _check_place(out, overwrite)
    settings = {"hide_names": hide_names, "show_burned_in": show_burned_in}
    shown = {name: _asked(origin, name) if given is None else given for name, given in settings.items()}
    calibration = Calibration.from_dict(bundle.calibration, multi_label=bundle.multi_label)
    trained_on = origin.trained_on
    chosen = chosen_in_training(origin.results) if (origin / RESULTS).is_file() else {}
    table = _scanned(origin, data, scan_kwargs)
    subgroup = [subgroup] if isinstance(subgroup, str) else subgroup
    check_columns(table, subgroup)
    table = table if calibration.unit is None else with_units(table, calibration.unit.unit)
    predictions, table, missing = predict_table(bundle, table)
    units = None if calibration.unit is None else by_unit(predictions, calibration.unit)
    if units is not None and calibration.unit is not None:
        units = units.decided_by(calibration.unit, apply_calibration(units.units, calibration))
        predictions = units.units
    shown_as, spec = table.assign(partition="test"), bundle.spec.as_dict()
    results: dict[str, Any] = {**summarize(predictions, partition="test", table=shown_as, recipe=spec)}
    results |= {"subgroups": as_plain(subgroups(predictions, subgroup))} if subgroup else {}
    results |= {"left_out": missing} if missing else {}
    results |= evaluate_limits(predictions, calibration, **chosen)
    images = predictions if units is None else units.images
    copies = np.array([digest in trained_on for digest in objects(images.table, "sha256")], bool)
    if units is not None and calibration.unit is not None:
        results["units"] = units_section([units], calibration.unit, table) | unit_rows(predictions, units)
        copies = units.any_of(copies)
    leak = leak_free(predictions, [copies], results)
    results |= {"leak_free": leak} if leak else {}
    explain, root = partial(_maps, bundle), Path(table.attrs["root"])
    pictures = maps.map_pictures(predictions, root, explain, bundle.preprocessing, saliency)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    made = Run(out)
    record = {"format": RECORD_FORMAT, "bundle": str(origin.path), "root": table.attrs["root"], **shown}
    made.write_record(record | {"multi_label": predictions.multi_label, "table_sha256": table_hash(table)})
    made.write_table(table)
    made.write_predictions(predictions)
    (made / IMAGES).unlink(missing_ok=True)  # of an earlier evaluation by unit
    if units is not None:
        units.images.save(made / IMAGES)
    maps.save_maps(out, pictures)
    made.write_results(results | maps.described(pictures))
    report(out)
    return Run(out)


def _scanned(origin: Run, data: Any, scan_kwargs: dict[str, Any]) -> pd.DataFrame:
    """The table of the images, which are read as those that the bundle was trained on."""
    how = origin.bundle.preprocessing
    table = scanned_already(data, scan_kwargs, how.frame)
    if table is None:
        asked = with_flags(scan_kwargs, origin.bundle)
        table = scan(data, **{**asked, **as_trained(how, asked)})
    for text in (said := other_windows(origin.own_windows, table.attrs.get("own_windows", {}))):
        warnings.warn(MedclfWarning(text), stacklevel=3)
    note(table, *said)
    return table


def _run_of(path: str | Path) -> Run:
    """The RUN, also where the bundle in it is named: it knows what the bundle was trained on."""
    run = Run(path)
    inside = run.path.name == "bundle" and (run.path.parent / RECORD).is_file()
    return Run(run.path.parent) if inside else run


def with_flags(given: Mapping[str, Any], bundle: Any) -> dict[str, Any]:
    """What `scan` is told, where one column has the name of one of several labels: it holds 0 and 1.

    A list of one column is that column, as for a training.
    """
    column = given.get("label_col")
    if not bundle.multi_label and isinstance(column, list) and len(column) == 1:
        return {**given, "label_col": column[0]}
    one = bundle.multi_label and isinstance(column, str) and column in bundle.vocab
    return {**given, "label_col": [column]} if one else {**given}


def _place_in(origin: Run, data: Any) -> Path:
    """Where the evaluation of these data lies in a RUN.

    Raises:
        OutputError: it is a bundle alone, into which nothing is written.
    """
    if not (origin / RECORD).is_file():
        text = f"{origin.path} is a bundle, and an evaluation is not written into it"
        raise OutputError(text, f"choose a folder: {argument('out', 'EVALUATION')}")
    return origin / EVALUATIONS / (Path(data).stem if isinstance(data, (str, Path)) else "data")


def _check_place(out: Path, overwrite: bool) -> None:
    """See that an evaluation may be written there: the place is free, or holds an evaluation that may be replaced.

    Raises:
        OutputError: something else is there, such as the RUN itself.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    refuse_to_replace(out, overwrite)
    if out.exists() and not ((out / RECORD).is_file() and "bundle" in Run(out).record):
        text = f"{out} holds something else than an evaluation, so it is not overwritten"
        raise OutputError(text, f"choose another {argument('out')}")


def as_trained(how: Preprocessing, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `scan` is told of frame and window: a bundle reads files as it was trained to.

    Raises:
        DataError: another window or frame was asked for; but for frame="all", of which each is an image.
    """
    frame, window = given.get("frame", how.frame), given.get("window", how.window)
    same = {"frame": frame in (how.frame, "all"), "window": resolve_window(window) == resolve_window(how.window)}
    for name in (name for name, is_so in same.items() if not is_so):
        text = f"{argument(name)} goes against the model, which reads files as it was trained to"
        raise DataError(text, "leave it out")
    return {"frame": frame, "window": how.window}


def as_test(config: TrainConfig) -> dict[str, Any]:
    """What `scan` is told of the images of `test`: they are read as the data are, as far as they are given alike.

    Columns are those of a table, so a folder takes none. Only rows that meet the conditions count where the test has
    their columns. Which labels are merged or dropped, `check_test` finds out.
    """
    given = config.scan_kwargs()
    names = ["label_delim", "label_from_parent", "follow_links", "strict"]
    names += ["frame"] if given["frame"] == "all" else []  # else the bundle says it
    if not Path(str(config.test)).is_dir():
        names += ["path_col", "label_col", "patient_col", "exclusive", "uncertain", "blank"]
        names.remove("label_from_parent")
    asked = {name: given[name] for name in names}
    if given["where"] and "path_col" in asked:
        columns = [*read_csv(Path(str(config.test)))]
        asked["where"] = [one for one in given["where"] if re.split("!?=", one)[0].strip() in columns]
    return asked


def check_test(config: TrainConfig, table: pd.DataFrame) -> dict[str, Any]:
    """See before the training that the images of `test` can be measured by a model of the table's labels.

    Returns:
        What `scan` is told of them: as `as_test`, and which of their labels are merged or dropped.

    Raises:
        DataError: they cannot be read, or none has one of the labels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)  # told when they are evaluated
        try:
            asked = as_test(config)
            test = scan(config.test, check_pixels=False, progress=False, **asked)
        except DataError as error:
            text = f"{argument('test', str(config.test))} is read as the data are: {error.message}"
            remedy = error.remedy.replace(argument("labels", "labels.csv"), argument("test", "labels.csv"))
            raise DataError(text, remedy) from error
    given, several = config.scan_kwargs(), bool(table.attrs.get("multi_label"))
    if merge := merges_in(given["merge"] or (), count_labels(test["label"])):
        asked["merge"] = merge
        test["label"] = pd.Series(merged(objects(test, "label"), merge), dtype=object)
    if several:  # images of one label, which is dropped, are left out anyway
        asked["drop"] = [label for label in given["drop"] or () if label in count_labels(test["label"])]
    vocab = sorted(count_labels(usable(table)["label"]))
    matched = match_labels(test, vocab, several)
    readable = (test["problem"] == "").to_numpy()
    if not (readable & matched.known).any():
        said = left_out(matched, readable).get("sentence", "No image can be read.")
        text = f"{argument('test', str(config.test))}: no image has a label of the data ({', '.join(vocab)}). {said}"
        raise DataError(text, "name the folders, or the labels in the CSV, as the data's")
    return asked


def _asked(origin: Run, name: str) -> bool:
    """How the run's pages were made; a bundle alone does not say."""
    return bool(getattr(origin, name)) if (origin / RECORD).is_file() else False


def _maps(bundle: Bundle, files: Sequence[Path], labels: Sequence[str]) -> list[np.ndarray]:
    return [bundle.saliency(file, label) for file, label in zip(files, labels, strict=True)]


def predict_table(bundle: Any, table: pd.DataFrame) -> tuple[Predictions, pd.DataFrame, dict[str, Any]]:
    """Predict the usable, labelled images of a table with a bundle.

    Returns:
        The predictions, not yet calibrated where the bundle answers by unit; the table with the problems of images that
        are not among them, since the bundle does not know their label or they could not be read again; and what is not
        measured, see `left_out`.

    Raises:
        DataError: no image carries a label that the bundle knows, or none could be read.
    """
    matched = match_labels(table, bundle.vocab, bundle.multi_label)
    usable = (table["problem"] == "").to_numpy()
    missing = left_out(matched, usable)
    rows = np.flatnonzero(usable & matched.known)
    if not len(rows):
        said = missing.get("sentence", "No image can be read.")
        known = ", ".join(bundle.vocab)
        raise DataError(
            f"no image carries a label of the bundle ({known}). {said}",
            f"give their labels with {argument('labels', 'labels.csv')}, or say which is which: "
            f"{argument('merge', f'{bundle.vocab[0]}=THEIRS')}",
        )
    if missing:
        warnings.warn(MedclfWarning(missing["sentence"]), stacklevel=2)
    root = Path(table.attrs["root"])
    table = with_problems(
        table,
        {str(root / path): reason for path, reason in zip(table["path"], matched.reasons, strict=True) if reason},
    )
    paths = [root / path for path in table["path"].iloc[rows]]
    fields, said = fields_of(bundle, table.iloc[rows])
    for text in said:
        warnings.warn(MedclfWarning(text), stacklevel=2)
    note(table, *said)
    raw = getattr(bundle, "unit_rule", None) is not None
    stream = bundle.outputs_stream(paths) if raw else bundle.predict_stream(paths, fields=fields)
    answers = list(watch(stream, len(paths), "Predicting"))
    broken = {str(p): a.problem for p, a in zip(paths, answers, strict=True) if isinstance(a, ReadError)}
    if broken:
        table = with_problems(table, broken)
        text = f"{len(broken)} images could be scanned and not be read again: {', '.join(list(broken)[:5])}"
        warnings.warn(MedclfWarning(text), stacklevel=2)
        rows = rows[[str(path) not in broken for path in paths]]
        answers = [answer for answer in answers if not isinstance(answer, ReadError)]
    if not answers:
        raise DataError(f"none of {len(broken)} images could be read", "see their problems with medclf scan")
    used = table.iloc[rows].reset_index(drop=True).assign(partition="test")
    used = used.drop(columns=["label", UNKNOWN], errors="ignore")
    y, multi_label = matched.y[rows], bundle.multi_label
    probs, told = _of_outputs(bundle, answers) if raw else _of_answers(bundle, answers)
    if "flags" in told:
        used["flags"] = told.pop("flags")
    losses, ordinal = losses_of(y, probs, multi_label), bundle.spec.ordinal
    found = Predictions(list(bundle.vocab), multi_label, y, probs, losses, used, ordinal=ordinal, **told)
    return found, table, missing


def _of_outputs(bundle: Any, outputs: Sequence[Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Probabilities, not yet calibrated, and features: the bundle answers by unit."""
    logits, features = (np.stack(one) for one in zip(*outputs, strict=True))
    return to_probs(logits.astype(np.float64), multi_label=bundle.multi_label), {"features": features}


def _of_answers(bundle: Any, answers: Sequence[Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Probabilities as the bundle gave them, what it decided, and its flags where it raises any."""
    probs = np.array([[answer.probs[label] for label in bundle.vocab] for answer in answers])
    rule = Calibration.from_dict(bundle.calibration, multi_label=bundle.multi_label)
    told: dict[str, Any] = {"decided": rule.decided(probs, bundle.vocab), "shift": rule.shift}
    if any(bundle.calibration.get(name) for name in ("abstain", "ood", "tabular")):
        told["flags"] = ["|".join(answer.flags) for answer in answers]
    return probs, told


def fields_of(bundle: Any, table: pd.DataFrame) -> tuple[list[dict[str, Any]] | None, list[str]]:
    """The fields that a bundle takes beside each image, from the table's columns; None where it takes none.

    Returns:
        The fields; and what is to be said: the table lacks a column, which is then unknown, or training did not have
        a category, or a number so small or great.
    """
    names = [field["name"] for field in bundle.fields]
    if not names:
        return None, []
    said = []
    if lacking := [name for name in names if name not in table]:
        said = [f"the data have no column {', '.join(map(repr, lacking))}, which the model uses: it counts as unknown"]
    columns = {name: objects(table, name) for name in names}
    fields = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    unseen = Counter(text for row in fields for text in bundle.check_fields(row))
    if unseen:
        told = ", ".join(f"{text} ({n} images)" for text, n in unseen.most_common(5))
        said.append(f"no training image has {told}: {NEW_FIELDS}")
    return fields, said


def external_facts(evaluation: Run, run: Path) -> list[dict[str, Any]]:
    """What an evaluation says, for the results of the run that it is one of.

    Args:
        evaluation: what `evaluate` made.
        run: the RUN folder.

    Returns:
        One row: images, n, the metrics, and the page.
    """
    facts, folder = evaluation.results, evaluation.path
    page = (folder / PAGE).relative_to(run).as_posix() if folder.is_relative_to(run) else folder.name
    told = {key: facts[key]["sentence"] for key in ("left_out", "leak_free") if facts.get(key)}
    return [{"images": folder.name, "n": facts["n"], **told, **short_metrics(facts), "page": page}]

"""The second read, the way back: what a reader said, how far that agrees, and what it changes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.columns import POOR
from medclf.dataset.corrections import (
    LEFT_OUT,
    MARKS,
    NEW,
    NONE,
    UNSURE,
    WRONG,
    check_marks,
    joined,
    labels_in,
    plain,
)
from medclf.dataset.csv_files import read_rows, save_rows
from medclf.dataset.csv_reading import read_csv
from medclf.errors import DataError
from medclf.files import write_json
from medclf.metrics.agreement import cohen_kappa
from medclf.metrics.intervals import as_plain
from medclf.metrics.table import METRICS
from medclf.results.predictions import Predictions
from medclf.results.results import metrics_of, short_metrics
from medclf.results.wording import counted_as, partition_name
from medclf.run.review import CONFUSED, CONTROL, FOLDER, SUSPECT
from medclf.run.run import Run
from medclf.run.terminal import written


def import_review(run: str | Path, sheet: str | Path, *, n_boot: int = 2000) -> dict[str, Any]:
    """Read a sheet that came back: agreement, the numbers before and after, and corrections to train with.

    Writes RUN/review/NAME.json and RUN/review/NAME-corrections.csv, NAME being the sheet's.

    Args:
        run: the RUN folder that the sheet was exported from, or whose report page gave the review.csv.
        sheet: a sheet of `export_review` filled in; or a review.csv of the report page, whose reader saw the labels, so
            that no agreement is counted.
        n_boot: bootstrap resamples.

    Returns:
        What the JSON holds: n_read, agreement (kappa of reader and label, and of reader and model, as metrics),
        before and after (metrics), disagreements, and sentences.

    Raises:
        DataError: a sheet of another run, an unknown label or mark, an image twice, or nothing filled in.
        OutputError: RUN/review cannot be written.
    """
    sheet, source = Path(sheet), Run(run)
    run, results, predictions = source.path, source.results, source.judged
    frame = read_csv(sheet)
    blinded = "item" in frame
    read = _from_sheet(run, sheet, frame, predictions) if blinded else _from_page(run, sheet, frame, predictions)
    if not ((read["said"] != "") | (read["mark"] != "")).any():
        how = "fill in its column label" if blinded else "mark images in the report page, and download it again"
        raise DataError(f"{sheet} is not filled in: no image has a label or a mark", how)
    found: dict[str, Any] = {"sheet": sheet.name, "n_items": len(read), "n_read": int((read["said"] != "").sum())}
    if blinded:
        found |= {"n_removed": read.attrs["removed"], "agreement": as_plain(_agreement(read, predictions, n_boot))}
    corrections = _corrections(read)
    partition = str(results.get("partition") or "")
    found |= as_plain(_rescored(predictions, corrections, partition, n_boot))
    changed = corrections[corrections["mark"] == NEW]
    found["disagreements"] = changed[["path", "label", "new_label"]].to_dict("records")
    found["n_poor"] = int((corrections["mark"] == POOR).sum())
    found["n_wrong"] = int((corrections["mark"] == WRONG).sum())
    found["sentences"] = list(_sentences(found, partition, blinded))
    save_rows(run / FOLDER / f"{sheet.stem}-corrections.csv", _for_spreadsheets(corrections))
    write_json(run / FOLDER / f"{sheet.stem}.json", found)
    return found


def _from_sheet(run: Path, sheet: Path, frame: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """row, path, label, pred, why, said, mark and note of each item that is in the sheet."""
    items = plain(frame, "item")
    twice = [item for item, times in Counter(items).items() if times > 1]
    if twice:
        raise DataError(f"{sheet}: the item {twice[0]} is there {items.count(twice[0])} times", "keep one row an item")
    names = {item.rpartition("-")[0] for item in items}
    name = next(iter(names), "")
    key_file = run / FOLDER / f"key-{name}.csv"
    if len(names) != 1 or not name.isalnum() or not key_file.is_file():
        raise DataError(
            f"{sheet} is not a sheet of {run}: no key holds its items ({', '.join(items[:2])}...)",
            "give the RUN that medclf review export made it from",
        )
    key = read_rows(key_file, ("item", "path", "label", "pred", "why")).set_index("item")
    strange = [item for item in items if item not in key.index]
    if strange:
        raise DataError(f"{sheet}: the item {strange[0]} is not in its key, {key_file}", "was an item's name changed?")
    read = key.loc[items].reset_index()
    read["row"] = _rows_of(read["path"], predictions, sheet)
    said = [
        _label(text, predictions, f"{sheet}, {item}") for item, text in zip(items, plain(frame, "label"), strict=True)
    ]
    read = read.assign(said=said, mark=plain(frame, "mark"), note=plain(frame, "note"), new_label=said)
    read.attrs["removed"] = len(key) - len(read)
    check_marks(read[["path", "mark", "new_label"]], sheet)
    return read


def _from_page(run: Path, sheet: Path, frame: pd.DataFrame, predictions: Predictions) -> pd.DataFrame:
    """The same of a review.csv of the report page; "said" is the new label, where one was given."""
    paths = predictions.table["path"].tolist()
    if "path" not in frame and "row" in frame:  # a page that hides names
        numbers = [int(text) if text.isdigit() else 0 for text in plain(frame, "row")]
        bad = [place for place, number in enumerate(numbers, 1) if not 1 <= number <= len(paths)]
        if bad:
            raise DataError(f"{sheet}, row {bad[0]}: the run has no such row", f"{run} has {len(paths)} images")
        frame = frame.assign(path=[paths[number - 1] for number in numbers])
    missing = [column for column in ("path", "label", "mark", "new_label") if column not in frame]
    if missing:
        raise DataError(
            f"{sheet} has no column '{missing[0]}'", "give a sheet of medclf review export, or a review.csv"
        )
    read = pd.DataFrame({column: plain(frame, column) for column in ("path", "label", "mark", "new_label", "note")})
    check_marks(read, sheet)
    read["row"] = _rows_of(read["path"], predictions, sheet)
    all_labels = predictions.labels
    labels = [all_labels[row] for row in read["row"]]
    for path, then, now in zip(read["path"], read["label"], labels, strict=True):
        if then and labels_in(then, predictions.multi_label) != labels_in(now, predictions.multi_label):
            raise DataError(f"{sheet}: {path} had the label '{then}', the run has '{now}'", "is it of another run?")
    said = [
        _label(text, predictions, f"{sheet}, {path}")
        for path, text in zip(read["path"], read["new_label"], strict=True)
    ]
    return read.assign(label=labels, said=said, why="marked")


def _rows_of(paths: Any, predictions: Predictions, sheet: Path) -> list[int]:
    place = {path: row for row, path in enumerate(predictions.table["path"])}
    strange = [path for path in paths if path not in place]
    if strange:
        raise DataError(f"{sheet}: the run has no image {strange[0]}", "is it a sheet of another run?")
    return [place[path] for path in paths]


def _label(text: str, predictions: Predictions, where: str) -> str:
    """A cell as labels of the vocabulary, joined; "" where it is blank. Case does not matter where it is clear."""
    if not text:
        return ""
    labels = labels_in(text, predictions.multi_label)
    if not labels:
        return NONE
    names = {label: label for label in predictions.vocab}
    folded = Counter(label.casefold() for label in predictions.vocab)
    names |= {label.casefold(): label for label in predictions.vocab if folded[label.casefold()] == 1}
    for label in labels:
        if label not in names and label.casefold() not in names:
            raise DataError(f"{where}: the label '{label}' is unknown", f"choose of {', '.join(predictions.vocab)}")
    return joined(tuple(sorted(names.get(label) or names[label.casefold()] for label in labels)))


def _sorted(label: str) -> str:
    """Labels in one order, so that sets can be compared as text."""
    return "|".join(sorted(part for part in str(label).split("|") if part)) or NONE


def _agreement(read: pd.DataFrame, predictions: Predictions, n_boot: int) -> dict[str, Any]:
    """Kappa of the reader with the labels and with the model, over the images that were read and are not poor."""
    used = read[(read["said"] != "") & (read["mark"] != POOR)]
    groups = predictions.groups
    normal = _sorted if predictions.multi_label else str

    def kappa(rows: pd.DataFrame, other: str) -> Any:
        patients = None if groups is None else groups[rows["row"].to_numpy(int)]
        first, second = ([normal(text) for text in rows[column]] for column in (other, "said"))
        return cohen_kappa(first, second, groups=patients, n_boot=n_boot)

    found: dict[str, Any] = {"reader_and_label": kappa(used, "label"), "reader_and_model": kappa(used, "pred")}
    by_why = {why: used[used["why"] == why] for why in (SUSPECT, CONFUSED, CONTROL)}
    found["by_kind"] = {
        why: {"n": len(rows), "same_as_label": int((rows["said"].map(normal) == rows["label"].map(normal)).sum())}
        | {"kappa": kappa(rows, "label")}
        for why, rows in by_why.items()
        if len(rows)
    }
    if predictions.multi_label:
        held = {column: [set(str(text).split("|")) for text in used[column]] for column in ("label", "said")}
        found["by_label"] = {
            label: cohen_kappa(*([label in labels for labels in held[c]] for c in ("label", "said")), n_boot=n_boot)
            for label in predictions.vocab
        }
    return found


def _corrections(read: pd.DataFrame) -> pd.DataFrame:
    """What to change, as `medclf.dataset.corrections` reads it: other labels, poor images, unsure ones."""
    rows = []
    for item in read.to_dict("records"):
        other = item["said"] != "" and _sorted(item["said"]) != _sorted(item["label"])
        mark = item["mark"] if item["mark"] in (POOR, UNSURE) else NEW if other else item["mark"]
        if mark in MARKS and not (mark == NEW and not other):
            rows.append([item["path"], item["label"], mark, item["said"] if other else "", item["note"]])
    return pd.DataFrame(rows, columns=["path", "label", "mark", "new_label", "note"])


def _rescored(predictions: Predictions, corrections: pd.DataFrame, partition: str, n_boot: int) -> dict[str, Any]:
    """The metrics with the labels as they were, and with the corrections."""
    place = {path: row for row, path in enumerate(predictions.table["path"])}
    y, left_out = np.array(predictions.y), np.zeros(len(predictions), bool)
    codes = {label: code for code, label in enumerate(predictions.vocab)}
    for path, _, mark, new_label, _ in corrections.itertuples(index=False):
        left_out[place[path]] = mark in LEFT_OUT
        if mark == NEW:
            names = labels_in(new_label, predictions.multi_label)
            now = [label in names for label in predictions.vocab] if predictions.multi_label else codes[names[0]]
            y[place[path]] = now
    known = predictions.known
    if "partition" in predictions.table and (predictions.table["partition"] == partition).any():
        known &= (predictions.table["partition"] == partition).to_numpy()

    def scores(labels: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        found = metrics_of(replace(predictions, y=labels).subset(rows), n_boot)
        return {"n": int(rows.sum())} | short_metrics(found)

    return {"before": scores(np.array(predictions.y), known), "after": scores(y, known & ~left_out)}


_KINDS = {SUSPECT: "doubtful labels", CONFUSED: "errors", CONTROL: "controls, classified correctly"}


def _sentences(found: dict[str, Any], partition: str, blinded: bool) -> Iterator[str]:
    yield f"{found['n_read']} of {found['n_items']} images have a label of the second reader."
    if blinded:
        if removed := found["n_removed"]:
            is_or_are = "is" if removed == 1 else "are"
            yield f"{removed} {counted_as(None, removed)} of the exported sheet {is_or_are} not in it."
        agreement = found["agreement"]
        yield f"Cohen's kappa of reader and label: {written(agreement['reader_and_label'])}."
        yield f"Cohen's kappa of reader and model: {written(agreement['reader_and_model'])}."
        for why, row in agreement["by_kind"].items():
            agreed = f"the reader agrees with the label of {row['same_as_label']} of {row['n']} images."
            yield f"  {_KINDS.get(why, why)}: {agreed}"
        yield "The images were chosen to be hard, so kappa is lower here than it would be on all of them."
    else:
        yield "The reader saw the labels and the predictions, so no agreement is counted."
    changed, poor = len(found["disagreements"]), found["n_poor"]
    labels = f"{changed} label{'' if changed == 1 else 's'} would change"
    yield f"{labels}, {poor} poor {counted_as(None, poor)} would be left out."
    if wrong := found["n_wrong"]:
        yield f"{wrong} {counted_as(None, wrong)} with a wrong label and no other would be left out, too."
    n, left = (found[when]["n"] for when in ("before", "after"))
    if n > left:
        yield f"The numbers before are of {n} {partition_name(partition)} images, those after of the {left} that stay."
    for key in short_metrics(found["before"]):
        before, after = (written(found[when][key]) for when in ("before", "after"))
        yield f"  {METRICS[key].name} on {partition_name(partition)} images: {before} before, {after} after"
    yield (
        "Mostly images that the model got wrong were read, so changes favour the model: the number after is an upper "
        "bound, not a fair estimate."
    )


def _for_spreadsheets(rows: pd.DataFrame) -> pd.DataFrame:
    """Cells that a spreadsheet would take for a formula get a `'`, as the report page writes them."""
    return rows.map(lambda text: f"'{text}" if str(text)[:1] in tuple("=+-@\t\r") else text)


def show_review(run: str | Path, sheet: str | Path) -> list[str]:
    """Import a sheet and say what it holds, for the terminal."""
    folder, stem = Path(run) / FOLDER, Path(sheet).stem
    corrections, facts = folder / f"{stem}-corrections.csv", folder / f"{stem}.json"
    again = facts.is_file()
    found = import_review(run, sheet)
    words = ["medclf", "train", "--config", str(run), "--out", "NEW", "--corrections", str(corrections)]
    return [
        *found["sentences"],
        f"facts: {facts}",
        *(
            [f"They replace those of an earlier sheet named {stem}: rename one of two readers' sheets."]
            if again
            else []
        ),
        f"to train with it: {shlex.join(words)}",
    ]

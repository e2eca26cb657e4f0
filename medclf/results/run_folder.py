"""A RUN folder: what lies in it, read and written in one place."""

from __future__ import annotations

import base64
import contextlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.csv_files import read_rows, save_rows, with_types
from medclf.dataset.labels import NO_FINDING, label_set
from medclf.dataset.matching import UNKNOWN
from medclf.dataset.scan import file_hash
from medclf.display import Shown
from medclf.errors import DataError, MedclfWarning, PreprocessingError, ReadError, by_road, missing
from medclf.files import finite, replacing, write_json
from medclf.images.phi import Pictures, Reader
from medclf.images.preprocessing import Preprocessing
from medclf.metrics.prevalence import PrevalenceShift, shift_in
from medclf.results.names import Names
from medclf.results.predictions import Predictions
from medclf.results.record import RECORD, read_record, to_resume
from medclf.results.schema import read_results
from medclf.results.wording import metrics_frame, summary

RESULTS, PREDICTIONS, TABLE = "results.json", "predictions.csv", "table.csv"
NEIGHBOURS, AUDIT, SALIENCY = "neighbours.csv", "audit.csv", "saliency.json"
AUGMENTATION = "augmentation.jpg"
IMAGES = "images.csv"
OUT_OF_FOLD, LABEL_ERRORS = "out_of_fold.csv", "label_errors.csv"
PAGE, EVALUATIONS = "report.html", "evaluations"
_JPEG = "data:image/jpeg;base64,"
_BOTH = "restore both from one copy, or make the run again"
_BUNDLE = ("bundle.json", "detector.json")  # one of them is in each bundle
_FOLDER = "give the folder that a training or an evaluation made"


class RunFolder(Shown, os.PathLike[str]):
    """The folder that `medclf train` made, or one that `evaluate` made; each file is read when first asked for.

    Every property raises a `DataError` that names the file where it is missing, damaged, or of a later medclf.

    Args:
        path: the folder.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise DataError(f"a RUN folder is given by its path, and this is a {type(path).__name__}", _FOLDER)
        self.path = Path(path)
        if not self.path.is_dir():
            raise DataError(*missing(self.path, _FOLDER))

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _shown(self) -> tuple[str, dict[str, Any], pd.DataFrame | None]:
        title = f"{type(self).__name__} {self.path}"
        try:
            results, metrics = self.results, self.metrics
        except DataError as error:
            return title, {"not readable": error.message}, None
        facts = {"result": summary(results)}
        facts |= {"page": str(self / PAGE)} if (self / PAGE).is_file() else {}
        return title, facts, metrics.round(3)

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a metric: value, low, high and n; see `metrics_frame`."""
        return metrics_frame(self.results)

    @cached_property
    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        file = self._of_a_run(RESULTS)
        if not file.exists() and self.settings and not self.record.get("finished"):
            raise DataError(f"the training of {self.path} was not finished", f"go on with it: {to_resume(self.path)}")
        return read_results(file)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json holds: the settings, versions, threads, the images' folder."""
        return read_record(self._of_a_run(RECORD))

    def _of_a_run(self, name: str) -> Path:
        """The path of one of its files; a bundle's folder, which has none of them, is named as one."""
        if not (self / name).exists() and any((self / file).is_file() for file in _BUNDLE):
            text = f"{self.path} is a bundle, and has no {name}: this is asked of the RUN that the bundle is of"
            able = by_road(
                "load_bundle loads it to predict", "medclf predict, explain, evaluate, serve and export take it"
            )
            raise DataError(text, f"give the RUN folder; of a bundle, {able}")
        if not any((self / file).exists() for file in (RECORD, RESULTS)):
            raise DataError(f"{self.path} is not a RUN folder: it has no {name}", _FOLDER)
        return self / name

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was asked to do; {} for an evaluation."""
        settings: dict[str, Any] = self.record.get("settings", {})
        return settings

    @property
    def hide_names(self) -> bool:
        """Whether its pages call images by their row."""
        return self._asked("hide_names")

    @property
    def show_burned_in(self) -> bool:
        """Whether its pages show pictures that often carry the patient's name."""
        return self._asked("show_burned_in")

    def _asked(self, name: str) -> bool:
        for record in (self.record, self.settings):
            if name in record:
                return bool(record[name])
        return bool(self._origin and getattr(self._origin, name))

    @cached_property
    def _origin(self) -> RunFolder | None:
        """The run that an evaluation by medclf 0.1 is of: its own run.json does not say how its page was made."""
        if "bundle" not in self.record:
            return None
        places = (self.path.absolute().parent.parent, Path(self.record["bundle"]))
        return next((RunFolder(place) for place in places if (place / RECORD).is_file()), None)

    @cached_property
    def predictions(self) -> Predictions:
        """What predictions.csv holds."""
        results = self.results
        found = Predictions.load(
            self / PREDICTIONS, results["vocab"], results["task"] == "multi-label", bool(results.get("ordinal"))
        )
        known = found.known
        inside = (found.table.get("partition", "") == results.get("partition")).to_numpy() if len(found) else known
        n = int(known.sum())
        if results["n"] not in (n, int((known & inside).sum())):
            text = f"{self / PREDICTIONS} has {n} images with a known label; {RESULTS} speaks of {results['n']}"
            raise DataError(text, _BOTH)
        return replace(found, shift=self._shift)

    @property
    def _shift(self) -> PrevalenceShift | None:
        return shift_in((self.results.get("calibration") or {}).get("prevalence"))

    def check_counts(self) -> None:
        """See that predictions.csv holds the errors that results.json counts, before a page shows both.

        Raises:
            DataError: it holds others.
        """
        found, results = self.predictions, self.results
        rows = found.known
        if results["n"] != rows.sum():
            rows = rows & (found.table["partition"] == results["partition"]).to_numpy()
        counted = _matrix(found, rows)
        if counted is not None and results.get("confusion_matrix", counted) != counted:
            raise DataError(f"{self / PREDICTIONS} and {RESULTS} are of two runs: they count other errors", _BOTH)

    @cached_property
    def by_image(self) -> Predictions | None:
        """Of a run by patient or another unit, what images.csv holds: the predictions by image; else None."""
        if not (self / IMAGES).is_file():
            return None
        return Predictions.load(self / IMAGES, self.results["vocab"], self.results["task"] == "multi-label")

    @cached_property
    def out_of_fold(self) -> Predictions | None:
        """The linear probe's predictions of the training images, each by a fold without it; None without a probe."""
        if not (self / OUT_OF_FOLD).is_file():
            return None
        facts = self.results
        several, ordered = facts["task"] == "multi-label", bool(facts.get("ordinal"))
        found = Predictions.load(self / OUT_OF_FOLD, facts["vocab"], several, ordered)
        return replace(found, shift=self._shift)

    @property
    def judged(self) -> Predictions:
        """All images that something predicted which had not seen them, in the order of the page's rows."""
        parts = [part for part in (self.predictions, self.out_of_fold) if part is not None]
        return Predictions.concat(parts) if len(parts) > 1 else parts[0]

    @cached_property
    def label_errors(self) -> pd.DataFrame | None:
        """The doubtful labels (path, label, suggested, margin, near_duplicate), the most doubtful first; else None."""
        columns = ["path", "label", "suggested", "margin", "near_duplicate"]
        return read_rows(self / LABEL_ERRORS, columns) if (self / LABEL_ERRORS).is_file() else None

    @cached_property
    def table(self) -> pd.DataFrame:
        """What table.csv holds: the table that `scan` made, with the split; labels as there."""
        rows = read_rows(self._of_a_run(TABLE), ["path", "label"])
        problem = rows.get("problem", "")
        table = with_types(rows.drop(columns="problem", errors="ignore")).assign(problem=problem)
        n = (self.results.get("data") or {}).get("n_images", 0)
        if len(table) < n:
            text = f"{self / TABLE} is damaged: it has {len(table)} rows where {RESULTS} speaks of {n} images"
            raise DataError(text, "restore it from a copy, or make the run again")
        several = bool(self.record.get("multi_label"))
        if several:
            told = (table["label"] == NO_FINDING).any() or UNKNOWN in table  # 0.1 left the cell of no finding blank
            blank = None if told else ()
            table["label"] = [_labels_in(cell) if cell else blank for cell in table["label"]]
            if UNKNOWN in table:
                table[UNKNOWN] = [_labels_in(cell or "") for cell in table[UNKNOWN]]
        table.attrs.update(root=self.record.get("root", ""), multi_label=several)
        return table

    @cached_property
    def labels(self) -> dict[str, str]:
        """The label of every image of the table, by path, several joined by `|`; "" where it has none."""
        return {
            path: "|".join(label_set(label))
            for path, label in zip(self.table["path"], self.table["label"], strict=True)
        }

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """Path -> the training images most similar to it, the nearest first; empty where there is no such file."""
        if not (self / NEIGHBOURS).is_file():
            return {}
        pairs = read_rows(self / NEIGHBOURS, ("path", "neighbour"))
        return {str(path): list(found) for path, found in pairs.groupby("path", sort=False)["neighbour"]}

    @cached_property
    def findings(self) -> pd.DataFrame:
        """The audit's findings (kind, path_a, path_b, ...), of the run or of its folder audit; else no rows."""
        places = (self / AUDIT, self / "audit" / AUDIT)
        file = next((file for file in places if file.is_file()), None)
        columns = ["kind", "path_a", "path_b"]
        return read_rows(file, columns) if file else pd.DataFrame(columns=columns)

    @property
    def augmentation(self) -> str:
        """A picture of what the augmentation does to a training image, a JPEG data URI; "" where there is none."""
        file = self / AUGMENTATION
        return _JPEG + base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""

    @cached_property
    def images(self) -> Path:
        """The folder that the images' paths are relative to.

        Raises:
            DataError: it is gone.
        """
        root = self.record.get("root")
        others = by_road(
            "shortcuts and evaluate take others as data=", "medclf shortcuts and evaluate take others with --data"
        )
        if root is None:
            raise DataError(f"{self / RECORD} does not say where the images are", others)
        if not Path(root).is_dir():
            raise DataError(
                f"{self.path}: its images are not at {root}", f"bring them back, or link them there; {others}"
            )
        return Path(root)

    def reader(self, show_burned_in: bool | None = None) -> Reader | None:
        """A function from a row to its pixels, for a page; None where the images are gone, which is warned of.

        Args:
            show_burned_in: see `medclf.images.phi.why_withheld`; as the run was made where None.
        """
        try:
            return self.pictures(show_burned_in)
        except DataError as error:
            warnings.warn(f"{error.message}; the page shows none", MedclfWarning, stacklevel=3)
            return None

    def pictures(self, show_burned_in: bool | None = None) -> Pictures:
        """As `reader`.

        Raises:
            DataError: the images are gone.
        """
        shown = self.show_burned_in if show_burned_in is None else show_burned_in
        return Pictures(self.images, self.preprocessing, shown, check=self.check_unchanged)

    def check_unchanged(self, path: str) -> None:
        """See that an image is the file that the run read, as far as table.csv says.

        Raises:
            ReadError: it is another one: no picture of it may stand beside what was said of the first.
        """
        with contextlib.suppress(OSError):  # a file that is gone, whoever reads it tells
            if self._digests.get(path, "") not in ("", file_hash(self.images / path)):
                raise ReadError(path, "the file has changed since the run")

    @cached_property
    def _digests(self) -> dict[str, str]:
        rows = read_rows(self / TABLE, ["path"]) if (self / TABLE).is_file() else pd.DataFrame(columns=["path"])
        return dict(zip(rows["path"], rows.get("sha256", ()), strict=False))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How its images were read."""
        try:
            return Preprocessing.from_dict((self.results.get("settings") or {}).get("preprocessing") or {})
        except PreprocessingError as error:
            raise DataError(f"{self / RESULTS} is damaged: {error.message}", error.remedy) from error

    def write_results(self, results: Mapping[str, Any], *, hide_names: bool | None = None) -> None:
        """Write results.json, whole or not at all, without file names where they are to be hidden.

        Args:
            results: what it is to hold.
            hide_names: as the run was made where None.
        """
        hidden = self.hide_names if hide_names is None else hide_names
        names = Names(list(self.predictions.table["path"]) if hidden else [], hidden)
        shown: dict[str, Any] = names.scrub(finite(dict(results)))
        write_json(self / RESULTS, shown)
        self.results = shown

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        write_json(self / RECORD, record)
        self.record = dict(record)

    def write_predictions(self, predictions: Predictions) -> None:
        """Write predictions.csv, whole or not at all."""
        predictions.save(self / PREDICTIONS)
        self.predictions = predictions

    def write_augmentation(self, uri: str) -> None:
        """Write the picture of what the augmentation does, or none where `uri` is empty."""
        if not uri:
            (self / AUGMENTATION).unlink(missing_ok=True)  # of an earlier run
            return
        with replacing(self / AUGMENTATION) as temporary:
            temporary.write_bytes(base64.b64decode(uri.removeprefix(_JPEG)))

    def write_table(self, table: pd.DataFrame) -> None:
        """Write table.csv, whole or not at all."""
        save_table(self / TABLE, table)
        self.table = table


def _matrix(predictions: Predictions, rows: np.ndarray) -> list[list[int]] | None:
    """The confusion matrix of these rows; None where an image may have several labels."""
    if predictions.multi_label:
        return None
    actual = np.eye(len(predictions.vocab), dtype=int)[predictions.y[rows]]
    found: list[list[int]] = (actual.T @ predictions.predicted[rows].astype(int)).tolist()
    return found


def save_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all; several labels are joined by `|`."""
    columns = {name: [_joined(cell, name) for cell in table[name]] for name in ("label", UNKNOWN) if name in table}
    save_rows(path, table.assign(**columns))


def _joined(cell: Any, column: str) -> Any:
    """Labels with `|` between them; no finding is told from no label known."""
    if not isinstance(cell, tuple):
        return cell
    return "|".join(cell) or (NO_FINDING if column == "label" else "")


def _labels_in(cell: str) -> tuple[str, ...]:
    return tuple(label for label in cell.split("|") if label not in ("", NO_FINDING))

"""Which images are one unit: a patient, a study, a series, a folder, or what a column says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from medclf.config import UNIT_PLURALS, Split
from medclf.dataset.cells import text_of
from medclf.dataset.choice import IN_PROPORTION
from medclf.dataset.folds import linked
from medclf.dataset.frames import file_names
from medclf.dataset.labels import is_missing, objects
from medclf.dataset.scan import note
from medclf.dataset.spelt_names import one_name_each
from medclf.errors import DataError, MedclfWarning, SplitError, argument, did_you_mean

UNIT = "unit_id"  # the column that says which unit an image is of


def _source_of(unit: str) -> str:
    """What to give where no image says its patient, study or series; "" for another unit."""
    if unit == "patient":
        return f"name the column of patients with {argument('patient_col', 'NAME')}, or give DICOM files"
    return f"give DICOM files, or a table with a column '{unit}'" if unit in ("study", "series") else ""


def units_word(unit: str, n: int = 2) -> str:
    """What units are called in sentences.

    Example:
        >>> units_word("patient"), units_word("study", 1), units_word("exam_id")
        ('patients', 'study', "units of 'exam_id'")
    """
    one, many = (unit, UNIT_PLURALS[unit]) if unit in UNIT_PLURALS else (f"unit of '{unit}'", f"units of '{unit}'")
    return one if n == 1 else many


def with_units(table: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The table with a column `unit_id`, and with units kept together by whatever keeps groups together.

    Args:
        table: as `scan` returns it.
        unit: "patient", "study" or "series" (of DICOM headers or a column of that name), "folder" (the one that holds
            the image), "file" (of its frames), or the name of a column. An image that names none is a unit of its own,
            with the other frames of its file.

    Returns:
        A copy; `attrs["unit"]` says the kind. Where units are not parts of patients, a column `group` links the images
        of one, so that splits, folds and intervals take them together.

    Raises:
        DataError: no image says its unit, or there is no such column.

    Warns:
        MedclfWarning: how many images name no unit.

    Example:
        >>> table = pd.DataFrame({"path": ["a/1.png", "a/2.png", "b/1.png"]})
        >>> with_units(table, "folder")["unit_id"].tolist()
        ['a', 'a', 'b']
    """
    named, notes = _names(table, unit)
    used = [name for name, problem in zip(named, objects(table, "problem"), strict=True) if not problem]
    if all(name is None for name in used):
        remedy = _source_of(unit) or "fill its cells, or name another column"
        raise DataError(f"{argument('unit', unit)}: no image says its {units_word(unit, 1)}", remedy)
    if unit not in ("folder", "file") and (n := sum(name is None for name in used)):
        notes.append(f"{n} of {len(used)} images name no {units_word(unit, 1)}: each file counts as one of its own")
    if unit != "file" and any(text.endswith(f"({IN_PROPORTION})") for text in table.attrs.get("notes", ())):
        one = units_word(unit, 1)
        notes.append(f"{argument('limit')} may have left out some images of a {one}: its answer is of the others")
    result = table.copy()
    result.attrs = dict(table.attrs) | {"unit": unit}
    for text in notes:
        warnings.warn(MedclfWarning(text), stacklevel=2)
    note(result, *notes)
    names = [file if name is None else name for name, file in zip(named, file_names(table), strict=True)]
    result[UNIT] = pd.Series(names, index=table.index, dtype=object)
    return result if _within_patients(result) else _grouped(result)


def check_labels(table: pd.DataFrame) -> None:
    """Raise DataError where no unit has one label, since the images of each differ, or where each unit is a class."""
    if "label" not in table or table.attrs.get("multi_label"):
        return
    labelled = table[table["label"].notna()]
    pairs = zip(labelled[UNIT], labelled["label"], strict=True)
    if len(labelled) and all(PurePosixPath(str(unit)).name == label for unit, label in pairs):
        what = units_word(table.attrs["unit"], 1)
        text = (
            f"{argument('unit', table.attrs['unit'])}: the {what} of each image is its class, which would be one unit"
        )
        raise DataError(text, "name what holds the images of one patient or study, or leave it out")
    n_labels = labelled.groupby(UNIT, sort=False)["label"].nunique()
    if len(n_labels) and (n_labels > 1).all():
        what = units_word(table.attrs["unit"], 1)
        text = (
            f"{argument('unit', table.attrs['unit'])}: each {what} has images of different labels: {n_labels.index[0]}"
        )
        raise DataError(text, "give each one label, or answer for single images")


def _names(table: pd.DataFrame, unit: str) -> tuple[list[str | None], list[str]]:
    """The unit of each image, None where it names none; and what is to be said of them."""
    if unit == "folder":
        return [PurePosixPath(path).parent.as_posix() for path in table["path"]], []
    if unit == "file":
        return list(file_names(table)), []
    if not isinstance(unit, str):
        raise DataError(f"unit must be a word or the name of a column, not a {type(unit).__name__}", "name one")
    if unit not in table:
        columns = [str(column) for column in table]
        remedy = did_you_mean(unit, columns) or _source_of(unit) or f"it has {', '.join(columns)}"
        raise DataError(f"{argument('unit', unit)}: the table has no column '{unit}'", remedy)
    texts = ["" if is_missing(cell) else text_of(cell) for cell in table[unit]]
    names, notes = one_name_each(texts, f"column '{unit}'", units_word(unit, 1), units_word(unit))
    return names, notes


def _within_patients(table: pd.DataFrame) -> bool:
    """Whether each unit is of one known patient."""
    patients = objects(table, "patient")
    unknown = [patient is None for patient in patients]
    if any(unknown):
        return bool(table.attrs["unit"] == "patient" and table[UNIT][unknown].is_unique)
    n_patients: pd.Series = table.assign(patient=patients).groupby(UNIT)["patient"].nunique()
    return bool(n_patients.max() <= 1)


def _grouped(table: pd.DataFrame) -> pd.DataFrame:
    own, units = objects(table, "group"), objects(table, UNIT)
    groups = linked(own, units) if any(value is not None for value in own) else linked(units)
    names = pd.Series([f"unit-{number}" for number in groups], index=table.index, dtype=object)
    return table.assign(group=names)


def split_for_units(table: pd.DataFrame, split: Split | None) -> Split:
    """The split to make, where units have to stay together.

    Raises:
        SplitError: the one that is wished for does not keep them together, or the data's own partitions part them.

    Example:
        >>> table = with_units(pd.DataFrame({"path": ["a/1.png", "b/1.png"]}), "folder")
        >>> split_for_units(table, None)
        'grouped'
    """
    if split in ("random", "stratified"):
        text = f"{argument('split', split)} takes images one by one, and may part those of one unit"
        raise SplitError(text, f"use {argument('split', 'patient')} or {argument('split', 'grouped')}")
    if split == "patient" and not _within_patients(table):
        text = f"{argument('split', split)} may part a {units_word(table.attrs['unit'], 1)} that is not of one patient"
        raise SplitError(text, f"use {argument('split', 'grouped')}")
    placed = table["partition"] if "partition" in table else pd.Series(None, table.index, dtype=object)
    if split is None and {"train", "valid"} <= set(placed.dropna()):
        split = "folders"
    check_whole(table.assign(partition=placed if split == "folders" else placed.where(placed == "test", "the rest")))
    return split or ("grouped" if "group" in table else "patient")


def check_whole(table: pd.DataFrame) -> None:
    """Raise SplitError, naming some, where a unit has images in several partitions."""
    placed = table[(table["problem"] == "") & table["partition"].notna()] if "problem" in table else table
    n_parts = placed.groupby(UNIT, sort=False)["partition"].nunique()
    parted = list(n_parts.index[n_parts > 1])
    if parted:
        what, some = units_word(table.attrs["unit"], len(parted)), ", ".join(map(str, parted[:5]))
        more = f" and {len(parted) - 5} more" if len(parted) > 5 else ""
        have = "has" if len(parted) == 1 else "have"
        text = f"{len(parted)} {what} {have} images in more than one of training, validation and test set: {some}{more}"
        raise SplitError(text, f"put each into one, or use {argument('split', 'grouped')}")


def index_of(names: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """(n,) the number of each row's unit, in the order in which units first appear; and the units' names."""
    number: dict[Any, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], int), list(number)

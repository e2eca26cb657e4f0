"""A table from `scan` split into training, validation and test set, and what a split could not do."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pandas as pd

from medclf.config import TrainConfig
from medclf.dataset.columns import FRAME
from medclf.dataset.folds import linked
from medclf.dataset.frames import file_names
from medclf.dataset.groups import on_both_sides
from medclf.dataset.label_warnings import partition_warnings
from medclf.dataset.labels import objects, usable
from medclf.dataset.splitters import (
    KFoldSplitter,
    PatientSplitter,
    SeededSplitter,
    Splitter,
    StratifiedGroupSplitter,
    StratifiedSplitter,
    check_folders,
)
from medclf.errors import MedclfWarning, SplitError, argument, did_you_mean

KINDS = ("random", "stratified", "patient", "grouped", "kfold", "folders")


def split_table(
    table: pd.DataFrame,
    split: str = "random",
    *,
    valid_pct: float = TrainConfig.valid_pct,
    seed: int = TrainConfig.seed,
    fold: int | None = None,
    n_folds: int = TrainConfig.folds,
) -> pd.Series:
    """Decide the partition of each row of a table from `scan`.

    Images that folders or a column put into test stay there. Rows with a problem are in no partition.

    Args:
        table: as `scan` returns it; the splits use its columns path, label, patient, group and partition.
        split: "random"; "stratified" by label; "patient" (no patient on both sides, labels shared out as
            evenly as that allows); "grouped" (by the columns group and patient: whatever is linked through
            either stays together); "kfold" (stratified where there are labels, grouped where there are
            patients or groups); "folders" (the column partition as it stands).
        valid_pct: fraction of the images that go to valid.
        seed: another seed, another split.
        fold: for "kfold", which part is valid.
        n_folds: for "kfold", how many parts.

    Returns:
        A Series with the table's index: "train", "valid", "test" or None.

    Raises:
        SplitError: the split is not known or cannot be made as asked.

    Warns:
        MedclfWarning: a label is in valid only, or in train only; or patients are on both sides.

    Example:
        >>> table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": list("aaaaabbbbb")})
        >>> split_table(table, "stratified").value_counts().to_dict()
        {'train': 8, 'valid': 2}
    """
    if split not in KINDS:
        raise SplitError(
            f"{argument('split')} must be one of {', '.join(KINDS)}, not {split!r}", did_you_mean(str(split), KINDS)
        )
    good = usable(table)
    result = pd.Series([None] * len(table), index=table.index, dtype=object, name="partition")
    result[good.index] = pd.Series(objects(good, "partition"), index=good.index, dtype=object)
    if split == "folders":
        check_folders(list(good["path"]), objects(table.assign(partition=result).loc[good.index], "partition"))
    else:
        rest = good[(result[good.index] != "test").to_numpy(dtype=bool)]
        train, valid = _splitter_for(rest, split, valid_pct, seed, fold, n_folds)(rest)
        result[rest.index[train]] = "train"
        result[rest.index[valid]] = "valid"
    _check_files(good.assign(partition=result[good.index]))
    if split in ("patient", "grouped"):
        _check_labels(good.assign(partition=result[good.index]))
    placed = result.notna().to_numpy()
    split_up = table.assign(partition=result)
    one_sided = partition_warnings(objects(table[placed], "label"), result[placed], _remedy(split, table))
    for sentence in [no_partition(split_up), on_both_sides(split_up), *one_sided]:
        if sentence:
            warnings.warn(sentence, MedclfWarning, stacklevel=2)
    return result


def usual_split(table: pd.DataFrame, *, divided: bool = True) -> str:
    """The split where none is asked for: one that keeps apart what the table knows to belong together.

    Args:
        table: as `scan` returns it.
        divided: whether training and validation images that the table names stay as they are.

    Returns:
        "folders", where it names some; "grouped" or "patient", where images share a group or a patient; else "random".

    Example:
        >>> table = pd.DataFrame({"path": ["1.png", "2.png", "3.png"], "label": list("aba"), "patient": list("xxy")})
        >>> usual_split(table), usual_split(table[1:])
        ('patient', 'random')
    """
    good = usable(table)
    if divided and "partition" in table and {"train", "valid"} <= set(table["partition"].dropna()):
        return "folders"
    for column, split in (("group", "grouped"), ("patient", "patient")):
        counts = good[column].value_counts() if column in good else []
        if len(counts) > 1 and max(counts) > 1:
            return split
    return "random"


def _check_files(table: pd.DataFrame) -> None:
    """Raise SplitError where frames of one file are in several partitions."""
    if FRAME not in table:
        return
    placed = table[table["partition"].notna()]
    n_parts = placed.groupby(np.array(file_names(placed), dtype=object))["partition"].nunique()
    parted = list(n_parts.index[n_parts > 1])
    if parted:
        text = f"frames of {len(parted)} files are in more than one of training, validation and test set: {parted[0]}"
        raise SplitError(text, f"keep them together with {argument('unit', 'file')} (with_units in Python)")


def _check_labels(table: pd.DataFrame) -> None:
    """Raise SplitError where whole patients or groups leave training one label alone, as where they are the classes."""
    labels = objects(table, "label")
    trained = {label for label, part in zip(labels, table["partition"], strict=True) if part == "train"} - {None}
    others = {label for label in labels if isinstance(label, str)} - trained
    if len(trained) == 1 and others:
        raise SplitError(
            f"all images of label '{min(others)}' are of one patient or group, and training has '{min(trained)}' alone",
            f"add images of others, or see whether {argument('patient_col')}, or a column 'group', is what it says",
        )


def unplaced(table: pd.DataFrame) -> pd.DataFrame:
    """The usable rows of a split table that are in no partition."""
    good = usable(table)
    return good[good["partition"].isna()]


def no_partition(table: pd.DataFrame) -> str:
    """How many usable images of a split table are in no partition, and where they lie; "" where there are none.

    Example:
        >>> rows = {"path": ["train/a/1.png", "extra/a/2.png"], "partition": ["train", None]}
        >>> no_partition(pd.DataFrame(rows))[:59]
        '1 of 2 images is in no partition and is not used (extra 1):'
    """
    lost = unplaced(table)
    if not len(lost):
        return ""
    folders = Counter(str(path).rpartition("/")[0].partition("/")[0] or str(path) for path in lost["path"])
    named = ", ".join(f"{folder} {n}" for folder, n in folders.most_common(5)) + (", ..." if len(folders) > 5 else "")
    verbs = "is in no partition and is" if len(lost) == 1 else "are in no partition and are"
    remedy = f"name their folders train, valid or test, or write it into a column ({argument('partition_col')})"
    return f"{len(lost)} of {len(usable(table))} images {verbs} not used ({named}): {remedy}."


def _remedy(split: str, table: pd.DataFrame) -> str:
    """What to do about labels that training or validation lacks."""
    if split in ("random", "folders"):
        kind = "patient" if any(patient is not None for patient in objects(table, "patient")) else "stratified"
        return f"{argument('split', kind)} shares out the labels that have images enough"
    return f"Add images; else {argument('drop')} leaves a label out, and {argument('merge')} joins it with another"


def _splitter_for(
    table: pd.DataFrame, split: str, valid_pct: float, seed: int, fold: int | None, n_folds: int
) -> Splitter:
    labels = objects(table, "label")
    if split == "random":
        return SeededSplitter(valid_pct, seed)
    if split == "stratified":
        return StratifiedSplitter(labels, valid_pct, seed)
    without = sum(patient is None for patient in objects(table, "patient"))
    if split != "patient" and 0 < without < len(table):
        text = f"{without} of {len(table)} images have no patient: each counts as a patient of its own"
        warnings.warn(text, MedclfWarning, stacklevel=3)
    columns = ("patient",) if split == "patient" else ("group", "patient")
    known = [column for column in columns if any(value is not None for value in objects(table, column))]
    if not known and split == "grouped" and "group" in table:  # an audit looked and found nothing to link
        known = ["group"]
    links = [objects(table, column) for column in known]
    some_labels = labels if any(label is not None for label in labels) else None
    if split == "kfold":
        if fold is None:
            raise SplitError(
                f"{argument('split', 'kfold')} needs a fold", f"pass one from fold=0 to fold={n_folds - 1}"
            )
        return KFoldSplitter(fold, n_folds, seed, some_labels, linked(*links) if links else None)
    if not known:
        wanted = "patients" if split == "patient" else "patients, and there is no column 'group'"
        raise SplitError(
            f"{argument('split', split)} needs {wanted}",
            f"name their column with {argument('patient_col', 'NAME')}, or use {argument('split', 'random')}",
        )
    if split == "patient":
        return PatientSplitter(links[0], valid_pct, seed, labels=some_labels)
    return StratifiedGroupSplitter(labels, linked(*links), valid_pct, seed)

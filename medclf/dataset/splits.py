"""Splits that depend on the seed and the names alone, and do not leak.

A splitter is made by a factory and called as fastai calls it: `items -> (train_idx, valid_idx)`.
Items are paths, strings, (path, label) pairs, or a DataFrame with a column "path".
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medclf.config import TrainConfig
from medclf.dataset.folders import partition_of
from medclf.dataset.folds import apportion, balance, deal, fill, linked, nearest, shuffled
from medclf.dataset.frames import FRAME, file_names
from medclf.dataset.groups import on_both_sides
from medclf.dataset.label_warnings import partition_warnings
from medclf.dataset.labels import (
    Values,
    count_by_group,
    group_ids,
    item_names,
    named_groups,
    objects,
    usable,
    values_of,
)
from medclf.errors import MedclfWarning, SplitError, argument, did_you_mean

Splits = tuple[list[int], list[int]]
Splitter = Callable[[Any], Splits]

KINDS = ("random", "stratified", "patient", "grouped", "kfold", "folders")


def SeededSplitter(valid_pct: float = 0.2, seed: int = 42) -> Splitter:
    """Split at random.

    Args:
        valid_pct: fraction of the images that go to valid.
        seed: another seed, another split.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: when called: fewer than two items, or the same name twice.

    Example:
        >>> train, valid = SeededSplitter(0.25, seed=1)(["a.png", "b.png", "c.png", "d.png"])
        >>> len(train), len(valid)
        (3, 1)
    """
    _check_pct(valid_pct)

    def split(items: Any) -> Splits:
        names = item_names(items)
        _check_two(len(names), "images")
        n_valid = min(max(nearest(len(names) * valid_pct), 1), len(names) - 1)
        return _as_splits(len(names), shuffled(names, seed)[:n_valid])

    return split


def StratifiedSplitter(labels: Values, valid_pct: float = 0.2, seed: int = 42) -> Splitter:
    """Split at random with every label shared out: within one image of `valid_pct` of each class.

    Args:
        labels: the label of each item (or tuple of labels): a sequence, a function of the item, or the
            name of a column of the DataFrame. Sets of labels are shared out as evenly as they allow.
        valid_pct: fraction of the images that go to valid.
        seed: another seed, another split.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: when called: a class has one image, or an item has no label.

    Example:
        >>> names = ["a1", "a2", "a3", "a4", "b1", "b2"]
        >>> train, valid = StratifiedSplitter(lambda name: name[0], 0.5)(names)
        >>> sorted(names[i][0] for i in valid)
        ['a', 'a', 'b']
    """
    _check_pct(valid_pct)

    def split(items: Any) -> Splits:
        names = item_names(items)
        _check_two(len(names), "images")
        classes = values_of(labels, items, len(names), "labels")
        order = shuffled(names, seed)
        if _is_multi_label(classes):
            _check_labelled(classes)
            counts = count_by_group(classes, np.arange(len(names)))[order]
            return _as_splits(len(names), order[balance(counts, (1 - valid_pct, valid_pct)) == 1])
        members = _by_class(classes, order)
        n_valid = apportion(np.array([len(found) for found in members]), valid_pct)
        chosen = [found[:n] for found, n in zip(members, n_valid, strict=True)]
        return _as_splits(len(names), np.concatenate(chosen))

    return split


def PatientSplitter(patients: Values, valid_pct: float = 0.2, seed: int = 42, labels: Values | None = None) -> Splitter:
    """Split whole patients: no patient has images on both sides.

    Args:
        patients: the patient of each item; one without counts as a patient of its own, with a warning.
        valid_pct: fraction of the images (not of the patients) that go to valid, as near as patients allow.
        seed: another seed, another split.
        labels: also share out the labels as evenly as whole patients allow.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: when called: there are fewer than two patients.

    Example:
        >>> names = ["ann-1", "ann-2", "bob-1", "bob-2", "cy-1", "cy-2"]
        >>> train, valid = PatientSplitter(lambda name: name.split("-")[0], 0.33)(names)
        >>> len({names[i][0] for i in valid})
        1
    """
    return _group_splitter(patients, labels, valid_pct, seed, "patients")


def StratifiedGroupSplitter(labels: Values, groups: Values, valid_pct: float = 0.2, seed: int = 42) -> Splitter:
    """Split whole groups (near-duplicates, procedures, scanners) and share the labels out evenly.

    Args:
        labels: the label, or tuple of labels, of each item.
        groups: the group of each item; None is a group of its own.
        valid_pct: fraction of the images that go to valid, as near as whole groups allow.
        seed: another seed, another split.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: when called: there are fewer than two groups.

    Example:
        >>> split = StratifiedGroupSplitter(["a", "a", "b", "b"], [1, 2, 3, 4], 0.5)
        >>> train, valid = split(["w.png", "x.png", "y.png", "z.png"])
        >>> len(valid)
        2
    """
    return _group_splitter(groups, labels, valid_pct, seed, "groups")


def _group_splitter(groups: Values, labels: Values | None, valid_pct: float, seed: int, what: str) -> Splitter:
    _check_pct(valid_pct)

    def split(items: Any) -> Splits:
        names = item_names(items)
        keys, group_of = named_groups(names, group_ids(groups, items, len(names), what))
        _check_two(len(keys), what)
        order = shuffled(keys, seed)
        if labels is None:
            sizes = np.bincount(group_of, minlength=len(keys))
            picked = order[fill(sizes[order], valid_pct * len(names))]
        else:
            counts = count_by_group(values_of(labels, items, len(names), "labels"), group_of)[order]
            picked = order[balance(counts, (1 - valid_pct, valid_pct)) == 1]
        valid = np.flatnonzero(np.isin(group_of, picked))
        _warn_of_share(len(valid), len(names), valid_pct, group_of, what)
        return _as_splits(len(names), valid)

    return split


def KFoldSplitter(
    fold: int, n_folds: int = 5, seed: int = 42, labels: Values | None = None, groups: Values | None = None
) -> Splitter:
    """Split into `n_folds` parts, of which `fold` is valid: over all folds each image is valid once.

    Args:
        fold: which part is valid, from 0 to n_folds - 1.
        n_folds: how many parts, at least 2.
        seed: another seed, other parts.
        labels: share each label out evenly over the parts.
        groups: keep each group (patient) in one part.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: `fold` or `n_folds` is impossible; when called: fewer images or groups than folds, or a
            class of one image.

    Example:
        >>> folds = [KFoldSplitter(fold, n_folds=3)(["a", "b", "c", "d", "e", "f"]) for fold in range(3)]
        >>> sorted(i for train, valid in folds for i in valid)
        [0, 1, 2, 3, 4, 5]
    """
    if n_folds < 2:
        raise SplitError(f"{argument('n_folds')} must be 2 or more, not {n_folds}", "5 is usual")
    if not 0 <= fold < n_folds:
        raise SplitError(f"fold must be from 0 to {n_folds - 1}, not {fold}", f"{n_folds} folds are numbered from 0")

    def split(items: Any) -> Splits:
        names = item_names(items)
        classes = None if labels is None else values_of(labels, items, len(names), "labels")
        if groups is None and not _is_multi_label(classes or []):
            folds = _folds_of_images(names, n_folds, seed, classes)
        else:
            ids = range(len(names)) if groups is None else group_ids(groups, items, len(names), "groups")
            keys, group_of = named_groups(names, list(ids))
            _check_folds(len(keys), n_folds, "images" if groups is None else "groups or patients")
            order = shuffled(keys, seed)
            counts = count_by_group(classes or [None] * len(names), group_of)[order]
            fold_of_group = np.empty(len(keys), dtype=np.int64)
            fold_of_group[order] = balance(counts, [1 / n_folds] * n_folds)
            folds = fold_of_group[group_of]
            _warn_of_folds(np.bincount(folds, minlength=n_folds), int(np.bincount(group_of).max()))
        return _as_splits(len(names), np.flatnonzero(folds == fold))

    return split


def _folds_of_images(names: list[str], n_folds: int, seed: int, classes: Sequence[Any] | None) -> NDArray[np.int64]:
    """Deal the images out like cards, class by class, so that folds and classes differ by one at most."""
    _check_folds(len(names), n_folds, "images")
    order = shuffled(names, seed)
    if classes is not None:
        members = _by_class(classes, order)
        few = min(members, key=len)
        if len(few) < n_folds:
            text = f"class '{classes[few[0]]}' has {len(few)} images for {n_folds} folds: some have none of it"
            warnings.warn(text, MedclfWarning, stacklevel=4)
    return deal(classes or [""] * len(names), order, n_folds)


def FolderSplitter() -> Splitter:
    """Split as the folders say: those named train, valid, val or validation, in any case.

    Returns:
        A function items -> (train_idx, valid_idx); images of other folders, test too, are in neither.

    Raises:
        SplitError: when called: there is no train or no valid folder.

    Example:
        >>> FolderSplitter()(["TRAIN/a/1.png", "VAL/a/2.png", "TEST/3.png"])
        ([0], [1])
    """

    def split(items: Any) -> Splits:
        names = item_names(items)
        parts = [partition_of(name) for name in names]
        _check_folders(names, parts)
        train = [index for index, part in enumerate(parts) if part == "train"]
        return train, [index for index, part in enumerate(parts) if part == "valid"]

    return split


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
        _check_folders(list(good["path"]), objects(table.assign(partition=result).loc[good.index], "partition"))
    else:
        rest = good[(result[good.index] != "test").to_numpy(dtype=bool)]
        train, valid = _splitter_for(rest, split, valid_pct, seed, fold, n_folds)(rest)
        result[rest.index[train]] = "train"
        result[rest.index[valid]] = "valid"
    _check_files(good.assign(partition=result[good.index]))
    placed = result.notna().to_numpy()
    split_up = table.assign(partition=result)
    one_sided = partition_warnings(objects(table[placed], "label"), result[placed], _remedy(split, table))
    for sentence in [no_partition(split_up), on_both_sides(split_up), *one_sided]:
        if sentence:
            warnings.warn(sentence, MedclfWarning, stacklevel=2)
    return result


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


def _is_multi_label(labels: Iterable[Any]) -> bool:
    return any(isinstance(label, (tuple, list, set)) for label in labels)


def _by_class(classes: Sequence[Any], order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The items of each class in the order given; classes sorted by name."""
    _check_labelled(classes)
    members: dict[str, list[int]] = {}
    for index in order:
        members.setdefault(str(classes[index]), []).append(int(index))
    for label, found in sorted(members.items()):
        if len(found) < 2:
            raise SplitError(
                f"class '{label}' has one image: it cannot be in train and in valid",
                f"add images, merge the class with another, or use {argument('split', 'random')}",
            )
    return [np.array(members[label], dtype=np.int64) for label in sorted(members)]


def _as_splits(n: int, valid: NDArray[np.int64]) -> Splits:
    is_valid = np.zeros(n, dtype=bool)
    is_valid[valid] = True
    return np.flatnonzero(~is_valid).tolist(), np.flatnonzero(is_valid).tolist()


def _check_pct(valid_pct: float) -> None:
    if not 0 < valid_pct < 1:
        raise SplitError(
            f"{argument('valid_pct')} must be between 0 and 1, not {valid_pct}",
            "0.2 puts a fifth into the validation set",
        )


def _check_two(n: int, what: str) -> None:
    if n < 2:
        raise SplitError(f"a split needs at least 2 {what}, and the data has {n}", f"add {what}")


def _check_folds(n: int, n_folds: int, what: str) -> None:
    if n < n_folds:
        raise SplitError(f"{n_folds} folds need at least {n_folds} {what}; there are {n}", "choose fewer folds")


def _check_labelled(labels: Sequence[Any]) -> None:
    blank = sum(label is None for label in labels)
    if blank:
        raise SplitError(
            f"{blank} of {len(labels)} images have no label, so the split cannot be stratified",
            f"label them, leave them out, or use {argument('split', 'random')}",
        )


def _check_folders(paths: Sequence[str], parts: Sequence[str | None]) -> None:
    counts = Counter(parts)
    for part, names in (("train", "train"), ("valid", "valid, val or validation")):
        if part not in counts:
            found = Counter(path.partition("/")[0] if "/" in path else "(the folder itself)" for path in paths)
            there = ", ".join(f"{name} ({n} images)" for name, n in found.most_common(8))
            held = ", ".join(f"{name} {n}" for name, n in counts.items() if name)
            raise SplitError(
                f"no image is in {part}: no folder is named {names}, and no column says so; there are {there}"
                + (f", which make {held}" if held else ""),
                f"use {argument('split', 'random')}: images in a folder named test still stay out of it",
            )


def _warn_of_folds(sizes: NDArray[np.int64], largest: int) -> None:
    """Say so where whole groups make the folds of a cross-validation very unlike in size."""
    n, most = int(sizes.sum()), int(sizes.max())
    if most <= 1.5 * n / len(sizes) + 1:
        return
    text = f"the folds have {', '.join(map(str, sizes))} images: groups stay together, and the largest has {largest}"
    few = f"; one fold trains on {n - most} images and is measured on {most}" if n - most < most else ""
    warnings.warn(text + few, MedclfWarning, stacklevel=4)


def _warn_of_share(n_valid: int, n: int, wanted: float, groups: NDArray[np.int64], what: str) -> None:
    """Say so where whole groups do not allow the wished share, to within a quarter of it or one image."""
    if abs(n_valid - wanted * n) <= max(wanted * n / 4, 1):
        return
    largest = int(np.bincount(groups).max())
    text = (
        f"{wanted:.0%} of the images were asked for validation, and {n_valid / n:.0%} are ({n_valid} of {n}): "
        f"{what} stay together, and the largest has {largest} images"
    )
    warnings.warn(text, MedclfWarning, stacklevel=4)

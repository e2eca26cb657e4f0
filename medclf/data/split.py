"""Splits that depend on the seed and the names alone, and do not leak.

A splitter is made by a factory and called as fastai calls it: `items -> (train_idx, valid_idx)`.
Items are paths, strings, (path, label) pairs, or a DataFrame with a column "path".
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medclf.data.assign import apportion, balance, fill, linked, nearest, shuffled
from medclf.data.table import label_set, partition_warnings, usable
from medclf.data.tree import partition_of
from medclf.errors import MedclfWarning, SplitError

Splits = tuple[list[int], list[int]]
Splitter = Callable[[Any], Splits]
Values = str | Sequence[Any] | Callable[[Any], Any]
"""One value an item: a sequence as long as the items, a function of the item, or a column of the DataFrame."""

KINDS = ("random", "stratified", "patient", "grouped", "kfold", "folders")


def RandomSplitter(valid_pct: float = 0.2, seed: int = 42) -> Splitter:
    """Split at random.

    Args:
        valid_pct: fraction of the images that go to valid.
        seed: another seed, another split.

    Returns:
        A function items -> (train_idx, valid_idx).

    Raises:
        SplitError: when called: fewer than two items, or the same name twice.

    Example:
        >>> train, valid = RandomSplitter(0.25, seed=1)(["a.png", "b.png", "c.png", "d.png"])
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
    """Split at random with every label shared out evenly: within one image of `valid_pct` of each class.

    Args:
        labels: the label of each item (or tuple of labels): a sequence, a function of the item, or the name
            of a column of the DataFrame. Label sets are shared out label by label, as near as they allow.
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
        classes = _values_of(labels, items, len(names), "labels")
        order = shuffled(names, seed)
        if any(isinstance(label, (tuple, list)) for label in classes):
            counts = _label_counts(classes, np.arange(len(names)))[order]
            return _as_splits(len(names), order[balance(counts, (1 - valid_pct, valid_pct)) == 1])
        members = _by_class(classes, order)
        n_valid = apportion(np.array([len(found) for found in members]), valid_pct)
        return _as_splits(len(names), np.concatenate([found[:n] for found, n in zip(members, n_valid, strict=True)]))

    return split


def PatientSplitter(
    patients: Values, valid_pct: float = 0.2, seed: int = 42, labels: Values | None = None
) -> Splitter:
    """Split whole patients: no patient has images on both sides.

    Args:
        patients: the patient of each item; an item without one counts as a patient of its own, with a warning.
        valid_pct: fraction of the images (not of the patients) that go to valid, as near as whole patients allow.
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
        >>> train, valid = StratifiedGroupSplitter(["a", "a", "b", "b"], [1, 2, 3, 4], 0.5)(["w", "x", "y", "z"])
        >>> len(valid)
        2
    """
    return _group_splitter(groups, labels, valid_pct, seed, "groups")


def _group_splitter(groups: Values, labels: Values | None, valid_pct: float, seed: int, what: str) -> Splitter:
    _check_pct(valid_pct)

    def split(items: Any) -> Splits:
        names = item_names(items)
        ids = _group_ids(groups, items, names, what)
        keys, group_of = _named_groups(names, ids)
        _check_two(len(keys), what)
        order = shuffled(keys, seed)
        if labels is None:
            sizes = np.bincount(group_of, minlength=len(keys))
            picked = order[fill(sizes[order], valid_pct * len(names))]
        else:
            counts = _label_counts(_values_of(labels, items, len(names), "labels"), group_of)[order]
            picked = order[balance(counts, (1 - valid_pct, valid_pct)) == 1]
        return _as_splits(len(names), np.flatnonzero(np.isin(group_of, picked)))

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
        SplitError: `fold` or `n_folds` is impossible; when called: fewer images, patients or images of a
            class than the folds need.

    Example:
        >>> folds = [KFoldSplitter(fold, n_folds=3)(["a", "b", "c", "d", "e", "f"]) for fold in range(3)]
        >>> sorted(i for train, valid in folds for i in valid)
        [0, 1, 2, 3, 4, 5]
    """
    if n_folds < 2:
        raise SplitError(f"n_folds={n_folds}: a cross-validation needs at least 2 folds", "choose n_folds=5")
    if not 0 <= fold < n_folds:
        raise SplitError(f"fold={fold} does not exist: folds are numbered from 0 to {n_folds - 1}", "choose one of them")

    def split(items: Any) -> Splits:
        names = item_names(items)
        folds = _folds(items, names, n_folds, seed, labels, groups)
        return _as_splits(len(names), np.flatnonzero(folds == fold))

    return split


def _folds(
    items: Any, names: list[str], n_folds: int, seed: int, labels: Values | None, groups: Values | None
) -> NDArray[np.int64]:
    """The fold of each item."""
    classes = None if labels is None else _values_of(labels, items, len(names), "labels")
    multi_label = classes is not None and any(isinstance(label, (tuple, list)) for label in classes)
    ids = list(range(len(names))) if groups is None else _group_ids(groups, items, names, "groups")
    keys, group_of = _named_groups(names, ids)
    if len(keys) < n_folds:
        what = "images" if groups is None else "groups or patients"
        raise SplitError(f"{n_folds} folds need at least {n_folds} {what}; there are {len(keys)}", "choose fewer folds")
    order = shuffled(keys, seed)
    side_of_key = np.empty(len(keys), dtype=np.int64)
    if groups is None and not multi_label:
        if classes is not None:
            order = np.concatenate(_by_class(classes, order, n_folds))
        side_of_key[order] = np.arange(len(keys)) % n_folds
    else:
        counts = _label_counts(classes or [None] * len(names), group_of)[order]
        side_of_key[order] = balance(counts, [1 / n_folds] * n_folds)
    return side_of_key[group_of]


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
        parts = [partition_of(name) for name in item_names(items)]
        _check_folders(parts)
        train = [index for index, part in enumerate(parts) if part == "train"]
        return train, [index for index, part in enumerate(parts) if part == "valid"]

    return split


def split_table(
    table: pd.DataFrame,
    split: str = "random",
    *,
    valid_pct: float = 0.2,
    seed: int = 42,
    fold: int | None = None,
    n_folds: int = 5,
) -> pd.Series:
    """Decide the partition of each row of a table from `scan`.

    Images that folders or a column put into test stay there; images with a problem, and for "stratified"
    and the like images without a label, are in no partition.

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
        MedclfWarning: a label is in valid only, or in train only.

    Example:
        >>> table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": list("aaaaabbbbb")})
        >>> split_table(table, "stratified").value_counts().to_dict()
        {'train': 8, 'valid': 2}
    """
    if split not in KINDS:
        raise SplitError(f"split='{split}' is not known", f"choose one of {', '.join(KINDS)}")
    result = pd.Series([None] * len(table), index=table.index, dtype=object, name="partition")
    good = usable(table).assign(partition=lambda found: _objects(found, "partition"))
    if split == "folders":
        _check_folders(good["partition"])
        result[good.index] = good["partition"]
    else:
        held_out = good["partition"] == "test"
        result[good.index[held_out]] = "test"
        rest = good[~held_out]
        if split != "random":
            rest = rest[[label is not None for label in _objects(rest, "label")]] if "label" in rest else rest
        train, valid = _splitter_for(rest, split, valid_pct, seed, fold, n_folds)(rest)
        result[rest.index[train]] = "train"
        result[rest.index[valid]] = "valid"
    if "label" in table:
        labels = _objects(table, "label")
        placed = [index for index, part in enumerate(result) if part is not None]
        for sentence in partition_warnings([labels[i] for i in placed], [result.iloc[i] for i in placed]):
            warnings.warn(sentence, MedclfWarning, stacklevel=2)
    return result


def _splitter_for(
    table: pd.DataFrame, split: str, valid_pct: float, seed: int, fold: int | None, n_folds: int
) -> Splitter:
    labels = _objects(table, "label")
    if split == "random":
        return RandomSplitter(valid_pct, seed)
    if split == "stratified":
        return StratifiedSplitter(labels, valid_pct, seed)
    columns = [_objects(table, name) for name in (("patient",) if split == "patient" else ("group", "patient"))]
    known = [column for column in columns if any(value is not None for value in column)]
    if split == "kfold":
        if fold is None:
            raise SplitError('split="kfold" needs the fold that is valid', f"pass fold=0 to fold={n_folds - 1}")
        return KFoldSplitter(fold, n_folds, seed, labels if any(labels) else None, linked(*known) if known else None)
    if not known:
        wanted = "patients" if split == "patient" else "patients and no column 'group'"
        raise SplitError(f"the table knows no {wanted}", "name the column with patient_col=, or choose split='random'")
    if split == "patient":
        return PatientSplitter(known[0], valid_pct, seed, labels=labels)
    return StratifiedGroupSplitter(labels, linked(*known), valid_pct, seed)


def item_names(items: Any) -> list[str]:
    """The name that each item is known by to a split: its path with forward slashes.

    Absolute paths lose the folder that all of them share, so that the same data elsewhere splits the same.

    Raises:
        SplitError: a DataFrame without a column "path", or two items of one name.
    """
    if isinstance(items, pd.DataFrame):
        if "path" not in items:
            raise SplitError("the DataFrame has no column 'path' to split by", "rename its column of paths")
        items = items["path"]
    paths = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
    names = [path.as_posix() if isinstance(path, Path) else str(path).replace("\\", "/") for path in paths]
    if names and all(os.path.isabs(name) for name in names):
        shared = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [os.path.relpath(name, shared).replace(os.sep, "/") for name in names]
    repeated, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise SplitError(f"'{repeated}' is among the items {times} times: it could end up on both sides", "remove repeats")
    return names


def _values_of(values: Values, items: Any, n: int, what: str) -> list[Any]:
    if isinstance(values, str):
        if not isinstance(items, pd.DataFrame) or values not in items:
            raise SplitError(f"{what}='{values}' names a column, and the items have no such column", "pass the values")
        return _objects(items, values)
    if callable(values):
        rows = items.itertuples() if isinstance(items, pd.DataFrame) else items
        found = [values(item) for item in rows]
    else:
        found = list(values)
    if len(found) != n:
        raise SplitError(f"{len(found)} {what} for {n} items", f"give one of the {what} for each item, in the same order")
    return [None if _is_missing(value) else value for value in found]


def _objects(table: pd.DataFrame, column: str) -> list[Any]:
    """The column with None for whatever pandas has for missing, or all None where there is no such column."""
    if column not in table:
        return [None] * len(table)
    return [None if _is_missing(value) else value for value in table[column]]


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _group_ids(groups: Values, items: Any, names: list[str], what: str) -> list[Hashable]:
    ids = _values_of(groups, items, len(names), what)
    alone = sum(value is None for value in ids)
    if alone and what == "patients":
        text = f"{alone} of {len(ids)} images have no patient: each counts as a patient of its own"
        warnings.warn(text, MedclfWarning, stacklevel=4)
    return [("alone", index) if value is None else value for index, value in enumerate(ids)]


def _named_groups(names: list[str], ids: Sequence[Hashable]) -> tuple[list[str], NDArray[np.int64]]:
    """Each group's key, and the number of each item's group. The key is the first of its items' names: the
    split must not change when patients are given other numbers."""
    key_of: dict[Hashable, str] = {}
    for name, group in zip(names, ids, strict=True):
        key_of[group] = min(key_of.get(group, name), name)
    number = {group: index for index, group in enumerate(key_of)}
    return list(key_of.values()), np.array([number[group] for group in ids], dtype=np.int64)


def _by_class(classes: Sequence[Any], order: Iterable[int], needed: int = 2) -> list[NDArray[np.int64]]:
    """The items of each class in the order given; classes sorted by name."""
    members: dict[str, list[int]] = {}
    for index in order:
        if classes[index] is None:
            raise SplitError("an image has no label, so the split cannot be stratified", "label it or leave it out")
        members.setdefault(str(classes[index]), []).append(int(index))
    lone = sorted(label for label, found in members.items() if len(found) < 2)
    if lone:
        raise SplitError(
            f"class '{lone[0]}' has one image: it cannot be in train and in valid",
            "add images, merge the class with another, or choose split='random'",
        )
    few = [label for label in sorted(members) if len(members[label]) < needed]
    if few:
        text = f"class '{few[0]}' has {len(members[few[0]])} images for {needed} folds: some folds have none of it"
        warnings.warn(text, MedclfWarning, stacklevel=5)
    return [np.array(members[label], dtype=np.int64) for label in sorted(members)]


def _label_counts(labels: Sequence[Any], group_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Images of each label in each group, (n_groups, 1 + n_labels); the first column counts all images."""
    sets = [label_set(label if isinstance(label, (tuple, list)) or label is None else str(label)) for label in labels]
    vocab = {label: column for column, label in enumerate(sorted({label for found in sets for label in found}), start=1)}
    counts = np.zeros((int(group_of.max()) + 1, 1 + len(vocab)))
    for found, group in zip(sets, group_of, strict=True):
        counts[group, 0] += 1
        for label in found:
            counts[group, vocab[label]] += 1
    return counts


def _as_splits(n: int, valid: NDArray[np.int64]) -> Splits:
    is_valid = np.zeros(n, dtype=bool)
    is_valid[valid] = True
    return np.flatnonzero(~is_valid).tolist(), np.flatnonzero(is_valid).tolist()


def _check_pct(valid_pct: float) -> None:
    if not 0 < valid_pct < 1:
        raise SplitError(f"valid_pct={valid_pct} is not between 0 and 1", "0.2 puts a fifth of the images into valid")


def _check_two(n: int, what: str) -> None:
    if n < 2:
        raise SplitError(f"a split needs at least 2 {what}; there {'is' if n == 1 else 'are'} {n}", f"add {what}")


def _check_folders(parts: Iterable[str | None]) -> None:
    present = set(parts)
    for part, names in (("train", "train"), ("valid", "valid, val or validation")):
        if part not in present:
            raise SplitError(
                f"no image is in {part}: there is no folder named {names}, and no column says so",
                "choose split='random'; images in a folder named test stay out of it",
            )

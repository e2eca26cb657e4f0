"""Splitters that depend on the seed and the names alone, and keep together what belongs together.

Each is made by a factory and called as fastai calls it: `items -> (train_idx, valid_idx)`.
Items are paths, strings, (path, label) pairs, or a DataFrame with a column "path".
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medclf.dataset.folds import apportion, balance, deal, fill, nearest, shuffled
from medclf.dataset.labels import (
    Values,
    count_by_group,
    group_ids,
    item_names,
    named_groups,
    values_of,
)
from medclf.dataset.part_names import partition_of
from medclf.errors import MedclfWarning, SplitError, argument, check_count

Splits = tuple[list[int], list[int]]
Splitter = Callable[[Any], Splits]


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
        DataError: `fold` or `n_folds` is no whole number, or impossible.
        SplitError: when called: fewer images or groups than folds, or a class of one image.

    Example:
        >>> folds = [KFoldSplitter(fold, n_folds=3)(["a", "b", "c", "d", "e", "f"]) for fold in range(3)]
        >>> sorted(i for train, valid in folds for i in valid)
        [0, 1, 2, 3, 4, 5]
    """
    check_count(argument("n_folds"), n_folds, "5 is usual", least=2)
    check_count("fold", fold, f"{n_folds} folds are numbered from 0", least=0)
    if fold >= n_folds:
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
        check_folders(names, parts)
        train = [index for index, part in enumerate(parts) if part == "train"]
        return train, [index for index, part in enumerate(parts) if part == "valid"]

    return split


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
    if not (isinstance(valid_pct, Real) and 0 < valid_pct < 1):
        raise SplitError(
            f"{argument('valid_pct')} must be between 0 and 1, not {valid_pct!r}",
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


def check_folders(paths: Sequence[str], parts: Sequence[str | None]) -> None:
    """Raise a SplitError that says what is there, where no image is in train or none is in valid."""
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

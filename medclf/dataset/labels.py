"""What a split calls its items: names, and the labels and groups that go with them."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medclf.errors import DataError, MedclfWarning, SplitError

Values = str | Sequence[Any] | Callable[[Any], Any]
"""One value an item: as many values as items, a function of the item, or a column of the DataFrame."""

Label = str | tuple[str, ...]
"""Of one image: a label, or several, where () says that it has none of them; None stands for unknown."""

FLOATS = (float, np.floating)
LIST = re.compile(r"\[.*\]|\(\s*['\"].*\)|\{\s*['\"].*\}|set\(\)", re.DOTALL)  # that a CSV holds as text
NO_FINDING = "(none)"  # how a cell says that an image has none of several labels


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing, in any of pandas' ways.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing("")
        (True, True, False)
    """
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, FLOATS) and value != value)


def objects(table: pd.DataFrame, column: str) -> list[Any]:
    """The column as a list with None for missing; all None where there is no such column."""
    if column not in table:
        return [None] * len(table)
    return [None if is_missing(value) else value for value in table[column]]


def list_in(cell: Any) -> Any:
    """The list that a text such as "['a', 'b']" or an array writes, the number in a tensor; any other cell as it is."""
    if hasattr(cell, "ndim") and not isinstance(cell, np.generic):
        return cell.item() if cell.ndim == 0 else cell.tolist()
    text = cell.strip() if isinstance(cell, str) else ""
    if not LIST.fullmatch(text):
        return cell
    try:
        found = ast.literal_eval(re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", text))  # NumPy writes no commas
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    several = isinstance(found, (list, tuple, set)) and all(isinstance(one, (str, int, float)) for one in found)
    return (sorted(found, key=str) if isinstance(found, set) else list(found)) if several else cell


def label_set(label: object) -> tuple[str, ...]:
    """The labels of one image as a tuple of text, whatever the task.

    Example:
        >>> label_set("polyp"), label_set(("a", "b")), label_set(None)
        (('polyp',), ('a', 'b'), ())
    """
    if isinstance(label, (tuple, list, set, frozenset)):
        return tuple(str(one) for one in label)
    return () if is_missing(label) else (str(label),)


def count_labels(labels: Iterable[Label | None]) -> Counter[str]:
    """How many images carry each label.

    Example:
        >>> sorted(count_labels(["a", ("a", "b"), None]).items())
        [('a', 2), ('b', 1)]
    """
    counts: Counter[str] = Counter()
    for label in labels:
        counts.update(label_set(label))
    return counts


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a problem, index kept."""
    return table[table["problem"] == ""] if "problem" in table else table


def root_of(table: pd.DataFrame) -> Path:
    """The folder that a scanned table's paths are relative to.

    Raises:
        DataError: the table has lost it.
    """
    if "root" not in table.attrs:
        raise DataError(
            'the table does not say where its images lie: table.attrs["root"] is gone, as after a merge in pandas',
            "give it back what scan noted: table.attrs = scanned.attrs",
        )
    return Path(table.attrs["root"])


def item_names(items: Any) -> list[str]:
    """The name that each item is known by to a split: its path with forward slashes.

    Absolute paths lose the folder that all of them share, so that the same data elsewhere splits the same.

    Args:
        items: paths, strings, pairs that begin with one, or a DataFrame with a column "path".

    Returns:
        One name an item, all different.

    Raises:
        SplitError: a DataFrame without a column "path", or two items of one name.

    Example:
        >>> item_names([Path("/data/a/1.png"), Path("/data/b/1.png")])
        ['a/1.png', 'b/1.png']
    """
    if isinstance(items, pd.DataFrame):
        if "path" not in items:
            raise SplitError("the DataFrame has no column 'path' to split by", "rename its column of paths")
        items = items["path"]
    paths = [item[0] if isinstance(item, (tuple, list)) else item for item in items]
    names = [path.as_posix() if isinstance(path, PurePath) else str(path).replace("\\", "/") for path in paths]
    if names and all(Path(name).is_absolute() for name in names):
        shared = os.path.commonpath([name.rpartition("/")[0] or "/" for name in names])
        names = [os.path.relpath(name, shared).replace(os.sep, "/") for name in names]
    repeated, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        raise SplitError(
            f"'{repeated}' is there {times} times: it could end up in both training and validation set",
            "remove repeats",
        )
    return names


def values_of(values: Values, items: Any, n: int, what: str) -> list[Any]:
    """`values` as a list, one an item, None where there is none.

    Raises:
        SplitError: they name no column, have no order, or are more or fewer than the items.
    """
    if isinstance(values, str):
        if not isinstance(items, pd.DataFrame) or values not in items:
            raise SplitError(f"{what}='{values}' names no column of the items", "give a DataFrame or the values")
        return objects(items, values)
    if callable(values):
        rows = items.itertuples() if isinstance(items, pd.DataFrame) else items
        found = [values(item) for item in rows]
    elif not isinstance(values, Iterable) or isinstance(values, (Mapping, set, frozenset, pd.DataFrame)):
        # whose items are its keys, or in no order
        text = f"{what} are given as a {type(values).__name__}, not as one for each item in the items' order"
        raise SplitError(text, "give a list, a column's name, or a function of the item, such as a dict's get")
    else:
        found = list(values)
    if len(found) != n:
        raise SplitError(f"{len(found)} {what} for {n} items", "give one for each item, in the same order")
    return [None if is_missing(value) else value for value in found]


def group_ids(groups: Values, items: Any, n: int, what: str) -> list[Hashable]:
    """The group of each item; an item without one is alone, and for patients that is worth a warning."""
    ids = values_of(groups, items, n, what)
    alone = sum(value is None for value in ids)
    if alone and what == "patients":
        text = f"{alone} of {n} images have no patient: each counts as a patient of its own"
        warnings.warn(text, MedclfWarning, stacklevel=4)
    return [("alone", index) if value is None else value for index, value in enumerate(ids)]


def named_groups(names: list[str], ids: Sequence[Hashable]) -> tuple[list[str], NDArray[np.int64]]:
    """Give each group a name that outlives renumbering: the first of its items' names.

    Args:
        names: one an item.
        ids: the group of each item.

    Returns:
        The groups' names, (n_groups,), and the place of each item's group among them, (n,).

    Example:
        >>> named_groups(["b.png", "a.png", "c.png"], [7, 7, 9])
        (['a.png', 'c.png'], array([0, 0, 1]))
    """
    key_of: dict[Hashable, str] = {}
    for name, group in zip(names, ids, strict=True):
        key_of[group] = min(key_of.get(group, name), name)
    number = {group: index for index, group in enumerate(key_of)}
    return list(key_of.values()), np.array([number[group] for group in ids], dtype=np.int64)


def count_by_group(labels: Sequence[object], group_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Images of each label in each group.

    Args:
        labels: a label, a tuple of labels or None for each item.
        group_of: the number of each item's group, (n,).

    Returns:
        (n_groups, 1 + n_labels), labels sorted by name; the first column counts all images.

    Example:
        >>> count_by_group(["a", "b", "b"], np.array([0, 0, 1]))
        array([[2., 1., 1.],
               [1., 0., 1.]])
    """
    sets = [label_set(label) for label in labels]
    vocab = {label: column for column, label in enumerate(sorted(set().union(*sets)), start=1)}
    counts = np.zeros((int(group_of.max()) + 1, 1 + len(vocab)))
    for found, group in zip(sets, group_of, strict=True):
        counts[group, 0] += 1
        for label in found:
            counts[group, vocab[label]] += 1
    return counts

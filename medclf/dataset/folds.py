"""Who goes where: the arithmetic of splitting, on keys and counts alone."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medclf.errors import DataError

REFINED = 5_000  # so many groups are looked at again after the first assignment


def shuffled(names: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The order in which a split takes its items: by a hash of seed and name, so that neither the order
    of `names` nor any other random state matters.

    Args:
        names: one a item, all different.
        seed: any integer.

    Returns:
        Indices into `names`, (n,).

    Example:
        >>> names = ["a", "b", "c", "d"]
        >>> [names[i] for i in shuffled(names, 42)] == [names[::-1][i] for i in shuffled(names[::-1], 42)]
        True
    """
    salted = [f"{seed}:{unicodedata.normalize('NFC', name)}".encode(errors="surrogateescape") for name in names]
    keys = [hashlib.blake2b(name, digest_size=16).digest() for name in salted]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def apportion(sizes: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """How many of each class go to valid: within one of `share`, at least one on either side, and the
    total as near to `share` of all as that allows (largest remainders first).

    Args:
        sizes: images of each class, (n_classes,), each at least 2.
        share: wished fraction, between 0 and 1.

    Returns:
        Images of each class that go to valid, (n_classes,).

    Example:
        >>> apportion(np.array([10, 5, 2]), 0.2)
        array([2, 1, 1])
    """
    wished = sizes * share
    taken = np.clip(np.floor(wished + 1e-9).astype(np.int64), 1, sizes - 1)
    room = np.minimum(np.ceil(wished - 1e-9).astype(np.int64), sizes - 1) - taken
    more = nearest(float(wished.sum())) - int(taken.sum())
    by_remainder = np.argsort(taken - wished, kind="stable")
    taken[by_remainder[room[by_remainder] > 0][: max(more, 0)]] += 1
    return np.asarray(taken)


def nearest(wished: float) -> int:
    """The nearest whole number, halves up (Python's round would send them to even numbers)."""
    return math.floor(wished + 0.5 + 1e-9)


def fill(sizes: NDArray[np.int64], wished: float) -> NDArray[np.bool_]:
    """Pick groups, in the order given, whose sizes add up to about `wished`, never all and never none.

    Args:
        sizes: images of each group, (n_groups,), at least two groups.
        wished: how many images to pick.

    Returns:
        Which groups are picked, (n_groups,). The sum misses `wished` by at most half the smallest group
        that is left over, but for a sole group on either side.
    """
    picked = np.zeros(len(sizes), dtype=bool)
    total = 0
    for index, size in enumerate(sizes):
        if total + size <= wished:
            picked[index] = True
            total += int(size)
    left = np.flatnonzero(~picked)
    smallest = int(left[np.argmin(sizes[left])])
    overshoots = total + sizes[smallest] - wished > wished - total
    if not picked.any() or (not overshoots and len(left) > 1):
        picked[smallest] = True
    return picked


def balance(counts: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.int64]:
    """Send whole groups to sides so that each column of `counts` is shared out as `shares` say.

    Each group goes where the squared excess over what the side should have, relative to that, grows
    least; rare labels weigh most. Groups that hold much of a label go first (after Sechidis, Tsoumakas
    and Vlahavas 2011, with groups for images); then each is looked at again.

    Args:
        counts: images of each label in each group, (n_groups, n_labels), in the order that ties are broken.
        shares: fraction of everything that each side should have; they add up to 1.

    Returns:
        The side of each group, (n_groups,); every side gets at least one group.
    """
    n_groups, n_sides = len(counts), len(shares)
    totals = np.maximum(counts.sum(axis=0), 1e-12)
    inverse = 1 / (np.asarray(shares, dtype=np.float64)[:, None] * totals)
    excess = -2 * np.asarray(shares)[:, None] * totals  # twice what the side has beyond its share
    sides = np.full(n_groups, -1, dtype=np.int64)
    members = np.zeros(n_sides, dtype=np.int64)
    order = np.argsort(-(counts / totals).max(axis=1), kind="stable")
    for done, group in enumerate(order):
        cost = ((excess + counts[group]) * (counts[group] * inverse)).sum(axis=1)
        if n_groups - done <= (members == 0).sum():
            cost[members > 0] = np.inf
        sides[group] = side = int(cost.argmin())
        excess[side] += 2 * counts[group]
        members[side] += 1
    for _ in range(3 if n_groups <= REFINED else 0):
        for group in order:
            side = sides[group]
            if members[side] == 1:
                continue
            excess[side] -= 2 * counts[group]
            cost = ((excess + counts[group]) * (counts[group] * inverse)).sum(axis=1)
            better = int(cost.argmin())
            if cost[better] > cost[side] - 1e-12:
                better = int(side)
            excess[better] += 2 * counts[group]
            members[side] -= 1
            members[better] += 1
            sides[group] = better
    return sides


def folds(y: Any, groups: Any = None, n_folds: int = 5, *, seed: int = 0) -> NDArray[np.int64]:
    """The fold of each image: groups stay whole, the labels are shared out. Every cross-validation asks here.

    Args:
        y: (n,) a label each, or (n, L) of 0 and 1 where an image may have several.
        groups: (n,) patient, or other group, of each image; None or NaN is a group of its own. None: single images.
        n_folds: how many folds; fewer groups make fewer.
        seed: another seed, other folds.

    Returns:
        (n,) from 0 on.

    Example:
        >>> folds([0, 0, 0, 1, 1, 1], n_folds=3).tolist()
        [1, 2, 0, 0, 2, 1]
        >>> found = folds([0, 1, 0, 1], ["ann", "ann", "bob", "bob"], 2)
        >>> bool(found[0] == found[1] != found[2] == found[3])
        True
    """
    truth, codes = np.asarray(y), group_codes(groups, len(y))
    if truth.ndim == 1 and len(np.unique(codes)) == len(truth):
        return deal(truth, np.random.default_rng(seed).permutation(len(truth)), n_folds)
    return sides(truth, codes, [1 / n_folds] * n_folds, seed=seed)


def sides(y: Any, groups: Any, shares: Sequence[float], *, seed: int = 0) -> NDArray[np.int64]:
    """The side of each image, as `balance` shares out whole groups and their labels; arguments as in `folds`.

    Args:
        y, groups, seed: see `folds`.
        shares: fraction of the images that each side should have; they add up to 1.

    Returns:
        (n,) from 0 to `len(shares) - 1`.
    """
    truth, codes = np.asarray(y), group_codes(groups, len(y))
    count = int(codes.max(initial=-1)) + 1
    labels = truth.T == 1 if truth.ndim == 2 else np.unique(truth)[:, None] == truth
    columns = [np.ones(len(truth)), *labels]
    counts = np.stack([np.bincount(codes, column, count).astype(np.float64) for column in columns], axis=1)
    order = np.random.default_rng(seed).permutation(count)
    side_of_group = np.empty(count, dtype=np.int64)
    side_of_group[order] = balance(counts[order], shares)
    return side_of_group[codes]


def deal(labels: Sequence[Any] | NDArray[Any], order: NDArray[np.int64], n_folds: int) -> NDArray[np.int64]:
    """Deal single images out like cards, label by label, so that folds and labels differ by one at most.

    Args:
        labels: one an image.
        order: (n,) the images as they are drawn within a label.
        n_folds: how many folds.

    Returns:
        The fold of each image, (n,).
    """
    drawn = sorted(order.tolist(), key=lambda index: str(labels[index]))
    dealt = np.empty(len(drawn), dtype=np.int64)
    dealt[drawn] = np.arange(len(drawn)) % n_folds
    return dealt


def group_codes(groups: Any, n: int) -> NDArray[np.int64]:
    """The number of each image's group, (n,), as first met; None and NaN are groups of their own.

    Raises:
        DataError: there are not `n` groups.

    Example:
        >>> group_codes(["ann", None, "ann", None], 4).tolist()
        [0, 1, 0, 2]
    """
    if groups is None:
        return np.arange(n, dtype=np.int64)
    if len(groups) != n:
        raise DataError(f"groups has {len(groups)} entries for {n} images", "give one patient an image")
    places: dict[Any, int] = {}
    codes = [places.setdefault(object() if _missing(name) else name, len(places)) for name in groups]
    return np.array(codes, dtype=np.int64)


def _missing(name: Any) -> bool:
    """None, NaN or pandas' NA, told without importing pandas: a bundle predicts without it."""
    return name is None or type(name).__name__ == "NAType" or name != name


def linked(*columns: Sequence[object]) -> list[int]:
    """Number the groups of items that share a value in any column, directly or through others.

    Args:
        columns: equally long; None links nothing.

    Returns:
        A group number for each item.

    Example:
        >>> linked(["ann", "ann", "bob", None], [None, 7, 7, None])
        [0, 0, 0, 3]
    """
    n = len(columns[0])
    parent = list(range(n))

    def top(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for column in columns:
        first: dict[object, int] = {}
        for item, value in enumerate(column):
            if value is not None:
                one, other = top(first.setdefault(value, item)), top(item)
                parent[max(one, other)] = min(one, other)
    return [top(item) for item in range(n)]

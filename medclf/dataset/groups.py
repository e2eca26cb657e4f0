"""Images that are linked as near-duplicates, in clusters that a split can keep on one side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medclf.dataset.folds import linked
from medclf.dataset.labels import objects
from medclf.errors import argument

TRAINED_BEFORE = "trained_before"  # the column of images that the network which a training begins with was trained on
FOUND = "twins-"  # how the names of groups begin that were found, and not given


class Link(NamedTuple):
    """Two rows that show the same."""

    kind: str
    a: int
    b: int
    similarity: float
    detail: str


def equal_images(
    pixels: Sequence[str], readable: np.ndarray, digests: np.ndarray, words: str = "different files with equal pixels"
) -> tuple[list[Link], np.ndarray]:
    """Images of equal file or pixels, each linked to the first of its kind; and those first ones.

    Args:
        pixels: hash of each image's pixels.
        readable: which images to look at.
        digests: hash of each file, "" where unknown.
        words: what to call equal pixels.
    """
    links: list[Link] = []
    by_file: dict[str, int] = {}
    by_pixels: dict[str, int] = {}
    for row in map(int, readable):
        known = by_file.setdefault(digests[row] or f"row {row}", row)
        if known != row:
            links.append(Link("same-file", known, row, 1.0, "the files are equal, byte for byte"))
            continue
        known = by_pixels.setdefault(pixels[row], row)
        if known != row:
            links.append(Link("same-pixels", known, row, 1.0, words))
    return links, np.array(sorted(by_pixels.values()), np.int64)


def cluster(paths: Sequence[str], first: Sequence[int], second: Sequence[int]) -> pd.Series:
    """Clusters of images that are linked directly or through others.

    Args:
        paths: of the images.
        first, second: rows of `paths` that are linked, pair by pair.

    Returns:
        Path -> cluster ("twins-1", "twins-2", ... in the order of the paths);
            images without a near-duplicate are not in it.

    Example:
        >>> cluster(["a.png", "b.png", "c.png", "d.png", "e.png"], [1, 4], [4, 2]).to_dict()
        {'b.png': 'twins-1', 'c.png': 'twins-1', 'e.png': 'twins-1'}
    """
    n = len(paths)
    edges = coo_array((np.ones(len(first), bool), (np.asarray(first, int), np.asarray(second, int))), shape=(n, n))
    group = connected_components(edges, directed=False)[1] if n else np.zeros(0, int)
    names: dict[int, str] = {}
    sizes = np.bincount(group, minlength=1)
    rows = [row for row in range(n) if sizes[group[row]] > 1]
    for row in rows:
        names.setdefault(int(group[row]), f"{FOUND}{len(names) + 1}")
    found = [names[int(group[row])] for row in rows]
    return pd.Series(found, index=pd.Index([paths[row] for row in rows], name="path"), name="cluster", dtype=object)


def trained_before(table: pd.DataFrame) -> set[str]:
    """The paths of the images that the network was trained on before this training began with it."""
    if TRAINED_BEFORE not in table:
        return set()
    return set(table.loc[table[TRAINED_BEFORE].astype(str) == "True", "path"])  # text in a table that was read again


def trained_on(table: pd.DataFrame) -> set[str]:
    """The paths of the training images, and of those that the network was trained on before."""
    return trained_before(table) | set(table.loc[table["partition"] == "train", "path"])


def leaking(table: pd.DataFrame) -> np.ndarray:
    """Which images outside the training set share a patient or a group with it, or were trained on before.

    Args:
        table: its columns partition, patient and group.

    Returns:
        (n,) bool.

    Example:
        >>> sides, patients = ["train", "valid", "valid"], ["ann", "ann", None]
        >>> leaking(pd.DataFrame({"path": list("abc"), "partition": sides, "patient": patients})).tolist()
        [False, True, False]
    """
    train = (table["partition"] == "train").to_numpy()
    found = table["path"].isin(trained_before(table)).to_numpy()
    for name in ("group", "patient"):
        column = pd.Series(objects(table, name), dtype=object)
        found = found | column.isin(set(column[train].dropna())).to_numpy()
    return np.asarray(found & ~train)


def groups_of(table: pd.DataFrame) -> np.ndarray | None:
    """Which images belong together: they share a patient or a group of near-duplicates, directly or through others.

    Args:
        table: its columns patient and group count, as far as it has them; a row without either stands for itself.

    Returns:
        (n,) a number for each row, equal for those that belong together; None where no row has a patient or a group.

    Example:
        >>> groups_of(pd.DataFrame({"patient": ["ann", "ann", "bob", None], "group": [None, 7, 7, None]})).tolist()
        [0, 0, 0, 3]
    """
    columns = [objects(table, name) for name in ("group", "patient")]
    known = [column for column in columns if any(value is not None for value in column)]
    return np.array(linked(*known)) if known else None


def unit_of(table: pd.DataFrame) -> str:
    """What `groups_of` counts, in words: patients only where the data name them.

    Example:
        >>> unit_of(pd.DataFrame({"patient": ["ann", None]})), unit_of(pd.DataFrame({"group": ["twins-1"]}))
        ('patients', 'groups of near-duplicates')
    """
    has = {name: any(value is not None for value in objects(table, name)) for name in ("patient", "group")}
    linked_by = what_is_linked(table)
    if has["patient"]:
        return f"groups of linked patients and {linked_by}" if has["group"] else "patients"
    return f"groups of {linked_by}" if has["group"] else "images"


def what_is_linked(table: pd.DataFrame) -> str:
    """What the groups of a table are of: near-duplicates that were found, or whatever its own column `group` links.

    Example:
        >>> what_is_linked(pd.DataFrame({"group": ["twins-1", None]})), what_is_linked(pd.DataFrame({"group": ["x"]}))
        ('near-duplicates', 'images')
    """
    own = (value for value in objects(table, "group") if value is not None)
    return "near-duplicates" if all(str(value).startswith(FOUND) for value in own) else "images"


def with_clusters(table: pd.DataFrame, clusters: pd.Series) -> pd.DataFrame:
    """The table with a column `group` that `split_table(..., "grouped")` keeps on one side.

    Args:
        table: as `scan` returns it; a column `group` of its own is kept linked as well.
        clusters: from `cluster`.

    Returns:
        A copy; an image without a near-duplicate has no group.
    """
    result = table.copy()
    result.attrs = dict(table.attrs)
    twins = objects(pd.DataFrame({"cluster": table["path"].map(clusters)}), "cluster")
    own = objects(table, "group")
    if any(value is not None for value in own):
        joined = linked(own, twins)
        alone = [mine is None and theirs is None for mine, theirs in zip(own, twins, strict=True)]
        twins = [None if single else f"group-{number}" for number, single in zip(joined, alone, strict=True)]
    result["group"] = pd.Series(twins, index=table.index, dtype=object)
    return result


def on_both_sides(table: pd.DataFrame) -> str:
    """How many patients of a split table are in several of its partitions; "" where there are none.

    Example:
        >>> on_both_sides(pd.DataFrame({"patient": list("aab"), "partition": ["train", "valid", "train"]}))[:62]
        '1 of 2 patients has images in both training and validation set'
    """
    if "patient" not in table:
        return ""
    parts = table.dropna(subset=["patient", "partition"]).groupby("patient")["partition"].agg(set)
    both, tested = (sum(found >= of for found in parts) for of in ({"train", "valid"}, {"test"}))
    tested -= sum(found == {"test"} for found in parts)
    told = []
    if both:
        has = "has" if both == 1 else "have"
        alone = f"add images of others, or see whether {argument('patient_col')} names the patients"
        remedy = f"{argument('split', 'patient')} keeps each on one side" if len(parts) > 1 else alone
        told.append(
            f"{both} of {len(parts)} patients {has} images in both training and validation set, so scores will be too "
            f"high: {remedy}"
        )
    if tested:
        has = "patient of the test set has" if tested == 1 else "patients of the test set have"
        told.append(f"{tested} {has} images outside it, so test scores will be too high")
    return ". ".join(told)

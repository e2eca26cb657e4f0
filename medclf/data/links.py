"""Images that are linked as twins, in clusters that a split can keep on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medclf.data.assign import linked
from medclf.data.items import objects


def cluster(paths: Sequence[str], first: Sequence[int], second: Sequence[int]) -> pd.Series:
    """Clusters of images that are linked directly or through others.

    Args:
        paths: of the images.
        first, second: rows of `paths` that are linked, pair by pair.

    Returns:
        Path -> cluster ("twins-1", "twins-2", ... in the order of the paths); images without a twin are not in it.

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
        names.setdefault(int(group[row]), f"twins-{len(names) + 1}")
    found = [names[int(group[row])] for row in rows]
    return pd.Series(found, index=pd.Index([paths[row] for row in rows], name="path"), name="cluster", dtype=object)


def with_clusters(table: pd.DataFrame, clusters: pd.Series) -> pd.DataFrame:
    """The table with a column `group` that `split_table(..., "grouped")` keeps on one side.

    Args:
        table: as `scan` returns it; a column `group` of its own is kept linked as well.
        clusters: from `cluster`.

    Returns:
        A copy; an image without a twin has no group.
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

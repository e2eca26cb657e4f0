"""A part of an archive in, a table of answers out: plain functions for engines that spread parts over many machines.

Both take one part of a table and a bundle's path, keep no state but the loaded bundle, and can be pickled, so that Ray
Data, Dask, Spark or a pool of processes can call them. `docs/scale.md` shows each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from medclf.errors import DataError, ReadError
from medclf.inference.runtimes import bundle_in, load_model

if TYPE_CHECKING:
    from medclf.inference.bundle import Bundle
    from medclf.inference.onnx import OnnxModel

Part: TypeAlias = pd.DataFrame | Sequence[str | Path]


def predict_partition(
    part: Part,
    bundle: str | Path,
    *,
    root: str | Path = "",
    bs: int = 32,
    threads: int | None = None,
    runtime: str = "torch",
) -> pd.DataFrame:
    """Predict the images of one part of a table.

    Args:
        part: rows with a column path, or paths; the other columns come back as they are.
        bundle: a bundle, a RUN that holds one, or an exported .onnx file, where each worker can read it. A process
            loads it once.
        root: what the paths are relative to.
        bs: images at once.
        threads: that decode; as many as there are cores, at most 8, where None. Give 1 where an engine has as many
            workers as the machine has cores.
        runtime: "torch" or "onnx".

    Returns:
        The part's rows, with label (several joined by `|`), prob_NAME for each label, flags (joined by `|`) and
        problem: why a file cannot be read, "" where it can. Probabilities of such a file are NaN.

    Raises:
        DataError: the part has no column path.
        BundleError: the bundle is damaged.

    Example:
        >>> # ray.data.read_csv("files.csv").map_batches(predict_partition, fn_args=("RUN",), batch_format="pandas")
    """
    rows, paths = _rows(part, root)
    model = _loaded(str(bundle_in(bundle)), runtime)
    answers = list(model.predict_stream(paths, bs, threads=threads))
    failed = [isinstance(one, ReadError) for one in answers]
    read: Any = [None if bad else one for one, bad in zip(answers, failed, strict=True)]
    columns: dict[str, Any] = {"label": ["" if one is None else _joined(one.label) for one in read]}
    for name in model.vocab:
        columns[f"prob_{name}"] = [np.nan if one is None else float(one.probs[name]) for one in read]
    columns["flags"] = ["" if one is None else "|".join(one.flags) for one in read]
    columns["problem"] = [one.problem if isinstance(one, ReadError) else "" for one in answers]
    return pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1)


def embed_partition(
    part: Part, bundle: str | Path, *, root: str | Path = "", bs: int = 32, threads: int | None = None
) -> pd.DataFrame:
    """Pooled features of the images of one part of a table, from a bundle's network.

    Args:
        part, bundle, root, bs, threads: as in `predict_partition`.

    Returns:
        The part's rows, with features (a list of float32 each; None where the file cannot be read) and problem.

    Raises:
        DataError: the part has no column path.
        BundleError: the bundle is damaged.
    """
    rows, paths = _rows(part, root)
    found = list(_loaded(str(bundle_in(bundle)), "torch").embed_stream(paths, bs, threads=threads))
    columns = {
        "features": [None if isinstance(one, ReadError) else one.tolist() for one in found],
        "problem": [one.problem if isinstance(one, ReadError) else "" for one in found],
    }
    return pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1)


def partitions(table: pd.DataFrame, rows: int = 1000) -> Iterator[pd.DataFrame]:
    """A table in parts of so many rows, for a pool of processes.

    Example:
        >>> [len(part) for part in partitions(pd.DataFrame({"path": list("abcde")}), 2)]
        [2, 2, 1]
    """
    return (table.iloc[start : start + rows] for start in range(0, len(table), rows))


def _rows(part: Part, root: str | Path) -> tuple[pd.DataFrame, list[Path]]:
    rows = part if isinstance(part, pd.DataFrame) else pd.DataFrame({"path": [str(path) for path in part]})
    if "path" not in rows:
        raise DataError(f"the part has no column 'path', but {', '.join(map(str, rows))}", "rename the column")
    taken = [name for name in ("label", "flags", "problem", "features") if name in rows]
    rows = rows.rename(columns={name: f"given_{name}" for name in taken})
    return rows, [Path(root) / str(path) for path in rows["path"]]


@lru_cache(maxsize=2)
def _loaded(bundle: str, runtime: str) -> Bundle | OnnxModel:
    return load_model(bundle, runtime)


def _joined(label: str | tuple[str, ...]) -> str:
    return "|".join(label) if isinstance(label, tuple) else label

"""`medclf audit`: what is wrong with a data set, as lines for the terminal and files to keep."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.audit import Audit, audit, with_groups, with_partition
from medclf.auditing.kinds import KINDS, PAIR_KINDS
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.errors import MissingDependency, OutputError, WeightsError, argument
from medclf.files import check_writable
from medclf.results.record import RECORD
from medclf.results.run_folder import AUDIT, TABLE, save_table

ARCH = "efficientnet_lite0"  # its weights come with a package, so no hub is needed
_FACTS = "audit.json"
_SIDE = 128  # candidates are found as well at this size as at 224, in half the time
_SHOWN = 12


def audit_run(
    data: Any,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    valid_pct: float = 0.2,
    seed: int = 42,
    near: bool = True,
    embed: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    window: Any = None,
    frame: Any = "middle",
    **scan_kwargs: Any,
) -> list[str]:
    """Audit a data set.

    Args:
        data: what `scan` takes: a folder, a CSV, a DataFrame.
        out: folder for audit.csv, audit.json and table.csv (whose column group holds the clusters of twins).
        split: "random", "stratified", "patient", "grouped" or "folders": count what leaks across that split; where
            None, across the partitions that folders or a column give.
        valid_pct, seed: of that split.
        near: also search near-duplicates.
        embed: also find candidates by the embedding of `efficientnet_lite0`.
        overwrite: replace the audit that `out` holds.
        progress: show progress bars when it lasts.
        window, frame: how DICOM is read; see `read_image`.
        scan_kwargs: of `scan`.

    Returns:
        Lines to print.

    Raises:
        DataError, SplitError: what their messages say.
        OutputError: `out` holds an audit already, a RUN or another table.csv, or cannot be written.
    """
    if out is not None:
        check_writable(out)
        _check_place(Path(out), overwrite)
    table = scan(data, progress=progress, window=window, frame=frame, **scan_kwargs)
    if split not in (None, "grouped"):
        table["partition"] = split_table(table, split, valid_pct=valid_pct, seed=seed)
    found, note = audit_table(table, near=near, embed=embed, progress=progress, window=window, frame=frame)
    if split == "grouped":  # needs the clusters
        grouped = with_groups(found.table, found)
        found = with_partition(found, split_table(grouped, split, valid_pct=valid_pct, seed=seed))
    lines = list(describe_audit(found)) + ([note] if note else [])
    if out is not None:
        found.save(out)
        save_table(Path(out) / TABLE, with_groups(found.table, found))
        lines.append(f"findings: {Path(out) / AUDIT}; facts: {_FACTS}; the table with its groups: {TABLE}")
    return lines


def _check_place(out: Path, overwrite: bool) -> None:
    """See that an audit's files take the place of nothing, or of an audit that may be replaced.

    Raises:
        OutputError: there is an audit already, a RUN, or a table.csv that no audit wrote.
    """
    if (out / _FACTS).exists() and not (out / RECORD).exists():
        if not overwrite:
            remedy = f"choose another {argument('out')}, or replace it with {argument('overwrite', True)}"
            raise OutputError(f"{out} holds an audit already", remedy)
        return
    for name in (RECORD, AUDIT, TABLE):
        if (out / name).exists():
            raise OutputError(f"{out} holds a {name} that is not an audit's", f"choose another {argument('out')}")


def audit_table(
    table: pd.DataFrame,
    *,
    near: bool = True,
    embed: bool = True,
    progress: bool = True,
    window: Any = None,
    frame: Any = "middle",
) -> tuple[Audit, str]:
    """Audit a table, with the embedding where its weights are to be had.

    Args:
        table: as `scan` returns it.
        near, embed, progress, window, frame: see `audit_run`.

    Returns:
        The audit, and a line that says why there was no embedding ("" where there was one, or none was wanted).
    """
    options = {"near": near, "progress": progress, "window": window, "frame": frame}
    if near and embed:
        reading = {"window": window, "frame": frame, "progress": progress}
        try:
            return audit(table, embed=partial(_embedding, **reading), **options), ""
        except (MissingDependency, WeightsError) as error:
            return audit(table, **options), f"without an embedding: {error.message}"
    return audit(table, **options), ""


def _embedding(table: pd.DataFrame, **reading: Any) -> np.ndarray:
    from medclf.models.features import embed_table

    return embed_table(table, ARCH, size=_SIDE, **reading)


def describe_audit(found: Audit) -> Iterator[str]:
    """Lines for the terminal: what matters in sentences, then the pairs to look at first."""
    yield f"{found.summary['n_images']} images searched by {', '.join(found.summary['searched_by'])}"
    for row in found.summary["sentences"]:
        yield f"- {row['finding']}"
    pairs = found.facts()["pairs"]
    for pair in pairs[:_SHOWN]:
        yield f"  {pair['kind']}: {pair['path_a']} = {pair['path_b']} ({pair['detail']})"
    n = int(found.findings["kind"].isin(PAIR_KINDS).sum())
    if n > min(len(pairs), _SHOWN):
        yield f"  ... of {n} pairs in all"
    for row in found.findings[found.findings["kind"] == "corrupt"].head(_SHOWN).itertuples():
        yield f"  {KINDS['corrupt'][0]}: {row.path_a}: {row.detail}"

"""The data's table as people and files have it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pandas as pd

from medclf.dataset.groups import TRAINED_BEFORE
from medclf.dataset.label_warnings import partition_warnings
from medclf.dataset.labels import NO_FINDING, label_set
from medclf.dataset.scan import COLUMNS

_SHOWN = 20
_LABELS = 40
_NONE = (NO_FINDING, "(no label)")


def for_followers(table: pd.DataFrame) -> dict[str, Any]:
    """What another process needs of the table, as JSON can hold it."""
    rows = table[[*COLUMNS, *(name for name in (TRAINED_BEFORE,) if name in table)]].astype(object)
    rows["label"] = [list(label) if isinstance(label, tuple) else label for label in rows["label"]]
    columns = {name: [None if value is None or value != value else value for value in rows[name]] for name in rows}
    return {"columns": columns, "attrs": dict(table.attrs)}


def as_table(sent: dict[str, Any]) -> pd.DataFrame:
    """The table that `for_followers` sent.

    Example:
        >>> table = pd.DataFrame({name: pd.Series([None], dtype=object) for name in COLUMNS})
        >>> table["label"] = pd.Series([("a", "b")], dtype=object)
        >>> as_table(for_followers(table))["label"][0]
        ('a', 'b')
    """
    table = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in sent["columns"].items()})
    table["label"] = [tuple(label) if isinstance(label, list) else label for label in table["label"]]
    table.attrs.update(sent["attrs"])
    return table


def table_hash(table: pd.DataFrame) -> str:
    """SHA-256 of what the data are: path, label, content and problem of each image, and which images share a patient.

    The patients' pseudonyms differ between projects and machines, so a patient stands there as its first image.
    """
    patient = table["path"].groupby(table["patient"]).transform("min")
    columns = table[["path", "label", "sha256", "problem"]].assign(patient=patient).astype(str)
    return hashlib.sha256(columns.to_csv(index=False).encode()).hexdigest()


def describe_table(table: pd.DataFrame) -> Iterator[str]:
    """Lines for the terminal: counts by partition and label, patients, sizes, problems."""
    good = table[table["problem"] == ""]
    ignored = table.attrs.get("ignored", 0)
    yield f"{len(good)} images can be used, {len(table) - len(good)} cannot; {ignored} other files"
    for partition, rows in good.groupby(good["partition"].fillna("(no partition)")):
        labels = [label for cell in rows["label"] for label in label_set(cell) or (_NONE[cell is None],)]
        counts = pd.Series(labels).value_counts().sort_index()
        more = f" and {len(counts) - _LABELS} labels more" if len(counts) > _LABELS else ""
        yield f"  {partition}: {len(rows)} images: " + ", ".join(f"{k} {n}" for k, n in counts[:_LABELS].items()) + more
    if good["patient"].notna().any():
        alone = int(good["patient"].isna().sum())
        yield f"  {good['patient'].nunique()} patients" + (f"; {alone} images without a patient" if alone else "")
        places = good.dropna(subset=["patient", "partition"]).groupby("patient")["partition"].nunique()
        if (places > 1).any():
            yield f"  {(places > 1).sum()} patients in more than one partition: `medclf audit` names them"
    for sentence in partition_warnings(good["label"], good["partition"]):
        yield f"  {sentence} with these partitions"
    if len(good):
        yield f"  {good['width'].min()}x{good['height'].min()} to {good['width'].max()}x{good['height'].max()} pixels"
    bad = table[table["problem"] != ""]
    for row in bad.head(_SHOWN).itertuples():
        yield f"  left out: {row.path}: {row.problem}"
    if len(bad) > _SHOWN:
        yield f"  ... and {len(bad) - _SHOWN} more: --out writes them all"

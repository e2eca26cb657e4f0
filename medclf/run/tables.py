"""The data's table as people and files have it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.labels import NO_FINDING, label_set
from medclf.dataset.matching import UNKNOWN
from medclf.dataset.scan import COLUMNS
from medclf.errors import DataError, argument, by_road
from medclf.files import replacing

_SHOWN = 20
_NONE = (NO_FINDING, "(no label)")


def save_csv(path: str | Path, rows: pd.DataFrame) -> None:
    """Write rows as CSV, whole or not at all."""
    with replacing(path) as temporary:
        rows.to_csv(temporary, index=False)


def save_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write the table as CSV, whole or not at all; several labels are joined by `|`."""
    columns = {name: [_joined(cell, name) for cell in table[name]] for name in ("label", UNKNOWN) if name in table}
    save_csv(path, table.assign(**columns))


def _joined(cell: Any, column: str) -> Any:
    """Labels with `|` between them; no finding is told from no label known."""
    if not isinstance(cell, tuple):
        return cell
    return "|".join(cell) or (NO_FINDING if column == "label" else "")


def read_table(run: str | Path) -> pd.DataFrame:
    """The table of a run, as `scan` made it and the split filled it in.

    Args:
        run: a RUN folder.

    Returns:
        As `scan`; every further column as text, None where it is empty.

    Raises:
        DataError: the folder is no run, or the images are gone.
    """
    run = Path(run)
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        table = pd.read_csv(run / "table.csv", dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{run} is not a RUN folder: {error}", f"give the folder that a training made ({argument('out')})"
        ) from error
    root = record.get("root") if isinstance(record, dict) else None
    if not isinstance(root, str) or not Path(root).is_dir():
        raise DataError(
            f"{run}: its images are not at {root}", f"bring them back, or name others with {by_road('data=', '--data')}"
        )
    several = bool(record.get("multi_label"))
    for column in table.columns.difference(["path", "problem", "sha256"]):
        table[column] = table[column].astype(object).where(table[column] != "", None)
    if several:
        told = (table["label"] == NO_FINDING).any() or UNKNOWN in table  # 0.1 left the cell of no finding blank
        blank = None if told else ()
        table["label"] = [_labels_in(cell) if cell else blank for cell in table["label"]]
        if UNKNOWN in table:
            table[UNKNOWN] = [_labels_in(cell or "") for cell in table[UNKNOWN]]
    table.attrs.update(root=root, multi_label=several)
    return table


def _labels_in(cell: str) -> tuple[str, ...]:
    return tuple(label for label in cell.split("|") if label not in ("", NO_FINDING))


def for_followers(table: pd.DataFrame) -> dict[str, Any]:
    """What another process needs of the table, as JSON can hold it."""
    rows = table[[*COLUMNS]].astype(object)
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
        counts = pd.Series(labels).value_counts()
        yield f"  {partition}: {len(rows)} images: " + ", ".join(f"{k} {n}" for k, n in counts.sort_index().items())
    if good["patient"].notna().any():
        alone = int(good["patient"].isna().sum())
        yield f"  {good['patient'].nunique()} patients" + (f"; {alone} images without a patient" if alone else "")
    if len(good):
        yield f"  {good['width'].min()}x{good['height'].min()} to {good['width'].max()}x{good['height'].max()} pixels"
    bad = table[table["problem"] != ""]
    for row in bad.head(_SHOWN).itertuples():
        yield f"  left out: {row.path}: {row.problem}"
    if len(bad) > _SHOWN:
        yield f"  ... and {len(bad) - _SHOWN} more: --out writes them all"


def run_settings(run: Path) -> dict[str, Any]:
    """What a run was asked to do, as its run.json says; {} for a bundle."""
    record = run / "run.json"
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    settings = found.get("settings")
    return settings if isinstance(settings, dict) else {}

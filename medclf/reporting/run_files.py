"""What a report needs of a RUN folder: facts, rows, labels, and the images where they still are."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.auditing.audit import PAIR_KINDS
from medclf.dataset.groups import cluster
from medclf.errors import DataError, MedclfWarning
from medclf.images.phi import Reader, read_picture
from medclf.images.preprocessing import Preprocessing
from medclf.learn.maps import load_maps, with_maps


@dataclass(frozen=True)
class RunFiles:
    """A run as its files have it.

    Args:
        facts: results.json.
        rows: predictions.csv with the further columns of table.csv, and neighbours and twins (lists of paths) where
            the run holds neighbours.csv and audit.csv.
        labels: the label of every image of table.csv, by path, as text; "" where it has none.
        read: a row -> its pixels; None where the images are gone.
        settings: what the run was asked to do; {} where the folder is of an evaluation.
    """

    facts: dict[str, Any]
    rows: pd.DataFrame
    labels: dict[str, str]
    read: Reader | None
    settings: dict[str, Any] = field(default_factory=dict)


def load_run(folder: str | Path, *, show_burned_in: bool = False) -> RunFiles:
    """Read what a report needs of a run's folder.

    Args:
        folder: what `medclf train` or `evaluate` wrote.
        show_burned_in: show also images that often carry the patient's name in their pixels; see `why_withheld`.

    Raises:
        DataError: a file is missing or is no results.json or predictions.csv.

    Warns:
        MedclfWarning: the images are no longer where they were.
    """
    folder = Path(folder)
    facts = _json(folder / "results.json")
    rows = _csv(folder / "predictions.csv", [str(label) for label in facts.get("vocab", [])])
    labels = dict(zip(rows["path"], rows["label"], strict=True)) if {"path", "label"} <= set(rows) else {}
    table = folder / "table.csv"
    if table.is_file():
        more = _csv(table, [])
        new = ["path", *(c for c in more.columns if c not in rows.columns)]
        rows = rows.merge(more[new].drop_duplicates("path"), on="path", how="left")
        labels = dict(zip(more["path"], more.get("label", ""), strict=True)) | labels
    rows = _with_links(rows, "neighbours", neighbours_in(folder))
    rows = _with_links(rows, "twins", twins_in(folder))
    rows = with_maps(rows, load_maps(folder))
    run = _json(folder / "run.json") if (folder / "run.json").is_file() else {}
    settings = run["settings"] if isinstance(run.get("settings"), dict) else {}
    root = run.get("root")
    if not isinstance(root, str) or not Path(root).is_dir():
        place = f"are not at {root}" if root else "have no root in run.json"
        warnings.warn(f"{folder}: the images {place}; the report shows none", MedclfWarning, stacklevel=3)
        return RunFiles(facts, rows, labels, None, settings)
    how = Preprocessing.from_dict((facts.get("settings") or {}).get("preprocessing") or {})
    return RunFiles(facts, rows, labels, partial(read_picture, Path(root), how, show_burned_in), settings)


def _with_links(rows: pd.DataFrame, name: str, links: Mapping[str, list[str]]) -> pd.DataFrame:
    if not links or "path" not in rows:
        return rows
    return rows.assign(**{name: [links.get(path, []) for path in rows["path"]]})


def neighbours_in(folder: Path) -> dict[str, list[str]]:
    """Path -> the training images most similar to it, of a run's neighbours.csv; empty where there is none."""
    file = folder / "neighbours.csv"
    if not file.is_file():
        return {}
    pairs = _csv(file, [], ("path", "neighbour"))
    return {str(path): list(found) for path, found in pairs.groupby("path", sort=False)["neighbour"]}


def twins_in(folder: Path) -> dict[str, list[str]]:
    """Path -> its twins, linked directly or through others, of audit.csv in the run or its folder audit; else empty."""
    file = next((file for file in (folder / "audit.csv", folder / "audit" / "audit.csv") if file.is_file()), None)
    if file is None:
        return {}
    return duplicates_in(_csv(file, [], ("kind", "path_a", "path_b")))


def duplicates_in(findings: pd.DataFrame) -> dict[str, list[str]]:
    """Path -> its near-duplicates, linked directly or through others, of an audit's findings."""
    pairs = findings[findings["kind"].isin(PAIR_KINDS)]
    paths = list(dict.fromkeys([*pairs["path_a"], *pairs["path_b"]]))
    place = {path: row for row, path in enumerate(paths)}
    clusters = cluster(paths, [place[a] for a in pairs["path_a"]], [place[b] for b in pairs["path_b"]])
    members = clusters.groupby(clusters).groups
    return {path: [other for other in members[name] if other != path] for path, name in clusters.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "give a folder that medclf train wrote") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON: {error}", "run medclf train or evaluate again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", "run medclf train or evaluate again")
    return value


def _csv(path: Path, vocab: Sequence[str], wanted: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV whose labels stay the text they are: "001" and "NA" are labels too."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "give a folder that medclf train wrote") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no CSV: {error}", "run medclf train or evaluate again") from error
    missing = [column for column in wanted if column not in rows]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}", "write it again, or remove it")
    for column in ["loss", *(f"prob_{label}" for label in vocab)]:
        if column in rows:
            rows[column] = pd.to_numeric(rows[column].replace("", None))
    return rows

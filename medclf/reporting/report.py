"""The report: one HTML page that opens from disk, needs no network and shows the facts of results.json."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from medclf.errors import DataError, MedclfWarning, ReadError
from medclf.files import finite, write_json, write_text
from medclf.reporting.cases import Cases, read_cases
from medclf.reporting.claim import with_card
from medclf.reporting.names import Names
from medclf.reporting.page import STYLE, environment, hash_of, source_of
from medclf.reporting.pictures import Album, Reader, choose, fill_album, fill_folder
from medclf.reporting.view import TOP_LOSSES, check_facts, context, page_data, picture_data, script_json

SCRIPTS = ("stats.js", "state.js", "explore.js", "review.js")
RESERVE = 900_000  # bytes of a page without its rows and pictures: styles, script, tables, the static pictures
MAX_OUTSIDE = 600  # pictures of images that are in no row: twins and neighbours


def render(
    facts: Mapping[str, Any],
    rows: pd.DataFrame,
    path: str | Path,
    *,
    read: Callable[[Mapping[str, Any]], np.ndarray | None] | None = None,
    pictures: bool = True,
    max_thumbnails: int = 3000,
    max_megabytes: float = 60,
    hide_names: bool = False,
    assets: str | Path | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the page for a set of facts and predictions; nothing is computed by a model here.

    Args:
        facts: what results.json holds.
        rows: one row an image: path, label, pred, prob_NAME for every label, and where there are any
            partition, loss, patient, saliency (PNG data URI), neighbours and twins (paths, "|" between
            them) and columns to group by. Several labels are tuples, or text with "|" between them.
        path: of the page.
        read: row (a dict) -> (H, W) or (H, W, 3) uint8 pixels, or None to show no picture; called from
            several threads. Rows that are named only as neighbour or twin come as {"path": ...}.
        pictures: False leaves all pictures out.
        max_thumbnails: above it the page keeps all errors and a stratified sample of the rest.
        max_megabytes: the size that pictures must not make the page exceed.
        hide_names: call images by their row ("row 1" is the first) and show no file name or folder.
        assets: a folder for the pictures, beside the page; then all are kept, whatever their number.
        title: of the page.
        progress: show a bar while images are read.

    Returns:
        The path of the page.

    Raises:
        DataError: the facts or rows lack something, or `read` gives something that is no picture.
        OutputError: the page or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> rows = pd.DataFrame({"path": ["a.png"], "partition": ["valid"], "label": ["x"], "pred": ["x"],
        ...                      "loss": [0.1], "prob_x": [0.9], "prob_y": [0.1]})
        >>> facts = {"task": "single-label", "partition": "valid", "n": 1, "vocab": ["x", "y"],
        ...          "confusion_matrix": [[1, 0], [0, 0]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = render(facts, rows, Path(folder) / "report.html")
        ...     "Content-Security-Policy" in page.read_text()
        True
    """
    check_facts(facts)
    path = Path(path)
    partition = str(facts.get("partition") or "valid")
    cases = read_cases(rows, facts["vocab"], multi_label=facts["task"] == "multi-label", partition=partition)
    names = Names(cases.paths, hide_names)
    shown = finite(names.scrub(dict(facts)))
    data = page_data(facts, cases, names, partition)
    album, order = Album(), list(range(len(cases)))
    if read is not None and pictures:
        columns = list(map(str, rows.columns))
        source: dict[str, Any] = {
            "records": [dict(zip(columns, values, strict=True)) for values in rows.itertuples(index=False)],
            "read": read,
            "extra": _outside(facts, cases, names),
            "progress": progress,
        }
        if assets is not None:
            album = fill_folder(cases, Path(assets), path, **source)
        else:
            spent = len(script_json(data)) + sum(map(len, cases.saliency.values())) + RESERVE
            first = cases.worst(TOP_LOSSES, partition)
            order = choose(cases, max_thumbnails, first)
            album = fill_album(cases, order, first, max(0, int(max_megabytes * 1e6) - spent), **source)
    placed, chunks = picture_data(cases, names, album, order)
    heading = title or str(facts.get("title") or "Classification report")
    view = context(shown, cases, names, album, heading)
    write_text(path, _page(view, {**data, **placed}, chunks, beside=assets is not None))
    return path


def _outside(facts: Mapping[str, Any], cases: Cases, names: Names) -> list[str]:
    """Paths of images that the page shows beside others though they are in no row."""
    linked = [path for rows in cases.links.values() for paths in rows.values() for path in paths]
    linked += _paths_in(facts.get("audit") or {})
    return [path for path in dict.fromkeys(linked) if path and path not in names.place][:MAX_OUTSIDE]


def _paths_in(value: Any, key: str = "") -> list[str]:
    """The file names under path-like keys of a nested fact, such as the audit's pairs."""
    if isinstance(value, Mapping):
        return [path for k, v in value.items() for path in _paths_in(v, str(k))]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in _paths_in(item, key)]
    return [value] if isinstance(value, str) and "path" in key.lower() else []


def _page(view: Mapping[str, Any], data: Mapping[str, Any], chunks: Sequence[Sequence[Any]], *, beside: bool) -> str:
    templates = environment()
    sources = {name: source_of(templates, name) for name in (*SCRIPTS, STYLE)}
    script = "(() => {\n'use strict';\n" + "\n".join(sources[name] for name in SCRIPTS) + "\n})();"
    style = sources[STYLE]
    encoded = script_json(data)
    identity = hashlib.sha256(encoded.encode()).hexdigest()[:16]
    return templates.get_template("report.html").render(
        **view,
        policy=_policy(style, script, beside),
        style=Markup(style),
        script=Markup(script),
        data=encoded,
        chunks=[script_json(chunk) for chunk in chunks],
        identity=identity,
    )


def _policy(style: str, script: str, beside: bool) -> str:
    """The page's content security policy: its own style and script by their hashes, pictures, nothing else."""
    images = "data: 'self' file:" if beside else "data:"
    return (
        f"default-src 'none'; img-src {images}; style-src '{hash_of(style)}'; script-src '{hash_of(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def report(
    source: Any,
    path: str | Path | None = None,
    *,
    pictures: bool = True,
    max_thumbnails: int = 3000,
    max_megabytes: float = 60,
    hide_names: bool = False,
    assets: str | Path | None = None,
    title: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the report of an interpretation or of a run's folder.

    Args:
        source: a `MedInterpretation`, or the folder that `medclf train` wrote.
        path: of the page; report.html in the run's folder, or here, by default. For an interpretation the
            same facts are written beside it as results.json.
        pictures: as in `render`, like the arguments below.
        max_thumbnails: as in `render`.
        max_megabytes: as in `render`.
        hide_names: as in `render`.
        assets: as in `render`.
        title: as in `render`.
        card: answers to the checklist that medclf cannot know; see `read_card`. A run's results.json gets them too.
        progress: as in `render`.

    Returns:
        The path of the page.

    Raises:
        DataError: the folder lacks results.json or predictions.csv, or they do not fit.
        OutputError: the page cannot be written.
    """
    options: dict[str, Any] = {
        "pictures": pictures,
        "max_thumbnails": max_thumbnails,
        "max_megabytes": max_megabytes,
        "hide_names": hide_names,
        "assets": assets,
        "title": title,
        "progress": progress,
    }
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source)
        facts, rows, read = load_run(folder)
        if card is not None:
            facts |= with_card(facts, card, _settings(folder))
            write_json(folder / "results.json", facts)
        return render(facts, rows, Path(path or folder / "report.html"), read=read, **options)
    path = Path(path or "report.html")
    facts, rows = source.facts(), source.predictions.to_frame()
    facts |= with_card(facts, card)
    page = render(facts, rows, path, read=lambda row: source.read(row["path"]), **options)
    hidden = Names([str(p) for p in rows["path"]], hide_names)
    write_json(path.with_name("results.json"), hidden.scrub(finite(facts)))
    return page


def load_run(folder: str | Path) -> tuple[dict[str, Any], pd.DataFrame, Reader | None]:
    """The facts, the rows (with the table's further columns) and the image reader of a run's folder.

    Returns:
        results.json, predictions.csv joined with table.csv, and a reader; None where the images are gone.

    Raises:
        DataError: a file is missing or is no results.json or predictions.csv.
    """
    folder = Path(folder)
    facts = _json(folder / "results.json")
    rows = _csv(folder / "predictions.csv", [str(label) for label in facts.get("vocab", [])])
    table = folder / "table.csv"
    if table.is_file():
        more = _csv(table, [])
        new = ["path", *(c for c in more.columns if c not in rows.columns)]
        rows = rows.merge(more[new].drop_duplicates("path"), on="path", how="left")
    run = _json(folder / "run.json") if (folder / "run.json").is_file() else {}
    root = run.get("root")
    if not isinstance(root, str) or not Path(root).is_dir():
        place = f"are not at {root}" if root else "have no root in run.json"
        warnings.warn(f"{folder}: the images {place}; the report shows none", MedclfWarning, stacklevel=3)
        return facts, rows, None
    reading = (facts.get("settings") or {}).get("preprocessing") or {}
    return facts, rows, partial(_read_image, Path(root), reading)


def _settings(folder: Path) -> dict[str, Any]:
    """What the run was asked to do; {} where the folder is of an evaluation."""
    record = _json(folder / "run.json") if (folder / "run.json").is_file() else {}
    settings = record.get("settings")
    return settings if isinstance(settings, dict) else {}


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


def _csv(path: Path, vocab: Sequence[str]) -> pd.DataFrame:
    """A CSV whose labels stay the text they are: "001" and "NA" are labels too."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "give a folder that medclf train wrote") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no CSV: {error}", "run medclf train or evaluate again") from error
    for column in ["loss", *(f"prob_{label}" for label in vocab)]:
        if column in rows:
            rows[column] = pd.to_numeric(rows[column].replace("", None))
    return rows


def _read_image(root: Path, reading: Mapping[str, Any], row: Mapping[str, Any]) -> np.ndarray:
    from medclf.images.pixels import read_display

    relative = Path(str(row["path"]))
    if relative.is_absolute() or ".." in relative.parts:
        raise ReadError(relative, "it is outside the data's folder")
    window = reading.get("window")
    window = tuple(window) if isinstance(window, list) else window
    frame: Any = reading.get("frame") or "middle"
    return read_display(root / relative, int(reading.get("channels") or 3), window=window, frame=frame)

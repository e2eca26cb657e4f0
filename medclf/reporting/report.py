"""The report: one HTML page that opens from disk, needs no network and shows the facts of results.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.labels import label_set
from medclf.files import finite, write_json, write_text
from medclf.images.phi import Reader
from medclf.learn import maps
from medclf.learn.assess import assessment_of
from medclf.reporting.cases import read_cases
from medclf.reporting.checklist.claim import with_card
from medclf.reporting.names import Names
from medclf.reporting.run_files import duplicates_in, load_run
from medclf.reporting.thumbnails import Album, choose, fill_album, fill_folder
from medclf.reporting.view import TOP_LOSSES, check_facts, context, link, page_data, picture_data, script_json
from medclf.web.templates import fill

SCRIPTS = ("stats.js", "state.js", "explore.js", "review.js")
RESERVE = 900_000  # bytes of a page without its rows and pictures: styles, script, tables, the static pictures
MAX_OUTSIDE = 600  # pictures of images that are in no row: twins and neighbours


def render(
    facts: Mapping[str, Any],
    rows: pd.DataFrame,
    path: str | Path,
    *,
    read: Reader | None = None,
    labels: Mapping[str, str] | None = None,
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
        read: row (a dict) -> (H, W) or (H, W, 3) uint8 pixels, or None to show no picture (or it raises `Withheld`,
            with the reason); called from several threads. Images that are named only as neighbour or twin come as
            {"path": ...}.
        labels: path -> label of the images that are named only as neighbour or twin.
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
    links = link(cases, names, _paths_in(facts.get("audit") or {}))
    data = page_data(facts, cases, names, partition) | links.as_data(names, labels or {})
    album, order = Album(), list(range(len(cases)))
    if read is not None and pictures:
        columns = list(map(str, rows.columns))
        source: dict[str, Any] = {
            "records": [dict(zip(columns, values, strict=True)) for values in rows.itertuples(index=False)],
            "read": read,
            "extra": links.outside if assets is not None else links.outside[:MAX_OUTSIDE],
            "progress": progress,
        }
        if assets is not None:
            album = fill_folder(cases, Path(assets), path, **source)
        else:
            spent = len(script_json(data)) + sum(map(len, cases.saliency.values())) + RESERVE
            first = cases.worst(TOP_LOSSES, partition)
            order = choose(cases, max_thumbnails, first)
            album = fill_album(cases, order, first, max(0, int(max_megabytes * 1e6) - spent), **source)
    placed, chunks = picture_data(cases, links, album, order)
    heading = title or str(facts.get("title") or "Classification report")
    view = context(shown, cases, names, album, heading)
    write_text(path, _page(view, {**data, **placed}, chunks, beside=assets is not None))
    return path


def _paths_in(value: Any, key: str = "") -> list[str]:
    """The file names under path-like keys of a nested fact, such as the audit's pairs."""
    if isinstance(value, Mapping):
        return [path for k, v in value.items() for path in _paths_in(v, str(k))]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in _paths_in(item, key)]
    return [value] if isinstance(value, str) and "path" in key.lower() else []


def _page(view: Mapping[str, Any], data: Mapping[str, Any], chunks: Sequence[Sequence[Any]], *, beside: bool) -> str:
    encoded = script_json(data)
    identity = hashlib.sha256(encoded.encode()).hexdigest()[:16]
    parts = {"data": encoded, "chunks": [script_json(chunk) for chunk in chunks], "identity": identity}
    return fill("report.html", {**view, **parts}, scripts=SCRIPTS, beside=beside)


def report(
    source: Any,
    path: str | Path | None = None,
    *,
    pictures: bool = True,
    max_thumbnails: int = 3000,
    max_megabytes: float = 60,
    hide_names: bool = False,
    show_burned_in: bool = False,
    neighbours: bool = True,
    assets: str | Path | None = None,
    title: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the report of an interpretation or of a run's folder.

    Both have the same sections: what `medclf train` does besides, `assess` does for an interpretation. Call `assess`
    before to leave parts out.

    Args:
        source: a `MedInterpretation`, or the folder that `medclf train` wrote.
        path: of the page; report.html in the run's folder, or here, by default. For an interpretation the
            same facts are written beside it as results.json.
        pictures: as in `render`, like the arguments below.
        max_thumbnails: as in `render`.
        max_megabytes: as in `render`.
        hide_names: as in `render`.
        show_burned_in: show also ultrasound, secondary captures and DICOM files that say so themselves: their pixels
            often carry the patient's name, so they are withheld otherwise.
        neighbours: show the training images most similar to each.
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
        run = load_run(folder, show_burned_in=show_burned_in)
        facts = run.facts
        if card is not None:
            facts |= with_card(facts, card, run.settings)
            write_json(folder / "results.json", facts)
        page = Path(path or folder / "report.html")
        return render(facts, run.rows, page, read=run.read, labels=run.labels, **options)
    path = Path(path or "report.html")
    facts, rows, labels = _of_interpretation(source)
    rows = rows if neighbours else rows.drop(columns="neighbours", errors="ignore")
    facts |= with_card(facts, card)
    page = render(facts, rows, path, read=source.reader(show_burned_in), labels=labels, **options)
    hidden = Names([str(p) for p in rows["path"]], hide_names)
    write_json(path.with_name("results.json"), hidden.scrub(finite(facts)))
    return page


def _of_interpretation(interp: Any) -> tuple[dict[str, Any], pd.DataFrame, dict[str, str]]:
    """Results, rows and labels of an interpretation, as a training's RUN has them."""
    learn, predictions = interp.learn, interp.predictions
    assessment = assessment_of(learn, predictions if interp.partition == "valid" else None)
    if interp.partition == "valid":
        rows, facts, pictures = assessment.predictions.to_frame(), assessment.results, assessment.saliency
    else:
        found, facts = assessment.of_others(learn, predictions, interp.partition)
        rows, pictures = found.to_frame(), interp.maps()
        facts |= maps.described(pictures)
    rows, labels = maps.with_maps(rows, pictures), {}
    if assessment.table is not None:
        cells = zip(assessment.table["path"], assessment.table["label"], strict=True)
        labels = {path: "|".join(label_set(label)) for path, label in cells}
    near = assessment.neighbours
    links = {} if near is None else near.groupby("path", sort=False)["neighbour"].agg(list).to_dict()
    twins = {} if assessment.audit is None else duplicates_in(assessment.audit.findings)
    for name, linked in (("neighbours", links), ("twins", twins)):
        if linked:
            rows[name] = [linked.get(path, []) for path in rows["path"]]
    return dict(facts), rows, labels

"""The report: one HTML page that opens from disk, needs no network and shows the facts of results.json."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.auditing.kinds import PAIR_KINDS
from medclf.dataset.groups import cluster
from medclf.dataset.labels import label_set
from medclf.display import Page
from medclf.errors import DataError, MedclfError, OutputError, argument
from medclf.files import finite, write_json, write_text
from medclf.images.phi import Reader
from medclf.reporting.cases import read_cases
from medclf.reporting.checklist.claim import with_card
from medclf.reporting.page_data import doubtful, label_data, link, page_data, picture_data, script_json
from medclf.reporting.plain_page import about_of, check_page, in_head
from medclf.reporting.thumbnails import Album, check_folder, choose, fill_album, fill_folder
from medclf.reporting.view import TOP_LOSSES, check_facts, context
from medclf.results import maps
from medclf.results.names import Names, data_set_name
from medclf.results.predictions import Predictions
from medclf.results.record import RECORD
from medclf.results.run_folder import PAGE, RESULTS, TABLE, RunFolder
from medclf.results.schema import read_results
from medclf.web.templates import fill

SCRIPTS = ("stats.js", "state.js", "explore.js", "viewer.js", "save.js", "links.js", "review.js")
RESERVE = 900_000  # bytes of a page without its rows and pictures: styles, script, tables, the static pictures
MAX_OUTSIDE = 600  # pictures of images that are in no row: twins and neighbours


def render(
    results: Mapping[str, Any],
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
    about: Mapping[str, str] | None = None,
    label_errors: pd.DataFrame | None = None,
    title: str | None = None,
    progress: bool = False,
) -> Path:
    """Write the page for a set of facts and predictions; nothing is computed by a model here.

    Args:
        results: what results.json holds.
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
        label_errors: the doubtful labels, as `check_labels` finds them; found by the rows' probabilities where None.
        about: what the page is of, below its title: {"Data set": ..., "Model": ..., "Date": ...}.
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
        >>> results = {"task": "single-label", "partition": "valid", "n": 1, "vocab": ["x", "y"],
        ...          "confusion_matrix": [[1, 0], [0, 0]]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = render(results, rows, Path(folder) / "report.html")
        ...     "Content-Security-Policy" in page.read_text()
        True
    """
    check_facts(results)
    path = Path(path)
    partition = str(results.get("partition") or "valid")
    cases = read_cases(rows, results["vocab"], multi_label=results["task"] == "multi-label", partition=partition)
    names = Names(cases.paths, hide_names)
    shown = finite(names.scrub(dict(results)))
    strips = [row.get("images") for row in (results.get("units") or {}).get("rows") or []]
    links = link(cases, names, [*_paths_in(results.get("audit") or {}), *_paths_in(strips)])
    suspects = doubtful(cases, names, label_errors)
    data = page_data(results, cases, names, partition) | links.as_data(names, labels or {})
    data |= label_data(cases, names, suspects) | {"no_maps": (shown.get("saliency") or {}).get("note", "")}
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
            order = choose(cases, max_thumbnails, [*first, *(one.row for one in suspects)], links.shown(cases))
            if not 0 <= max_megabytes < math.inf:
                text = f"{argument('max_megabytes')} must be a number of at least 0, not {max_megabytes}"
                raise MedclfError(text, f"for pictures in files of their own give {argument('assets', 'FOLDER')}")
            room = max(0, int(max_megabytes * 1e6) - spent)
            album = fill_album(cases, order, first, room, **source)
    placed, chunks = picture_data(cases, links, album, order)
    data_set = "" if names.hide else (about or {}).get("Data set", "")
    heading = title or str(results.get("title") or data_set or "Classification report")
    view = context(shown, cases, names, album, heading, in_head(about or {}, heading, hide=names.hide))
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


@dataclass(frozen=True)
class Reported:
    """What a page is made of, whether it comes from a RUN folder or from an interpretation.

    Args:
        results: what results.json holds.
        rows: one row an image; see `render`.
        labels: path -> label of the images that are named only as neighbour or near-duplicate.
        read: a row -> its pixels; None where the images are gone.
        augmentation: a picture of what the augmentation does, a data URI; "" without one.
        about: data set, model, date and version, for the head of the page.
        label_errors: the doubtful labels; None where they were not looked for.
    """

    results: dict[str, Any]
    rows: pd.DataFrame
    labels: Mapping[str, str]
    read: Reader | None
    augmentation: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    label_errors: pd.DataFrame | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """The results, with the pictures that results.json does not hold."""
        known = self.results.get("augmentation")
        return self.results | ({"augmentation": known | {"picture": self.augmentation}} if known else {})

    @classmethod
    def of_run(cls, run: RunFolder, show_burned_in: bool | None = None) -> Reported:
        """Of a RUN folder.

        Args:
            run: the folder.
            show_burned_in: as the run was made where None.

        Raises:
            DataError: a file of it is missing or damaged.

        Warns:
            MedclfWarning: the images are no longer where they were.
        """
        run.check_counts()
        rows = _with_probe(run.predictions, run.out_of_fold)
        labels = dict(zip(rows["path"], rows["label"], strict=True))
        if (run / TABLE).is_file():
            new = run.table.columns.difference([*rows.columns, "label"], sort=False)
            rows = rows.merge(run.table[["path", *new]].drop_duplicates("path"), on="path", how="left")
            labels = run.labels | labels
        rows = _linked(rows, run.neighbours, run.findings)
        record = run.record if (run / RECORD).exists() else {}
        day = str(record.get("finished") or record.get("started") or "")[:10]
        about = about_of(run.results, data_set_name(record.get("root") or ""), day)
        pictured = maps.with_maps(rows, maps.load_maps(run.path))
        return cls(run.results, pictured, labels, run.reader(show_burned_in), run.augmentation, about, run.label_errors)

    @classmethod
    def of_interpretation(cls, interp: Any, show_burned_in: bool = False) -> Reported:
        """Of a `MedInterpretation`: what `assess` finds, as a training's RUN has it.

        Args:
            interp: the interpretation.
            show_burned_in: see `report`.

        Raises:
            DataError: it is no `MedInterpretation`.
        """
        if not all(hasattr(interp, name) for name in ("learn", "predictions", "partition")):
            text = f"a report is made of a MedInterpretation or of a run's folder, not of a {type(interp).__name__}"
            raise DataError(text, "make one with MedInterpretation.from_learner(learn)")
        from medclf.learn.assess import assessment_of  # with fastai, which the page of a RUN folder does without

        learn, predictions = interp.learn, interp.predictions
        assessment = assessment_of(learn, predictions if interp.partition == "valid" else None)
        if interp.partition == "valid":
            rows = _with_probe(assessment.predictions, assessment.out_of_fold)
            results, pictures = assessment.results, assessment.saliency
        else:
            found, results = assessment.of_others(learn, predictions, interp.partition)
            rows, pictures = found.to_frame(), interp.maps()
            results |= maps.described(pictures)
        labels: dict[str, str] = {}
        if assessment.table is not None:
            cells = zip(assessment.table["path"], assessment.table["label"], strict=True)
            labels = {path: "|".join(label_set(label)) for path, label in cells}
        near = assessment.neighbours
        links = {} if near is None else near.groupby("path", sort=False)["neighbour"].agg(list).to_dict()
        findings = None if assessment.audit is None else assessment.audit.findings
        rows = _linked(maps.with_maps(rows, pictures), links, findings)
        errors = None if assessment.labels is None else assessment.labels.doubtful
        folder = getattr(getattr(learn, "dls", None), "path", "")
        about = about_of(results, data_set_name(str(folder)), date.today().isoformat())
        return cls(dict(results), rows, labels, interp.reader(show_burned_in), assessment.augmentation, about, errors)


def _with_probe(predictions: Predictions, out_of_fold: Predictions | None) -> pd.DataFrame:
    """The rows of the predictions, and below them those of the training images."""
    rows = predictions.to_frame()
    if out_of_fold is None:
        return rows
    train = out_of_fold.to_frame().assign(judge="the linear probe, fitted without this image")
    return pd.concat([rows.assign(judge=""), train], ignore_index=True)


def _linked(rows: pd.DataFrame, neighbours: Mapping[str, Any], findings: pd.DataFrame | None) -> pd.DataFrame:
    """The rows with the images to show beside each, where any are known."""
    twins = {} if findings is None else _duplicates(findings)
    conflicts: dict[str, list[str]] = {}
    if findings is not None:
        pairs = findings[findings["kind"] == "label-conflict"]
        for path, other in [*zip(pairs["path_a"], pairs["path_b"], strict=True)]:
            conflicts.setdefault(path, []).append(other)
    for name, links in (("neighbours", neighbours), ("twins", twins), ("conflicts", conflicts)):
        if links:
            rows[name] = [links.get(path, []) for path in rows["path"]]
    return rows


def _duplicates(findings: pd.DataFrame) -> dict[str, list[str]]:
    """Path -> its near-duplicates, linked directly or through others."""
    pairs = findings[findings["kind"].isin(PAIR_KINDS)]
    paths = list(dict.fromkeys([*pairs["path_a"], *pairs["path_b"]]))
    place = {path: row for row, path in enumerate(paths)}
    clusters = cluster(paths, [place[a] for a in pairs["path_a"]], [place[b] for b in pairs["path_b"]])
    members = clusters.groupby(clusters).groups
    return {path: [other for other in members[name] if other != path] for path, name in clusters.items()}


def report(
    source: Any,
    path: str | Path | None = None,
    *,
    pictures: bool = True,
    max_thumbnails: int = 3000,
    max_megabytes: float = 60,
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
    neighbours: bool = True,
    assets: str | Path | None = None,
    title: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write the report of an interpretation or of a run's folder.

    Both have the same sections: what `medclf train` does besides, `assess` does for an interpretation. Call `assess`
    before to leave parts out.

    Args:
        source: a `MedInterpretation`, or the folder that `train` or `evaluate` made.
        path: of the page; report.html in the run's folder, or here, by default. For an interpretation the
            same results are written beside it as results.json.
        pictures: as in `render`, like the arguments below.
        max_thumbnails: as in `render`.
        max_megabytes: as in `render`.
        hide_names: as in `render`; where None as the run was made, and False for an interpretation.
        show_burned_in: show also ultrasound, secondary captures and DICOM files that say so themselves: their pixels
            often carry the patient's name, so they are withheld otherwise. None as for `hide_names`.
        neighbours: show the training images most similar to each.
        assets: as in `render`.
        title: as in `render`.
        card: answers to the checklist that medclf cannot know; see `read_card`. A run's results.json gets them too.
        overwrite: replace also a page, a results.json or pictures in `assets` that are not of this page.
        progress: as in `render`.

    Returns:
        The path of the page.

    Raises:
        DataError: a file of the folder is missing or damaged, or `source` is something else.
        OutputError: the page cannot be written, does not end in .html, or would take the place of another RUN's report
            or of a file that medclf did not write.
    """
    run = RunFolder(source) if isinstance(source, (str, os.PathLike)) else None
    if run is None:
        page, hidden = Path(path or "report.html"), bool(hide_names)
        check_page(page, overwrite=overwrite)
        _check_beside(page.with_name(RESULTS), overwrite)
        reported = Reported.of_interpretation(source, bool(show_burned_in))
    else:
        page, hidden = Path(path or run / PAGE), run.hide_names if hide_names is None else hide_names
        if page.resolve() != (run / PAGE).resolve():
            check_page(page, overwrite=overwrite)
        reported = Reported.of_run(run, show_burned_in)
    if assets is not None:
        check_folder(assets, page, overwrite=overwrite)
    results, rows = reported.results, reported.rows
    rows = rows if neighbours else rows.drop(columns="neighbours", errors="ignore")
    if run is None or card is not None:
        results |= with_card(results, card, run.settings if run else None)
    render(
        reported.shown if pictures else results,
        rows,
        page,
        read=reported.read,
        labels=reported.labels,
        pictures=pictures,
        max_thumbnails=max_thumbnails,
        max_megabytes=max_megabytes,
        hide_names=hidden,
        assets=assets,
        about=reported.about,
        label_errors=reported.label_errors,
        title=title,
        progress=progress,
    )
    if run is None:
        names = Names([str(name) for name in rows["path"]], hidden)
        write_json(page.with_name(RESULTS), names.scrub(finite(results)))
    elif card is not None:
        run.write_results(results)
    shown: Path = Page(page)
    return shown


def _check_beside(results: Path, overwrite: bool) -> None:
    """See that the results of an interpretation may be written there."""
    remedy = "write the page to another folder"
    if (results.parent / RECORD).exists():
        raise OutputError(f"{results} is of a run", remedy)
    if results.exists() and not overwrite:
        try:
            read_results(results)
        except DataError as error:
            raise OutputError(f"{results} exists already, and medclf did not write it", remedy) from error

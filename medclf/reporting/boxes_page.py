"""The page of a detector: its numbers, and images with given and predicted boxes, missed findings first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.errors import ReadError
from medclf.images.box_places import SIDES
from medclf.images.heatmap import Box, framed
from medclf.images.phi import read_picture
from medclf.images.preprocessing import Preprocessing
from medclf.images.resize import with_channels
from medclf.metrics.intervals import as_plain
from medclf.reporting.plain_page import Exhibit, Section, Shot, about_of, in_head, write_page
from medclf.reporting.tables import Block, Cell, cell, table
from medclf.reporting.thumbnails import data_uri, encode
from medclf.results.names import Names, data_set_name
from medclf.results.run_folder import PAGE
from medclf.results.wording import counted_as, number, percent

_SIDE, _MOST = 512, 100  # longer side in pixels; images of a section
_COLOURS = {"given": "#00e676", "predicted": "#ff40c8"}
_SHARES = {
    "hit_rate": "sensitivity: findings found (a box's centre lies in them)",
    "iou_hit_rate": "findings covered (IoU 0.5 or more)",
    "first_hit_rate": "findings that the surest box of their image hits",
    "froc": "mean sensitivity at 1/8 to 8 false alarms an image (FROC)",
}
_OTHERS = {
    "false_alarms": "false alarms an image",
    "map50": "mean average precision at IoU 0.5 (mAP50)",
    "map": "mean average precision, IoU 0.5 to 0.95 (mAP)",
}


def render_boxes(
    folder: Path,
    results: Mapping[str, Any],
    rows: pd.DataFrame,
    root: Path,
    how: Preprocessing,
    names: Names,
    *,
    show_burned_in: bool = False,
    day: str = "",
) -> Path:
    """Write a detector's report.html.

    Args:
        folder: of the RUN.
        results: what results.json holds.
        rows: of boxes.csv.
        root: the images' folder.
        how: how they are read.
        names: what the images are called.
        show_burned_in: see `medclf.images.phi.why_withheld`.
        day: of the training.

    Returns:
        The page.

    Raises:
        OutputError: it cannot be written.
    """
    boxes = as_plain(results["boxes"])

    def exhibits(paths: list[str]) -> list[Exhibit]:
        own = dict(iter(rows[rows["path"].isin(paths)].groupby("path")))
        return [_exhibit(path, own[path], root, how, names, show_burned_in) for path in paths[:_MOST]]

    note = f"Boxes count from a probability of {percent(boxes['threshold'])} on."
    sections = [Section("Numbers", list(_numbers(boxes)), note=note)]
    for heading, outcome in (("Missed findings", "missed"), ("False alarms", "false alarm"), ("Hits", "hit")):
        chosen = rows[rows["outcome"] == outcome].sort_values("prob", ascending=False, kind="stable")
        paths = list(dict.fromkeys(chosen["path"]))
        where = f"{len(chosen)} on {len(paths)} {counted_as(None, len(paths))}." if paths else "None."
        more = f" The first {_MOST} images are in this page, all in boxes.csv." if len(paths) > _MOST else ""
        key = " Green: given. Pink: predicted, with its probability." if paths else ""
        sections.append(Section(heading, [], exhibits(paths), where + key + more, len(chosen)))
    data = [Block("text", text=f"{line.rstrip('.')}.") for line in boxes.get("data", [])]
    sections.append(Section("Boxes that were given", data))
    chosen_on = "The threshold was chosen on the validation images, so their numbers are optimistic."
    confirm = "The test images had no part in it." if boxes.get("test") else "Confirm them on other images."
    cautions = [f"{chosen_on} {confirm}", *boxes.get("cautions", [])]
    data_set = data_set_name(str(root))
    title = "Boxes" if names.hide else f"Boxes: {data_set}"
    about = about_of(results, "", day)  # the data set is in the title
    return write_page(
        folder / PAGE,
        title,
        " ".join(one["sentence"] for one in (boxes.get("test"), boxes) if one),
        sections,
        cautions,
        leaf=True,
        about=in_head(about, title, hide=names.hide),
    )


def _numbers(boxes: Mapping[str, Any]) -> Iterator[Block]:
    yield _table({"test": boxes["test"], "validation": boxes} if boxes.get("test") else {"validation": boxes})
    rates = {
        name.removeprefix("sensitivity_at_"): value
        for name, value in boxes.items()
        if name.startswith("sensitivity_at_")
    }
    if rates:
        yield Block("heading", text="Sensitivity by false alarms allowed")
        cells = [cell(value, key="sensitivity", told=value.get("n")) for value in rates.values()]
        yield Block("table", columns=["False alarms an image", *rates], rows=[[Cell("sensitivity"), *cells]])
    if boxes.get("per_class"):
        yield Block("heading", text="By label")
        rows = [
            (label, {k: v if k == "n" else number(v) for k, v in one.items()})
            for label, one in boxes["per_class"].items()
        ]
        yield table([{"label": label, **numbers} for label, numbers in rows])
    if boxes.get("saliency"):
        yield Block("heading", text="Beside it: the hottest box of the classifier's Grad-CAM")
        if "hit_rate" in boxes["saliency"]:
            yield _table({"validation": boxes["saliency"]})
        yield from (Block("text", text=boxes["saliency"][name]) for name in ("note",) if name in boxes["saliency"])


def _table(parts: Mapping[str, Mapping[str, Any]]) -> Block:
    """Shares of the findings, and what is no share, of each part of the images."""
    rows = []
    for names, key in ((_SHARES, "sensitivity"), (_OTHERS, "")):
        for name, words in names.items():
            if any(name in values for values in parts.values()):
                found = [cell(values[name], key=key) if name in values else Cell("") for values in parts.values()]
                rows.append([Cell(words), *found])
    return Block("table", columns=["", *(f"{part} images" for part in parts)], rows=rows)


def _exhibit(
    path: str, rows: pd.DataFrame, root: Path, how: Preprocessing, names: Names, show_burned_in: bool
) -> Exhibit:
    shown = rows[rows["outcome"] != "below threshold"]
    lines = [
        f"{row.label} predicted ({percent(row.prob)}): {row.outcome}"
        if row.kind == "predicted"
        else f"{row.label} given: {row.outcome}"
        for row in shown.itertuples()
    ]
    try:
        picture = with_channels(read_picture(root, how, show_burned_in, {"path": path}), 3)
    except ReadError as error:
        return Exhibit(names.of_path(path), [], [*lines, f"no picture: {error.reason}"])
    for kind, colour in _COLOURS.items():
        picture = framed(picture, _boxes(shown[shown["kind"] == kind]), colour)
    return Exhibit(names.of_path(path), [Shot(data_uri(encode(picture, _SIDE)), "")], lines)


def _boxes(rows: pd.DataFrame) -> list[Box]:
    return [Box(*(int(side) for side in row)) for row in np.round(rows[list(SIDES)].to_numpy(float))]

"""A second reader's sheet as a page: the images alone, and what they may be called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from medclf.dataset.columns import POOR
from medclf.dataset.corrections import NONE, UNSURE
from medclf.files import write_text
from medclf.web.templates import fill


def write_sheet_page(
    path: str | Path,
    items: Sequence[tuple[str, str]],
    vocab: Sequence[str],
    *,
    sheet: str,
    file: str,
    multi_label: bool = False,
    title: str = "Second read",
    paths: Sequence[str] = (),
    suggestions: Sequence[str] = (),
    suggest: bool = False,
    remarks: Sequence[str] = (),
    earlier: Sequence[tuple[str, str, str, str]] = (),
    patient_col: str = "",
    patients: Mapping[str, str] | None = None,
    told: Sequence[str] = (),
    notes: Sequence[str] = (),
    then: Sequence[str] = (),
) -> Path:
    """Write the page; it opens from disk, asks the network for nothing, and downloads the sheet filled in.

    Args:
        path: of the page.
        items: (item, picture) in the order to read them; pictures are data URIs.
        vocab: what an image may be called.
        sheet: its id, under which the browser keeps the answers.
        file: what the download is called.
        multi_label: whether an image may have several labels.
        title: of the page.
        paths: of the items, where the sheet is to name them: its columns are then path, label, mark and note.
        suggestions: what a model makes of each item, shown when asked for; "" for none.
        suggest: show them from the start.
        remarks: notes that were written on the items before; "" for none.
        earlier: (path, label, mark, note) of images that were labelled already, to stand in the sheet as well.
        patient_col: the sheet's column of patients; none where "".
        patients: path -> patient, for that column.
        told: sentences on the choice of the images, for the head of the page.
        notes: what else there is to know, for its end.
        then: commands to go on with, once the sheet is filled in.

    Returns:
        The path of the page.

    Raises:
        OutputError: it cannot be written.
    """
    view = {
        "items": list(
            zip(items, *(given or [""] * len(items) for given in (paths, suggestions, remarks)), strict=True)
        ),
        "vocab": list(vocab),
        "sheet": sheet,
        "file": file,
        "multi_label": multi_label,
        "title": title,
        "no_finding": NONE,
        "marks": ["", UNSURE, POOR],
        "blind": not (paths or suggestions),
        "suggests": any(suggestions),
        "suggest": suggest,
        "earlier": json.dumps(list(earlier)) if paths else "",
        "patient_col": patient_col,
        "patients": json.dumps(dict(patients or {})) if patient_col else "",
        "told": told,
        "notes": notes,
        "then": then,
    }
    write_text(path, fill("sheet.html", view, scripts=["sheet.js"]))
    return Path(path)

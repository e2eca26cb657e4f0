"""The page and the sheet in which a reader labels what `label_next` chose."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.dataset.corrections import POOR
from medclf.dataset.csv_files import save_rows
from medclf.errors import DataError, OutputError, ReadError, argument
from medclf.files import refuse_to_replace
from medclf.images.phi import read_picture
from medclf.images.preprocessing import Preprocessing
from medclf.progress import watch
from medclf.run.label_next import NextLabels, label_next
from medclf.run.run import Run


def write_next(
    pool: Any,
    out: str | Path,
    *,
    run: str | Path | None = None,
    n: int = 50,
    suggest: bool = False,
    overwrite: bool = False,
    show_burned_in: bool = False,
    **options: Any,
) -> list[str]:
    """Choose what to label next and write the page to label it in, with a sheet beside it.

    Args:
        pool: see `label_next`.
        out: the page, NEXT.html; NEXT.csv beside it has the labels so far and a row for each image to label.
        run: a RUN folder.
        n: how many images.
        suggest: show what the model suggests from the start; a key shows and hides it anyway.
        overwrite: replace a page that is there.
        show_burned_in: show pictures that often carry the patient's name.
        options: of `label_next`.

    Returns:
        Lines to print.

    Raises:
        OutputError: the page exists, or cannot be written.
        DataError: see `label_next`; or no image can be shown.
    """
    from medclf.reporting.reading_sheet import write_sheet_page

    out = Path(out)
    if out.suffix.lower() != ".html":
        raise OutputError(f"{out} does not end in .html", f"it is a page: give {argument('out', 'next.html')}")
    refuse_to_replace(out, overwrite)
    source = Run(run) if run else None
    found = label_next(source, pool, n, **options)
    how = source.bundle.preprocessing if source else Preprocessing((224, 224), window=options.get("window"))
    shown, missing = _pictures(found, how, show_burned_in)
    sheet = out.with_suffix(".csv")
    earlier = [(path, label, "") for path, label in found.labelled.items()] + [(path, "", POOR) for path in found.poor]
    images = found.images.set_index("path")
    items = [(f"image-{place:03}", uri) for place, uri in enumerate(shown.values(), 1)]
    names = list(shown)
    write_sheet_page(
        out,
        items,
        found.vocab,
        sheet=hashlib.sha256("\n".join(names).encode()).hexdigest()[:8],
        file=sheet.name,
        multi_label=bool(source and source.bundle.multi_label),
        title="Label next",
        paths=names,
        suggestions=[_suggested(images.loc[path]) for path in names],
        suggest=suggest,
        earlier=earlier,
    )
    rows = [*earlier, *((path, "", "") for path in names)]
    save_rows(sheet, pd.DataFrame(rows, columns=["path", "label", "mark"]).assign(note=""))
    why = "What more labels bring is not forecast where an image may have several labels."
    why = why if source and source.bundle.multi_label else "Too few labels to say what more would bring."
    told = found.forecast.sentences() if found.forecast else [why]
    return [
        *found.notes,
        *told,
        *[f"left out: {reason}" for reason in missing],
        f"page: {out} ({len(shown)} images; classes: {', '.join(found.vocab)})",
        f"label them there, download {sheet.name}, then go on with one of",
        f"  medclf label-next {pool} --labels {sheet.name} --out NEXT.html" + (f" --run {run}" if run else ""),
        f"  medclf train {pool} --labels {sheet.name} --out RUN",
    ]


def _pictures(found: NextLabels, how: Preprocessing, show_burned_in: bool) -> tuple[dict[str, str], list[str]]:
    """A data URI by path of the images that can be shown, and why the others cannot."""
    from medclf.reporting.thumbnails import LARGE_BESIDE, data_uri, encode

    shown: dict[str, str] = {}
    missing: list[str] = []
    for path in watch(list(found.images["path"]), len(found.images), "Pictures"):
        try:
            picture = read_picture(found.root, how, show_burned_in, {"path": path})
            shown[path] = data_uri(encode(picture, LARGE_BESIDE, 88))
        except ReadError as error:
            missing.append(f"{path}: {error.reason}")
    if not shown:
        text = f"none of the {len(missing)} images can be shown: {missing[0]}"
        raise DataError(text, f"see {argument('show_burned_in')}")
    return shown, missing


def _suggested(row: pd.Series) -> str:
    return f"{row['suggestion']} ({row['prob']:.0%})" if row["suggestion"] else ""

"""The page and the sheet in which a reader labels what `label_next` chose."""

from __future__ import annotations

import hashlib
import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.auditing.labelling import TYPICAL, UNSURE
from medclf.dataset.csv_files import save_rows
from medclf.errors import DataError, OutputError, ReadError, argument, shell_path
from medclf.files import refuse_to_replace
from medclf.images.phi import read_picture
from medclf.images.preprocessing import Preprocessing
from medclf.progress import watch
from medclf.results.wording import percent
from medclf.run.label_next import DISAGREE, NextLabels, frame_of, label_next, opened
from medclf.run.labels_so_far import EARLIER, YES
from medclf.run.run import Run

_OF_BOTH = ("patient_col", "follow_links", "window", "frame")  # options that a training takes, too


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
        run: a RUN folder, a bundle or an exported file.
        n: how many images.
        suggest: show what the model suggests from the start; a key shows and hides it anyway.
        overwrite: replace a page that is there.
        show_burned_in: show pictures that often carry the patient's name.
        options: of `label_next`.

    Returns:
        Lines to print.

    Raises:
        OutputError: the page or the sheet exists, or cannot be written.
        DataError: see `label_next`; or no image can be shown.
    """
    from medclf.reporting.reading_sheet import write_sheet_page

    out = Path(out)
    sheet = _sheet_beside(out, overwrite, {"the pool": pool, "the second reader's sheet": options.get("second")})
    source = opened(run)
    model = source.bundle if isinstance(source, Run) else source
    if model:
        options["frame"] = frame_of(model, options.get("frame", "middle"))
    found = label_next(source, pool, n, only_shown=not show_burned_in, **options)
    how = model.spec.preprocessing if model else Preprocessing((224, 224), window=options.get("window"))
    shown, missing = _pictures(found, how, show_burned_in)
    names, earlier = list(shown), [row for row in found.earlier if row[0] not in shown]
    images = found.images.set_index("path").loc[names]
    remarks = [found.remarks.get(path, ("", ""))[1] for path in names]
    patient_col = options.get("patient_col") if found.patients else None
    why, expected = _chosen(images), _forecast(found)
    asked = {"run": run, "n": n, "suggest": suggest, "show_burned_in": show_burned_in}
    then = _commands(pool, out, sheet, found, asked | options)
    write_sheet_page(
        out,
        [(f"image-{place:03}", uri) for place, uri in enumerate(shown.values(), 1)],
        found.vocab,
        sheet=hashlib.sha256("\n".join(names).encode()).hexdigest()[:8],
        file=sheet.name,
        multi_label=found.multi_label,
        title="Label next",
        paths=names,
        suggestions=[_suggested(images.loc[path]) for path in names],
        suggest=suggest,
        remarks=remarks,
        earlier=earlier,
        patient_col=patient_col or "",
        patients=found.patients if patient_col else {},
        told=[why, *expected[-2:]],
        notes=[*found.notes, *expected[:-2]],
        then=then,
    )
    asked_now = [(path, "", "", remark) for path, remark in zip(names, remarks, strict=True)]
    _write_sheet(sheet, earlier, asked_now, patient_col, found.patients)
    return [
        *found.notes,
        why,
        *expected,
        *[f"left out: {reason}" for reason in missing],
        f"page: {out} ({len(shown)} images; classes: {', '.join(found.vocab)})",
        f"label them there and download {sheet.name} ({sheet} has none of their labels yet), then go on with one of",
        *(f"  {line}" for line in then),
    ]


def _sheet_beside(page: Path, overwrite: bool, read: Mapping[str, Any]) -> Path:
    """Where the page's sheet goes; `read` is what has to stay, by what it is called.

    Raises:
        OutputError: the page or the sheet exists, or the sheet would be one of what is read.
    """
    if page.suffix.lower() != ".html":
        raise OutputError(f"{page} does not end in .html", f"it is a page: give {argument('out', 'next.html')}")
    sheet = page.with_suffix(".csv")
    for file in (page, sheet):
        refuse_to_replace(file, overwrite)
    for what, given in read.items():
        if isinstance(given, (str, Path)) and sheet.resolve() == Path(given).resolve():
            text = f"the page's sheet would be {sheet}, which is {what}"
            raise OutputError(text, f"choose another page: {argument('out', 'next.html')}")
    return sheet


def _write_sheet(
    sheet: Path, earlier: list[Any], asked_now: list[Any], patient_col: str | None, patients: Mapping[str, str]
) -> None:
    """The labels so far, and a row without a label for each image of the page."""
    rows = pd.DataFrame([*earlier, *asked_now], columns=["path", "label", "mark", "note"])
    if earlier:
        rows[EARLIER] = [YES] * len(earlier) + [""] * len(asked_now)
    if patient_col:
        rows[patient_col] = [patients.get(path, "") for path in rows["path"]]
    save_rows(sheet, rows)


_WHY = {
    UNSURE: "the model is unsure of {n}",
    TYPICAL: "{n} stand for images like them, of which none has a label",
    DISAGREE: "the readers disagree on {n}",
}


def _chosen(images: pd.DataFrame) -> str:
    """Why these images."""
    counts = images["why"].value_counts()
    return f"Why these images: {'; '.join(_WHY[why].format(n=n) for why, n in counts.items())}."


def _forecast(found: NextLabels) -> list[str]:
    if found.forecast:
        return found.forecast.sentences()
    if found.multi_label:
        return ["What more labels bring is not forecast where an image may have several labels."]
    return ["Too few labels to say what more would bring."]


def _commands(pool: Any, out: Path, sheet: Path, found: NextLabels, options: Mapping[str, Any]) -> list[str]:
    """How to go on from the sheet that comes back: with the next images, or with a training."""
    stem, _, number = out.stem.rpartition("-")
    again = f"{stem}-{int(number) + 1}" if stem and re.fullmatch(r"[0-9]{1,6}", number) else f"{out.stem}-2"
    usual = {name: one.default for name, one in inspect.signature(label_next).parameters.items()}
    kept = {name: value for name, value in options.items() if value != usual.get(name)}
    kept = {name: value for name, value in kept.items() if name not in ("labels", "second", "progress", "weights")}
    if not options.get("run"):
        kept["vocab"] = found.vocab  # a class that no image has been given yet is one of them, too
    both = {name: value for name, value in kept.items() if name in _OF_BOTH}
    known = {"label_delim": "|"} if found.multi_label else {"ordinal": ",".join(found.vocab)} if found.ordinal else {}
    root = found.root  # that the sheet's paths are relative to
    if isinstance(pool, (str, Path)):
        root = Path(pool) if Path(pool).is_dir() else Path(pool).parent
    return [
        _command("label-next", pool, {"labels": sheet.name, "out": f"{again}.html"} | kept),
        _command("train", root, {"labels": sheet.name} | known | both),
    ]


def _command(name: str, data: Any, options: Mapping[str, Any]) -> str:
    words = [word for option, value in options.items() for word in _words(option, value)]
    return f"medclf {name} {shell_path(data)} {shlex.join(words)}"


def _words(name: str, value: Any) -> Iterator[str]:
    """An option as the shell has it; none where it is not set."""
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return
    for one in value if isinstance(value, list) else [value]:
        text = ",".join(map(str, one)) if isinstance(one, tuple) else str(one)
        yield from (flag,) if one is True else (flag, text)


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
    return f"{row['suggestion']} ({percent(row['prob'], 0)})" if row["suggestion"] else ""

"""`review`: what a notebook shows of an interpretation, a RUN or the images to label next, to be read there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from medclf.dataset.labels import NO_FINDING
from medclf.errors import DataError, ReadError, argument, check_count
from medclf.images.phi import Reader, read_picture
from medclf.images.preprocessing import Preprocessing
from medclf.parallel import map_ahead, n_cores
from medclf.reporting.report import Reported
from medclf.reporting.thumbnails import data_uri, encode
from medclf.reporting.widget import Review, ReviewItem
from medclf.run.label_next import NextLabels
from medclf.run.run import Run

DOUBTFUL = "doubtful labels"
_SIDE, _QUALITY = 512, 85

Told = tuple[Mapping[str, Any], ReviewItem]


def review(
    source: Any,
    n: int = 100,
    *,
    blind: bool = False,
    show_burned_in: bool = False,
    seed: int = 0,
    model: Any = None,
) -> Review:
    """Review images in a notebook: labels that are doubtful and errors, or the images to label next.

    The widget goes by keys: 1 to 9 a class, Enter accepts what is suggested, u unsure, p poor image, arrows on and
    back, z undo. What was said stays when another group of images is chosen. It is shown wherever anywidget is:
    Jupyter, Lab, VS Code, Colab.

    Args:
        source: a `MedInterpretation` or a RUN folder (doubtful labels of all images, training images too, then the
            model's errors), or what `label_next` gave.
        n: how many images at most.
        blind: a second read: neither label, prediction nor suggestion is shown, in an order that the seed draws.
        show_burned_in: show pictures that often carry the patient's name, too.
        seed: of that order.
        model: for images of `label_next`: the bundle or RUN whose window and frame show them.

    Returns:
        The review: a notebook shows it; `to_frame()` gives what was said, `to_csv()` a file for `medclf train`.

    Raises:
        DataError: there is nothing to review, or none of it can be shown.
        MissingDependency: anywidget is not installed (when it is shown).

    Example:
        >>> # found = review(interp); found            # in one cell; in another, when it is read:
        >>> # found.to_csv("review.csv")
    """
    check_count(argument("n"), n, "give another number")
    if isinstance(source, NextLabels):
        told, read, more = _next(source, show_burned_in, model)
    else:
        told, read, more = _doubted(source, show_burned_in)
    chosen = list(told)[:n]
    if not chosen:
        raise DataError("there is nothing to review", "no label is doubtful and no image was classified wrongly")
    items, missing = _pictured(chosen, read)
    if not items:
        raise DataError(f"none of the images can be shown: {missing[0]}", f"see {argument('show_burned_in', True)}")
    if blind:
        items = [items[place] for place in np.random.default_rng(seed).permutation(len(items))]
    return Review(items, blind=blind, missing=missing, **more)


def _doubted(source: Any, show_burned_in: bool) -> tuple[Iterator[Told], Reader, dict[str, Any]]:
    """Doubtful labels, the most doubtful first; then the other errors, the worst first."""
    if isinstance(source, (str, os.PathLike)):
        reported = Reported.of_run(Run(source), show_burned_in or None)
    else:
        reported = Reported.of_interpretation(source, show_burned_in)
    if reported.read is None:
        raise DataError("the images are no longer where they were", "bring them back")
    results = reported.results
    more = {"vocab": results["vocab"], "multi_label": results["task"] == "multi-label"}
    return _ranked(reported), reported.read, more


def _ranked(reported: Reported) -> Iterator[Told]:
    rows, errors = reported.rows, reported.label_errors
    by_path = {row["path"]: row for row in rows.to_dict("records")}
    named = set()
    for found in () if errors is None else errors.to_dict("records"):
        if (row := by_path.get(found["path"])) is None:
            continue
        named.add(row["path"])
        yield row, _item(row, found["suggested"], DOUBTFUL, f"suggested {found['suggested'] or NO_FINDING}")
    for row in rows.sort_values("loss", ascending=False, kind="stable").to_dict("records"):
        wrong = row["label"] not in ("", None) and row["label"] != row["pred"]
        if wrong and row["path"] not in named:
            yield row, _item(row, row["pred"], f"{row['label']} predicted as {row['pred']}", f"predicted {row['pred']}")


def _item(row: Mapping[str, Any], suggested: str, group: str, told: str) -> ReviewItem:
    label = str(row["label"] or "")
    suggestion = tuple(part for part in str(suggested or NO_FINDING).split("|") if part)
    return ReviewItem(row["path"], "", label, suggestion, group, (row["path"], f"label {label}", told))


def _next(found: NextLabels, show_burned_in: bool, model: Any) -> tuple[Iterator[Told], Reader, dict[str, Any]]:
    """The images to label next, the most wanted first, with those that have a label already in the sheet."""
    if isinstance(model, (str, os.PathLike)):
        model = Run(model).bundle
    how = getattr(model, "preprocessing", None) or Preprocessing((224, 224))

    def read(row: Mapping[str, Any]) -> np.ndarray:
        return read_picture(found.root, how, show_burned_in, row)

    told = ((row, _wanted(row)) for row in found.images.to_dict("records"))
    more = {"vocab": found.vocab, "sheet": "labels", "earlier": found.earlier, "multi_label": found.multi_label}
    return told, read, more


def _wanted(row: Mapping[str, Any]) -> ReviewItem:
    suggestion = (row["suggestion"],) if row["suggestion"] else ()
    return ReviewItem(row["path"], "", "", suggestion, row["why"], (row["path"], row["why"]))


def _pictured(chosen: list[Told], read: Reader) -> tuple[list[ReviewItem], list[str]]:
    """The items with their pictures, and why others have none."""

    def shoot(told: Told) -> ReviewItem | str:
        row, item = told
        try:
            pixels = read(row)
        except ReadError as error:
            return f"{item.path}: {error.reason}"
        if pixels is None:
            return f"{item.path}: its reader gave no picture"
        uri = data_uri(encode(pixels, _SIDE, _QUALITY))
        return ReviewItem(item.path, uri, item.label, item.suggestion, item.group, item.about)

    shot = list(map_ahead(shoot, chosen, threads=n_cores(8)))
    return [one for one in shot if not isinstance(one, str)], [one for one in shot if isinstance(one, str)]

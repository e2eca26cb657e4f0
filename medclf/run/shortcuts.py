"""`medclf shortcuts`: does a run's model look at what stands beside the anatomy?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.auditing.shortcut_test import ShortcutTest, shortcut_test
from medclf.dataset.labels import label_set, objects
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfWarning, argument, by_road, check_known
from medclf.images.phi import withheld_among
from medclf.reporting.checklist.claim import with_card
from medclf.reporting.plain_page import check_page
from medclf.reporting.report import Reported, report
from medclf.reporting.shortcut_page import render_shortcuts
from medclf.results.record import RECORD
from medclf.results.wording import as_sentence
from medclf.run.evaluate import as_trained
from medclf.run.predict import without_fields
from medclf.run.run import Run

_ENOUGH = 10  # held-out images of each label, below which training images are looked at too


def shortcuts(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data: Any = None,
    boxes: Sequence[tuple[float, float, float, float]] = (),
    n_per_label: int = 60,
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
    say: Callable[[str], object] = lambda line: None,
    **scan_kwargs: Any,
) -> tuple[ShortcutTest, Path]:
    """Test a run's model for shortcuts: overlays found, masked, filled in and exchanged between the labels.

    Args:
        run: a RUN folder; or a bundle, with `data`.
        out: the page to write; RUN/shortcuts.html where None.
        data: what `scan` takes; the run's own images where None: those that were held out, where each label has ten,
            else all. Only a test of the run's own images goes into its results.json and report.html.
        boxes: further places to test, each left, top, right, bottom as shares of the width and height.
        n_per_label: at most so many images of each label.
        hide_names: name no files; as the run was made where None.
        show_burned_in: show pictures even where some images often carry the patient's name in their pixels; as the run
            was made where None.
        say: told how far it is, a line at a time.
        scan_kwargs: of `scan`.

    Returns:
        The test and the page.

    Raises:
        DataError: the folder is no run, its images are gone, none carries a label that the model knows, or arguments of
            `scan` are given without `data`.
        BundleError: the bundle is damaged.
        OutputError: the page cannot be written.
    """
    check_known(scan_kwargs, shortcuts, scan)
    check_page(out := Path(out or Path(run, "shortcuts.html")))
    if data is None and scan_kwargs:
        told = " and ".join(map(argument, scan_kwargs))
        text = f"{told}: the run's own images are tested as they were trained on, so nothing is read by this"
        raise DataError(text, f"leave it out, or name the images with {by_road('data=', '--data')}")
    source = Run(run)
    bundle = source.bundle
    known = data is None or (source / RECORD).is_file()  # a bundle alone does not say how pages are made
    hidden = (known and source.hide_names) if hide_names is None else hide_names
    shown = (known and source.show_burned_in) if show_burned_in is None else show_burned_in
    if data is None:
        results = _whole(source)
        table = _held_out(source.table, bundle.vocab)
    else:
        table = scan(data, **{**scan_kwargs, **as_trained(bundle.preprocessing, scan_kwargs)})
    test = shortcut_test(bundle, table, boxes=boxes, n_per_label=n_per_label, say=say)
    trained = "partition" in table and (table["partition"] == "train").any() and data is None
    cautions = ["Some of these images were used for training; effects may be underestimated."] if trained else []
    if told := without_fields(bundle):
        warnings.warn(MedclfWarning(told), stacklevel=2)
        cautions.append(as_sentence(told))
    reason = "" if shown else _why_withheld(table)
    page = render_shortcuts(
        test,
        out,
        title=f"Shortcuts: {source.path.name}",
        hide_names=hidden,
        pictures=not reason,
        cautions=[*cautions, *([f"{reason} --show-burned-in shows them."] if reason else [])],
    )
    if data is None:
        results["shortcuts"] = test.facts()
        source.write_results(results | with_card(results, results.get("card"), source.settings))
        report(source, hide_names=hidden, show_burned_in=shown)
    return test, page


def _whole(run: Run) -> dict[str, Any]:
    """The run's results; what a page of it needs is read too, so that a damaged run is refused before the work."""
    Reported.of_run(run)
    run.images  # noqa: B018 - raises where they are gone
    return run.results


def _why_withheld(table: pd.DataFrame) -> str:
    """Why no picture is shown: a part of one image may stand in any other. "" where nothing speaks against it."""
    used = table.loc[table["problem"] == "", "path"]
    n = len(withheld_among(Path(table.attrs["root"]), used))
    if not n:
        return ""
    return f"Pictures are withheld: {n} of {len(used)} images are of a kind that often has the patient's name in it."


def _held_out(table: pd.DataFrame, vocab: Sequence[str]) -> pd.DataFrame:
    """The rows that were not trained on, where each label has enough of them; else all."""
    held = table[table["partition"].isin(["valid", "test"]) & (table["problem"] == "")]
    counts = dict.fromkeys(vocab, 0)
    for cell in objects(held, "label"):
        for label in label_set(cell):
            counts[label] = counts.get(label, 0) + 1
    if min(counts[label] for label in vocab) < _ENOUGH:
        return table
    held.attrs = dict(table.attrs)
    return held

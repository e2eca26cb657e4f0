"""Is one run better than another, on the same images?"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.groups import unit_of
from medclf.errors import DataError, MedclfWarning, argument
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import as_plain
from medclf.results.predictions import Predictions
from medclf.run.evaluate import load_run


def compare(run_a: str | Path, run_b: str | Path, *, n_boot: int = 2000) -> dict[str, Any]:
    """Compare two runs, or two evaluations, image by image: paired bootstrap and McNemar.

    Args:
        run_a: a RUN folder, or a folder that `evaluate` made.
        run_b: another; only images that both predicted count.
        n_boot: bootstrap resamples.

    Returns:
        `compare_predictions`'s differences (b minus a) as plain dicts, with a sentence, and `only_a` and `only_b`, the
        numbers of images that one of them alone predicted.

    Raises:
        DataError: no images in common, other labels, or the same image labelled otherwise.
    """
    a, b, only = _paired(run_a, run_b)
    found = compare_predictions(
        a.y,
        a.probs,
        b.probs,
        a.vocab,
        groups=a.groups,
        unit=unit_of(a.table),
        multi_label=a.multi_label,
        names=_names(run_a, run_b),
        n_boot=n_boot,
    )
    return {**as_plain(found), "only_a": only[0], "only_b": only[1]}


def compare_page(
    run_a: str | Path, run_b: str | Path, path: str | Path, *, n_boot: int = 2000, hide_names: bool = False
) -> dict[str, Any]:
    """Compare two runs and write a page: the differences overall and by class, and the images that one alone has right.

    Args:
        run_a, run_b, n_boot: as in `compare`.
        path: of the page.
        hide_names: call images by their row.

    Returns:
        What `compare` returns.

    Raises:
        DataError: as `compare`.
        OutputError: the page cannot be written.
    """
    from medclf.reporting.comparison_page import render_comparison

    found = compare(run_a, run_b, n_boot=n_boot)
    a, b, _ = _paired(run_a, run_b)
    rows = pd.DataFrame({"path": a.table["path"], "label": a.labels, "pred_a": a.preds, "pred_b": b.preds})
    for side, one in (("a", a), ("b", b)):
        rows[f"prob_{side}"] = np.nan if a.multi_label else one.probs[np.arange(len(one)), a.y]
    render_comparison(found, rows, path, read=_reader(run_a, run_b), hide_names=hide_names)
    return found


def _names(run_a: str | Path, run_b: str | Path) -> tuple[str, str]:
    """The folders' names, with as much of the path as tells them apart."""
    first, second = Path(run_a).resolve(), Path(run_b).resolve()
    for n in range(1, max(len(first.parts), len(second.parts))):
        names = "/".join(first.parts[-n:]), "/".join(second.parts[-n:])
        if names[0] != names[1]:
            return names
    return first.name, second.name


def _reader(*runs: str | Path) -> Any:
    """How to read the images, from the first run whose images are still there."""
    from medclf.reporting.run_files import load_run as load_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)  # without images the page shows none
        return next((read for run in runs if (read := load_files(run).read) is not None), None)


def _paired(run_a: str | Path, run_b: str | Path) -> tuple[Predictions, Predictions, tuple[int, int]]:
    """The predictions of both for the images that both have, in one order; how many images each has alone."""
    first, second = (load_run(run)[1] for run in (run_a, run_b))
    if first.vocab != second.vocab or first.multi_label != second.multi_label:
        raise DataError(f"{run_a} and {run_b} do not have the same labels", "compare runs on the same data")
    rows_a, rows_b = _in_common(first, second, f"{run_a} and {run_b}")
    a, b = first.subset(rows_a), second.subset(rows_b)
    for name, y_a, y_b in zip(a.table["path"], a.y, b.y, strict=True):
        if not np.array_equal(y_a, y_b):
            raise DataError(f"{name} has another label in {run_b}", "compare runs on the same labels")
    return a, b, (len(first) - len(a), len(second) - len(b))


def _in_common(first: Predictions, second: Predictions, names: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images that both have, by path, in the same order."""
    row_of = {path: i for i, path in enumerate(second.table["path"])}
    pairs = [(i, row_of[path]) for i, path in enumerate(first.table["path"]) if path in row_of]
    if not pairs:
        raise DataError(
            f"{names} have no image in common", f"train both with the same {argument('split')} and {argument('seed')}"
        )
    rows = np.array(pairs)
    return rows[:, 0], rows[:, 1]

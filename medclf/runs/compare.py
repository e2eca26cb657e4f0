"""Is one run better than another, on the same images?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.evaluation.comparison import compare_predictions
from medclf.evaluation.intervals import as_plain
from medclf.evaluation.predictions import Predictions
from medclf.runs.evaluate import load_run


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
    first, second = (load_run(run)[1] for run in (run_a, run_b))
    if first.vocab != second.vocab or first.multi_label != second.multi_label:
        raise DataError(f"{run_a} and {run_b} do not have the same labels", "compare runs on the same data")
    rows_a, rows_b = _in_common(first, second, f"{run_a} and {run_b}")
    a, b = first.subset(rows_a), second.subset(rows_b)
    for name, y_a, y_b in zip(a.table["path"], a.y, b.y, strict=True):
        if not np.array_equal(y_a, y_b):
            raise DataError(f"{name} has another label in {run_b}", "compare runs on the same labels")
    found = compare_predictions(
        a.y,
        a.probs,
        b.probs,
        a.vocab,
        groups=a.groups,
        multi_label=a.multi_label,
        names=(Path(run_a).name, Path(run_b).name),
        n_boot=n_boot,
    )
    return as_plain(found) | {"only_a": len(first) - len(a), "only_b": len(second) - len(b)}


def _in_common(first: Predictions, second: Predictions, names: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images that both have, by path, in the same order."""
    row_of = {path: i for i, path in enumerate(second.table["path"])}
    pairs = [(i, row_of[path]) for i, path in enumerate(first.table["path"]) if path in row_of]
    if not pairs:
        raise DataError(f"{names} have no image in common", "train both with the same --split and --seed")
    rows = np.array(pairs)
    return rows[:, 0], rows[:, 1]

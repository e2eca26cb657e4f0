"""Is one run better than another, on the same images?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf._deprecated import warn
from medclf.dataset.groups import unit_of
from medclf.dataset.labels import objects
from medclf.dataset.units import UNIT
from medclf.errors import DataError, MedclfWarning, argument
from medclf.images.phi import Reader
from medclf.metrics.comparison import ClassComparison, Difference, McNemar, compare_predictions
from medclf.metrics.intervals import as_plain
from medclf.results.predictions import Predictions
from medclf.results.units import N_IMAGES
from medclf.results.wording import counted
from medclf.run.run import Run


@dataclass(frozen=True)
class Comparison:
    """How two runs differ on the images that both predicted.

    Args:
        names: of the runs, a and b.
        sentence: what was found.
        n: how many images both predicted.
        n_groups: of how many patients or groups they are; None where none is known.
        unit: what these are: "patients", ...; None where none is known.
        better: the name of the run that is better; None where no clear difference is found.
        only_a: images that a alone predicted, which are left out.
        only_b: those of b.
        metrics: the differences, b minus a, by metric.
        per_class: sensitivity, specificity and mcnemar of each label.
        mcnemar: the test over all images.
        counted: what has one answer each: "images", "studies", ...; for "images" read these above.
        leak_free: the same without the images that leak from the training of either; None where none does, or where no
            others are left.
    """

    names: tuple[str, str]
    sentence: str
    n: int
    n_groups: int | None
    unit: str | None
    better: str | None
    only_a: int
    only_b: int
    metrics: Mapping[str, Difference]
    per_class: Mapping[str, ClassComparison]
    mcnemar: McNemar
    counted: str = "images"
    leak_free: Comparison | None = None

    def __getitem__(self, name: str) -> Any:
        """What 0.1 gave as a dict."""
        warn(f"medclf.compare(...)[{name!r}]", "an attribute, or medclf.compare(...).as_dict()")
        return self.as_dict()[name]

    @property
    def left_out(self) -> str:
        """What is said of images that one run alone predicted; "" where there are none."""
        counts = zip((self.only_a, self.only_b), self.names, strict=True)
        said = ", ".join(f"{n} of {name}" for n, name in counts if n)
        return f"Only the {self.n} {self.counted} that both predicted are compared; left out: {said}." if said else ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        alone = {"only_a": self.only_a, "only_b": self.only_b}
        names = ("names", "n", "counted", "n_groups", "unit", "better", "per_class", "mcnemar", "sentence")
        found = {name: getattr(self, name) for name in names} | dict(self.metrics)
        plain: dict[str, Any] = as_plain(found)
        return plain | alone | ({"leak_free": self.leak_free.as_dict()} if self.leak_free else {})


def compare(
    run_a: str | Path,
    run_b: str | Path,
    page: str | Path | None = None,
    *,
    n_boot: int = 2000,
    hide_names: bool | None = None,
    show_burned_in: bool | None = None,
) -> Comparison:
    """Compare two runs, or two evaluations, image by image: paired bootstrap and McNemar.

    Args:
        run_a: a RUN folder, or a folder that `evaluate` made.
        run_b: another; only images that both predicted count.
        page: an HTML file to write, with the differences and the images that one alone has right.
        n_boot: bootstrap resamples.
        hide_names: call images by their row on the page; where None, if one of the runs was made so.
        show_burned_in: show also pictures that often carry the patient's name; where None, if both runs were made so.

    Returns:
        The differences, b minus a.

    Raises:
        DataError: a folder is no run or is damaged; no images in common, other labels, or the same image labelled
            otherwise.
        OutputError: the page cannot be written, does not end in .html, or is a RUN's report.
    """
    if page is not None:
        from medclf.reporting.plain_page import check_page

        check_page(page)
    runs = Run(run_a), Run(run_b)
    first, second = (run.predictions.measured for run in runs)
    a, b = _paired(first, second, *map(str, (run_a, run_b)))
    given: Any = {"names": _names(run_a, run_b), "rows": counted(runs[0].results), "n_boot": n_boot}
    found = _compared(a, b, **given)
    by = UNIT if N_IMAGES in a.table else "path"
    leaks = a.table[by].isin(set.union(*(run.leaking(by) for run in runs))).to_numpy()
    clean = _compared(a.subset(~leaks), b.subset(~leaks), **given) if 0 < leaks.sum() < len(a) else None
    of_prevalence = _prevalences(dict(zip(found.names, runs, strict=True)))
    comparison = replace(
        found,
        only_a=len(first) - len(a),
        only_b=len(second) - len(b),
        sentence=found.sentence + _leaks(int(leaks.sum()), found, clean) + of_prevalence,
        leak_free=clean,
    )
    if page is not None:
        from medclf.reporting.comparison_page import render_comparison

        hidden = any(run.hide_names for run in runs) if hide_names is None else hide_names
        shown = all(run.show_burned_in for run in runs) if show_burned_in is None else show_burned_in
        render_comparison(comparison.as_dict(), _rows(a, b), page, read=_reader(runs, shown), hide_names=hidden)
    return comparison


def _compared(a: Predictions, b: Predictions, names: tuple[str, str], rows: str, n_boot: int) -> Comparison:
    """The differences of two runs' predictions of the same images."""
    found = compare_predictions(
        a.y,
        a.probs,
        b.probs,
        a.vocab,
        groups=a.groups,
        unit=unit_of(a.table),
        counted=rows,
        multi_label=a.multi_label,
        predicted=(a.predicted, b.predicted),
        ordinal=a.ordinal and b.ordinal,
        names=names,
        n_boot=n_boot,
    )
    return Comparison(
        names=names,
        only_a=0,
        only_b=0,
        metrics={name: one for name, one in found.items() if isinstance(one, Difference)},
        sentence=found["sentence"],
        n=found["n"],
        n_groups=found["n_groups"],
        unit=found["unit"],
        better=found["better"],
        per_class=found["per_class"],
        mcnemar=found["mcnemar"],
        counted=rows,
    )


def _leaks(n: int, found: Comparison, clean: Comparison | None) -> str:
    """What to say where images leak from a training set: a run may lead by having seen them."""
    if not n:
        return ""
    told = f" {n} of these {found.counted} {'leaks' if n == 1 else 'leak'} from the training of a run."
    if clean is None:
        return f"{told} No others are left, so the differences measure memory, not skill."
    return f"{told} Without {'it' if n == 1 else 'them'}: {clean.sentence}"


def _prevalences(runs: Mapping[str, Run]) -> str:
    """What to say where labels are not chosen for the same share of a label."""
    shifts = {name: run.predictions.shift for name, run in runs.items()}
    if len(set(shifts.values())) == 1:
        return ""
    told = ", ".join(f"{shift or 'that of its training images'} in {name}" for name, shift in shifts.items())
    return f" Labels are chosen for different prevalences: {told}."


def _rows(a: Predictions, b: Predictions) -> pd.DataFrame:
    """path, label, pred_a, pred_b, and the probability of the actual label of each image by either run."""
    rows = pd.DataFrame({"path": a.table["path"], "label": a.labels, "pred_a": a.preds, "pred_b": b.preds})
    for side, one in (("a", a), ("b", b)):
        actual = np.nan if a.multi_label else np.where(a.y >= 0, one.probs[np.arange(len(one)), a.y], np.nan)
        rows[f"prob_{side}"] = actual
    return rows


def _names(run_a: str | Path, run_b: str | Path) -> tuple[str, str]:
    """The folders' names, with as much of the path as tells them apart."""
    first, second = Path(run_a).resolve(), Path(run_b).resolve()
    for n in range(1, max(len(first.parts), len(second.parts))):
        names = "/".join(first.parts[-n:]), "/".join(second.parts[-n:])
        if names[0] != names[1]:
            return names
    return first.name, second.name


def _reader(runs: tuple[Run, Run], show_burned_in: bool) -> Reader | None:
    """How to read the images, from the first run whose images are still there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)  # without images the page shows none
        return next((read for run in runs if (read := run.reader(show_burned_in)) is not None), None)


def _paired(first: Predictions, second: Predictions, name_a: str, name_b: str) -> tuple[Predictions, Predictions]:
    """The predictions of both for the images that both have, in one order."""
    if first.vocab != second.vocab and sorted(first.vocab) == sorted(second.vocab):
        text = f"{name_a} and {name_b} have their labels in another order"
        raise DataError(text, f"train both with the same {argument('ordinal')}")
    if first.vocab != second.vocab or first.multi_label != second.multi_label:
        raise DataError(f"{name_a} and {name_b} do not have the same labels", "compare runs on the same data")
    by = _key(first, second, name_a, name_b)
    row_of = {name: i for i, name in enumerate(second.table[by])}
    pairs = [(i, row_of[name]) for i, name in enumerate(first.table[by]) if name in row_of]
    if not pairs:
        raise DataError(
            f"{name_a} and {name_b} have no image in common",
            f"train both with the same {argument('split')} and {argument('seed')}",
        )
    rows = np.array(pairs)
    a, b = first.subset(rows[:, 0]), second.subset(rows[:, 1])
    for name, y_a, y_b in zip(a.table[by], a.y, b.y, strict=True):
        if not np.array_equal(y_a, y_b):
            raise DataError(f"{name} has another label in {name_b}", "compare runs on the same labels")
    for name, one, other in zip(a.table[by], objects(a.table, "sha256"), objects(b.table, "sha256"), strict=True):
        if one and other and one != other:
            raise DataError(f"{name} is another file in {name_b}", "compare runs on the same images")
    return a, b


def _key(first: Predictions, second: Predictions, name_a: str, name_b: str) -> str:
    """The column that says which rows belong together: units where both answer by unit, else images."""
    by_unit = [UNIT in part.table and N_IMAGES in part.table for part in (first, second)]
    if by_unit[0] != by_unit[1]:
        unit, image = (name_a, name_b) if by_unit[0] else (name_b, name_a)
        text = f"{unit} has one answer for several images, and {image} one for each"
        raise DataError(text, f"train both with the same {argument('unit')}")
    return UNIT if all(by_unit) else "path"

"""The runs below a folder, side by side: what each is, how good it is, and how far from the best one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medclf.errors import DataError, MedclfError, by_road, missing
from medclf.metrics.comparison import Difference
from medclf.metrics.prevalence import shift_in
from medclf.results.names import data_set_name
from medclf.results.record import RECORD
from medclf.results.run_folder import RESULTS
from medclf.results.wording import interval, is_metric, measured, number, score_key, without_leaks
from medclf.run.compare import compare
from medclf.run.resume import is_finished
from medclf.run.run import Run

_DEPTH = 2  # folders below the one that is looked through
_N_BOOT = 500


class RunRow(NamedTuple):
    """A run, in a list of runs.

    Args:
        run: the run.
        name: where it is, from the folder that was looked through.
        data: the name of its images' folder or CSV.
        model: its architecture.
        date: when it was finished, 2026-01-31; "" where it was not.
        n: how many images its score rests on.
        score: accuracy, or AUROC of several labels, with its interval.
        leak_free: the same without leaked images, and how many are left; "" where none leaks.
        to_best: how far it is from the best run of those that predicted the same images; None for that one, for a
            run without another, and for one that was not finished.
        best: the name of that best run; "" where there is no other.
        problem: why there are no numbers; "" where there are.
        counted: what n counts: images, or studies, ... with one answer each.
    """

    run: Run
    name: str
    data: str
    model: str
    date: str
    n: int
    score: str
    leak_free: str
    to_best: Difference | None = None
    best: str = ""
    problem: str = ""
    counted: str = "images"


def find_runs(folder: str | Path = ".") -> list[Run]:
    """The RUN folders of trainings in a folder: itself, and down to two folders below it.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(*missing(folder, "give a folder that holds RUN folders"))
    files = [file for depth in range(_DEPTH + 1) for file in sorted(folder.glob(f"{'*/' * depth}{RECORD}"))]
    return [run for run in (Run(file.parent) for file in files) if _is_training(run)]


def _is_training(run: Run) -> bool:
    try:
        return bool(run.settings)
    except DataError:  # damaged: it is listed, with the reason
        return True


def list_runs(folder: str | Path = ".") -> list[RunRow]:
    """The runs in a folder, each beside the best of those that predicted the same images.

    Args:
        folder: that holds them; see `find_runs`.

    Returns:
        The best first, by the score without leaked images where there is one; runs without numbers last. The
        differences are paired: run minus best, on the images that both predicted, with a 95 % interval; without leaked
        images where others are left.

    Raises:
        DataError: there is no such folder.
    """
    here = Path(folder)
    rows = [_row(run, here.name if run.path == here else str(run.path.relative_to(here))) for run in find_runs(here)]
    ranked = sorted((row for row in rows if not row.problem), key=_value, reverse=True)
    return [_beside(row, ranked) for row in ranked] + [row for row in rows if row.problem]


def _row(run: Run, name: str) -> RunRow:
    try:
        settings, record = run.settings, run.record
        data, model = data_set_name(settings.get("data", "")), settings.get("arch", "")
        data = "(hidden)" if run.hide_names else data
        if record.get("task") == "boxes":
            return RunRow(run, name, data, model, "", 0, "", "", problem="gives boxes: see its page")
        if not is_finished(record) or not (run / RESULTS).is_file():
            return RunRow(run, name, data, model, "", 0, "", "", problem="not finished")
        results = run.results
        key = score_key(results)
        clean = without_leaks(results)
        without = _written(clean.get(key), key)
        date = str(record["finished"])[:10]
        leak_free = f"{without}, n = {clean['n']}" if without else ""
        return RunRow(run, name, data, model, date, results["n"], _written(results.get(key), key), leak_free)
    except MedclfError as error:
        return RunRow(run, name, "", "", "", 0, "", "", problem=error.message)


def _written(metric: Any, key: str) -> str:
    if not is_metric(metric) or metric["value"] is None:
        return ""
    if key == "accuracy":
        return measured(metric).replace("95 % CI ", "")
    ends = interval(metric)
    return f"AUROC {number(metric['value'])}{f' ({ends})' if ends else ''}"


def _value(row: RunRow) -> float:
    """The score to believe: without leaked images, where some leak and others are left."""
    results = row.run.results
    return ((without_leaks(results) or results).get(score_key(results)) or {}).get("value") or 0.0


def _beside(row: RunRow, ranked: Sequence[RunRow]) -> RunRow:
    """The row, with its difference to the best run that it can be compared with."""
    for other in ranked:
        if other is row:
            return row
        try:
            found = compare(other.run.path, row.run.path, n_boot=_N_BOOT)
        except DataError:  # other labels, or no image in common
            continue
        to_best = (found.leak_free or found).metrics[score_key(row.run.results)]
        return row._replace(to_best=to_best, best=other.name, counted=found.counted)
    return row


def differences(rows: Sequence[RunRow]) -> Iterator[str]:
    """How far each run is from the best one, in words.

    Example:
        >>> found = Difference(0.9, 0.86, -0.04, -0.11, 0.03, 50)
        >>> row = RunRow(Run("."), "R-2", "images", "resnet34", "", 50, "", "", found, "R-1")
        >>> list(differences([row]))
        ['R-2 to R-1: -4.0 points (-11.0 to +3.0) on the same 50 images, no clear difference']
    """
    for row in rows:
        if (found := row.to_best) is not None:
            has_interval = not math.isnan(found.low)
            ends = f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})" if has_interval else ""
            clear = "" if has_interval and found.low * found.high > 0 else ", no clear difference"
            images = f"on the same {number(found.n)} {row.counted}"
            yield f"{row.name} to {row.best}: {100 * found.value:+.1f} points{ends} {images}{clear}"


def cautions(rows: Sequence[RunRow]) -> Iterator[str]:
    """What a reader of the list must know."""
    if not rows:
        yield f"No runs here. Train one: {by_road('train(data)', 'medclf train DATA')}"
    if any(row.to_best is not None for row in rows):
        yield (
            "The best run was chosen by these same images, so its lead is optimistic: confirm it on a test set. "
            "Intervals are of the paired difference, 95 %."
        )
    if any(row.leak_free for row in rows):
        text = "Runs are ranked by the score without leaked images, where there is one"
        yield (
            f"{text}; the differences count no leaked images either."
            if any(row.to_best for row in rows)
            else f"{text}."
        )
    shifts = {shift_in((row.run.results.get("calibration") or {}).get("prevalence")) for row in rows if row.score}
    if len(shifts) > 1:
        told = ", ".join(sorted(str(shift or "as trained") for shift in shifts))
        yield f"Labels are chosen for different prevalences: {told}."
    if len({row.n for row in rows if not row.problem}) > 1:
        yield "Scores on different images say little about which model is better."

"""The numbers of a run, on the terminal."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

from medclf.errors import shell_path
from medclf.escaping import printable
from medclf.metrics.table import METRICS, class_metrics
from medclf.progress import has_screen
from medclf.reporting.checks import checks
from medclf.reporting.formatting import scores
from medclf.results.results import short_metrics
from medclf.results.run_folder import PAGE, RunFolder
from medclf.results.wording import beside_guessing, counted, number, partition_name, rests_on_few, score_key
from medclf.run.runs import RunRow, cautions, differences

_MARKS = {"pass": "pass", "warn": "WARN", "fail": "FAIL"}
_STYLES = {"pass": "green", "warn": "yellow", "fail": "red"}
_FILE = 240  # columns of a table that goes to a file
_MOST_LABELS = 40  # that are shown one by one
_ROOMY = 100_000  # a width that every table fits in


class _Console(Console):
    """A console whose lines of text steer no terminal, whatever names the data hold."""

    def tell(self, text: str, **style: Any) -> None:
        self.print(printable(text), **style)

    def show(self, table: Table | str) -> None:
        """A table, or a line in its place; in a file without the spaces that fill its columns."""
        if has_screen(stderr=False):
            self.print(table, soft_wrap=False)
            return
        with self.capture() as drawn:
            self.print(table, soft_wrap=False)
        for line in drawn.get().splitlines():
            self.out(line.rstrip(), highlight=False)


def show_results(path: str | os.PathLike[str]) -> None:
    """Print metrics with intervals, the matrix, what speaks against them, and where the files are: about one screen.

    The page has the rest: every finding of the audit, calibration, and how labels and limits were chosen.
    """
    run = RunFolder(path)
    results = run.results
    console = _Console(highlight=False, markup=False, soft_wrap=True)
    _show_metrics(console, results)
    console.show(_per_class(results))
    if (more := len(results["per_class"]) - _MOST_LABELS) > 0:
        console.tell(f"  {more} more labels, none of a lower F1: see report.html")
    matrix = results["confusion_matrix"]
    shown = matrix_table(matrix, results["vocab"], console) if isinstance(matrix, list) else ""
    if shown:
        console.show(shown)
    if isinstance(shown, str):
        for actual, predicted, n in results["most_confused"][:3]:
            console.tell(f"  {actual} {'' if results['task'] == 'multi-label' else 'predicted as '}{predicted}: {n}")
    split = results.get("data", {}).get("split", {}).get("sentence")
    units = (results.get("units") or {}).get("sentence")
    for line in filter(None, [units, split, *_told(results)]):
        console.tell(f"  {line}")
    if test := results.get("test"):
        _show_metrics(console, test)
        for line in filter(None, [rests_on_few(test), (test.get("leak_free") or {}).get("sentence")]):
            console.tell(f"  {line}")
    for check in checks(results):
        if check.state != "pass":
            console.tell(f"  {check.name.lower()} {_MARKS[check.state]}: {check.sentence}", style=_STYLES[check.state])
    if n := len((results.get("audit") or {}).get("sentences") or []):
        console.tell(f"  The audit has {n} finding{'' if n == 1 else 's'}: see Data in the report, or results.json.")
    files = [name for name in ("bundle", "predictions.csv", "results.json") if (run / name).exists()]
    console.tell(f"  in {run.path}: {', '.join(files)}")
    console.print()
    for line, style in ending(run, results):
        console.tell(line, style=style)


def ending(run: RunFolder, results: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader in a hurry needs, in at most eight lines, each with its style: the last that `train` prints."""
    data, arch = results.get("data") or {}, (results.get("settings") or {}).get("arch")
    images = f"{number(data['n_images'])} images, " if "n_images" in data else ""
    yield f"{run.path.name}: {images}{len(results['vocab'])} classes{f', {arch}' if arch else ''}", "bold"
    for score in scores(results):
        interval = f" ({score['interval']})" if score["interval"] else ""
        yield f"{score['name']}: {score['value']}{interval}, {score['images']}", ""
    for actual, predicted, n in results["most_confused"][:1]:
        how = "as " * (results["task"] != "multi-label")
        yield f"most often confused: {actual} {how}{predicted}, {n} {counted(results, n)}", ""
    found = checks(results)
    told = ", ".join(f"{check.name.lower()} {_MARKS[check.state]}" for check in found)
    worst = next((state for state in ("fail", "warn") if any(check.state == state for check in found)), "pass")
    yield f"checks: {told}", _STYLES[worst]
    if (run / PAGE).exists():
        yield f"report: {(run / PAGE).resolve().as_uri()}", ""
    if (run / "bundle").exists():
        path = shell_path(run.path)
        yield f"next: open the report, then medclf predict {path} IMAGES, or medclf serve {path}", ""


def show_runs(rows: Sequence[RunRow]) -> None:
    """Print runs as a table, the best first, and how far each is from the best on the same images."""
    width = None if has_screen(stderr=False) else _FILE  # a file has no edge to fold at
    console = _Console(highlight=False, markup=False, soft_wrap=True, width=width)
    columns = [_labels(name) for name in ("run", "data", "model", "date", "n", "score (95 % CI)", "without leaks")]
    table = Table(*columns, box=None)
    for row in rows:
        cells = (row.name, row.data, row.model, row.date, row.n or "", row.score or row.problem, row.leak_free)
        table.add_row(*map(printable, cells))
    if rows:
        console.show(table)
        console.print()
    for line in (*differences(rows), *cautions(rows)):
        console.tell(line)


def _show_metrics(console: _Console, results: dict[str, Any]) -> None:
    console.tell(f"{_images(results)} (95 % confidence intervals)", style="bold")
    told: set[str] = set()
    for key, found in short_metrics(results).items():
        note = str(found.get("note") or "")  # which labels the mean is not of: said once
        console.tell(f"  {METRICS[key].name}: {written(found)}{f'; {note}' if note and note not in told else ''}")
        told.add(note)
    if resampled := results.get("resampling"):
        console.tell(f"  {resampled}")
    if ordinal := (results.get("ordinal") or {}).get("sentence"):
        console.tell(f"  {ordinal}")
    baseline = {key: one for key, one in (results.get("baseline") or {}).items() if key in ("label", "accuracy")}
    if guessed := beside_guessing({"accuracy": results.get("accuracy"), "baseline": baseline}, counted(results)):
        console.tell(f"  {guessed}")


def _images(results: dict[str, Any]) -> str:
    """How many images the numbers are about, and of how many where some were left out.

    Example:
        >>> _images({"n": 16, "partition": "test", "left_out": {"n": 8, "of": 24}})
        '16 of 24 test images'
    """
    missing = results.get("left_out") or {}
    of = f" of {missing['of']}" if missing.get("n") and not results.get("units") else ""  # it counts images
    return f"{results['n']}{of} {partition_name(results['partition'])} {counted(results, results['n'])}"


def _told(results: dict[str, Any]) -> Iterator[str]:
    """What was left out, what a table adds, how far folds differ, and what predict will say."""
    if results.get("left_out"):
        yield results["left_out"]["sentence"]
    beside = results.get("tabular") or {}
    if beside:
        yield f"image and table: {beside['sentence']} Before calibration:"
    yield from _by_name(beside)
    for sentence in (*beside.get("shortcuts", ()), *beside.get("notes", ())):
        yield f"- {sentence}"
    for name, spread in (results.get("fold_spread") or {}).items():
        if name in ("accuracy", "auroc"):
            yield f"{METRICS[name].name} by fold: {spread['lowest']:.3f} to {spread['highest']:.3f}"
    if shifted := (results.get("calibration") or {}).get("prevalence"):
        yield shifted["sentence"]
    for section in ("abstain", "operating_point"):
        sentence = (results.get(section) or {}).get("sentence")
        if sentence:
            first, dot, _ = sentence.partition(". ")
            yield first + dot.strip()
    point = results.get("operating_point") or {}
    for label, found in ({point["label"]: point} if "label" in point else point).items():
        if restated := isinstance(found, dict) and found.get("restated"):
            where = f"{label} at a prevalence of {found['prevalence']:.3g}"
            text = f"{where}: PPV {written(restated['ppv'])}, NPV {written(restated['npv'])}. {restated['sentence']}"
            yield text.strip()
    for row in results.get("external") or []:
        key = score_key(results)
        yield f"external, {row['images']}: {METRICS[key].name} {written(row[key])}, n = {row['n']}"
        yield from filter(None, [row.get("left_out"), row.get("leak_free")])


def _by_name(section: dict[str, Any]) -> Iterator[str]:
    for which, row in (section.get("numbers") or {}).items():
        numbers = ", ".join(f"{METRICS[key].name} {written(found)}" for key, found in short_metrics(row).items())
        yield f"- {which}: {numbers}"


def written(metric: dict[str, Any]) -> str:
    """A metric with its interval.

    Example:
        >>> written({"value": 1.0, "low": 0.722, "high": 1.0, "n": 10})
        '1.000 (0.722 to 1.000)'
    """
    if metric["value"] is None:
        return "not computed"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _per_class(results: dict[str, Any]) -> Table:
    columns = class_metrics(short=True)
    titles = ("label", "n", *(metric.name for metric in columns))
    table = Table(*map(_labels, titles), box=None, pad_edge=False)
    rows = results["per_class"]
    f1 = {label: row.get("f1", {}).get("value") for label, row in rows.items()}
    worst = sorted(rows, key=lambda label: math.inf if f1[label] is None else f1[label])[:_MOST_LABELS]
    for label, row in ((label, row) for label, row in rows.items() if label in worst):
        found = [row.get(metric.key, {}).get("value") for metric in columns]
        cells = ["-" if value is None else f"{value:.3f}" for value in found]
        table.add_row(printable(label), str(row["n"]), *cells)
    return table


def matrix_table(matrix: list[list[int]], vocab: list[str], console: Console) -> Table | str:
    """The confusion matrix, its columns numbered where their names do not fit the terminal; nothing is cut.

    Args:
        matrix: images of each actual label (rows) by predicted label.
        vocab: the labels.
        console: whose width it has to fit.
    """
    no_room = f"  The confusion matrix of {len(vocab)} labels does not fit here: see report.html"
    if 2 * len(vocab) > console.width:  # a column takes a digit and a blank, or more
        return no_room
    rows, vocab = [list(map(str, counts)) for counts in matrix], list(map(printable, vocab))
    named = Table(_labels("actual \\ predicted"), *vocab, box=None)
    for label, cells in zip(vocab, rows, strict=True):
        named.add_row(label, *cells)
    if _width(named, console) <= console.width:
        return named
    numbered = Table("", _labels("actual \\ predicted"), *(str(k) for k, _ in enumerate(vocab, 1)), box=None)
    for k, (label, cells) in enumerate(zip(vocab, rows, strict=True), 1):
        numbered.add_row(str(k), label, *cells)
    longest = max(map(len, vocab))
    if _width(numbered, console) - longest + min(longest, 20) <= console.width:
        return numbered
    return no_room


def _labels(title: str) -> Column:
    """A column of which no letter or digit is cut on a narrow terminal."""
    return Column(title, overflow="fold")


def _width(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(width=_ROOMY), table).maximum

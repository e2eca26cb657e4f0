"""The numbers of a run, on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medclf.metrics.table import METRICS, class_metrics
from medclf.results.results import short_metrics

_SENTENCES = 5  # of the audit; the page has all


def show_results(run: Path) -> None:
    """Print metrics with intervals, the matrix, the most confused pairs, and where the files are."""
    facts = json.loads((run / "results.json").read_text(encoding="utf-8"))
    console = Console()
    console.print(f"[bold]{_images(facts)}[/bold] (95 % intervals)", highlight=False)
    for key, found in short_metrics(facts).items():
        console.print(f"  {METRICS[key].name}: {written(found)}", highlight=False)
    console.print(_per_class(facts))
    if isinstance(facts["confusion_matrix"], list):
        console.print(_matrix(facts["confusion_matrix"], facts["vocab"]))
    for actual, predicted, n in facts["most_confused"][:3]:
        what = f"{actual} {predicted}" if facts["task"] == "multi-label" else f"{actual} taken for {predicted}"
        console.print(f"  {what}: {n}", highlight=False)
    split = facts.get("data", {}).get("split", {}).get("sentence")
    if split:
        console.print(f"  {split}", highlight=False, soft_wrap=True)
    for line in _worth(facts):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    for name in ("report.html", "bundle", "predictions.csv", "results.json"):
        if (run / name).exists():
            console.print(f"  {name.partition('.')[0]}: {run / name}", highlight=False, soft_wrap=True)


def _images(facts: dict[str, Any]) -> str:
    """How many images the numbers are about, and of how many where some were left out.

    Example:
        >>> _images({"n": 16, "partition": "test", "left_out": {"n": 8, "of": 24}})
        '16 of 24 test images'
    """
    missing = facts.get("left_out") or {}
    of = f" of {missing['of']}" if missing.get("n") else ""
    return f"{facts['n']}{of} {facts['partition']} images"


def _worth(facts: dict[str, Any]) -> Iterator[str]:
    """What the numbers are worth: both of them where images leak, what the audit found, what predict will say."""
    if facts.get("left_out"):
        yield facts["left_out"]["sentence"]
    leak = facts.get("leak_free") or {}
    if leak:
        yield leak["sentence"]
    for which, row in (leak.get("numbers") or {}).items():
        numbers = ", ".join(f"{METRICS[key].name} {written(found)}" for key, found in short_metrics(row).items())
        yield f"- {which}: {numbers}"
    if facts.get("audit"):
        yield "audit:"
    for row in ((facts.get("audit") or {}).get("sentences") or [])[:_SENTENCES]:
        yield f"- {row['finding']}"
    for name, spread in (facts.get("fold_spread") or {}).items():
        if name in ("accuracy", "auroc"):
            yield f"{METRICS[name].name} by fold: {spread['lowest']:.3f} to {spread['highest']:.3f}"
    for section in ("calibration", "abstain", "operating_point"):
        sentence = (facts.get(section) or {}).get("sentence")
        if sentence:
            yield f"{section.replace('_', ' ')}: {sentence}"
    restated = (facts.get("operating_point") or {}).get("restated")
    if restated:
        yield restated["sentence"]
    for row in facts.get("external") or []:
        yield f"external, {row['images']}: accuracy {written(row['accuracy'])}, n = {row['n']}"


def written(metric: dict[str, Any]) -> str:
    """A metric with its interval.

    Example:
        >>> written({"value": 1.0, "low": 0.722, "high": 1.0, "n": 10})
        '1.000 (0.722 to 1.000)'
    """
    if metric["value"] is None:
        return "cannot be computed"
    if metric["low"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _per_class(facts: dict[str, Any]) -> Table:
    columns = class_metrics(short=True)
    table = Table("label", "n", *(metric.name for metric in columns), box=None)
    for label, row in facts["per_class"].items():
        found = [row.get(metric.key, {}).get("value") for metric in columns]
        cells = ["-" if value is None else f"{value:.3f}" for value in found]
        table.add_row(label, str(row["n"]), *cells)
    return table


def _matrix(matrix: list[list[int]], vocab: list[str]) -> Table:
    table = Table("actual \\ predicted", *vocab, box=None)
    for label, row in zip(vocab, matrix, strict=True):
        table.add_row(label, *map(str, row))
    return table

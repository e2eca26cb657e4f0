"""The page of a comparison: is the second run better than the first, overall, by class, and on which images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from medclf.errors import ReadError
from medclf.files import is_number
from medclf.metrics.table import overall_metrics
from medclf.reporting.charts import Chart, heat, ticks
from medclf.reporting.plain_page import Exhibit, Section, Shot, write_page
from medclf.reporting.tables import Block, Cell
from medclf.reporting.thumbnails import data_uri, encode
from medclf.results.names import Names
from medclf.results.wording import counted_as, number, percent

SHOWN = 12  # images of each kind
_MOST_CLASSES = 30  # whose matrices are shown
_MATRICES = (
    "Rows are the actual classes, columns the predicted ones. The third matrix is the second minus the first: blue "
    "cells are better, orange ones worse."
)
_SIDE = 256
_WIDTH, _LEFT, _RIGHT, _ROW = 440, 165, 16, 26


def render_comparison(
    found: Mapping[str, Any],
    rows: pd.DataFrame,
    path: str | Path,
    *,
    read: Callable[[Mapping[str, Any]], np.ndarray | None] | None = None,
    hide_names: bool = False,
    title: str | None = None,
) -> Path:
    """Write the page of a comparison.

    Args:
        found: what `medclf.run.compare.compare` returns.
        rows: one row an image that both predicted: path, label, pred_a, pred_b, prob_a and prob_b (of the actual label;
            NaN where there are several).
        path: of the page.
        read: row -> uint8 pixels, or None to show no picture.
        hide_names: call images by their row.
        title: of the page.

    Returns:
        The path.

    Raises:
        OutputError: it cannot be written.
    """
    a, b = found["names"]
    names = Names([str(p) for p in rows["path"]], hide_names)
    matrices = _matrices(found, rows)
    signs = (
        f"Differences are {b} minus {a}, with 95 % intervals: {b} is better where they are above 0, which is right of "
        f"the dotted line. An interval that holds 0 shows no clear difference."
    )
    sections = [
        Section("Overall", [_chart(found), _overall(found), *_mcnemar(found)], note=signs),
        *([Section("Confusion matrices", matrices, note=_MATRICES)] if matrices else []),
        Section(
            "By class",
            [_by_class(found)],
            note="Sensitivity and specificity of each class. The p value is of McNemar's test on the images of the "
            "class. With 20 classes expect one significant difference by chance.",
        ),
        _alone(rows, ("a", "b"), found["names"], read, names),
        _alone(rows, ("b", "a"), found["names"][::-1], read, names),
        _both_wrong(rows, found["names"], read, names),
    ]
    return write_page(
        path, title or f"{a} against {b}", found["sentence"], sections, _cautions(found, read is not None)
    )


def _cautions(found: Mapping[str, Any], has_images: bool) -> list[str]:
    groups, texts = found.get("n_groups"), []
    rows = found.get("counted", "images")
    if groups:
        images = f"{number(found['n'])} {rows} in {number(groups)} {found['unit']}"
        texts.append(f"Both runs on the same {images}, which were resampled whole.")
    for key, name in (("only_a", found["names"][0]), ("only_b", found["names"][1])):
        if found.get(key):
            texts.append(f"{number(found[key])} further {rows} were predicted by {name} alone, and are left out.")
    if not groups and rows != "patients":
        texts.append(f"If patients have several {rows}, the intervals should be wider: no patient IDs were given.")
    return texts if has_images else [*texts, "No pictures: the images are not where the runs had them."]


def _overall(found: Mapping[str, Any]) -> Block:
    a, b = found["names"]
    rows = []
    for metric in overall_metrics():
        difference = found.get(metric.key)
        if isinstance(difference, Mapping) and "a" in difference:
            values = [number(difference[side], metric.unit) for side in ("a", "b")]
            rows.append([metric.title, *values, _gap(difference, metric.unit), number(difference["n"])])
    return _table(["metric", a, b, "difference", "images"], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Block:
    """A table whose first column is words, the others numbers; names of runs stay as they are."""
    cells = [[Cell(text, css="number" if place else "") for place, text in enumerate(row)] for row in rows]
    return Block("table", columns=list(columns), rows=cells)


def _gap(difference: Mapping[str, Any], unit: str) -> str:
    """The difference with its interval: points of a share, else the plain number.

    Example:
        >>> _gap({"value": 0.05, "low": -0.01, "high": 0.11}, "%"), _gap({"value": None, "low": None, "high": None}, "")
        ('+5.0 points (-1.0 to +11.0)', '–')
    """
    values = [difference[end] for end in ("value", "low", "high")]
    if not is_number(values[0]):
        return "–"
    texts = [f"{100 * v:+.1f}" if unit else f"{v:+.3f}" for v in values if is_number(v)]
    points = " points" if unit else ""
    return f"{texts[0]}{points} ({texts[1]} to {texts[2]})" if len(texts) == 3 else f"{texts[0]}{points}"


def _p(value: Any) -> str:
    return "–" if not is_number(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _mcnemar(found: Mapping[str, Any]) -> list[Block]:
    a, b = found["names"]
    test = found["mcnemar"]
    by_groups = is_number(test.get("p_groups"))
    rows = [
        [Cell(f"only {a} is correct"), Cell(number(test["only_a"]))],
        [Cell(f"only {b} is correct"), Cell(number(test["only_b"]))],
        [Cell(f"p, McNemar mid-p{'' if by_groups else ' (the one to read)'}"), Cell(_p(test["p_mid"]))],
        [Cell("p, McNemar exact (cautious)"), Cell(_p(test["p_exact"]))],
    ]
    if by_groups:
        rows.append([Cell(f"p by {found['unit']} (the one to read)"), Cell(_p(test["p_groups"]))])
    return [Block("heading", text="Images that tell them apart"), Block("facts", rows=rows)]


def _by_class(found: Mapping[str, Any]) -> Block:
    a, b = found["names"]
    rows = []
    for label, one in found["per_class"].items():
        sensitivity, test = one["sensitivity"], one["mcnemar"]
        p = test["p_groups"] if is_number(test.get("p_groups")) else test["p_mid"]
        p = p if sensitivity["n"] else None
        both = [percent(sensitivity[side]) for side in ("a", "b")]
        numbers = [number(sensitivity["n"]), *both, _gap(sensitivity, "%"), _p(p), _gap(one["specificity"], "%")]
        rows.append([str(label), *numbers])
    heads = ["class", "n", f"sensitivity, {a}", f"sensitivity, {b}", "difference", "p", "specificity, difference"]
    return _table(heads, rows)


def _matrices(found: Mapping[str, Any], rows: pd.DataFrame) -> list[Block]:
    """The confusion matrix of each run, and the second less the first; none where an image may have several labels."""
    vocab = [str(label) for label in found["per_class"]]
    place = {label: k for k, label in enumerate(vocab)}
    known = rows[rows["label"].isin(place) & rows["pred_a"].isin(place) & rows["pred_b"].isin(place)]
    if len(known) < len(rows) or not len(rows) or not 1 < len(vocab) <= _MOST_CLASSES:
        return []
    counts = []
    for side in ("pred_a", "pred_b"):
        matrix = np.zeros((len(vocab), len(vocab)), int)
        np.add.at(matrix, (known["label"].map(place).to_numpy(), known[side].map(place).to_numpy()), 1)
        counts.append(matrix)
    totals = counts[0].sum(1, keepdims=True).clip(1)
    change = counts[1] - counts[0]
    better = np.where(np.eye(len(vocab), dtype=bool), change > 0, change < 0)
    a, b = found["names"]
    right = np.eye(len(vocab), dtype=bool)
    return [
        Block(
            "matrices",
            items=[
                _matrix(a, vocab, counts[0], right, totals),
                _matrix(b, vocab, counts[1], right, totals),
                _matrix(f"{b} minus {a}", vocab, change, better, totals, "+d"),
            ],
        )
    ]


def _matrix(
    title: str, vocab: Sequence[str], matrix: np.ndarray, good: np.ndarray, totals: np.ndarray, form: str = "d"
) -> dict[str, Any]:
    """A matrix for the template: each cell's text and its colour, by its share of the row."""
    rows = []
    for i, label in enumerate(vocab):
        cells = [(int(n), bool(ok)) for n, ok in zip(matrix[i], good[i], strict=True)]
        written = [(f"{n:{form}}", heat(abs(n) / totals[i, 0], ok)) if n else ("0", "zero") for n, ok in cells]
        rows.append((label, written))
    return {"title": title, "columns": vocab, "rows": rows}


def _both_wrong(rows: pd.DataFrame, runs: Sequence[str], read: Any, names: Names) -> Section:
    """Images that both have wrong, but not alike."""
    wrong = (rows["pred_a"] != rows["label"]) & (rows["pred_b"] != rows["label"])
    differ = wrong & (rows["pred_a"] != rows["pred_b"])
    exhibits = []
    for row in rows[differ].head(SHOWN).to_dict("records"):
        lines = [f"actual {row['label'] or 'none'}"]
        lines += [f"✕ {run}: {row[side] or 'none'}" for run, side in zip(runs, ("pred_a", "pred_b"), strict=True)]
        exhibits.append(_exhibit(row, lines, read, names))
    alike = int(wrong.sum() - differ.sum())
    more = f" On {number(alike)} further {counted_as(None, alike)} both make the same error." if alike else ""
    return Section("Both wrong, each in its own way", exhibits=exhibits, note=_told(int(differ.sum())) + more)


def _told(n: int, order: str = "") -> str:
    """How many images a section is about, and how many of them it shows."""
    return f"{number(n)} {counted_as(None, n)}." + (f" The first {SHOWN} are shown{order}." if n > SHOWN else "")


def _chart(found: Mapping[str, Any]) -> Block:
    """The differences and their intervals around the line of no difference."""
    a, b = found["names"]
    lines = [(row.title, found[row.key]) for row in overall_metrics() if _drawable(found.get(row.key))]
    lines += [
        (f"{label}: sensitivity", one["sensitivity"])
        for label, one in found["per_class"].items()
        if _drawable(one["sensitivity"])
    ][:30]
    if not lines:
        return Block("text", text="No difference can be drawn.")
    reach = max(0.02, *(abs(d[end]) for _, d in lines for end in ("low", "high")))
    height = _ROW * len(lines) + 28

    def at(value: float) -> float:
        return float(round(_LEFT + (value / reach + 1) / 2 * (_WIDTH - _LEFT - _RIGHT), 1))

    bottom = _ROW * len(lines) + 8
    parts = []
    for x in ticks(-reach, reach):
        across, text = at(x), f"{x:+g}" if x else "0"
        parts.append(f'<line class="grid" x1="{across}" x2="{across}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text x="{across}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="diagonal" d="M{at(0)} 4L{at(0)} {bottom}"/>')
    for index, (name, d) in enumerate(lines):
        y = _ROW * index + 20
        parts.append(f'<text class="axis" x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(_short(name))}</text>')
        parts.append(f'<line class="whisker c0" x1="{at(d["low"])}" x2="{at(d["high"])}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="mark c0" cx="{at(d["value"])}" cy="{y}" r="4"/>')
    label = escape(f"Differences between {a} and {b} with 95 % intervals")
    svg = f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return Block("chart", chart=Chart(Markup(svg)))


def _drawable(value: Any) -> bool:
    return isinstance(value, Mapping) and all(is_number(value.get(end)) for end in ("value", "low", "high"))


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def _alone(rows: pd.DataFrame, sides: tuple[str, str], runs: Sequence[str], read: Any, names: Names) -> Section:
    """The images that the first of `runs` alone has right, those first on which they are furthest apart."""
    right, wrong = sides
    chosen = rows[(rows[f"pred_{right}"] == rows["label"]) & (rows[f"pred_{wrong}"] != rows["label"])]
    gap = (chosen[f"prob_{right}"] - chosen[f"prob_{wrong}"]).fillna(0).to_numpy()
    exhibits = []
    for index in chosen.index[np.argsort(-gap, kind="stable")][:SHOWN]:
        row = rows.loc[index].to_dict()
        lines = [f"✓ {runs[0]}: {row['label'] or 'none'}", f"✕ {runs[1]}: {row[f'pred_{wrong}'] or 'none'}"]
        if is_number(row[f"prob_{right}"]):
            both = f"{percent(row[f'prob_{right}'])} against {percent(row[f'prob_{wrong}'])}"
            lines.append(f"probability of {row['label']}: {both}")
        exhibits.append(_exhibit(row, lines, read, names))
    note = _told(len(chosen), ", those on which the two differ most")
    return Section(f"Only {runs[0]} is correct", exhibits=exhibits, note=note)


def _exhibit(row: Mapping[str, Any], lines: Sequence[str], read: Any, names: Names) -> Exhibit:
    name = names.of_path(str(row["path"]))
    try:
        pixels = read(row) if read is not None else None
    except ReadError as error:
        return Exhibit(name, [], [*lines, f"no picture: {names.scrub(error.reason)}"])
    return Exhibit(name, [] if pixels is None else [Shot(data_uri(encode(pixels, _SIDE)), "")], lines)

"""Charts as inline SVG: drawn from numbers, coloured by the page's style sheet, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from medclf.files import is_number
from medclf.results.history import LOSSES, history_metrics

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44
COLORS = 8  # of the style sheet: .c0 to .c7, then the same dashed
MAX_POINTS = 200


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name and its points, with whiskers (x, low, high) where wished."""

    name: str
    points: Sequence[tuple[float, float]]
    whiskers: Sequence[tuple[float, float, float]] = ()
    marks: bool = False


@dataclass(frozen=True)
class Chart:
    """A picture and the legend that stands beside it."""

    svg: Markup
    legend: list[tuple[str, str]] = field(default_factory=list)  # (css class, name)


def color_class(index: int) -> str:
    """The style sheet's class for the line of that number."""
    return f"c{index % COLORS}" + (" dashed" if index >= COLORS else "")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between two ends.

    Example:
        >>> ticks(0, 1), ticks(0, 9)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 2.0, 4.0, 6.0, 8.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def outward(low: float, high: float) -> tuple[float, float]:
    """Two ends moved out to the next ticks.

    Example:
        >>> outward(0.13, 0.97), outward(2, 2)
        ((0.0, 1.0), (1.5, 2.5))
    """
    if not high > low:
        return low - 0.5, low + 0.5
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return round(math.floor(low / step + 1e-9) * step, 10), round(math.ceil(high / step - 1e-9) * step, 10)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] = (0, 1),
    y_range: tuple[float, float] = (0, 1),
    diagonal: bool = False,
    bars: Sequence[tuple[float, float, float]] = (),
    whole_x: bool = False,
) -> Chart:
    """Draw lines over two labelled axes.

    Args:
        lines: what to draw.
        title: said to those who cannot see the picture.
        x_label: below.
        y_label: at the side.
        x_range: ends of the x axis.
        y_range: ends of the y axis.
        diagonal: draw the line from corner to corner.
        bars: grey bars (from x, to x, height in y's units) behind the lines.
        whole_x: ticks of x at whole numbers only.

    Returns:
        The picture, and a legend of one entry a line.
    """
    (x0, x1), (y0, y1) = _wide(x_range), outward(*y_range)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    parts = [_frame(at, (x0, x1), (y0, y1), x_label, y_label, whole_x)]
    for left, right, height in bars:
        (ax, ay), (bx, by) = at(left, height), at(right, y0)
        parts.append(f'<rect class="bar" x="{ax}" y="{ay}" width="{bx - ax:.1f}" height="{by - ay:.1f}"/>')
    if diagonal:
        parts.append(_path([at(x0, y0), at(x1, y1)], "diagonal"))
    for index, line in enumerate(lines):
        parts.append(_draw(line, at, color_class(index)))
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
    return Chart(Markup(svg), [(color_class(i), line.name) for i, line in enumerate(lines)])


def _wide(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _frame(at: Any, xs: tuple[float, float], ys: tuple[float, float], x_label: str, y_label: str, whole: bool) -> str:
    parts = []
    for y in ticks(*ys):
        (left, down), (right, _) = at(xs[0], y), at(xs[1], y)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text x="{left - 8}" y="{down + 4}" text-anchor="end">{y:g}</text>')
    for x in ticks(*xs):
        if not whole or x == int(x):
            across, down = at(x, ys[0])
            parts.append(f'<text x="{across}" y="{down + 18}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="12" y="{height}" text-anchor="middle" transform="rotate(-90 12 {height})">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]], css: str) -> str:
    return f'<path class="{css}" d="M{"L".join(f"{x} {y}" for x, y in points)}"/>'


def _draw(line: Line, at: Any, css: str) -> str:
    points = [at(x, y) for x, y in _thin(line.points)]
    parts = []
    for x, low, high in line.whiskers:
        (across, down), (_, up) = at(x, low), at(x, high)
        parts.append(f'<line class="whisker {css}" x1="{across}" x2="{across}" y1="{down}" y2="{up}"/>')
    if len(points) > 1:
        parts.append(_path(points, f"line {css}"))
    if line.marks or len(points) == 1:
        parts += [f'<circle class="mark {css}" cx="{x}" cy="{y}" r="3"/>' for x, y in points]
    return "".join(parts)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int))]


def roc_chart(results: Mapping[str, Any]) -> Chart | None:
    """The ROC curves of the facts; None where there are none."""
    lines = []
    for label, curve in (results.get("roc") or {}).items():
        auroc = ((results.get("per_class") or {}).get(label) or {}).get("auroc") or curve.get("auroc")
        value = auroc.get("value") if isinstance(auroc, Mapping) else auroc
        name = f"{label}, AUROC {value:.3f}" if is_number(value) else str(label)
        lines.append(Line(name, list(zip(curve["fpr"], curve["tpr"], strict=True))))
    if not lines:
        return None
    return line_chart(lines, title="ROC curves", x_label="1 − specificity", y_label="Sensitivity", diagonal=True)


def training_charts(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss by epoch and metrics by epoch (the figure 9 of Lakhani et al. 2018, in two panels)."""
    charts = []
    panels = (("Loss", list(LOSSES), (0.0, None)), ("Metrics", history_metrics(history), (None, 1.0)))
    for title, names, (low, high) in panels:
        lines = []
        for name in names:
            points = [
                (float(row.get("epoch", i)), float(row[name]))
                for i, row in enumerate(history)
                if is_number(row.get(name))
            ]
            if points:
                lines.append(Line(name.replace("_", " "), points, marks=len(points) <= 40))
        if not lines:
            continue
        xs = [x for line in lines for x, _ in line.points]
        ys = [y for line in lines for _, y in line.points]
        bottom = min(ys) if low is None else min(low, *ys)
        top = max(ys) if high is None else max(high, *ys)
        charts.append(
            line_chart(
                lines,
                title=f"{title} by epoch",
                x_label="Epoch",
                y_label=title,
                x_range=(min(xs), max(xs)),
                y_range=(bottom, top),
                whole_x=True,
            )
        )
    return charts


def interval_bar(metric: Mapping[str, Any], width: int = 160) -> Markup:
    """A metric's interval and value on a scale from 0 (or -1) to 1."""
    value, low, high = metric["value"], metric["low"], metric["high"]
    if not is_number(value):
        return Markup("")
    low, high = (end if is_number(end) else value for end in (low, high))
    start = -1.0 if min(value, low) < 0 else 0.0

    def at(number: float) -> float:
        return round(4 + (min(max(number, start), 1.0) - start) / (1 - start) * (width - 8), 1)

    long = max(2, at(high) - at(low))
    return Markup(
        f'<svg class="interval" viewBox="0 0 {width} 14" preserveAspectRatio="xMinYMid" aria-hidden="true">'
        f'<line class="scale" x1="4" x2="{width - 4}" y1="7" y2="7"/>'
        f'<rect class="range" x="{at(low)}" y="5" rx="2" width="{long:.1f}" height="4"/>'
        f'<circle class="dot" cx="{at(value)}" cy="7" r="4"/></svg>'
    )


def share_bar(share: float, css: str = "") -> Markup:
    """A share in [0, 1] as a bar."""
    width = round(100 * min(max(share, 0.0), 1.0), 1) if is_number(share) else 0
    return Markup(
        '<svg class="share" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="6"/>'
        f'<rect class="fill {escape(css)}" width="{width}" height="6"/></svg>'
    )


def heat(share: float, right: bool, near: bool = False) -> str:
    """The style sheet's class for a matrix cell: good, near or bad, in eleven steps of its share of the row."""
    return f"{'good' if right else 'near' if near else 'bad'}{round(min(max(share, 0.0), 1.0) * 10)}"

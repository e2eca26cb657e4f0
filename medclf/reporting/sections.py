"""Sections of the page that need more than a table: the audit, the leak-free numbers, probabilities and decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from medclf.files import is_number
from medclf.metrics.table import METRICS
from medclf.reporting.charts import Chart, Line, line_chart
from medclf.reporting.formatting import words
from medclf.reporting.tables import Block, Cell, Picture, blocks, cell, difference, no_picture, table
from medclf.results.wording import RULES, counted_as, number, percent, summary

_KINDS = {
    "same-file": "the same file",
    "same-pixels": "the same pixels",
    "near-duplicate": "near-duplicates",
    "label-conflict": "different labels",
    "twin-across-split": "split across training, validation or test set",
    "twin-of-two-patients": "from two patients",
}
_DOTTED = (
    "How often predictions of each confidence are correct (95 % CI). On the dotted line confidence equals accuracy."
)
_SHOWN_UNITS = 4  # a row of them; the others are folded
_RATES = ("sensitivity", "specificity", "ppv", "npv")


def _text(value: Mapping[str, Any]) -> list[Block]:
    return [Block("text", text=str(value["sentence"]))] if value.get("sentence") else []


def _rest(value: Mapping[str, Any], *shown: str) -> list[Block]:
    """What no builder has shown, in the plain way."""
    left = {key: one for key, one in value.items() if key not in {"sentence", *shown} and one not in (None, [], {}, "")}
    return blocks(left) if left else []


def _measured(value: Mapping[str, Any], *shown: str) -> list[Block]:
    """What no builder has shown, folded: most readers do without."""
    left = _rest(value, *shown)
    return [Block("folded", text="How this was measured", items=left)] if left else []


def _named(rows: Mapping[str, Mapping[str, Any]]) -> Block:
    """Rows by name, as labels and columns have it."""
    return table([{"": name, **row} for name, row in rows.items()])


def _audit(value: Any, picture: Picture) -> list[Block]:
    sentences = [row["finding"] for row in value.get("sentences") or []]
    result = [Block("list", items=sentences)] if sentences else []
    pairs = [_pair(pair, picture) for pair in value.get("pairs") or []]
    if pairs:
        n = (value.get("found") or {}).get("near-duplicate", 0)
        result += [Block("heading", text="Pairs to look at"), Block("pairs", items=pairs)]
        if n > len(pairs):
            result.append(Block("text", text=f"The {len(pairs)} most serious pairs; all are in audit.csv."))
    if value.get("sizes"):
        result.append(Block("folded", text="Most frequent image sizes", items=[table(value["sizes"])]))
    return result + _measured(value, "sentences", "pairs", "classes", "sizes", "clues", "leaks")


def _pair(pair: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    a, b = str(pair.get("path_a", "")), str(pair.get("path_b", ""))
    return {
        "kind": _KINDS.get(pair.get("kind", ""), pair.get("kind", "")),
        "detail": ", ".join(
            str(v) for k, v in pair.items() if v and k not in {"path_a", "path_b", "kind", "similarity"}
        ),
        "similarity": percent(pair.get("similarity")),
        "sides": [{"name": name, "caption": name.split("/")[-1], "picture": picture(name)} for name in (a, b)],
    }


def _leak_free(value: Any, picture: Picture) -> list[Block]:
    numbers = value.get("numbers")
    return [*_text(value), *([_named(numbers)] if numbers else [])]


def _calibration(value: Any, picture: Picture) -> list[Block]:
    result = _text(value)
    errors = {name: value[name] for name in ("ece", "brier") if isinstance(value.get(name), Mapping)}
    if errors and all("before" in found for found in errors.values()):
        result.append(_named({when: {k: found[when] for k, found in errors.items()} for when in ("before", "after")}))
    elif errors:
        result += blocks(errors)
    captions = {"before": "Before calibration. ", "after": "After calibration. ", "here": ""}
    bars = value.get("reliability") or {}
    charts = [(_reliability(bars[when]), caption + _DOTTED) for when, caption in captions.items() if bars.get(when)]
    labels = value.get("by_label") or {}
    numbers = {name: {key: one for key, one in row.items() if key != "reliability"} for name, row in labels.items()}
    if charts:
        result.append(Block("charts", items=charts))
    if numbers:
        each = [(_reliability(row["reliability"]), f"{name}. {_DOTTED}") for name, row in labels.items()]
        result.append(Block("folded", text="Class by class", items=[_named(numbers), Block("charts", items=each)]))
    return result + _measured(value, "ece", "brier", "reliability", "by_label", "uncalibrated", "prevalence")


def _ordinal(value: Any, picture: Picture) -> list[Block]:
    """How far off the grades are."""
    rows = [{"grades off": int(apart), "images": n} for apart, n in (value.get("off_by") or {}).items()]
    order = Block("text", text=f"The order: {', '.join(value.get('order') or [])}.")
    return [*_text(value), order, table(rows)]


def _tabular(value: Any, picture: Picture) -> list[Block]:
    """Image alone, table alone and both, and what speaks against the columns."""
    found = _text(value)
    if value.get("shortcuts") or value.get("notes"):
        found.append(Block("list", items=[*(value.get("shortcuts") or []), *(value.get("notes") or [])]))
    headings = {
        "numbers": "Side by side, before calibration",
        "differences": "Paired differences",
        "alone": "AUROC alone, in training",
    }
    for key, heading in headings.items():
        if value.get(key):
            rows = value[key] if key != "alone" else {name: {"auroc": one} for name, one in value[key].items()}
            found += [Block("heading", text=heading), _gaps(rows) if key == "differences" else _named(rows)]
    return found


def _gaps(rows: Mapping[str, Mapping[str, Any]]) -> Block:
    """Differences of metrics, in points where the metric is a share."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    cells = [
        [Cell(name), *(difference(row[key], key) if key in row else Cell("") for key in keys)]
        for name, row in rows.items()
    ]
    return Block("table", columns=["", *map(words, keys)], rows=cells)


def _decision(value: Any, picture: Picture) -> list[Block]:
    scores = {RULES.get(way, way): row for way, row in (value.get("scores") or {}).items()}
    return [*_text(value), *([_named(scores)] if scores else [])]


def _baseline(value: Any, picture: Picture) -> list[Block]:
    rows = [
        [Cell(words(key)), *(Cell(number(value[key].get(by)), css="number") for by in ("model", "frequencies"))]
        for key in ("brier", "log_loss")
        if isinstance(value.get(key), Mapping)
    ]
    return [*_text(value), *([Block("table", columns=["", "Model", "Guessing"], rows=rows)] if rows else [])]


def _reliability(bars: Sequence[Mapping[str, Any]]) -> Chart:
    total = sum(one["frequency"]["n"] for one in bars) or 1
    seen = [(one["confidence"], one["frequency"]) for one in bars]
    line = Line(
        "share that is correct",
        [(at, found["value"]) for at, found in seen],
        [(at, found["low"], found["high"]) for at, found in seen],
        marks=True,
    )
    return line_chart(
        [line],
        title="Reliability: how often predictions of each confidence are correct",
        x_label="Confidence (bars: share of all answers)",
        y_label="Share that is correct",
        diagonal=True,
        bars=[(one["low"] + 0.005, one["high"] - 0.005, one["frequency"]["n"] / total) for one in bars],
    )


def _abstain(value: Any, picture: Picture) -> list[Block]:
    result = _text(value)
    if value.get("numbers"):
        found = value["numbers"]
        heads = {
            "coverage": "Answered",
            "accuracy": "Correct among those",
            "accuracy_unsure": "Correct among the unsure",
        }
        cells = [[Cell(text), cell(found[name], key="accuracy")] for name, text in heads.items() if name in found]
        result.append(Block("facts", rows=cells))
    curve = value.get("curve") or {}
    if len(curve.get("coverage") or []) > 1:
        xs = curve["coverage"]
        lines = [
            Line("accuracy of those answered", list(zip(xs, curve["accuracy"], strict=True))),
            Line("95 % interval, lower end", list(zip(xs, curve["low"], strict=True))),
            Line("upper end", list(zip(xs, curve["high"], strict=True))),
        ]
        chart = line_chart(
            lines,
            title="Accuracy by coverage",
            x_label="Share answered, most certain first",
            y_label="Accuracy",
            y_range=(min(curve["low"]), 1),
        )
        result.append(
            Block("charts", items=[(chart, "Further left, more of the least certain answers are left to a reader.")])
        )
    return result


def _operating_point(value: Any, picture: Picture) -> list[Block]:
    if "label" in value:
        return _point(value)
    return [
        block
        for label, point in value.items()
        for block in (Block("heading", text=str(label)), *(_point(point) if isinstance(point, Mapping) else []))
    ]


def _point(value: Mapping[str, Any]) -> list[Block]:
    """A threshold: its 2x2 table, its rates, and what they mean for patients."""
    result = _text(value)
    cells = value.get("table")
    if not cells:
        return result or _rest(value)
    label = str(value.get("label", ""))
    rows = {
        label: {"flagged": cells["tp"], "not flagged": cells["fn"]},
        f"not {label}": {"flagged": cells["fp"], "not flagged": cells["tn"]},
    }
    result.append(_named(rows))
    rates = [[Cell(words(name)), cell(value[name], key=name)] for name in _RATES]
    result.append(Block("facts", rows=rates))
    restated = value.get("restated") or {}
    if is_number(value.get("prevalence")) and restated:
        result += [
            Block("heading", text=f"At a prevalence of {percent(value['prevalence'])}"),
            *([Block("text", text=str(restated["sentence"]))] if restated.get("sentence") else []),
            Block("facts", rows=[[Cell(words(name)), cell(restated[name], key=name)] for name in ("ppv", "npv")]),
        ]
    if value.get("decides") is False:
        result.append(
            Block(
                "text",
                text=(
                    "The bundle does not use this threshold: see “How labels are chosen”. "
                    "To use one, train with --operating-point youden (or sensitivity=0.95)."
                ),
            )
        )
    return result


def _ood(value: Any, picture: Picture) -> list[Block]:
    return _text(value) + _measured(value)


def _plan(value: Any, picture: Picture) -> list[Block]:
    """What was compared before the training, how it came out, and what was taken."""
    heads = {
        "name": "candidate",
        "chosen": "chosen",
        "n": "images",
        "before": "log loss before",
        "after": "log loss after",
    }
    rows = [{head: row[key] for key, head in heads.items() if key in row} for row in value.get("candidates") or []]
    for row, one in zip(rows, value.get("candidates") or [], strict=True):
        if is_number(one.get("low")) and is_number(one.get("high")):
            row["90 % CI of the difference"] = f"{one['low']:+.3f} to {one['high']:+.3f}"
    return [*_text(value), *([table(rows)] if rows else []), *_rest(value, "candidates")]


def _augmentation(value: Any, picture: Picture) -> list[Block]:
    result = _text(value)
    if value.get("picture"):
        text = "A training image as it is (first), and as the augmentation changes it"
        result.append(Block("picture", text=text, items=[value["picture"]]))
    return result + _rest(value, "picture")


def _external(value: Any, picture: Picture) -> list[Block]:
    rows = value if isinstance(value, list) else [value]
    pages = [(f"The page of {row.get('images')}", quote(str(row["page"]))) for row in rows if row.get("page")]
    return [table([{k: v for k, v in row.items() if k != "page"} for row in rows]), Block("links", items=pages)]


def _left_out(value: Any, picture: Picture) -> list[Block]:
    """What no number is about, with the reasons and how many images each concerns."""
    parts = [one for one in (value, value.get("test") or {}) if one.get("reasons")]
    reasons = [f"{reason}: {number(n)} images" for part in parts for reason, n in part["reasons"].items()]
    found = _text(value) + ([Block("list", items=reasons)] if reasons else [])
    return found + _rest(value, "reasons", "test", "n", "of", "no_partition")


def _test(value: Any, picture: Picture) -> list[Block]:
    """The test set's numbers, with and without what was seen in training."""
    numbers = {key: found for key, found in value.items() if key in METRICS}
    found = [Block("text", text=summary(value)), *(blocks(numbers) if numbers else [])]
    leak = value.get("leak_free")
    return found + (_leak_free(leak, picture) if leak else [])


def _units(value: Any, picture: Picture) -> list[Block]:
    """How units were answered, beside what each image alone would score; some of them with the images that decided."""
    found = _text(value)
    by_image = {key: one for key, one in (value.get("by_image") or {}).items() if key in METRICS}
    if by_image:
        found += [Block("heading", text="Each image by itself, uncalibrated"), *blocks(by_image)]
    if value.get("candidates"):
        found += [Block("heading", text="Answers compared on the training set"), _named(value["candidates"])]
    strips = [_strip(row, picture) for row in value.get("rows") or []]
    if strips:
        found.append(Block("heading", text="The images that decided, errors first"))
        found.append(Block("text", text="Below each image: how much it speaks for the answer."))
        found.append(Block("pairs", items=strips[:_SHOWN_UNITS]))
        if more := strips[_SHOWN_UNITS:]:
            found.append(Block("folded", text=f"{len(more)} more", items=[Block("pairs", items=more)]))
    return found + _measured(value, "by_image", "candidates", "rows", "by", "answer", "conflicts", "unreadable")


def _strip(row: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    sides = [
        {
            "name": str(one["path"]),
            "caption": f"{'' if place else 'decided: '}{percent(one['contribution'], 0)}",
            "picture": picture(str(one["path"])),
        }
        for place, one in enumerate(row["images"])
    ]
    actual, said = row["actual"] or "unknown", row["predicted"] or "(no finding)"
    kind = f"✓ {actual}" if actual == said else f"{actual}, predicted as {said}"
    n = row["n_images"]
    return {"kind": kind, "detail": f"{row['unit_path']}: {n} {counted_as(None, n)}", "similarity": "", "sides": sides}


def _label_errors(value: Any, picture: Picture) -> list[Block]:
    return _rest(value)  # the head of the part Labels has the sentence


def _corrections(value: Any, picture: Picture) -> list[Block]:
    found = _text(value) + _rest(value, "images")
    return found + ([table(value["images"], picture)] if value.get("images") else [])


def _shortcuts(value: Any, picture: Picture) -> list[Block]:
    """What the test found, in sentences; its page has the tables."""
    sentences = [row["finding"] for row in value.get("sentences") or []]
    found = [Block("list", items=sentences)] if sentences else []
    page = [Block("text", text="The page that medclf shortcuts wrote has the images and tables.")]
    return found + (page if value.get("overlays") else []) + _rest(value, "sentences", "overlays", "effects")


Build = Callable[[Any, Picture], list[Block]]


@dataclass(frozen=True)
class Section:
    """One row of the table of sections.

    Args:
        title: its heading.
        build: what stands under its key in results.json, and text -> the source of a thumbnail where the text names an
            image (else "") -> its blocks. None: headings and tables as the value is nested.
        tab: the part of the page that it stands in: labels, data, trust or details.
    """

    title: str
    build: Build | None = None
    tab: str = "details"


SECTIONS: dict[str, Section] = {  # in the page's order
    "left_out": Section("Not measured", _left_out, tab="data"),
    "leak_free": Section("Score without leaked images", _leak_free, tab="trust"),
    "test": Section("Test set", _test, tab="trust"),
    "ordinal": Section("Near misses", _ordinal, tab="trust"),
    "tabular": Section("Image and table", _tabular, tab="trust"),
    "units": Section("One answer per patient, study or series", _units, tab="trust"),
    "baseline": Section("Compared with guessing", _baseline, tab="trust"),
    "external": Section("External test", _external, tab="trust"),
    "calibration": Section("Calibration", _calibration, tab="trust"),
    "decision": Section("How labels are chosen", _decision, tab="trust"),
    "abstain": Section("Answers flagged unsure", _abstain, tab="trust"),
    "ood": Section("Out of distribution", _ood, tab="trust"),
    "operating_point": Section("Operating point", _operating_point, tab="trust"),
    "subgroups": Section("Subgroups", tab="trust"),
    "shortcuts": Section("Shortcuts", _shortcuts, tab="trust"),
    "audit": Section("Audit of the data", _audit, tab="data"),
    "label_errors": Section("How the labels were checked", _label_errors, tab="labels"),
    "corrections": Section("Corrections", _corrections, tab="labels"),
    "folds": Section("Cross-validation"),
    "fold_spread": Section("Spread over the folds"),
    "linear_probe_metrics": Section("After the linear probe"),
    "comparison": Section("Comparison"),
    "plan": Section("Plan", _plan),
    "augmentation": Section("Augmentation", _augmentation),
    "card": Section("Model card"),
    "checklist": Section("Checklist"),
}
_ELSEWHERE = {  # what the page shows in another place than a section
    "schema",
    "task",
    "partition",
    "n",
    "n_groups",
    "n_patients",
    "resampling",
    "vocab",
    "per_class",
    "confusion_matrix",
    "most_confused",
    "roc",
    "training",
    "data",
    "settings",
    "versions",
    "seconds",
    "title",
}


def sections_of(results: Mapping[str, Any], picture: Picture = no_picture) -> list[tuple[str, str, list[Block]]]:
    """(key, heading, blocks) of each section that the results have something for; keys that no row knows come last.

    Example:
        >>> found = sections_of({"n": 3, "robustness": [1], "audit": {"sentences": []}, "folds": []})
        >>> [(key, heading) for key, heading, _ in found]
        [('audit', 'Audit of the data'), ('robustness', 'Robustness')]
    """
    other = [key for key in results if key not in SECTIONS and key not in _ELSEWHERE and key not in METRICS]
    return [
        (key, SECTIONS[key].title if key in SECTIONS else words(key), section_blocks(key, results[key], picture))
        for key in [*SECTIONS, *other]
        if results.get(key) not in (None, [], {}, "")
    ]


def section_blocks(key: str, value: Any, picture: Picture = no_picture) -> list[Block]:
    """What stands under a key of results.json as blocks.

    Example:
        >>> [block.kind for block in section_blocks("ood", {"sentence": "All are alike.", "n_train": 65})]
        ['text', 'folded']
    """
    build = SECTIONS[key].build if key in SECTIONS else None
    if build is None or not isinstance(value, (Mapping, list)):
        return blocks(value, picture, key)
    return build(value, picture)

"""What the page's template prints: the facts, the rows and the pictures put into words and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from medclf.auditing.label_errors import label_suspects
from medclf.errors import DataError
from medclf.metrics.table import class_metrics
from medclf.reporting.cases import DELIMITER, Cases, by_label
from medclf.reporting.charts import (
    interval_bar,
    roc_chart,
    share_bar,
    training_charts,
)
from medclf.reporting.formatting import cautions, headlines
from medclf.reporting.sections import sections_of
from medclf.reporting.tables import blocks, cell
from medclf.reporting.thumbnails import Album
from medclf.results.names import Names
from medclf.results.wording import is_metric, is_number, number, percent, summary

CHUNK = 100  # pictures in one script element: the page reads an element when it shows the first of them
TOP_LOSSES, PAIRS, EXAMPLES = 12, 6, 4
MAX_PROBLEMS = 200


def context(facts: Mapping[str, Any], cases: Cases, names: Names, album: Album, title: str) -> dict[str, Any]:
    """Everything that the static part of the page shows."""
    partition = str(facts.get("partition") or "")
    training = facts.get("training") or {}
    data = facts.get("data") or {}

    row_of = {names.of(row): row for row in range(len(cases))}

    def picture(text: str) -> str:
        return album.small.get(row_of[text], "") if text in row_of else album.outside.get(text, "")

    return {
        "title": title,
        "summary": summary(facts),
        "cautions": cautions(facts),
        "headlines": [{**item, "bar": interval_bar(item["metric"])} for item in headlines(facts)],
        "partition": partition,
        "grouped": grouped(facts),
        "multi_label": cases.multi_label,
        "matrix": None if cases.multi_label else matrix_rows(facts),
        "by_label": by_label(facts.get("confusion_matrix"), cases.vocab),
        "vocab": cases.vocab,
        "per_class": per_class(facts),
        "top_losses": [card(cases, names, album, row) for row in cases.worst(TOP_LOSSES, partition)],
        "pairs": confused_pairs(facts, cases, names, album),
        "roc": roc_chart(facts),
        "training_charts": training_charts(training.get("history") or []),
        "linear_probe": blocks(training["linear_probe"]) if training.get("linear_probe") else [],
        "seconds": f"{facts['seconds']:.0f}" if is_number(facts.get("seconds")) else "",
        "counts": counts(data),
        "n_images": number(data["n_images"]) if "n_images" in data else "",
        "problems": (data.get("problems") or [])[:MAX_PROBLEMS],
        "n_problems": len(data.get("problems") or []),
        "split": blocks({k: v for k, v in (data.get("split") or {}).items() if k != "sentence"}),
        "sections": sections_of(facts, picture),
        "settings": blocks(facts["settings"], raw=True) if facts.get("settings") else [],
        "versions": blocks(facts["versions"], raw=True) if facts.get("versions") else [],
        "album_note": album_note(cases, album),
        "unreadable": [(names.of(row), names.scrub(reason)) for row, reason in album.unreadable.items()][:MAX_PROBLEMS],
        "hide_names": names.hide,
    }


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise DataError where the facts lack what no page can do without."""
    for key in ("vocab", "task"):
        if not facts.get(key):
            raise DataError(f"the facts have no {key!r}", "give the results.json of a run, or interp.facts()")


def heat(share: float, right: bool) -> str:
    """The style sheet's class for a matrix cell: good or bad, in eleven steps of its share of the row."""
    return f"{'good' if right else 'bad'}{round(min(max(share, 0.0), 1.0) * 10)}"


def matrix_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrix, a row an actual label, with shares and colours."""
    result = []
    for index, (label, row) in enumerate(zip(facts["vocab"], facts.get("confusion_matrix") or [], strict=False)):
        total = sum(row)
        cells = [
            {
                "n": number(n),
                "share": percent(n / total) if total else "",
                "css": heat(n / total if total else 0.0, column == index) if n else "zero",
                "to": facts["vocab"][column],
            }
            for column, n in enumerate(row)
        ]
        result.append({"label": label, "n": number(total), "cells": cells})
    return result


def per_class(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The per-class metrics as a table; columns that no class has are left out."""
    classes = facts.get("per_class") or {}
    columns = [metric for metric in class_metrics() if any(metric.key in found for found in classes.values())]
    rows = [
        (label, number(found.get("n")), [cell(found.get(metric.key), key=metric.key) for metric in columns])
        for label, found in classes.items()
    ]
    return {"columns": [metric.title for metric in columns], "rows": rows}


def counts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Images by label (down) and partition (across), with totals; images of several labels count in each."""
    table = data.get("counts") or {}
    labels = list(dict.fromkeys(label for row in table.values() for label in row))
    rows = []
    for label in labels:
        found = [int(row.get(label, 0)) for row in table.values()]
        rows.append((label, [number(n) for n in found], number(sum(found))))
    images = data.get("images")
    if isinstance(images, Mapping) and images:
        found = [int(images.get(partition, 0)) for partition in table]
        rows.append(("Images", [number(n) for n in found], number(sum(found))))
    return {"partitions": list(table), "rows": rows}


def card(cases: Cases, names: Names, album: Album, row: int) -> dict[str, Any]:
    """One image of the static part: picture, name, actual, predicted and their probabilities."""
    return {
        "picture": album.best(row),
        "absence": album.absence(row),
        "name": names.of(row),
        "actual": cases.name(row, "actual"),
        "predicted": cases.name(row, "predicted"),
        "wrong": bool(cases.wrong[row]),
        "loss": number(float(cases.loss[row])),
        "probs": [
            {"label": label, "text": percent(p), "bar": share_bar(p, css), "role": role}
            for label, p, css, role in _telling(cases, row)
        ],
    }


def _telling(cases: Cases, row: int) -> list[tuple[str, float, str, str]]:
    """The probabilities that explain a row: actual and predicted; for several labels, the furthest off."""
    actual, said, probs = cases.actual[row], cases.predicted[row], cases.probs[row]
    if cases.multi_label:
        off = np.argsort(np.where(cases.judged[row], -np.abs(probs - actual), 1.0), kind="stable")[:3]
        return [
            (
                cases.vocab[i],
                float(probs[i]),
                "wrong" if cases.judged[row, i] and actual[i] != said[i] else "",
                "not judged" if not cases.judged[row, i] else "present" if actual[i] else "absent",
            )
            for i in off
        ]
    shown = [(int(i), "predicted") for i in np.flatnonzero(said)]
    shown += [(int(i), "actual") for i in np.flatnonzero(actual & ~said)]
    wrong = bool(cases.wrong[row])
    return [
        (cases.vocab[i], float(probs[i]), "wrong" if wrong and role == "predicted" else "", role) for i, role in shown
    ]


def confused_pairs(facts: Mapping[str, Any], cases: Cases, names: Names, album: Album) -> list[dict[str, Any]]:
    """The most confused pairs, each with its most confident examples."""
    place = {label: index for index, label in enumerate(cases.vocab)}
    confidence, here = cases.confidence, cases.known & (cases.partition == facts.get("partition"))
    pairs = []
    for actual, pred, n in (facts.get("most_confused") or [])[:PAIRS]:
        inside, column = np.zeros(len(cases), bool), place.get(actual)
        if cases.multi_label and column is not None:  # (label, "missed" or "false alarm", n)
            missed = pred == "missed"
            inside = here & (cases.actual[:, column] == missed) & (cases.predicted[:, column] != missed)
            inside &= cases.judged[:, column]
            confidence = cases.probs[:, column] * (-1 if missed else 1)
        elif column is not None and pred in place:
            inside = here & cases.actual[:, column] & cases.predicted[:, place[pred]]
        rows = np.flatnonzero(inside)
        examples = [int(i) for i in rows[np.argsort(-confidence[rows], kind="stable")][:EXAMPLES]]
        heading = f"{actual}: {pred}" if cases.multi_label else f"{actual} read as {pred}"
        cards = [card(cases, names, album, row) for row in examples]
        pairs.append({"heading": heading, "n": number(n), "examples": cards})
    return pairs


def album_note(cases: Cases, album: Album) -> str:
    """What the page says about pictures that it does not show; "" where it shows all."""
    texts = []
    if album.left_out:
        kept = "all errors and " if not album.errors_left_out else ""
        texts.append(
            f"To keep this page small it holds the pictures of {number(len(album.small))} of {number(len(cases))} "
            f"images: {kept}a sample of the {'right' if kept else 'rest'}, spread over partitions, classes and "
            "confidence. All images are counted. An assets folder keeps every picture beside the page."
        )
    if album.errors_left_out:
        texts.append(f"{number(album.errors_left_out)} errors have no picture: they alone exceed the size limit.")
    if album.withheld:
        texts.append(withheld_note(album.withheld))
    if album.unreadable:
        texts.append(f"{number(len(album.unreadable))} files could not be read.")
    return " ".join(texts)


def withheld_note(withheld: Mapping[int, str]) -> str:
    """How many pictures the page was not given, and why.

    Example:
        >>> withheld_note({3: "ultrasound", 5: "ultrasound"})
        "2 pictures are withheld (ultrasound 2), since their pixels often carry the patient's name; ..."
        >>> withheld_note({3: ""})
        '1 picture is withheld.'
    """
    n = len(withheld)
    text = f"{number(n)} pictures are withheld" if n > 1 else "1 picture is withheld"
    counts = Counter(reason for reason in withheld.values() if reason)
    if not counts:
        return f"{text}."
    reasons = ", ".join(f"{reason} {number(k)}" for reason, k in sorted(counts.items()))
    return (
        f"{text} ({reasons}), since their pixels often carry the patient's name; "
        "medclf report --show-burned-in shows them."
    )


def script_json(value: Any) -> Markup:
    """JSON that can stand in a script element: no text in it can end the element or open a comment.

    Example:
        >>> print(script_json({"label": "</script><img onerror=x>"}))
        {"label":"\\u003c/script\\u003e\\u003cimg onerror=x\\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def page_data(facts: Mapping[str, Any], cases: Cases, names: Names, partition: str) -> dict[str, Any]:
    """What the page's script works with, but for the pictures: every row, in columns."""
    parts = list(dict.fromkeys([partition, *(str(p) for p in cases.partition)]))
    part_code = {name: code for code, name in enumerate(parts)}
    code = _sets if cases.multi_label else _codes
    return {
        "vocab": cases.vocab,
        "multi": cases.multi_label,
        "hidden": names.hide,
        "names": [] if names.hide else cases.paths,
        "n": len(cases),
        "parts": parts,
        "part": [part_code[str(p)] for p in cases.partition],
        "actual": code(cases.actual, cases.known),
        "unjudged": {
            str(row): np.flatnonzero(~cases.judged[row]).tolist()
            for row in np.flatnonzero(cases.known & ~cases.judged.all(axis=1))
        },
        "pred": code(cases.predicted, np.ones(len(cases), bool)),
        "probs": [float(f"{p:.7g}") if np.isfinite(p) else 0 for p in cases.probs.ravel()],
        "loss": [float(f"{x:.5g}") if np.isfinite(x) else None for x in cases.loss],
        "columns": {name: [values, codes.tolist()] for name, (values, codes) in cases.columns.items()},
        "patient": [] if names.hide or not any(cases.patient) else cases.patient,
        "thresholds": thresholds(facts),
        "grouped": grouped(facts),
        "reported": reported(facts),
        "suspects": suspects(cases),
    }


def grouped(facts: Mapping[str, Any]) -> bool:
    """Whether several images are of one patient or near-duplicates, which intervals must count together."""
    return 0 < int(facts.get("n_groups") or 0) < int(facts.get("n", 0))


def reported(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The shares of the facts, for the page to show their intervals: {"accuracy": metric, label: {key: metric}}.

    A single-label run's per-class shares are of the most probable label, and the page's of a threshold.
    """
    if facts["task"] != "multi-label":
        return {"accuracy": facts["accuracy"]} if is_metric(facts.get("accuracy")) else {}
    return {
        label: {key: row[key] for key in ("sensitivity", "specificity", "ppv", "npv") if is_metric(row.get(key))}
        for label, row in (facts.get("per_class") or {}).items()
    }


def suspects(cases: Cases) -> list[int]:
    """The rows whose label is probably wrong; see `label_suspects`."""
    if not cases.known.any():
        return []
    known = np.flatnonzero(cases.known)
    actual = cases.actual[known]
    y = np.where(cases.judged[known], actual, -1) if cases.multi_label else actual.argmax(1)
    found, _ = label_suspects(y, np.nan_to_num(cases.probs[known]), multi_label=cases.multi_label)
    return [int(row) for row in known[found]]


def _codes(chosen: np.ndarray, known: np.ndarray) -> list[int]:
    return [int(c) for c in np.where(known & chosen.any(axis=1), chosen.argmax(axis=1), -1)]


def _sets(chosen: np.ndarray, known: np.ndarray) -> list[list[int] | None]:
    return [np.flatnonzero(row).tolist() if yes else None for row, yes in zip(chosen, known, strict=True)]


def thresholds(facts: Mapping[str, Any]) -> dict[str, float]:
    """The chosen threshold of each label that has one, from facts["operating_point"].

    Example:
        >>> thresholds({"operating_point": {"label": "polyp", "threshold": 0.3}})
        {'polyp': 0.3}
        >>> thresholds({"operating_point": {"polyp": {"threshold": 0.3}}})
        {'polyp': 0.3}
    """
    point = facts.get("operating_point")
    if not isinstance(point, Mapping):
        return {}
    label = point.get("label", point.get("positive"))
    found = {label: point.get("threshold")} if label is not None else {}
    found |= {k: v["threshold"] for k, v in point.items() if isinstance(v, Mapping) and "threshold" in v}
    return {str(k): float(v) for k, v in found.items() if isinstance(v, (int, float)) and 0 <= v <= 1}


@dataclass(frozen=True)
class Links:
    """Which images are shown beside which.

    Args:
        near: {row: its neighbours}; a row's number, or -1 - k for the k-th of `outside`.
        twins: {row: its twins}, likewise.
        outside: paths of the images that are in no row, those beside errors first.
    """

    near: dict[int, list[int]]
    twins: dict[int, list[int]]
    outside: list[str]

    def as_data(self, names: Names, labels: Mapping[str, str]) -> dict[str, Any]:
        """For the page's script."""
        others = [[names.of_path(path), str(labels.get(path) or "").replace(DELIMITER, ", ")] for path in self.outside]
        return {"near": self.near, "twins": self.twins, "outside": others}


def link(cases: Cases, names: Names, extra: Sequence[str] = ()) -> Links:
    """Find the images that the page shows beside each row.

    Args:
        cases: the rows.
        names: of the rows.
        extra: further paths that the page shows, such as the audit's.
    """
    outside: dict[str, int] = {}
    for path in extra:
        if path and path not in names.place:
            outside.setdefault(path, len(outside))

    def number_of(path: str) -> int:
        return names.place[path] if path in names.place else -1 - outside.setdefault(path, len(outside))

    found: dict[str, dict[int, list[int]]] = {"neighbours": {}, "twins": {}}
    for row in map(int, np.argsort(~cases.wrong, kind="stable")):
        for key, rows in cases.links.items():
            if row in rows:
                found[key][row] = [number_of(path) for path in rows[row]]
    return Links(found["neighbours"], found["twins"], list(outside))


def picture_data(
    cases: Cases, links: Links, album: Album, order: Sequence[int]
) -> tuple[dict[str, Any], list[list[list[str]]]]:
    """Where each row's picture is, and the pictures in chunks that the page reads when it needs them.

    Returns:
        {"place": [its number, or -1 less the number of its reason in "absence"], "absence", "chunk", "beside" (the
        pictures of `links.outside`, or why there is none, by path), "saliency"}, and the chunks: lists of [thumbnail,
        larger, saliency]. A map is nothing without its picture, and is left out with it.
    """
    shown = [row for row in order if row in album.small]
    words = {row: album.absence(row) for row in range(len(cases)) if row not in album.small}
    absence = list(dict.fromkeys(words.values()))
    place = [0 if row in album.small else -1 - absence.index(words[row]) for row in range(len(cases))]
    for index, row in enumerate(shown):
        place[row] = index
    entries = [[album.small.get(row, ""), album.large.get(row, ""), cases.saliency.get(row, "")] for row in shown]
    beside = [album.outside.get(path, "") for path in links.outside]
    missing = [album.outside_missing.get(path, "") for path in links.outside]
    n_maps = sum(row in cases.saliency for row in shown)
    data = {
        "place": place,
        "absence": absence,
        "chunk": CHUNK,
        "beside": beside,
        "missing": missing,
        "saliency": n_maps,
    }
    return data, [entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK)]

"""What the page's template prints: the facts, the rows and the pictures put into words and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.files import is_number
from medclf.metrics.table import class_metrics
from medclf.reporting.cases import Cases, by_label
from medclf.reporting.charts import heat, interval_bar, roc_chart, share_bar, training_charts
from medclf.reporting.checks import checks
from medclf.reporting.formatting import cautions, headlines, scores
from medclf.reporting.page_data import grouped
from medclf.reporting.sections import SECTIONS, sections_of
from medclf.reporting.tables import Block, Picture, blocks, cell
from medclf.reporting.thumbnails import Album
from medclf.results.names import Names
from medclf.results.wording import counted, number, partition_name, percent, summary_without_leaks

TOP_LOSSES, PAIRS, EXAMPLES = 12, 6, 4
MAX_PROBLEMS = 200
MOST_CLASSES = 100  # that a matrix shows, as in explore.js
TABS = (
    ("overview", "Overview"),
    ("errors", "Errors"),
    ("labels", "Labels"),
    ("data-tab", "Data"),
    ("trust", "Trust"),
    ("details", "Details"),
)
_NOT_CHECKED = "Doubtful labels are those that the model confidently disagrees with, among the images of this page."


def context(
    results: Mapping[str, Any],
    cases: Cases,
    names: Names,
    album: Album,
    title: str,
    about: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Everything that the static part of the page shows."""
    partition = str(results.get("partition") or "")
    training = results.get("training") or {}
    data = results.get("data") or {}

    wrong = cases.wrong
    errors = [row for row in cases.worst(len(cases), partition) if wrong[row]]
    row_of = {names.of(row): row for row in range(len(cases))}

    def picture(text: str) -> str:
        return album.small.get(row_of[text], "") if text in row_of else album.outside.get(text, "")

    return {
        "title": title,
        "about": about,
        "tabs": TABS,
        "marks": {"pass": "✓", "warn": "!", "fail": "✕"},
        "summary": summary_without_leaks(results),
        "scores": scores(results),
        "checks": checks(results),
        "warnings": [text for text in [(results.get("left_out") or {}).get("sentence")] if text],
        "cautions": cautions(results),
        "labels_sentence": (results.get("label_errors") or {}).get("sentence") or _NOT_CHECKED,
        "headlines": [{**item, "bar": interval_bar(item["metric"])} for item in headlines(results)],
        "partition_name": partition_name(partition),
        "counted": counted(results),
        "grouped": grouped(results),
        "multi_label": cases.multi_label,
        "ordinal": bool(results.get("ordinal")),
        "matrix": None if cases.multi_label or len(cases.vocab) > MOST_CLASSES else matrix_rows(results),
        "by_label": by_label(results.get("confusion_matrix"), cases.vocab),
        "vocab": cases.vocab,
        "per_class": per_class(results),
        "top_losses": [card(cases, names, album, row) for row in errors[:TOP_LOSSES]],
        "n_errors": number(len(errors)),
        "pairs": confused_pairs(results, cases, names, album),
        "roc": roc_chart(results),
        "training_charts": training_charts(training.get("history") or []),
        "linear_probe": blocks(training["linear_probe"]) if training.get("linear_probe") else [],
        "seconds": f"{results['seconds']:.0f}" if is_number(results.get("seconds")) else "",
        "counts": counts(data),
        "n_images": number(data["n_images"]) if "n_images" in data else "",
        "problems": (data.get("problems") or [])[:MAX_PROBLEMS],
        "n_problems": len(data.get("problems") or []),
        "notes": data.get("notes") or [],
        "split": _split(data.get("split") or {}),
        "sections": _by_tab(results, picture),
        "settings": blocks(results["settings"], raw=True) if results.get("settings") else [],
        "versions": blocks(results["versions"], raw=True) if results.get("versions") else [],
        "album_note": album_note(cases, album),
        "unreadable": [(names.of(row), names.scrub(reason)) for row, reason in album.unreadable.items()][:MAX_PROBLEMS],
    }


def _split(split: Mapping[str, Any]) -> list[Block]:
    """How the data were split: the sentence, and the settings that mattered."""
    kind = split.get("kind")
    folds: tuple[str, ...] = () if kind == "kfold" else ("fold", "n_folds")
    folds += ("valid_pct", "seed") if kind == "folders" else ()  # nothing was drawn
    told = {k: v for k, v in split.items() if k not in ("sentence", *folds) and v is not None}
    text = [Block("text", text=str(split["sentence"]))] if split.get("sentence") else []
    return text + (blocks(told) if told else [])


def _by_tab(results: Mapping[str, Any], picture: Picture) -> dict[str, list[dict[str, Any]]]:
    """The sections of each part of the page; what the table of sections does not know is a detail."""
    found: dict[str, list[dict[str, Any]]] = {"labels": [], "data": [], "trust": [], "details": []}
    for place, (key, heading, parts) in enumerate(sections_of(results, picture)):
        section = SECTIONS.get(key)
        tab, name = (section.tab, key) if section else ("details", f"other-{place}")
        gist = parts[0].text if parts and parts[0].kind == "text" else ""
        found[tab].append({"id": f"section-{name}", "heading": heading, "sentence": gist, "blocks": parts})
    return found


def check_facts(results: Mapping[str, Any]) -> None:
    """Raise DataError where the facts lack what no page can do without."""
    for key in ("vocab", "task"):
        if not results.get(key):
            raise DataError(f"the results have no {key!r}", "give the results.json of a run, or interp.facts()")


def matrix_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrix, a row an actual label, with shares and colours."""
    result, ordinal = [], bool(results.get("ordinal"))
    for index, (label, row) in enumerate(zip(results["vocab"], results.get("confusion_matrix") or [], strict=False)):
        total = sum(row)
        cells = [
            {
                "n": number(n),
                "share": percent(n / total, 0) if n else "",
                "css": heat(n / total if total else 0.0, column == index, near=abs(column - index) == 1 and ordinal)
                if n
                else "zero",
                "to": results["vocab"][column],
            }
            for column, n in enumerate(row)
        ]
        result.append({"label": label, "n": number(total), "cells": cells})
    return result


def per_class(results: Mapping[str, Any]) -> dict[str, Any]:
    """The per-class metrics as a table; columns that no class has are left out."""
    classes = results.get("per_class") or {}
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
    return {"partitions": [partition_name(partition) for partition in table], "rows": rows}


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
    wrong = bool(cases.wrong[row])  # the verdict says which is the actual label and which the predicted one
    return [
        (cases.vocab[i], float(probs[i]), "wrong" if wrong and role == "predicted" else "", "") for i, role in shown
    ]


def confused_pairs(results: Mapping[str, Any], cases: Cases, names: Names, album: Album) -> list[dict[str, Any]]:
    """The most confused pairs, each with its most confident examples; none where each is one error: a top loss."""
    found = results.get("most_confused") or []
    if not any(n > 1 for *_, n in found):
        return []
    place = {label: index for index, label in enumerate(cases.vocab)}
    confidence, here = cases.confidence, cases.known & (cases.partition == results.get("partition"))
    pairs = []
    for actual, pred, n in found[:PAIRS]:
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
        heading = f"{actual}: {pred}" if cases.multi_label else f"{actual} predicted as {pred}"
        cards = [card(cases, names, album, row) for row in examples]
        pairs.append({"heading": heading, "n": number(n), "examples": cards})
    return pairs


def album_note(cases: Cases, album: Album) -> str:
    """What the page says about pictures that it does not show; "" where it shows all."""
    texts = []
    if album.left_out:
        kept = "all errors and " if not album.errors_left_out else ""
        own = [row for row, judge in enumerate(cases.judge) if not judge]
        n_shown = sum(row in album.small for row in own)
        texts.append(
            f"To keep this page small it holds the pictures of {number(n_shown)} of {number(len(own))} "
            f"images: {kept}a sample of the {'correct' if kept else 'rest'}, spread over partitions, classes and "
            "confidence. All images are counted. An assets folder keeps every picture beside the page."
        )
    if album.errors_left_out:
        texts.append(f"{number(album.errors_left_out)} errors have no picture: they alone exceed the size limit.")
    if album.withheld:
        texts.append(withheld_note(album.withheld))
    if album.unreadable:
        n = len(album.unreadable)
        texts.append(f"{number(n)} {'file' if n == 1 else 'files'} could not be read.")
    return " ".join(texts)


def withheld_note(withheld: Mapping[int, str], of: str = "") -> str:
    """How many pictures the page was not given, and why.

    Args:
        withheld: the reason by row, "" where it is not known.
        of: which pictures were counted, where not all, such as "of validation images".

    Example:
        >>> withheld_note({3: "ultrasound", 5: "ultrasound"})
        "2 pictures are withheld (ultrasound), since their pixels often carry the patient's name; ..."
        >>> withheld_note({3: ""})
        '1 picture is withheld.'
    """
    n = len(withheld)
    pictures, verb = ("pictures", "are") if n > 1 else ("picture", "is")
    text = " ".join(filter(None, [number(n), pictures, of, verb, "withheld"]))
    counts = Counter(reason for reason in withheld.values() if reason)
    if not counts:
        return f"{text}."
    reasons = ", ".join(f"{reason}: {number(k)}" if k < n else reason for reason, k in sorted(counts.items()))
    return (
        f"{text} ({reasons}), since their pixels often carry the patient's name; "
        "medclf report RUN --show-burned-in shows them."
    )

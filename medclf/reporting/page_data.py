"""What the page's script works with: the rows in columns, what is shown beside what, and the pictures in chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from medclf.auditing.label_errors import DoubtfulLabel, doubtful_labels
from medclf.files import is_number
from medclf.reporting.cases import DELIMITER, Cases, split_labels
from medclf.reporting.formatting import words
from medclf.reporting.thumbnails import Album
from medclf.results.names import Names
from medclf.results.units import N_IMAGES
from medclf.results.wording import counted, is_metric, partition_name

_MANY = 100  # labels, above which probabilities are rounded
CHUNK = 100  # pictures in one script element: the page reads an element when it shows the first of them


def script_json(value: Any) -> Markup:
    """JSON that can stand in a script element: no text in it can end the element or open a comment.

    Example:
        >>> print(script_json({"label": "</script><img onerror=x>"}))
        {"label":"\\u003c/script\\u003e\\u003cimg onerror=x\\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def page_data(results: Mapping[str, Any], cases: Cases, names: Names, partition: str) -> dict[str, Any]:
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
        "part_names": [partition_name(part) for part in parts],
        "part": [part_code[str(p)] for p in cases.partition],
        "actual": code(cases.actual, cases.known),
        "unjudged": {
            str(row): np.flatnonzero(~cases.judged[row]).tolist()
            for row in np.flatnonzero(cases.known & ~cases.judged.all(axis=1))
        },
        "pred": code(cases.predicted, np.ones(len(cases), bool)),
        "probs": _probs(cases),
        "loss": [float(f"{x:.5g}") if np.isfinite(x) else None for x in cases.loss],
        "columns": {
            words(name) if name == N_IMAGES else name: [values, codes.tolist()]
            for name, (values, codes) in cases.columns.items()
        },
        "patient": [] if names.hide or not any(cases.patient) else cases.patient,
        "thresholds": thresholds(results),
        "grouped": grouped(results),
        "ordinal": bool(results.get("ordinal")),
        "counted": [counted(results, n) for n in (1, 2)],
        "reported": reported(results),
    }


def grouped(results: Mapping[str, Any]) -> bool:
    """Whether several images are of one patient or near-duplicates, which intervals must count together."""
    return 0 < int(results.get("n_groups") or 0) < int(results.get("n", 0))


def reported(results: Mapping[str, Any]) -> dict[str, Any]:
    """The shares of the facts, for the page to show their intervals: {"accuracy": metric, label: {key: metric}}.

    A single-label run's per-class shares are of the most probable label, and the page's of a threshold.
    """
    if results["task"] != "multi-label":
        return {"accuracy": results["accuracy"]} if is_metric(results.get("accuracy")) else {}
    return {
        label: {key: row[key] for key in ("sensitivity", "specificity", "ppv", "npv") if is_metric(row.get(key))}
        for label, row in (results.get("per_class") or {}).items()
    }


def doubtful(cases: Cases, names: Names, found: pd.DataFrame | None = None) -> list[DoubtfulLabel]:
    """The labels of the rows that are probably wrong, the most doubtful first.

    Args:
        cases: the rows.
        names: of the rows.
        found: path, suggested and near_duplicate, as `check_labels` finds them; judged by the probabilities where None.
    """
    if found is not None:
        code, place = {label: k for k, label in enumerate(cases.vocab)}, names.place
        columns = zip(found["path"], found["suggested"], found["near_duplicate"], strict=True)
        named = [(path, split_labels(text) if cases.multi_label else [text], other) for path, text, other in columns]
        return [
            DoubtfulLabel(place[path], tuple(code[label] for label in labels), 0.0, place.get(other))
            for path, labels, other in named
            if path in place and all(label in code for label in labels)
        ]
    rows = np.flatnonzero(cases.known)
    index_of = {int(row): index for index, row in enumerate(rows)}
    pairs = {
        tuple(sorted((row, names.place[path])))
        for row, paths in cases.links.get("conflicts", {}).items()
        for path in paths
        if path in names.place
    }
    actual = cases.actual[rows]
    found = doubtful_labels(
        np.where(cases.judged[rows], actual, -1) if cases.multi_label else actual.argmax(1),
        np.nan_to_num(cases.probs[rows]),
        multi_label=cases.multi_label,
        judges=[cases.judge[row] for row in rows],
        conflicts=[(index_of[a], index_of[b]) for a, b in sorted(pairs) if a in index_of and b in index_of],
    )
    back = [None if one.conflict is None else int(rows[one.conflict]) for one in found]
    return [one._replace(row=int(rows[one.row]), conflict=other) for one, other in zip(found, back, strict=True)]


def label_data(cases: Cases, names: Names, found: Sequence[DoubtfulLabel]) -> dict[str, Any]:
    """The doubtful labels for the page's script, the most doubtful first."""
    reasons = {
        str(one.row): f"Its near-duplicate {names.of(one.conflict)} has that label."
        for one in found
        if one.conflict is not None
    }
    return {
        "suspects": [one.row for one in found],
        "suggested": {str(one.row): list(one.suggested) if cases.multi_label else one.suggested[0] for one in found},
        "reasons": reasons,
        "judges": {str(row): judge for row, judge in enumerate(cases.judge) if judge},
    }


def _probs(cases: Cases) -> list[float]:
    """Every row's probabilities: as the page shows them where many labels' would be most of the page, else exact."""
    shown = np.nan_to_num(cases.probs.ravel())
    if len(cases.vocab) > _MANY and not cases.multi_label:  # no threshold of one label decides
        return [p or 0 for p in shown.round(4).tolist()]
    return [float(f"{p:.7g}") for p in shown]


def _codes(chosen: np.ndarray, known: np.ndarray) -> list[int]:
    return [int(c) for c in np.where(known & chosen.any(axis=1), chosen.argmax(axis=1), -1)]


def _sets(chosen: np.ndarray, known: np.ndarray) -> list[list[int] | None]:
    return [np.flatnonzero(row).tolist() if yes else None for row, yes in zip(chosen, known, strict=True)]


def thresholds(results: Mapping[str, Any]) -> dict[str, float]:
    """The threshold of each label that labels are predicted from; 0.5 of a label that has none.

    The page opens at these, so that its numbers are those of results.json. An operating point that does not decide is
    none of them. Of two classes each has one. Runs of before 0.2 name operating points alone.

    Example:
        >>> thresholds({"decision": {"rule": "balanced", "ways": {"balanced": {"thresholds": {"polyp": 0.2}}}}})
        {'polyp': 0.2}
        >>> balanced = {"rule": "balanced", "ways": {"balanced": {"weights": {"normal": 1.25, "polyp": 5.0}}}}
        >>> thresholds({"vocab": ["normal", "polyp"], "decision": balanced})
        {'normal': 0.8, 'polyp': 0.19999999999999996}
        >>> thresholds({"operating_point": {"label": "polyp", "threshold": 0.3}})
        {'polyp': 0.3}
        >>> point = {"label": "polyp", "threshold": 0.25}
        >>> thresholds({"vocab": ["normal", "polyp"], "task": "single-label", "operating_point": point})
        {'polyp': 0.25, 'normal': 0.75}
        >>> thresholds({"operating_point": {"polyp": {"threshold": 0.3, "decides": False}}})
        {}
    """
    found = _deciding(results)
    vocab = [str(label) for label in results.get("vocab") or ()]
    if results.get("task") == "single-label" and len(vocab) == 2 and len(found) == 1:
        ((label, threshold),) = found.items()
        return found | {other: 1 - threshold for other in vocab if other != label}
    return found


def _deciding(results: Mapping[str, Any]) -> dict[str, float]:
    """The thresholds that results.json names."""
    decision = results.get("decision") or {}
    ways = decision.get("ways") or {}
    if decision.get("rule") in ways:
        weights = ways[decision["rule"]].get("weights") or {}
        used = dict(ways[decision["rule"]].get("thresholds") or {})
        # of more labels no threshold of one says what is predicted
        if len(weights) == len(results.get("vocab") or ()) == 2:
            used = {label: 1 - weight / sum(weights.values()) for label, weight in weights.items()}
        return {str(label): float(value) for label, value in used.items()}
    point = results.get("operating_point")
    if not isinstance(point, Mapping):
        return {}
    label = point.get("label", point.get("positive"))
    points = {label: point} if label is not None else {k: v for k, v in point.items() if isinstance(v, Mapping)}
    found = {str(k): v["threshold"] for k, v in points.items() if v.get("decides") is not False and "threshold" in v}
    return {k: float(v) for k, v in found.items() if is_number(v) and 0 <= v <= 1}


@dataclass(frozen=True)
class Links:
    """Which images are shown beside which.

    Args:
        near: {row: its neighbours}; a row's number, or -1 - k for the k-th of `outside`.
        twins: {row: its twins}, likewise.
        members: {row: the images of its patient, study or series, the one that decided first}, likewise.
        outside: paths of the images that are in no row, those beside errors first.
    """

    near: dict[int, list[int]]
    twins: dict[int, list[int]]
    members: dict[int, list[int]]
    outside: list[str]

    def shown(self, cases: Cases) -> np.ndarray:
        """(n,) bool, the rows to picture: of the training images those that stand beside another."""
        beside = {row for links in (self.near, self.twins) for rows in links.values() for row in rows if row >= 0}
        return np.array([not judge or row in beside for row, judge in enumerate(cases.judge)], bool)

    def as_data(self, names: Names, labels: Mapping[str, str]) -> dict[str, Any]:
        """For the page's script."""
        others = [[names.of_path(path), str(labels.get(path) or "").replace(DELIMITER, ", ")] for path in self.outside]
        return {"near": self.near, "twins": self.twins, "members": self.members, "outside": others}


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

    found: dict[str, dict[int, list[int]]] = {"unit_images": {}, "neighbours": {}, "twins": {}}
    for row in map(int, np.argsort(~cases.wrong, kind="stable")):
        for key, linked in found.items():
            paths = cases.links.get(key, {}).get(row)
            if paths:
                linked[row] = [number_of(path) for path in paths]
    return Links(found["neighbours"], found["twins"], found["unit_images"], list(outside))


def picture_data(
    cases: Cases, links: Links, album: Album, order: Sequence[int]
) -> tuple[dict[str, Any], list[list[list[Any]]]]:
    """Where each row's picture is, and the pictures in chunks that the page reads when it needs them.

    Returns:
        {"place": [its number, or -1 less the number of its reason in "absence"], "absence", "chunk", "beside" (the
        pictures of `links.outside`, or why there is none, by path), "saliency"}, and the chunks: lists of [thumbnail,
        larger, map of the predicted label, of the actual one, see `Album.deep`]. A map is left out with its picture.
    """
    shown = [row for row in order if row in album.small]
    words = {row: album.absence(row) for row in range(len(cases)) if row not in album.small}
    absence = list(dict.fromkeys(words.values()))
    place = [0 if row in album.small else -1 - absence.index(words[row]) for row in range(len(cases))]
    for index, row in enumerate(shown):
        place[row] = index
    maps = cases.saliency, cases.saliency_actual
    entries = [[one.get(row, "") for one in (album.small, album.large, *maps, album.deep)] for row in shown]
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

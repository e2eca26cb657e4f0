"""The rows of a prediction table as arrays, checked: what the page counts, sorts and shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.labels import NO_FINDING
from medclf.errors import DataError

DELIMITER = "|"  # between the labels of one image, where a CSV holds several
OWN = {
    *("path", "partition", "label", "pred", "loss", "patient", "problem", "width", "height", "sha256", "group"),
    *("saliency", "saliency_actual", "neighbours", "twins", "conflicts", "judge", "unit_images"),
}
MAX_COLUMNS, MAX_VALUES = 12, 20
LINKS = ("neighbours", "twins", "conflicts", "unit_images")  # columns of paths


@dataclass(frozen=True)
class Cases:
    """One row an image.

    Args:
        vocab: the labels.
        multi_label: whether an image may have several.
        paths: (n,) as in the table.
        partition: (n,) names.
        known: (n,) bool: the actual label is known and in the vocabulary.
        judged: (n, L) bool: it is known whether the image has this label.
        actual: (n, L) bool.
        predicted: (n, L) bool.
        probs: (n, L) float in [0, 1].
        loss: (n,) float, NaN where there is none.
        columns: subgroup columns, {name: (values, codes (n,), -1 where blank)}.
        patient: (n,) names, "" where unknown.
        saliency: {row: data URI of a PNG}.
        saliency_actual: the same for the actual label, where another was predicted.
        links: {"neighbours" | "twins" | "conflicts" | "unit_images": {row: paths}}.
        judge: (n,) what the probabilities come from where it is not the model, else "".
    """

    vocab: list[str]
    multi_label: bool
    paths: list[str]
    partition: np.ndarray
    known: np.ndarray
    judged: np.ndarray
    actual: np.ndarray
    predicted: np.ndarray
    probs: np.ndarray
    loss: np.ndarray
    columns: dict[str, tuple[list[str], np.ndarray]]
    patient: list[str]
    saliency: dict[int, str]
    saliency_actual: dict[int, str]
    links: dict[str, dict[int, list[str]]]
    judge: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def wrong(self) -> np.ndarray:
        """(n,) bool: known, and not predicted exactly."""
        return np.asarray(((self.actual != self.predicted) & self.judged).any(axis=1))

    @property
    def confidence(self) -> np.ndarray:
        """(n,) probability of what was said; for several labels, of the least certain one."""
        said = np.where(self.predicted, self.probs, np.nan if not self.multi_label else 1 - self.probs)
        if not len(self) or not self.vocab:
            return np.zeros(len(self))
        return np.asarray(np.nan_to_num(np.nanmin(said, axis=1) if self.multi_label else np.nansum(said, axis=1)))

    def name(self, row: int, which: str = "actual") -> str:
        """The actual or predicted label (or labels) of a row, as text."""
        if which == "actual" and not self.known[row]:
            return "unknown"
        chosen = getattr(self, which)[row]
        names = [label for label, yes in zip(self.vocab, chosen, strict=True) if yes]
        return ", ".join(names) or "none"

    def worst(self, k: int, partition: str | None = None) -> list[int]:
        """The `k` rows with the highest loss, of one partition where it is named."""
        rows = np.flatnonzero(self.known & np.isfinite(self.loss))
        if partition is not None:
            rows = rows[self.partition[rows] == partition]
        return [int(i) for i in rows[np.argsort(-self.loss[rows], kind="stable")][:k]]


def read_cases(rows: pd.DataFrame, vocab: Sequence[str], *, multi_label: bool, partition: str) -> Cases:
    """Check a table of predictions and read it.

    Args:
        rows: one row an image, as in predictions.csv: path, label, pred, prob_NAME..., and partition,
            loss, patient, saliency, neighbours, twins and subgroup columns where there are any.
        vocab: the labels in order.
        multi_label: labels and predictions are tuples or text with "|" between the labels.
        partition: of the rows, where the table has no such column.

    Raises:
        DataError: a column is missing, or a predicted label is not in the vocabulary.
    """
    names = [str(label) for label in vocab]
    wanted = ["path", "label", "pred", *(f"prob_{label}" for label in names)]
    missing = [column for column in wanted if column not in rows.columns]
    if missing:
        raise DataError(
            f"the table of predictions has no column {missing[0]!r}",
            f"it needs {', '.join(wanted[:4])}{'...' if len(wanted) > 4 else ''}, as predictions.csv has them",
        )
    n = len(rows)
    known, actual = _labels(rows["label"], names, multi_label)
    judged = np.repeat(known[:, None], len(names), axis=1)
    if multi_label and "unknown" in rows:
        for row, cell in enumerate(rows["unknown"]):
            judged[row, [names.index(label) for label in split_labels(cell) if label in names]] = False
        known &= judged.any(axis=1)
    said, predicted = _labels(rows["pred"], names, multi_label)
    if not said.all():
        row = int(np.argmin(said))
        raise DataError(
            f"row {row + 1} of the predictions has pred {rows['pred'].iloc[row]!r}, which is not a label of the "
            f"vocabulary ({', '.join(names[:8])}{'...' if len(names) > 8 else ''})"
        )
    probs = rows[[f"prob_{label}" for label in names]].to_numpy(dtype=float).reshape(n, len(names))
    return Cases(
        vocab=names,
        multi_label=multi_label,
        paths=[_text(path) for path in rows["path"]],
        partition=np.array([_text(p) for p in rows["partition"]] if "partition" in rows else [partition] * n),
        known=known,
        judged=judged,
        actual=actual,
        predicted=predicted,
        probs=probs,
        loss=pd.to_numeric(rows["loss"]).to_numpy(dtype=float) if "loss" in rows else np.full(n, np.nan),
        columns=subgroup_columns(rows),
        patient=[_text(p) for p in rows["patient"]] if "patient" in rows else [""] * n,
        saliency=_saliency(rows, "saliency"),
        saliency_actual=_saliency(rows, "saliency_actual"),
        links={key: _links(rows[key]) for key in LINKS if key in rows},
        judge=[_text(one) for one in rows["judge"]] if "judge" in rows else [""] * n,
    )


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value) or value is pd.NA:
        return ""
    return str(value).encode("utf-8", "backslashreplace").decode()


def split_labels(value: Any) -> list[str]:
    """The labels of one image: from a tuple, a list or text with "|" between them.

    Example:
        >>> split_labels(("a", "b")), split_labels("a|b"), split_labels("(none)"), split_labels(None)
        (['a', 'b'], ['a', 'b'], [], [])
    """
    if isinstance(value, (tuple, list, set, frozenset, np.ndarray)):
        return [str(item) for item in value]
    return [part.strip() for part in _text(value).split(DELIMITER) if part.strip() not in ("", NO_FINDING)]


def _labels(values: pd.Series, vocab: list[str], multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool, whether each row's labels are known; (n, L) bool, which they are."""
    place = {label: index for index, label in enumerate(vocab)}
    known, chosen = np.ones(len(values), bool), np.zeros((len(values), len(vocab)), bool)
    for row, value in enumerate(values):
        labels = split_labels(value) if multi_label else [_text(value)]
        blank = multi_label and (value is None or value is pd.NA or (isinstance(value, float) and value != value))
        known[row] = not blank and all(label in place for label in labels)
        if known[row]:
            chosen[row, [place[label] for label in labels]] = True
    return known, chosen


def subgroup_columns(rows: pd.DataFrame) -> dict[str, tuple[list[str], np.ndarray]]:
    """The columns by which images can be grouped: few values, or numbers cut into quarters.

    Nothing else of the table goes into the page: a column of names or free text stays out.

    Example:
        >>> table = pd.DataFrame({"path": ["a", "b", "c"], "sex": ["f", "m", None]})
        >>> values, codes = subgroup_columns(table)["sex"]
        >>> values, codes.tolist()
        (['f', 'm'], [0, 1, -1])
    """
    found: dict[str, tuple[list[str], np.ndarray]] = {}
    for column in map(str, rows.columns):
        if column in OWN or column.startswith("prob_") or column.lower().endswith(("id", "hash", "path")):
            continue
        values = rows[column]
        if values.map(lambda v: isinstance(v, (list, tuple, dict, set, np.ndarray))).any():
            continue
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > MAX_VALUES:
            values = _quarters(values)
        codes, unique = pd.factorize(values.map(_text).replace("", None), sort=True)
        repeated = len(unique) < max(3, len(rows) // 2)
        if 2 <= len(unique) <= MAX_VALUES and repeated and len(found) < MAX_COLUMNS:
            found[column] = ([str(v) for v in unique], np.asarray(codes))
    return found


def _quarters(values: pd.Series) -> pd.Series:
    bins, edges = pd.qcut(values, 4, labels=False, retbins=True, duplicates="drop")
    names = {i: f"{i + 1}: {low:g} to {high:g}" for i, (low, high) in enumerate(pairwise(edges))}
    return bins.map(names)


def _saliency(rows: pd.DataFrame, column: str) -> dict[int, str]:
    if column not in rows:
        return {}
    pictures = {i: _text(uri) for i, uri in enumerate(rows[column]) if _text(uri)}
    for row, uri in pictures.items():
        if not uri.startswith("data:image/png;base64,"):
            raise DataError(
                f"row {row + 1} of the predictions: its saliency is no PNG data URI",
                "it must begin with data:image/png;base64,",
            )
    return pictures


def _links(values: pd.Series) -> dict[int, list[str]]:
    return {row: names for row, value in enumerate(values) if (names := split_labels(value))}


def by_label(matrix: Any, vocab: Sequence[str]) -> list[dict[str, Any]]:
    """A multi-label matrix {label: [[tn, fp], [fn, tp]]} as rows for a table."""
    if not isinstance(matrix, Mapping):
        return []
    return [
        {"label": label, "tn": m[0][0], "fp": m[0][1], "fn": m[1][0], "tp": m[1][1]}
        for label in vocab
        if (m := matrix.get(label)) is not None
    ]

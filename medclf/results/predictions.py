"""Predictions: what a classifier said of each image, as one table of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.csv_files import numbers_in, read_rows, save_rows, with_types
from medclf.dataset.groups import groups_of
from medclf.dataset.labels import NO_FINDING
from medclf.errors import DataError
from medclf.metrics.prevalence import PrevalenceShift
from medclf.results.calibration import decided
from medclf.results.wording import counted_as

_KEPT = ("path", "partition", "patient")


@dataclass
class Predictions:
    """What a classifier said of each image; everything that is reported is computed from it.

    Args:
        vocab: the labels, in the order of the columns of `probs`.
        multi_label: whether an image may have several labels.
        y: the reference standard: (n,) classes, -1 where unknown; multi-label (n, n_labels) of 0 and 1.
        probs: (n, n_labels) in [0, 1].
        losses: (n,) the loss of each image, NaN where the label is unknown.
        table: n rows: path, partition, patient, group, and any further column of the data's table.
        features: (n, f) pooled features of the network's body, where they were asked for; not kept in files.
        decided: (n, n_labels) bool, which labels are predicted, where it is not the most probable one (multi-label: all
            of at least 0.5).
        ordinal: the labels have an order, and `vocab` is it, lowest grade first.
        unit: what a row is the answer for, such as "patient"; None for an image.
        shift: to the prevalence that the probabilities stand for; None: they stand for the images they were fitted on.
    """

    vocab: list[str]
    multi_label: bool
    y: np.ndarray
    probs: np.ndarray
    losses: np.ndarray
    table: pd.DataFrame
    features: np.ndarray | None = None
    decided: np.ndarray | None = None
    ordinal: bool = False
    unit: str | None = None
    shift: PrevalenceShift | None = None

    def __len__(self) -> int:
        return len(self.table)

    def counted(self, n: int = 2) -> str:
        """What the rows are called in sentences: images, or patients, studies ... where these have one answer each."""
        return counted_as(self.unit, n)

    @property
    def labels(self) -> list[str]:
        """The actual label of each image; several are joined by `|`, unknown is empty."""
        if self.multi_label:
            return [self._join(row == 1) for row in self.y]
        return [self.vocab[k] if k >= 0 else "" for k in self.y]

    @property
    def preds(self) -> list[str]:
        """The predicted label of each image; several are joined by `|`."""
        return [self._join(row) for row in self.predicted]

    @property
    def predicted(self) -> np.ndarray:
        """(n, n_labels) bool: which labels are predicted; of one label an image, one in each row."""
        if self.decided is not None:
            return self.decided
        return decided(self.probs, self.vocab, self.multi_label)

    @property
    def known(self) -> np.ndarray:
        """(n,) bool: of which images a label is known."""
        return np.asarray(self._by_label.any(axis=1))

    @property
    def fully_known(self) -> np.ndarray:
        """(n,) bool: of which images all labels are known."""
        return np.asarray(self._by_label.all(axis=1))

    @property
    def _by_label(self) -> np.ndarray:
        return np.asarray(self.y).reshape(len(self), -1 if len(self) else 1) >= 0

    def _join(self, chosen: np.ndarray) -> str:
        return "|".join(label for label, is_chosen in zip(self.vocab, chosen, strict=True) if is_chosen)

    @property
    def groups(self) -> np.ndarray | None:
        """(n,) which images belong together, by patient or as near-duplicates; None where none is known to."""
        return groups_of(self.table)

    @property
    def measured(self) -> Predictions:
        """These as they are held against labels: not shifted to another prevalence; the predicted labels stay.

        Brier score, log loss and calibration error of probabilities for one prevalence, on images of another, would
        tell how far those two lie apart.
        """
        if self.shift is None:
            return self
        probs = self.shift.undo(self.probs, self.vocab, self.multi_label)
        return replace(self.with_probs(probs), decided=self.predicted, shift=None)

    def shifted(self, shift: PrevalenceShift) -> Predictions:
        """These for another prevalence, with what is then predicted."""
        return replace(self.with_probs(shift.apply(self.probs, self.vocab, self.multi_label)), shift=shift)

    def with_probs(self, probs: np.ndarray) -> Predictions:
        """These with other probabilities, (n, n_labels), and the losses and labels that follow from them."""
        return replace(self, probs=probs, losses=losses_of(self.y, probs, self.multi_label), decided=None)

    def to_frame(self) -> pd.DataFrame:
        """path, partition, patient, label, pred, loss, prob_NAME for each label, and the table's other columns."""
        frame = self.table[[c for c in _KEPT if c in self.table]].reset_index(drop=True)
        labels, preds = self.labels, self.preds
        if self.multi_label:  # an image without a finding is told from one that nobody judged
            labels = [label or (NO_FINDING if here else "") for label, here in zip(labels, self.known, strict=True)]
            preds = [pred or NO_FINDING for pred in preds]
        frame = frame.assign(label=labels, pred=preds, loss=self.losses)
        if self.multi_label and (np.asarray(self.y) < 0).any():
            frame["unknown"] = [self._join(row < 0) for row in self.y]
        probs = pd.DataFrame(self.probs, columns=[f"prob_{label}" for label in self.vocab])
        others = self.table[[c for c in self.table if c not in {*_KEPT, "label"}]].reset_index(drop=True)
        return pd.concat([frame, probs, others], axis=1)

    def save(self, path: str | Path) -> None:
        """Write `to_frame()` as CSV, whole or not at all."""
        save_rows(path, self.to_frame())

    @classmethod
    def load(cls, path: str | Path, vocab: Sequence[str], multi_label: bool, ordinal: bool = False) -> Predictions:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing or damaged, or lacks a column.
        """
        columns = [f"prob_{label}" for label in vocab]
        rows = read_rows(path, ["path", "label", "loss", *columns])
        probs = np.stack([numbers_in(rows, name, path).to_numpy() for name in columns], axis=1)
        if not ((probs >= 0) & (probs <= 1)).all():
            row = int(((probs < 0) | (probs > 1)).any(axis=1).argmax())
            raise DataError(f"{path} is damaged: row {row + 1} holds no probabilities", "make the predictions again")
        y = _targets(rows, vocab, multi_label)
        losses = numbers_in(rows, "loss", path, blank=True).to_numpy()
        own = [name for name in rows if name not in {"label", "pred", "loss", "unknown", *columns}]
        found = cls(list(vocab), multi_label, y, probs, losses, with_types(rows[own]), ordinal=ordinal)
        if "pred" in rows:
            chosen = (
                _held(rows["pred"], vocab)
                if multi_label
                else np.array([[pred == label for label in vocab] for pred in rows["pred"]]).reshape(-1, len(vocab))
            )
            found.decided = np.asarray(chosen, bool)
            if not multi_label and not found.decided.any(axis=1).all():
                row = int((~found.decided.any(axis=1)).argmax())
                label = rows["pred"].iloc[row]
                raise DataError(
                    f"{path} is damaged: row {row + 1} predicts {label!r}, which is no label", "make it again"
                )
        return found

    @classmethod
    def concat(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several parts, such as the folds of a cross-validation, as one."""
        if len({part.shift for part in parts}) > 1:
            parts = [part.measured for part in parts]
        first = parts[0]
        y, probs, losses = (np.concatenate([getattr(p, name) for p in parts]) for name in ("y", "probs", "losses"))
        table = pd.concat([part.table for part in parts], ignore_index=True)
        known = [part.features for part in parts if part.features is not None]
        features = np.concatenate(known) if len(known) == len(parts) else None
        chosen = np.concatenate([part.predicted for part in parts])
        made = cls(first.vocab, first.multi_label, y, probs, losses, table, features, chosen, first.ordinal, first.unit)
        return replace(made, shift=first.shift)

    def subset(self, rows: Any) -> Predictions:
        """The predictions of some rows, by a boolean mask or positions."""
        table = self.table.iloc[np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows].reset_index(drop=True)
        features, chosen = (None if one is None else one[rows] for one in (self.features, self.decided))
        y, probs, losses = self.y[rows], self.probs[rows], self.losses[rows]
        return replace(self, y=y, probs=probs, losses=losses, table=table, features=features, decided=chosen)


def _targets(rows: pd.DataFrame, vocab: Sequence[str], multi_label: bool) -> np.ndarray:
    """The actual classes that the text of the columns label and unknown says."""
    if not multi_label:
        place = {label: k for k, label in enumerate(vocab)}
        return np.array([place.get(label, -1) for label in rows["label"]], dtype=int)
    y = _held(rows["label"], vocab).astype(int)
    after = rows.columns.get_loc("loss") + 1  # a user's own column "unknown" stands behind the probabilities
    if list(rows.columns[after : after + 1]) == ["unknown"]:
        y[_held(rows["unknown"], vocab)] = -1
    return y


def _held(cells: pd.Series, vocab: Sequence[str]) -> np.ndarray:
    """(n, n_labels) bool, which labels each cell names, with `|` between them."""
    return np.array([[label in cell.split("|") for label in vocab] for cell in cells], bool).reshape(-1, len(vocab))


def losses_of(y: np.ndarray, probs: np.ndarray, multi_label: bool) -> np.ndarray:
    """(n,) cross entropy of each image: of its label, or the mean over its known labels; NaN where none is known.

    Example:
        >>> losses_of(np.array([1, -1]), np.array([[0.5, 0.5], [0.9, 0.1]]), False).round(3).tolist()
        [0.693, nan]
    """
    p = np.asarray(probs, np.float64).clip(1e-7, 1 - 1e-7)
    if not multi_label:
        held = -np.log(p[np.arange(len(y)), np.maximum(y, 0)])
        return np.where(y >= 0, held, np.nan)
    each = -np.where(y == 1, np.log(p), np.log(1 - p))
    known = y >= 0
    n = known.sum(axis=1)
    return np.where(n > 0, (each * known).sum(axis=1) / np.maximum(n, 1), np.nan)

"""One pass over a loader, kept as one table of probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.data.links import groups_of
from medclf.errors import DataError
from medclf.files import replacing

_LASTS = 50  # batches; fewer show no progress bar
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
    """

    vocab: list[str]
    multi_label: bool
    y: np.ndarray
    probs: np.ndarray
    losses: np.ndarray
    table: pd.DataFrame
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> list[str]:
        """The actual label of each image; several are joined by `|`, unknown is empty."""
        if self.multi_label:
            return [self._join(row == 1) for row in self.y]
        return [self.vocab[k] if k >= 0 else "" for k in self.y]

    @property
    def preds(self) -> list[str]:
        """The predicted label of each image: the most probable, or all of at least 0.5 joined by `|`."""
        if self.multi_label:
            return [self._join(row >= 0.5) for row in self.probs]
        return [self.vocab[k] for k in self.probs.argmax(1)]

    def _join(self, chosen: np.ndarray) -> str:
        return "|".join(label for label, is_chosen in zip(self.vocab, chosen, strict=True) if is_chosen)

    @property
    def groups(self) -> np.ndarray | None:
        """(n,) which images belong together, by patient or as twins; None where none is known to."""
        return groups_of(self.table)

    def to_frame(self) -> pd.DataFrame:
        """path, partition, patient, label, pred, loss, prob_NAME for each label, and the table's other columns."""
        frame = self.table[[c for c in _KEPT if c in self.table]].reset_index(drop=True)
        frame = frame.assign(label=self.labels, pred=self.preds, loss=self.losses)
        if self.multi_label and (np.asarray(self.y) < 0).any():
            frame["unknown"] = [self._join(row < 0) for row in self.y]
        probs = pd.DataFrame(self.probs, columns=[f"prob_{label}" for label in self.vocab])
        others = self.table[[c for c in self.table if c not in {*_KEPT, "label"}]].reset_index(drop=True)
        return pd.concat([frame, probs, others], axis=1)

    def save(self, path: str | Path) -> None:
        """Write `to_frame()` as CSV, whole or not at all."""
        with replacing(path) as temporary:
            self.to_frame().to_csv(temporary, index=False)

    @classmethod
    def load(cls, path: str | Path, vocab: Sequence[str], multi_label: bool) -> Predictions:
        """Read what `save` wrote.

        Raises:
            DataError: a column is missing.
        """
        text = ("path", "label", "pred", "patient", "group", "unknown", "twins")
        frame = pd.read_csv(path, dtype=dict.fromkeys(text, str))
        wanted = ["path", "label", "loss", *(f"prob_{label}" for label in vocab)]
        missing = [c for c in wanted if c not in frame]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}", "was it written by this version of medclf?")
        index = {label: k for k, label in enumerate(vocab)}
        labels = frame["label"].fillna("")
        if multi_label:
            y = np.array([[label in cell.split("|") for label in vocab] for cell in labels], dtype=int)
            unknown = frame.get("unknown", pd.Series("", frame.index)).fillna("")
            y[np.array([[label in cell.split("|") for label in vocab] for cell in unknown], bool)] = -1
        else:
            y = np.array([index.get(label, -1) for label in labels])
        probs = frame[[f"prob_{label}" for label in vocab]].to_numpy(float)
        table = frame.drop(columns=[c for c in wanted if c != "path"] + ["pred", "unknown"], errors="ignore")
        return cls(
            list(vocab),
            multi_label,
            y.reshape(len(frame), -1) if multi_label else y,
            probs,
            frame["loss"].to_numpy(),
            table,
        )

    @classmethod
    def concat(cls, parts: Sequence[Predictions]) -> Predictions:
        """Several parts, such as the folds of a cross-validation, as one."""
        first = parts[0]
        y, probs, losses = (np.concatenate([getattr(p, name) for p in parts]) for name in ("y", "probs", "losses"))
        table = pd.concat([part.table for part in parts], ignore_index=True)
        known = [part.features for part in parts if part.features is not None]
        features = np.concatenate(known) if len(known) == len(parts) else None
        return cls(first.vocab, first.multi_label, y, probs, losses, table, features)

    def subset(self, rows: Any) -> Predictions:
        """The predictions of some rows, by a boolean mask or positions."""
        table = self.table.iloc[np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows].reset_index(drop=True)
        features = None if self.features is None else self.features[rows]
        return Predictions(
            self.vocab, self.multi_label, self.y[rows], self.probs[rows], self.losses[rows], table, features
        )


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


def predict_loader(
    learn: Any, loader: Any, partition: str = "", act: Any = None, *, features: bool = False
) -> Predictions:
    """Predict every image of a loader once: unshuffled, unaugmented, none dropped.

    Within a group of processes (see `medclf.data.ranks`) each predicts its part and all get the whole.

    Args:
        learn: a fastai `Learner`.
        loader: one of its loaders, or of `dls.test_dl`.
        partition: what to write in the partition column where the data's table does not say.
        act: instead of the loss function's own activation.
        features: keep the pooled features as well; the network must be one that `med_learner` built.

    Returns:
        The predictions, in the loader's order, without images that could no longer be read (see `MedDL`).
    """
    import torch

    from medclf.data import ranks
    from medclf.data.batches import unread
    from medclf.training.head_start import exact, parted, pooled_features

    whole = loader.new(shuffle=False, drop_last=False)
    loader = parted(whole)
    labelled = len(getattr(loader.dataset, "tls", [0, 0])) > 1
    bar = contextlib.nullcontext() if len(loader) >= _LASTS and not ranks.rank() else learn.no_bar()
    keeping: contextlib.AbstractContextManager[list[torch.Tensor]] = contextlib.nullcontext([])
    if features:
        keeping = pooled_features(learn.model)
    with exact(loader), bar, _no_metrics(learn), keeping as kept:
        probs, targets, *rest = learn.get_preds(dl=loader, with_loss=labelled, act=act, reorder=False)
    multi_label = probs.ndim == 2 and targets is not None and targets.ndim == 2
    multi_label = multi_label or bool(getattr(learn, "recipe", {}).get("multi_label"))
    collect = ranks.gathered if loader is not whole else np.asarray
    probs = collect(probs.as_subclass(torch.Tensor).float().numpy())
    n = len(probs)
    if labelled:
        y = collect(targets.as_subclass(torch.Tensor).numpy().astype(int))
        losses = collect(rest[0].as_subclass(torch.Tensor).float().numpy())
        losses = losses.reshape(n, -1).mean(1)
    else:
        y = np.full(n, -1) if not multi_label else np.full((n, probs.shape[1]), -1)
        losses = np.full(n, np.nan)
    table = rows_of(learn.dls, loader.dataset.items, partition)
    pooled = collect(torch.cat(kept).numpy()) if kept else None
    found = Predictions(list(_vocab(learn)), multi_label, y, probs, losses, table, pooled)
    lost = unread(loader)
    return found.subset(~lost) if lost.any() else found


@contextlib.contextmanager
def _no_metrics(learn: Any) -> Iterator[None]:
    """Keep fastai from computing metrics, which nobody reads here, of what may be a part of the images."""
    kept, learn.metrics = learn.metrics, []
    try:
        yield
    finally:
        learn.metrics = kept


def _vocab(learn: Any) -> list[str]:
    from medclf.training.learner import class_names

    return class_names(learn.dls)


def rows_of(dls: Any, items: Sequence[Any], partition: str = "") -> pd.DataFrame:
    """The rows of the data's table for `items`, in their order; an item the table does not know gets its path alone."""
    root = Path(dls.path)
    names = [_relative(item, root) for item in items]
    table = getattr(dls, "table", None)
    if table is None:
        return pd.DataFrame({"path": names, "partition": partition})
    rows = table.drop(columns=["label"]).set_index("path").reindex(names).rename_axis("path").reset_index()
    rows["partition"] = rows["partition"].where(rows["partition"].notna(), partition)
    return rows


def _relative(item: Any, root: Path) -> str:
    try:
        return Path(item).relative_to(root).as_posix()
    except (ValueError, TypeError):
        return str(item)

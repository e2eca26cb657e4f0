"""One pass over a loader, kept as one table of probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
        table: n rows: path, partition, patient, and any further column of the data's table.
    """

    vocab: list[str]
    multi_label: bool
    y: np.ndarray
    probs: np.ndarray
    losses: np.ndarray
    table: pd.DataFrame

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
        """(n,) the patient of each image, an image of none standing for itself; None where none is known."""
        if "patient" not in self.table or self.table["patient"].isna().all():
            return None
        return self.table["patient"].fillna(self.table["path"]).astype(str).to_numpy()

    def to_frame(self) -> pd.DataFrame:
        """path, partition, patient, label, pred, loss, prob_NAME for each label, and the table's other columns."""
        frame = self.table[[c for c in _KEPT if c in self.table]].reset_index(drop=True)
        frame = frame.assign(label=self.labels, pred=self.preds, loss=self.losses)
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
        frame = pd.read_csv(path, dtype={"path": str, "label": str, "pred": str, "patient": str})
        wanted = ["path", "label", "loss", *(f"prob_{label}" for label in vocab)]
        missing = [c for c in wanted if c not in frame]
        if missing:
            raise DataError(f"{path} has no column {', '.join(missing)}", "was it written by this version of medclf?")
        index = {label: k for k, label in enumerate(vocab)}
        labels = frame["label"].fillna("")
        if multi_label:
            y = np.array([[label in cell.split("|") for label in vocab] for cell in labels], dtype=int)
        else:
            y = np.array([index.get(label, -1) for label in labels])
        probs = frame[[f"prob_{label}" for label in vocab]].to_numpy(float)
        table = frame.drop(columns=[c for c in wanted if c != "path"] + ["pred"], errors="ignore")
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
        return cls(first.vocab, first.multi_label, y, probs, losses, table)

    def subset(self, rows: Any) -> Predictions:
        """The predictions of some rows, by a boolean mask or positions."""
        table = self.table.iloc[np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows].reset_index(drop=True)
        return Predictions(self.vocab, self.multi_label, self.y[rows], self.probs[rows], self.losses[rows], table)


def predict_loader(learn: Any, loader: Any, partition: str = "", act: Any = None) -> Predictions:
    """Predict every image of a loader once: unshuffled, unaugmented, none dropped.

    Within a group of processes (see `medclf.data.ranks`) each predicts its part and all get the whole.

    Args:
        learn: a fastai `Learner`.
        loader: one of its loaders, or of `dls.test_dl`.
        partition: what to write in the partition column where the data's table does not say.
        act: instead of the loss function's own activation.

    Returns:
        The predictions, in the loader's order, without images that could no longer be read (see `MedDL`).
    """
    import torch

    from medclf.data import ranks
    from medclf.data.batches import unread
    from medclf.training.head_start import exact, parted

    whole = loader.new(shuffle=False, drop_last=False)
    loader = parted(whole)
    labelled = len(getattr(loader.dataset, "tls", [0, 0])) > 1
    bar = contextlib.nullcontext() if len(loader) >= _LASTS and not ranks.rank() else learn.no_bar()
    with exact(loader), bar, _no_metrics(learn):
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
    found = Predictions(list(_vocab(learn)), multi_label, y, probs, losses, table)
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

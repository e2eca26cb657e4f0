"""One pass over a loader, kept as one table of probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medclf.learn import distributed
from medclf.learn.batches import unread
from medclf.learn.features import exact, parted
from medclf.learn.learner import class_names, is_multi_label
from medclf.models.features import pooled_features
from medclf.progress import has_screen
from medclf.results.predictions import Predictions

_LASTS = 50  # batches; fewer show no progress bar


def predict_loader(
    learn: Any, loader: Any, partition: str = "", act: Any = None, *, features: bool = False
) -> Predictions:
    """Predict every image of a loader once: unshuffled, unaugmented, none dropped.

    Within a group of processes (see `medclf.learn.distributed`) each predicts its part and all get the whole.

    Args:
        learn: a fastai `Learner`.
        loader: one of its loaders, or of `dls.test_dl`.
        partition: what to write in the partition column where the data's table does not say.
        act: instead of the loss function's own activation.
        features: keep the pooled features as well; the network must be one that `med_learner` built.

    Returns:
        The predictions, in the loader's order, without images that could no longer be read (see `MedDL`).
    """
    whole = loader.new(shuffle=False, drop_last=False)
    loader = parted(whole)
    labelled = len(getattr(loader.dataset, "tls", [0, 0])) > 1
    bar = contextlib.nullcontext() if _shows_bar(len(loader)) else learn.no_bar()
    keeping: contextlib.AbstractContextManager[list[torch.Tensor]] = contextlib.nullcontext([])
    if features:
        keeping = pooled_features(learn.model)
    with exact(loader), bar, _no_metrics(learn), keeping as kept:
        probs, targets, *rest = learn.get_preds(dl=loader, with_loss=labelled, act=act, reorder=False)
    multi_label = probs.ndim == 2 and targets is not None and targets.ndim == 2
    multi_label = multi_label or is_multi_label(learn.dls)
    collect = distributed.gathered if loader is not whole else np.asarray
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


def _shows_bar(n_batches: int) -> bool:
    return n_batches >= _LASTS and not distributed.rank() and has_screen(stderr=False)

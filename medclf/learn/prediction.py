"""One pass over a loader, kept as one table of probabilities."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.fp16 import MixedPrecision, NonNativeMixedPrecision
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.torch_core import get_model
from fastcore.basics import noop

from medclf.errors import BundleError, DataError, MedclfWarning
from medclf.learn import distributed
from medclf.learn.batches import unread
from medclf.learn.features import exact, parted
from medclf.learn.image_block import ReadMedImage
from medclf.learn.labels import class_names, has_labels, is_multi_label, is_ordinal
from medclf.learn.measures import gives_by_image
from medclf.learn.precision import check_float32
from medclf.models.features import pooled_features
from medclf.progress import has_screen
from medclf.results.predictions import Predictions, losses_of
from medclf.results.wording import partition_name

_LASTS = 50  # batches; fewer show no progress bar
_DRIFT = 1e-3


def predict_loader(
    learn: Any, loader: Any, partition: str = "", act: Any = None, *, features: bool = False
) -> Predictions:
    """Predict every image of a loader once: unshuffled, unaugmented, none dropped.

    Within a group of processes (see `medclf.learn.distributed`) each predicts its part and all get the whole.

    Args:
        learn: a fastai `Learner`.
        loader: one of its loaders, or of `dls.test_dl`.
        partition: what to write in the partition column where the data's table does not say.
        act: instead of the loss function's own activation; where that has none, as torch's have none, the networks of
            `med_learner` get softmax, or sigmoid for several labels.
        features: keep the pooled features as well; the network must be one that `med_learner` built.

    Returns:
        The predictions, in the loader's order, without images that could no longer be read (see `MedDL`).

    Raises:
        DataError: what the network and `act` give are no probabilities.

    Warns:
        MedclfWarning: the loss function names labels from another probability on.
    """
    check_float32(learn.model, learn.cbs)
    whole = loader.new(shuffle=False, drop_last=False)
    if not len(whole.dataset):
        text = f"there is no {partition_name(partition) or 'other'} image to predict"
        raise DataError(text, "hold some out, or give others as dl=learn.dls.test_dl(files, with_labels=True)")
    loader = parted(whole)
    labelled = has_labels(loader)
    bar = contextlib.nullcontext() if _shows_bar(len(loader)) else learn.no_bar()
    keeping: contextlib.AbstractContextManager[list[torch.Tensor]] = contextlib.nullcontext([])
    if features:
        keeping = pooled_features(learn.model)
    stops = learn.cbs.filter(lambda cb: isinstance(cb, TerminateOnNaNCallback))  # it takes the loss for one number
    names, several = class_names(learn.dls), is_multi_label(learn.dls)
    by_image = labelled and gives_by_image(learn.loss_func, several, len(names), learn.dls.device)
    with exact(loader), bar, _no_metrics(learn), learn.removed_cbs(stops), keeping as kept:
        probs, targets, *rest = learn.get_preds(
            dl=loader, with_loss=by_image, act=act or activation_of(learn), reorder=False
        )
    multi_label = probs.ndim == 2 and targets is not None and targets.ndim == 2
    multi_label = multi_label or several
    collect = distributed.gathered if loader is not whole else np.asarray
    if multi_label and (cut := getattr(learn.loss_func, "thresh", 0.5)) != 0.5:
        text = f"learn.predict names labels from the loss function's thresh={cut} on; here, and in a bundle, it is 0.5"
        warnings.warn(MedclfWarning(f"{text}, or what assess(learn, policy=DecisionPolicy(...)) chooses"), stacklevel=2)
    probs = collect(probs.as_subclass(torch.Tensor).float().numpy())
    n = len(probs)
    if labelled:
        y = collect(targets.as_subclass(torch.Tensor).numpy().astype(int))
        if by_image:
            losses = collect(rest[0].as_subclass(torch.Tensor).float().numpy()).reshape(n, -1).mean(1)
        else:
            text = "the loss function gives no loss of each image: its cross-entropy is shown"
            warnings.warn(MedclfWarning(text), stacklevel=2)
            losses = losses_of(y, probs, multi_label)
    else:
        y = np.full(n, -1) if not multi_label else np.full((n, probs.shape[1]), -1)
        losses = np.full(n, np.nan)
    _check_probs(probs, multi_label)
    table = rows_of(learn.dls, paths_of(loader), partition)
    pooled = collect(torch.cat(kept).numpy()) if kept else None
    ordinal = is_ordinal(learn.dls)
    found = Predictions(names, multi_label, y, probs, losses, table, pooled, ordinal=ordinal)
    lost = unread(loader)
    return found.subset(~lost) if lost.any() else found


def check_answers(learn: Any, n_in: int, size: tuple[int, int]) -> None:
    """See that a learner's probabilities are what a bundle makes of its network: nothing else acts on the way.

    Of processes that train together nothing is checked.

    Raises:
        BundleError: a callback changes the images or the outputs, or the loss function's activation is another.
    """
    if distributed.launched() > 1:  # fastai would wait for the others, who do not come here
        return
    model, multi_label = get_model(learn.model), is_multi_label(learn.dls)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(2, n_in, *size, generator=drawn).to(next(model.parameters()))
    logits, training = torch.randn(8, len(class_names(learn.dls)), generator=drawn) * 4, model.training
    less_exact = learn.cbs.filter(lambda cb: isinstance(cb, (MixedPrecision, NonNativeMixedPrecision)))
    with torch.inference_mode():
        own = model.eval()(images).float().cpu()
    model.train(training)
    with learn.no_bar(), learn.no_logging(), learn.removed_cbs(less_exact):
        given = learn.get_preds(dl=[(images,)], act=noop, reorder=False)[0].as_subclass(torch.Tensor).float()
    if not torch.allclose(given, own, rtol=_DRIFT, atol=_DRIFT, equal_nan=True):
        raise BundleError(
            "the learner's predictions are not its network's: a callback changes images or outputs, and a bundle has "
            "no callbacks",
            "remove that callback with learn.remove_cb, or do what it does in the network",
        )
    act = activation_of(learn) or getattr(learn.loss_func, "activation", noop)
    wanted = torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=-1)
    if not torch.allclose(act(logits), wanted, atol=_DRIFT):
        raise BundleError(
            f"the loss function's activation is none of a bundle's, which makes probabilities by "
            f"{'a sigmoid' if multi_label else 'softmax'}",
            "use a loss function with fastai's own activation, such as "
            f"{'BCEWithLogitsLossFlat' if multi_label else 'CrossEntropyLossFlat'}()",
        )


@contextlib.contextmanager
def _no_metrics(learn: Any) -> Iterator[None]:
    """Keep fastai from computing metrics, which nobody reads here, of what may be a part of the images."""
    kept, learn.metrics = learn.metrics, []
    try:
        yield
    finally:
        learn.metrics = kept


def activation_of(learn: Any) -> Any:
    """From logits to probabilities where the loss function does not say how: `med_learner`'s networks end in logits."""
    if hasattr(learn.loss_func, "activation") or "arch" not in vars(learn):
        return None
    return torch.sigmoid if is_multi_label(learn.dls) else partial(torch.softmax, dim=-1)


def _check_probs(probs: np.ndarray, multi_label: bool) -> None:
    known = probs[np.isfinite(probs).all(axis=1)] if probs.ndim == 2 else probs
    sums = multi_label or np.allclose(known.sum(-1), 1, atol=1e-3)
    if not sums or known.min(initial=0) < 0 or known.max(initial=0) > 1:
        raise DataError(
            "the learner's outputs are no probabilities: its loss function has no activation",
            "use a loss function of fastai's (CrossEntropyLossFlat), or give act=partial(torch.softmax, dim=-1)",
        )


def paths_of(loader: Any) -> list[Any]:
    """The files of a loader's images: its items, or what its first transforms (`get_x`) make of them."""
    if not hasattr(loader.dataset, "tls"):
        return list(loader.dataset.items)
    source = loader.dataset.tls[0]
    return [_path(source._get(index), source.tfms.fs) for index in range(len(source.items))]


def _path(item: Any, getters: Sequence[Any]) -> Any:
    value = item
    for getter in getters:
        if isinstance(value, (str, Path)):
            return value
        if isinstance(getter, ReadMedImage):
            break
        value = getter(value)
    return value if isinstance(value, (str, Path)) else item


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

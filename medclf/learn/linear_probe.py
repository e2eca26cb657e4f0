"""The linear probe: a linear head fitted on the frozen body's features, each image's computed once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from medclf.dataset.folds import folds
from medclf.dataset.image_cache import ImageStore
from medclf.errors import DataError, MedclfWarning, OutputError, argument
from medclf.files import replacing
from medclf.learn import distributed
from medclf.learn.augment import Augment
from medclf.learn.batches import MedDL, unread
from medclf.learn.precision import bf16
from medclf.models.bn_folding import folded
from medclf.models.frozen_prefix import FromCut, at_once
from medclf.progress import watch

_VIEWS = 2**40  # epochs that no training comes to
_CERTAIN = 8.0  # the logit of a label that every training image has, or none
_FALLBACK = 0.01
_LEAST_SPREAD = 0.1  # of the features' mean standard deviation
_OF_WHAT_IS_KEPT = 64  # images at once: small maps and few layers
_SMALL = 5_000_000  # values of the features, such as 4,000 images' 1,280
STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)  # scikit-learn's C, on standardised features


@dataclass(frozen=True)
class LinearProbe:
    """What the linear probe did.

    Args:
        strength: scikit-learn's C that cross-validation inside the training images chose; the mean where several
            labels have one each.
        n_train: training images.
        n_features: features an image.
        cv_folds: folds of that cross-validation; 0 where there were too few images.
        seconds: time taken, features included.
        views: augmented views of each image that it was fitted on besides.
        features: (n_train, n_features) of the training images, in the loader's order; not kept in files.
        targets: (n_train,) their classes, or (n_train, n_labels) 0/1; not kept in files.
        held_out: (n_train, n_labels) probability of each training image from the folds that did not hold it, NaN
            where none says; not kept in files.
    """

    strength: float
    n_train: int
    n_features: int
    cv_folds: int
    seconds: float
    views: int = 0
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    targets: np.ndarray | None = field(default=None, repr=False, compare=False)
    held_out: np.ndarray | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For `results.json` and checkpoints: the numbers alone."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.compare}


def body_features(
    network: nn.Sequential, loader: Any, *, view: int = 0, progress: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pooled features of every image of `loader`, in its order, unaugmented or as an augmented view.

    Within a group of processes (see `medclf.learn.distributed`) each computes its part and all get the whole.

    Args:
        network: `nn.Sequential(body, head)` as `build_network` makes it, or one cut in two.
        loader: a fastai loader; its images are read at exact size, unshuffled. Or one of what the stages below the cut
            give.
        view: 0 for the images as they are; else which augmented view of a training loader, each keyed by the seed.
        progress: show a progress bar when it lasts.

    Returns:
        features (n, n_features) float32, and targets: (n,) classes, (n, n_labels) 0/1, or None without labels.
    """
    changes = {"epoch": _VIEWS + view} if view else {}
    training, own, in_bf16 = network.training, network[0], False
    if isinstance(network, FromCut) and network.body() is not own:  # of what is kept, as precisely as it was made
        own, in_bf16, changes["bs"] = network.body(), network.in_bf16, max(loader.bs, _OF_WHAT_IS_KEPT)
    whole = loader.new(shuffle=False, drop_last=False, **changes)
    loader = parted(whole)
    pooling = cast(nn.Sequential, network[1])[:-2]
    network.eval()
    body: nn.Module | None = None
    features: list[Tensor] = []
    targets: list[Tensor] = []
    with torch.inference_mode(), contextlib.nullcontext() if view else exact(loader):
        for batch in watch(loader, len(loader), "Computing features", progress=progress and not distributed.rank()):
            images = batch[0].as_subclass(Tensor).contiguous(memory_format=torch.channels_last)
            body = body or folded(own, images[:1])
            step = at_once(images.device) if images.device.type == "cpu" and own is network[0] else len(images)
            with bf16(images.device, in_bf16):
                features.extend(pooling(body(part)).float().cpu() for part in images.split(step))
            targets.extend(t.as_subclass(Tensor).cpu() for t in batch[1:2])
    network.train(training)
    collect = distributed.gathered if loader is not whole else np.asarray
    return collect(torch.cat(features).numpy()), collect(torch.cat(targets).numpy()) if targets else None


def parted(loader: Any) -> Any:
    """This process's part of a loader, see `MedDL.parted`; a plain fastai loader is whole in each process."""
    return loader.parted() if isinstance(loader, MedDL) else loader


@contextmanager
def pooled_features(network: nn.Sequential) -> Iterator[list[Tensor]]:
    """Within it, the pooled features of all images that `network` predicts are kept, batch by batch.

    Args:
        network: `nn.Sequential(body, head)`; the head's last module is the linear layer.

    Yields:
        A list that fills with (batch, n_features) float32 tensors.
    """
    kept: list[Tensor] = []
    head = cast(nn.Sequential, network[1])
    hook = head[-1].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().float().cpu()))
    try:
        yield kept
    finally:
        hook.remove()


class exact:
    """Within it, a loader of the training set gives its images at exact size and unaugmented."""

    def __init__(self, loader: Any) -> None:
        self.scope = loader.dataset.set_split_idx(1) if hasattr(loader.dataset, "set_split_idx") else None

    def __enter__(self) -> None:
        if self.scope:
            self.scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.scope:
            self.scope.__exit__(*error)


def stored_features(
    network: nn.Sequential, loader: Any, *, view: int = 0, progress: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `body_features`, kept beside the image store, so that another head, split or fold costs no pass."""
    store = (loader.stores or {}).get(1) if isinstance(loader, MedDL) else None
    rows = store.rows(loader.dataset.items) if isinstance(store, ImageStore) else None
    if store is None or rows is None:
        return body_features(network, loader, view=view, progress=progress)
    targets = np.stack([np.asarray(t.as_subclass(Tensor)) for t in loader.dataset.tls[1]])
    if view:
        loader = loader.new(ids=rows)  # the same draws for an image in whichever split or fold it is
    kept = Path(store.folder) / f"features-{fingerprint(network[0], loader, view)}.npy"
    known = np.load(kept) if kept.is_file() else np.zeros((store.shape[0], 0), np.float32)
    if distributed.from_first(lambda: bool(known.shape[1] == 0 or np.isnan(known[rows]).any())):
        fresh, _ = body_features(network, loader, view=view, progress=progress)
        table = known if known.shape[1] else np.full((store.shape[0], fresh.shape[1]), np.nan, np.float32)
        table[rows] = fresh
        if not distributed.rank():  # what cannot be kept is computed again the next time
            with contextlib.suppress(OutputError), replacing(kept) as temporary, temporary.open("wb") as file:
                np.save(file, table)
        return fresh, targets
    return known[rows], targets


def fingerprint(body: nn.Module, loader: Any, view: int = 0) -> str:
    """Of the body's weights and of what is done to the pixels after the store."""
    digest = hashlib.blake2b(digest_size=12)
    for name, value in sorted(body.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for tfm in loader.after_batch.fs:
        for name in ("mean", "std"):
            if hasattr(tfm, name):
                digest.update(np.asarray(getattr(tfm, name).cpu()).tobytes())
        if view and isinstance(tfm, Augment):
            digest.update(json.dumps([view, loader.seed, loader.stores[0].shape[1:], tfm.settings()]).encode())
    return digest.hexdigest()


def fit_head(
    network: nn.Sequential,
    loader: Any,
    *,
    groups: np.ndarray | None = None,
    seed: int = 42,
    views: int = 0,
    progress: bool = True,
) -> LinearProbe:
    """Fit the head's linear layer on the frozen body's features of the training images, in place.

    Classes are weighted by their rarity; the labels of a multi-label task are not, since a rare finding would then be
    called in many images that have none. The strength of the L2 penalty is the one that cross-validation inside the
    training images finds best by log loss, patients kept together where `groups` are given.

    Args:
        network: `nn.Sequential(body, head)`; the head's last module is the linear layer.
        loader: the training loader.
        groups: (n,) patients or clusters of the training images, in the loader's order.
        seed: of the folds.
        views: augmented views of each image to fit on besides; those of one image stay in one fold.
        progress: show a progress bar when it lasts.

    Returns:
        What was done.

    Raises:
        DataError: views are asked for, and the loader augments nothing.
    """
    start = time.perf_counter()
    if views and not any(isinstance(tfm, Augment) for tfm in loader.after_batch.fs):
        raise DataError(
            f"{argument('views', views)} needs augmentation, and the loaders augment nothing",
            f"name a {argument('modality')}, or give {argument('views', 0)}",
        )
    features, targets = stored_features(network, loader, progress=progress)
    assert targets is not None, "the training loader has labels"
    n = len(features)
    if views:
        more = [stored_features(network, loader, view=view, progress=progress)[0] for view in range(1, views + 1)]
        features = np.concatenate([features, *more])
        targets = np.concatenate([targets] * (views + 1))
        groups = np.concatenate([np.arange(n) if groups is None else groups] * (views + 1))
    read = ~unread(loader)
    if not read.all():
        n, read = int(read.sum()), np.tile(read, views + 1)
        features, targets = features[read], targets[read]
        groups = None if groups is None else groups[read]
    linear = cast(nn.Linear, cast(nn.Sequential, network[1])[-1])
    fitted: list[LinearFit] = []

    def fit() -> dict[str, Any]:
        with one_thread_if_small(features.size):
            found = fit_linear(features, targets, linear.out_features, groups, seed)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(found.weight))
            linear.bias.copy_(torch.from_numpy(found.bias))
        fitted.append(found)
        seconds = time.perf_counter() - start
        return LinearProbe(found.strength, n, features.shape[1], found.folds, seconds, views).as_dict()

    done = LinearProbe(**distributed.from_first(fit))
    distributed.copy_first([linear.weight.data, linear.bias.data])
    held_out = fitted[0].held_out[:n] if fitted else None
    return replace(done, features=features[:n], targets=targets[:n], held_out=held_out)


class LinearFit(NamedTuple):
    """A linear classifier on raw features, and what its cross-validation said of the images it was fitted on."""

    weight: np.ndarray  # (n_out, f) float32
    bias: np.ndarray  # (n_out,) float32
    strength: float  # the chosen C
    folds: int
    held_out: np.ndarray  # (n, n_out) probabilities, NaN where no fold held the image out


def one_thread_if_small(n_values: int) -> Any:
    """A context in which small sums use one thread: more would wait for each other longer than they compute."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1 if n_values < _SMALL else None)


def fit_linear(
    features: np.ndarray, targets: np.ndarray, n_out: int, groups: np.ndarray | None = None, seed: int = 42
) -> LinearFit:
    """Weights of a linear classifier on raw features: logistic regression on standardised ones, folded back.

    Args:
        features: (n, f).
        targets: (n,) classes in [0, n_out), or (n, n_out) 0/1.
        n_out: outputs of the head.
        groups: (n,) patients or clusters.
        seed: of the folds.

    Returns:
        A `LinearFit`.
    """
    mean, spread = features.mean(0), features.std(0)
    # What hardly varies among the training images may vary elsewhere: it must not come out as a hundred deviations.
    scale = np.maximum(spread, _LEAST_SPREAD * spread.mean()) + 1e-6
    x = (features - mean) / scale
    # With fewer images than features the solution lies in the images' span: rotating into it only saves time.
    span = np.linalg.svd(x, full_matrices=False)[2] if len(x) < x.shape[1] else None
    x = x if span is None else x @ span.T
    weight, bias = np.zeros((n_out, x.shape[1])), np.full(n_out, -_CERTAIN)
    held_out = np.full((len(x), n_out), np.nan)
    chosen, folds = [], 0
    one_a_label = targets.ndim == 2
    for label, y in enumerate(targets.T) if one_a_label else [(slice(None), targets)]:
        present = np.unique(y).astype(int)
        if len(present) < 2:
            if one_a_label:
                bias[label] = _CERTAIN if present[0] else -_CERTAIN
            else:
                bias[present] = _CERTAIN
            continue
        model, strength, folds, probs = _fit_logistic(
            x, y.astype(int), groups, seed, None if one_a_label else "balanced"
        )
        chosen.append(strength)
        if one_a_label:
            weight[label], bias[label] = model.coef_[0], model.intercept_[0]
            held_out[:, label] = probs[:, 1]
            continue
        held_out[~np.isnan(probs[:, 0])] = 0.0
        held_out[:, present] = probs
        if len(present) == 2:
            weight[present], bias[present] = _two_outputs(model)
        else:
            weight[present], bias[present] = model.coef_, model.intercept_
    weight = (weight if span is None else weight @ span) / scale
    bias = bias - weight @ mean
    strength = float(np.mean(chosen or [0.0]))
    return LinearFit(weight.astype(np.float32), bias.astype(np.float32), strength, folds, held_out)


def _two_outputs(model: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([-model.coef_[0], model.coef_[0]]) / 2, np.array([-1, 1]) * model.intercept_[0] / 2


def _fit_logistic(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, seed: int, weights: str | None
) -> tuple[Any, float, int, np.ndarray]:
    """The fitted model, its C, the number of folds that chose it, and their held-out probabilities."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    def fit(rows: Any, strength: float) -> Any:
        return LogisticRegression(C=strength, class_weight=weights, max_iter=300).fit(x[rows], y[rows])

    everything = np.arange(len(y))
    pairs = _folds(y, groups, seed)
    classes = np.unique(y, return_inverse=True)[1]
    probs = np.full((len(STRENGTHS), len(y), classes.max() + 1), np.nan)
    if not pairs:
        message = f"too few images of a class to choose the head's regularisation by cross-validation: C={_FALLBACK}"
        warnings.warn(MedclfWarning(message), stacklevel=4)
        return fit(everything, _FALLBACK), _FALLBACK, 0, probs[0]
    losses = np.zeros(len(STRENGTHS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, valid in pairs:
            for i, strength in enumerate(STRENGTHS):
                probs[i, valid] = fit(train, strength).predict_proba(x[valid])
                losses[i] += _log_loss(probs[i, valid], classes[valid], weights)
        best = int(losses.argmin())
        return fit(everything, STRENGTHS[best]), STRENGTHS[best], len(pairs), probs[best]


def _folds(y: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """At most five, each class on both sides of each; none where there are too few images or patients of a class."""
    units = np.arange(len(y)) if groups is None else groups
    n_folds = min(5, *(len(np.unique(units[y == label])) for label in np.unique(y)))
    if n_folds < 2:
        return []
    fold_of = folds(y, groups, n_folds, seed=seed)
    pairs = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in np.unique(fold_of)]
    return [(train, valid) for train, valid in pairs if len(np.unique(y[train])) == len(np.unique(y))]


def _log_loss(probs: np.ndarray, y: np.ndarray, weights: str | None) -> float:
    """Log loss, with each class weighing the same where the fit weighs them so."""
    held = probs[np.arange(len(y)), y].clip(1e-15)
    if weights is None:
        return float(-np.log(held).mean())
    return float(np.mean([-np.log(held[y == label]).mean() for label in np.unique(y)]))

"""The linear probe: a linear head fitted on the frozen body's features, each image's computed once."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from medclf.config import Balance
from medclf.errors import DataError, MedclfError, MedclfWarning, argument
from medclf.learn import distributed
from medclf.learn.augment import Augment
from medclf.learn.batches import unread
from medclf.learn.features import image_features
from medclf.models.heads import is_plain
from medclf.models.linear_probe import LinearFit, fit_linear, one_thread_if_small
from medclf.models.stage_maps import widths_of

UNTOLD = "does not surely tell"


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
        n_untold: fits whose probabilities stay close to the frequencies, since by that cross-validation the features
            do not surely tell more: 0 or 1, or of several labels how many.
        features: (n_train, n_features) of the training images, in the loader's order; not kept in files.
        targets: (n_train,) their classes, or (n_train, n_labels) 0/1; not kept in files.
        held_out: (n_train, n_labels) probability of each training image from the folds that did not hold it, NaN
            where none says; kept in checkpoints alone.
    """

    strength: float
    n_train: int
    n_features: int
    cv_folds: int
    seconds: float
    views: int = 0
    n_untold: int = 0
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    targets: np.ndarray | None = field(default=None, repr=False, compare=False)
    held_out: np.ndarray | None = field(default=None, repr=False, compare=False)

    def alone(self) -> LinearProbe:
        """Without what it knows of each image."""
        return replace(self, features=None, targets=None, held_out=None)

    def as_dict(self) -> dict[str, Any]:
        """For `results.json`: the numbers alone."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.compare}


def fit_head(
    network: nn.Sequential,
    loader: Any,
    *,
    groups: np.ndarray | None = None,
    seed: int = 42,
    views: int = 0,
    progress: bool = True,
    balance: Balance = "none",
    loss_func: Any = None,
) -> LinearProbe:
    """Fit the head's linear layer on the frozen body's features of the training images, in place.

    Its probabilities stand for the frequencies of the training set. The strength of the L2 penalty is the one that
    cross-validation inside the training images finds best by log loss, patients kept together where `groups` are given.

    Args:
        network: `nn.Sequential(body, head)`; the head's last module is the linear layer.
        loader: the training loader.
        groups: (n,) patients or clusters of the training images, in the loader's order.
        seed: of the folds.
        views: augmented views of each image to fit on besides; those of one image stay in one fold.
        progress: show a progress bar when it lasts.
        balance: how rare classes are made to count; see `medclf.models.balance`.
        loss_func: whose class weights are obeyed: the probabilities are then those that it asks for.

    Returns:
        What was done.

    Warns:
        MedclfWarning: the features do not surely tell the labels apart.

    Raises:
        DataError: views are asked for, and the loader augments nothing.
        MedclfError: the head has other layers than pooling, dropout and one linear layer.
    """
    start = time.perf_counter()
    if not is_plain(network[1]):
        raise MedclfError(
            "a linear probe fits one linear layer, and this head has others",
            f"give {argument('linear_probe', False)} to train it from the start, or leave the head as it was made",
        )
    if views and not any(isinstance(tfm, Augment) for tfm in loader.after_batch.fs):
        raise DataError(
            f"{argument('views', views)} needs augmentation, and the loaders augment nothing",
            f"name a {argument('modality')}, or give {argument('views', 0)}",
        )
    features, targets = image_features(network, loader, keep=True, progress=progress)
    assert targets is not None, "the training loader has labels"
    n = len(features)
    if views:
        more = [
            image_features(network, loader, view=view, keep=True, progress=progress)[0] for view in range(1, views + 1)
        ]
        features = np.concatenate([features, *more])
        targets = np.concatenate([targets] * (views + 1))
        groups = np.concatenate([np.arange(n) if groups is None else groups] * (views + 1))
    read = ~unread(loader)
    if not read.all():
        n, read = int(read.sum()), np.tile(read, views + 1)
        features, targets = features[read], targets[read]
        groups = None if groups is None else groups[read]
    linear = cast(nn.Linear, cast(nn.Sequential, network[1])[-1])
    weights = None if balance != "none" else loss_weights(loss_func)
    fitted: list[LinearFit] = []

    def fit() -> dict[str, Any]:
        with one_thread_if_small(features.size):
            how: dict[str, Any] = {"balance": balance, "weights": weights, "widths": widths_of(network[0])}
            found = fit_linear(features, targets, linear.out_features, groups, seed, **how)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(found.weight))
            linear.bias.copy_(torch.from_numpy(found.bias))
        fitted.append(found)
        seconds = time.perf_counter() - start
        numbers = (found.strength, n, features.shape[1], found.folds, seconds, views, found.n_untold)
        return LinearProbe(*numbers).as_dict()

    done = LinearProbe(**distributed.from_first(fit))
    distributed.copy_first([linear.weight.data, linear.bias.data])
    if done.n_untold:
        of = f"{done.n_untold} of the {targets.shape[1]} labels" if targets.ndim == 2 else "the labels"
        text = f"by folds of the {n} training images, what the network sees {UNTOLD} {of}: there the "
        warnings.warn(MedclfWarning(f"{text}probabilities stay close to how frequent each is"), stacklevel=2)
    held_out = fitted[0].held_out[:n] if fitted else None
    return replace(done, features=features[:n], targets=targets[:n], held_out=held_out)


def loss_weights(loss_func: Any) -> np.ndarray | None:
    """(n_labels,) class weights of a loss function, or, of several labels, its `pos_weight`; None where it has none.

    What else it may ask for is not done by the probe, which a warning says.

    Example:
        >>> loss_weights(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))).tolist()
        [1.0, 3.0]
    """
    func = getattr(loss_func, "func", loss_func)
    found, more = None, ""
    if isinstance(func, nn.CrossEntropyLoss):
        found, more = func.weight, "label smoothing" if func.label_smoothing else ""
    elif isinstance(func, nn.BCEWithLogitsLoss):
        found, more = func.pos_weight, "the weight of each label" if func.weight is not None else ""
    elif func is not None and func is not nn.functional.cross_entropy:
        more = f"{getattr(func, '__name__', type(func).__name__)} as a loss function"
    if more:
        text = f"the linear probe minimises cross-entropy: {more} is heeded by the epochs of fine_tune alone"
        warnings.warn(MedclfWarning(text), stacklevel=4)
    return None if found is None else found.detach().cpu().double().numpy()

"""Losses in which rare classes count, of logits that stand for the training set's frequencies all the while."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medclf.config import Balance, TrainConfig
from medclf.errors import DataError, argument
from medclf.learn.batches import MedDL
from medclf.models.balance import GAMMA, class_weights, draw_weights, drawn_as
from medclf.options import options


class _Balanced:
    """In training the loss sees the logits as its weights would have them; elsewhere it is the plain loss.

    So the network's own logits stand for the training set's frequencies, and so does what is validated.

    Args:
        balance: not "none".
        weights: (n_labels,) that the classes have in the loss, or by the draw.
    """

    def __init__(self, balance: Balance, weights: np.ndarray) -> None:
        super().__init__()
        self.balance = balance
        self.weights = torch.from_numpy(np.asarray(weights, np.float32))

    def __call__(self, inp: Tensor, targ: Tensor, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled() or self.balance == "logits":
            return super().__call__(inp, targ, **kwargs)  # type: ignore[misc,no-any-return]
        logits, y = inp.as_subclass(Tensor), targ.as_subclass(Tensor)
        if self.balance == "focal":
            each = self.each(logits / (1 + GAMMA), y, None)
            losses = (1 - torch.exp(-each.detach())) ** GAMMA * each
            return self._reduced(losses, losses.new_ones(()))
        weights = self.weights.to(logits)
        each = self.each(logits + weights.log(), y, weights if self.balance == "loss" else None)
        return self._reduced(each, self.total(y, weights) if self.balance == "loss" else each.new_ones(()))

    def _reduced(self, losses: Tensor, mean_weight: Tensor) -> Tensor:
        if self.reduction == "none":  # type: ignore[attr-defined]
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean() / mean_weight  # type: ignore[attr-defined]

    def each(self, logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        """The loss of each image, or of each of its labels."""
        raise NotImplementedError

    def total(self, y: Tensor, weights: Tensor) -> Tensor:
        """What the batch's mean is divided by, so that the weights do not change the rate."""
        raise NotImplementedError


class BalancedCrossEntropy(_Balanced, CrossEntropyLossFlat):
    """Of one label an image.

    Example:
        >>> loss = BalancedCrossEntropy("loss", np.array([0.5, 2.0]))
        >>> logits = torch.log(torch.tensor([[0.8, 0.2]]).repeat(5, 1)).requires_grad_()  # the frequencies themselves
        >>> loss(logits, torch.tensor([0, 0, 0, 0, 1])).backward()
        >>> bool(logits.grad.sum(0).abs().max() < 1e-6)
        True
    """

    def each(self, logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        """(n,)."""
        return cross_entropy(logits, y.long().view(-1), weight=weights, reduction="none")

    def total(self, y: Tensor, weights: Tensor) -> Tensor:
        """Mean weight of the images."""
        return weights[y.long().view(-1)].mean()


class BalancedBCE(_Balanced, BCEWithLogitsLossFlat):
    """Of several labels an image."""

    def each(self, logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
        """(n, n_labels)."""
        return binary_cross_entropy_with_logits(logits, y.to(logits.dtype), pos_weight=weights, reduction="none")

    def total(self, y: Tensor, weights: Tensor) -> Tensor:
        """Mean weight of the labels."""
        return torch.where(y == 1, weights, torch.ones_like(weights)).mean()


def is_balanced(loss_func: Any) -> bool:
    """Whether it is what `balanced_loss` makes."""
    return isinstance(loss_func, _Balanced)


def balanced_loss(dls: Any, balance: Balance, n_out: int, multi_label: bool) -> Any:
    """The loss function of a balance, with the weights that these loaders' training images ask for.

    Args:
        dls: loaders; with "sampling" their training images are drawn accordingly from now on.
        balance: not "none".
        n_out: labels.
        multi_label: whether an image may have several.

    Raises:
        DataError: there is no such balance; or these loaders cannot draw by weight, or do not tell the labels of their
            images.
    """
    options(TrainConfig)["balance"].checked(balance)
    targets = targets_of(dls.train)
    weights = drawn_as(targets, n_out) if balance == "sampling" else class_weights(targets, n_out)
    if balance == "sampling":
        draw_evenly(dls, n_out)
    return (BalancedBCE if multi_label else BalancedCrossEntropy)(balance, weights)


def draw_evenly(dls: Any, n_out: int) -> None:
    """Have the training images drawn so that each class comes as often.

    Raises:
        DataError: these are not medclf's loaders.
    """
    if not isinstance(dls.train, MedDL):
        raise DataError(f"{argument('balance', 'sampling')} needs medclf's loaders", "make them with MedDataLoaders")
    dls.train.weights = draw_weights(targets_of(dls.train), n_out)


def targets_of(loader: Any) -> np.ndarray:
    """(n,) classes of a loader's images, or (n, n_labels) 0/1, in the order of its items.

    Raises:
        DataError: the loader does not tell them without reading the images.
    """
    columns = getattr(loader.dataset, "tls", None)
    if columns is None:
        raise DataError("the loaders do not tell the labels of their images", "make them with MedDataLoaders")
    labels = columns[getattr(loader, "n_inp", 1)]
    return np.asarray(torch.stack([torch.as_tensor(labels[i]) for i in range(len(labels))]).numpy().astype(int))


def label_shares(loader: Any, n_out: int) -> np.ndarray | None:
    """(n_out,) share of a loader's images that have each label; None where it does not tell."""
    try:
        targets = targets_of(loader)
    except DataError:
        return None
    if targets.ndim == 2:
        return np.asarray((targets == 1).mean(axis=0))
    return np.asarray(np.bincount(targets, minlength=n_out) / len(targets))

"""What fastai's arguments of a learner mean here: weights, heads, and a learning rate for each group of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.mixup import MixHandler
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Learner
from fastcore.foundation import L

from medclf.errors import DataError, MedclfError, argument, did_you_mean
from medclf.learn.labels import is_multi_label
from medclf.models.heads import ConcatPool
from medclf.models.pooling import GlobalPool


def check_callables(**given: Any) -> None:
    """See that what fastai would call much later can be called.

    Raises:
        MedclfError: one is a name, as Keras takes it, or a number; or a class of loss functions instead of one of them.
    """
    for name, value in given.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, (str, int, float)):
                kind = "a name" if isinstance(one, str) else "a number"
                raise MedclfError(f"{name} is called, and {one!r} is {kind}", f"give {_SUCH_AS[name]}, or leave it out")
            if name == "loss_func" and isinstance(one, type):
                raise MedclfError(f"loss_func={one.__name__} is a class", f"give one of it: {one.__name__}()")
            if isinstance(one, type) and issubclass(one, torch.optim.Optimizer):
                text = f"{name}={one.__name__} is one of torch's optimisers, which take other parameters"
                raise MedclfError(text, f"give partial(OptimWrapper, opt=torch.optim.{one.__name__})")


_LIKE = "give lin_ftrs as a list of widths, such as [256], and ps as a share from 0 to 1, or a share a layer"
_SUCH_AS = {
    "loss_func": "a loss function, such as CrossEntropyLossFlat()",
    "opt_func": "one of fastai's optimisers, such as Adam",
    "splitter": "a function that splits the network's parameters",
    "metrics": "fastai's metrics, such as [accuracy, F1Score()]",
    "item_tfms": "transforms of one image, such as Resize(224)",
    "batch_tfms": "transforms of a batch, such as aug_transforms()",
    "cbs": "callbacks, such as [SaveModelCallback()]",
}


def check_callbacks(learn: Learner, cbs: Sequence[Any]) -> None:
    """See that callbacks have what they need of a fit, where fastai's own errors say nothing of it.

    Raises:
        MedclfError: what is monitored is not measured; or images are mixed, and the loss function cannot mix labels.
    """
    names = [str(metric.name) for metric in learn.metrics]
    known = ["train_loss", "valid_loss", *names, *(f"{part}_{name}" for part in ("train", "valid") for name in names)]
    for cb in cbs:
        if isinstance(cb, TrackerCallback) and cb.monitor not in known:
            remedy = did_you_mean(cb.monitor, known) or f"choose one of {', '.join(known[: 2 + len(names)])}"
            raise MedclfError(f"{type(cb).__name__}: no metric {cb.monitor!r} is measured", remedy)
        if isinstance(cb, MixHandler) and not hasattr(learn.loss_func, "y_int") and not is_multi_label(learn.dls):
            raise MedclfError(
                f"{type(cb).__name__} mixes labels, which this loss function does not take",
                "give one of fastai's, such as CrossEntropyLossFlat()",
            )


def weights_asked(weights: Any, pretrained: bool | None) -> Any:
    """`weights` of `build_network`, from both of fastai's arguments.

    Raises:
        MedclfError: they contradict each other, or the weights are no file.

    Example:
        >>> weights_asked("default", None), weights_asked("default", False), weights_asked(None, True)
        ('default', None, 'default')
    """
    given = weights not in (None, "none", "default")
    if given and not isinstance(weights, (str, Path)):
        raise MedclfError(
            f"{argument('weights')} is a {type(weights).__name__}, not a file",
            "leave weights out for the network's default ones, or give a file: torch.save(model.state_dict(), file)",
        )
    if pretrained is None:
        return None if weights == "none" else weights
    if given and not pretrained:
        raise MedclfError(
            f"pretrained=False contradicts {argument('weights', str(weights))}", "give the one or the other"
        )
    return (weights if given else "default") if pretrained else None


def fastai_head(
    n_features: int,
    n_out: int,
    *,
    class_token: bool = False,
    body_pool: torch.nn.Module | None = None,
    pool: bool = True,
    concat_pool: bool = True,
    lin_ftrs: Sequence[int] | None = None,
    **options: Any,
) -> torch.nn.Sequential:
    """fastai's `create_head`, whose pooling also takes the tokens of a vision transformer.

    Args:
        n_features: channels of what the body gives.
        n_out: outputs.
        class_token: the first token stands for the image.
        body_pool: the body's own pooling, which no other takes the place of.
        pool: whether the body gives a map or tokens, which are pooled first.
        concat_pool: the largest value of each channel beside the mean.
        lin_ftrs: widths of the hidden layers; 512 where None.
        options: `ps`, `first_bn`, `bn_final`, `lin_first`, `y_range` of `create_head`.

    Raises:
        MedclfError: fastai makes no head of these.

    Example:
        >>> head = fastai_head(8, 2, lin_ftrs=[4], ps=0.5)
        >>> [type(layer).__name__ for layer in head][:5], head(torch.ones(3, 8, 2, 2)).shape
        (['ConcatPool', 'Flatten', 'BatchNorm1d', 'Dropout', 'Linear'], torch.Size([3, 2]))
    """
    from fastai.vision.learner import create_head

    pools: list[torch.nn.Module] = []
    if pool:
        kind = ConcatPool if concat_pool else GlobalPool
        pools = [kind(class_token=class_token) if body_pool is None else body_pool, torch.nn.Flatten()]
    concat_pool = concat_pool and body_pool is None
    width = n_features * (2 if pool and concat_pool else 1)
    if lin_ftrs is not None and not isinstance(lin_ftrs, Iterable):
        raise MedclfError(f"lin_ftrs lists widths, and {lin_ftrs!r} is no list", _LIKE)
    hidden = None if lin_ftrs is None else list(lin_ftrs)
    try:
        return torch.nn.Sequential(*pools, *create_head(width, n_out, lin_ftrs=hidden, pool=False, **options))
    except (TypeError, ValueError) as error:
        raise MedclfError(f"fastai's head cannot be made so: {error}", _LIKE) from error


def check_head(network: torch.nn.Sequential, n_in: int, n_out: int, size: tuple[int, int]) -> None:
    """See that a body takes the images, and that its head takes what it gives, and gives an output a label.

    Raises:
        MedclfError: they do not.
    """
    training = network.training
    with torch.inference_mode():
        try:
            found = network.eval()[0](torch.zeros(1, n_in, *size))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            images = f"images of {n_in} channel{'' if n_in == 1 else 's'} and {size[0]} x {size[1]} pixels"
            text = f"this network does not take the loaders' {images}: {str(error).partition(chr(10))[0]}"
            raise MedclfError(text, "make the loaders with the channels and size that it was made for") from error
        try:
            given = tuple(network[1](found).shape)
            reason = f"gives {given[-1]} outputs for {n_out} labels" if given != (1, n_out) else ""
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = f"does not take what its body gives: {str(error).partition(chr(10))[0]}"
    network.train(training)
    if reason:
        pools = "nn.AdaptiveAvgPool2d(1), nn.Flatten(), " if found.ndim == 4 else ""
        width = found.shape[1 if found.ndim == 4 else -1]
        raise MedclfError(f"this head {reason}", f"give one such as nn.Sequential({pools}nn.Linear({width}, {n_out}))")


def rates_asked(given: Any) -> Any:
    """A learning rate, a slice or a list of them, as plain numbers.

    Raises:
        DataError: one is no number from 0 on, or a slice has no end.

    Example:
        >>> rates_asked(np.float32(0.5)), rates_asked(slice(None, 1)), rates_asked((1, 2)), rates_asked(None)
        (0.5, slice(None, 1.0, None), [1.0, 2.0], None)
    """
    if given is None:
        return None
    if isinstance(given, slice):
        return slice(rates_asked(given.start), _rate(given.stop))
    if isinstance(given, (list, tuple, L)) or np.ndim(given):
        return [_rate(one) for one in given]
    return _rate(given)


def _rate(given: Any) -> float:
    try:
        rate = float(given)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise DataError(f"a learning rate must be 0 or more, not {given!r}", "learn.lr_find() suggests one")
    return rate


def rates_by_group(rates: Sequence[float], n_groups: int) -> list[float]:
    """A learning rate for each group of parameters, of a list of fewer: the last is the head's.

    fastai cuts a network into two or three groups; here each stage is one. The others share the body evenly, which for
    a ResNet and three rates gives what fastai's groups give.

    Raises:
        MedclfError: there are more rates than groups.

    Example:
        >>> rates_by_group([1e-5, 1e-4, 1e-3], 6)
        [1e-05, 1e-05, 1e-05, 0.0001, 0.0001, 0.001]
    """
    if not 0 < len(rates) <= n_groups:
        raise MedclfError(
            f"{len(rates)} learning rates for {n_groups} groups of parameters",
            "give slice(lowest, highest), or at most one rate for each group",
        )
    *body, head = rates
    parts = np.array_split(np.arange(n_groups - 1), len(body)) if body else []
    return [rate for rate, part in zip(body, parts, strict=True) for _ in part] + [head] * (1 if body else n_groups)

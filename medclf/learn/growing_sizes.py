"""Smaller images first: the epochs of one fit shared among growing sizes, the schedule going on as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.torch_core import TensorImage
from fasttransform import Transform
from torch import Tensor
from torch.nn import functional as F

from medclf.errors import DataError, PreprocessingError, argument
from medclf.learn.preprocessing import preprocessing_of
from medclf.learn.presets import Size, as_pair

Sizes = int | Sequence[Size]
_SMALLEST = 32


class Shrink(Transform):
    """Reduce a training batch by an antialiased resize, before anything is drawn for it.

    Example:
        >>> import torch
        >>> shrink = Shrink()
        >>> shrink.share = (0.5, 0.5)
        >>> tuple(shrink(TensorImage(torch.rand(2, 3, 64, 48)), split_idx=0).shape)
        (2, 3, 32, 24)
    """

    order = 8  # before augmentation
    split_idx = 0

    def __init__(self) -> None:
        super().__init__()
        self.share = (1.0, 1.0)

    def encodes(self, x: TensorImage) -> TensorImage:  # noqa: D102 - fastai's protocol
        target = tuple(round(side * share) for side, share in zip(x.shape[-2:], self.share, strict=True))
        if target == tuple(x.shape[-2:]):
            return x
        images = x.as_subclass(Tensor)
        small = F.interpolate(images.float(), target, mode="bilinear", antialias=True)
        return TensorImage(small.round_().to(images.dtype) if images.dtype == torch.uint8 else small)


class GrowingSizes(Callback):
    """Give each epoch of a fit its share of the sizes: which one depends on the epoch's number alone.

    Args:
        sizes: (height, width) in pixels, the last one the loaders' own.
        shrink: in the training loader's batch transforms.
        sized: the batch transforms whose result has a size of its own.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], shrink: Shrink, sized: Sequence[Any]) -> None:
        self.sizes, self.shrink, self.sized = list(sizes), shrink, list(sized)

    def before_train(self) -> None:
        """Set the epoch's size."""
        size, last = self.sizes[len(self.sizes) * self.learn.epoch // self.learn.n_epoch], self.sizes[-1]
        self.shrink.share = size[0] / last[0], size[1] / last[1]
        for tfm in self.sized:
            tfm.size = size


@contextmanager
def growing(learn: Any, sizes: Sizes) -> Iterator[None]:
    """Within it, the epochs of a fit of `learn` are shared evenly among `sizes`.

    Args:
        learn: a fastai `Learner`.
        sizes: sides, or (height, width) pairs, in pixels; the last is what the loaders give.

    Raises:
        DataError: a size below 32 or above the last, or a last one that is not the loaders'.
    """
    loader = learn.dls.train
    checked = check_sizes(sizes, _size_of(learn.dls))
    sized = [tfm for tfm in loader.after_batch.fs if getattr(tfm, "size", None) is not None]
    before = [tfm.size for tfm in sized]
    shrink = Shrink()
    callback = GrowingSizes(checked, shrink, sized)
    loader.after_batch.add(shrink)
    learn.add_cb(callback)
    try:
        yield
    finally:
        learn.remove_cb(callback)
        loader.after_batch.fs.remove(shrink)
        for tfm, size in zip(sized, before, strict=True):
            tfm.size = size


def _size_of(dls: Any) -> tuple[int, int] | None:
    try:
        return preprocessing_of(dls).input_size
    except PreprocessingError:
        return None


def check_sizes(sizes: Sizes, last: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """`sizes` as pairs, if they can be.

    Args:
        sizes: see `growing`.
        last: what the loaders give, where that is known.

    Raises:
        DataError: see `growing`.

    Example:
        >>> check_sizes((128, 224))
        [(128, 128), (224, 224)]
    """
    pairs = [as_pair(size) for size in ([sizes] if isinstance(sizes, int) else sizes)]
    if not pairs or min(min(pair) for pair in pairs) < _SMALLEST:
        raise DataError(f"{argument('size')} must be {_SMALLEST} or more, not {sizes}", "give one size or several")
    if any(side > limit for pair in pairs for side, limit in zip(pair, pairs[-1], strict=True)):
        raise DataError(f"{argument('size')} must end with the largest, not be {sizes}", "for example 128, then 224")
    if last is not None and pairs[-1] != tuple(last):
        height, width = last
        wanted = height if height == width else f"({height}, {width})"
        raise DataError(f"{argument('size')} must end with the loaders' own, not be {sizes}", f"end with {wanted}")
    return pairs

"""Loaders that normalise once, with the mean and standard deviation that the backbone was trained with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize

from medclf.errors import DataError
from medclf.learn.presets import QuickNormalize


def stats_for(mean: Sequence[float], std: Sequence[float], n_in: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The backbone's mean and standard deviation for `n_in` channels: their average for another number.

    Example:
        >>> stats_for((0.4, 0.5, 0.6), (0.2, 0.2, 0.2), 1)
        ((0.5,), (0.2,))
    """
    if n_in == len(mean):
        return tuple(mean), tuple(std)
    return (float(np.mean(mean).round(6)),) * n_in, (float(np.mean(std).round(6)),) * n_in


def normalized(dls: DataLoaders, mean: Sequence[float], std: Sequence[float]) -> DataLoaders:
    """Loaders that normalise exactly once, with these numbers.

    Returns:
        `dls` itself; or a copy, where another network's learner let `dls` normalise with that one's numbers.

    Raises:
        DataError: a loader was made with other numbers.
    """
    others = [tfm for loader in dls.loaders for tfm in _normalizers(loader) if not _is_close(tfm, mean, std)]
    if others and all(isinstance(tfm, QuickNormalize) for tfm in others):  # which no one but a learner puts there
        dls = copy.copy(dls)
        dls.loaders = [
            loader.new(after_batch=[tfm for tfm in loader.after_batch.fs if tfm not in _normalizers(loader)])
            for loader in dls.loaders
        ]
    elif others:
        have = [[float(v) for v in values.flatten()] for values in (others[0].mean, others[0].std)]
        raise DataError(
            f"the loaders normalise with mean {have[0]} and std {have[1]}, the network wants {list(mean)} and "
            f"{list(std)}",
            "leave Normalize out of batch_tfms, or pass normalize=False",
        )
    for loader in dls.loaders:
        if not _normalizers(loader):
            on_gpu = torch.device(loader.device).type == "cuda"
            loader.after_batch.add(QuickNormalize.from_stats(mean, std, cuda=on_gpu))
    return dls


def _normalizers(loader: Any) -> list[Normalize]:
    return [tfm for tfm in loader.after_batch.fs if isinstance(tfm, Normalize)]


def _is_close(tfm: Normalize, *wanted: Sequence[float]) -> bool:
    have = [np.asarray(values.flatten().cpu(), float) for values in (tfm.mean, tfm.std)]
    return all(len(a) == len(b) and np.allclose(a, b, atol=1e-3) for a, b in zip(have, wanted, strict=True))

"""Every image decoded once, for the scan and for training: the stores that loaders read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medclf.config import Resize, TrainConfig
from medclf.dataset.image_cache import ImageStore, build_stores
from medclf.dataset.labels import usable
from medclf.dataset.scan import Check, listing
from medclf.errors import MedclfWarning, PreprocessingError, ReadError
from medclf.images import reading
from medclf.images.preprocessing import Preprocessing
from medclf.images.reading import Look, levels_of
from medclf.learn import distributed
from medclf.learn.preprocessing import stored_as
from medclf.learn.presets import tfms_for
from medclf.parallel import map_ahead
from medclf.progress import watch


def decoding(
    *,
    cache: bool | None = TrainConfig.cache,
    modality: str | None = TrainConfig.modality,
    size: int | tuple[int, int] = TrainConfig.size,
    item_tfms: Any = None,
    resize: Resize = TrainConfig.resize,
    window: Any = TrainConfig.window,
    frame: Any = TrainConfig.frame,
    channels: int = 3,
    progress: bool = True,
    **others: Any,
) -> Check:
    """What `scan` takes as `check_pixels` where `from_table` makes loaders of its table.

    With a cache the images are decoded into the store, which finds those that are broken, so that none is decoded
    twice. Without one they are decoded as the loaders will, with the window and the frame that those are given.

    Args:
        cache, modality, size, item_tfms, resize, window, frame, channels, progress: as `from_table` will get them.
        others: of `from_table`; they change no pixel.

    Returns:
        A function of paths and hashes that returns what is seen, or the problem, by path.

    Example:
        >>> # settings = {"modality": "endoscopy", "size": 224, "cache": True}
        >>> # dls = MedDataLoaders.from_table(scan("images", check_pixels=decoding(**settings)), **settings)
    """

    def look(path: str) -> Look | str:
        try:
            return reading.check(path, window=window, frame=frame)
        except ReadError as error:
            return error.problem

    def check_alone(paths: Sequence[str], digests: Sequence[str]) -> dict[str, Look | str]:
        looks = watch(map_ahead(look, paths), len(paths), "Decoding images", progress=progress)
        return dict(zip(paths, looks, strict=True))

    item_tfms = tfms_for(modality, size, resize)[0] if item_tfms is None else item_tfms
    wanted = stores_wanted(item_tfms, Preprocessing(channels=channels, window=window, frame=frame), cache)
    if not wanted:
        return check_alone
    distinct = sorted(set(wanted.values()), key=lambda one: one.size)

    def check(paths: Sequence[str], digests: Sequence[str]) -> dict[str, Look | str]:
        store = distributed.in_turn(lambda: build_stores(paths, digests, distinct, progress=progress))[0]
        levels = {path: levels_of(store.pixels[row, ::2, ::2]) for path, row in store.row_of.items()}
        return {path: Look(*store.full_sizes[path], levels[path]) for path in levels} | store.problems

    return check


def stores_wanted(item_tfms: Any, reading: Preprocessing, cache: bool | None) -> dict[int, Preprocessing]:
    """What a store has to hold for training (0) and for everything else (1); {} where there is to be none."""
    if cache is False:
        return {}
    try:
        return stored_as(item_tfms, reading)
    except PreprocessingError:
        if cache:
            raise
        return {}


def stores_of(table: pd.DataFrame, wanted: dict[int, Preprocessing], progress: bool) -> dict[int, ImageStore]:
    """The stores of all usable images of `table`, in which those that broke since the scan are left out.

    The other images keep their partitions, so that these do not depend on what was in the cache.
    """
    good = usable(table)
    paths = [str(Path(table.attrs["root"]) / path) for path in good["path"]]
    distinct = sorted(set(wanted.values()), key=lambda one: one.size)
    built = build_stores(paths, list(good["sha256"]), distinct, progress=progress)
    reasons = pd.Series(paths, good.index).map(built[0].problems).dropna()
    if len(reasons):
        table.loc[reasons.index, "problem"] = reasons
        table.loc[reasons.index, "partition"] = None
        bad = table.loc[reasons.index]
        text = f"{len(bad)} images cannot be read any more and are left out: {listing(bad)}"
        warnings.warn(MedclfWarning(text), stacklevel=3)
    return {side: built[distinct.index(one)] for side, one in wanted.items()}

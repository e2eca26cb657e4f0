"""Does it help? Two ways to train, tried on the training set alone, compared image by image by their log loss."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from fastai.torch_core import get_model

from medclf.auditing.audit import with_groups
from medclf.auditing.short_audit import short_audit
from medclf.config import TrainConfig
from medclf.dataset.folds import folds, shuffled
from medclf.dataset.groups import TRAINED_BEFORE, groups_of, unit_of
from medclf.dataset.matching import match_labels
from medclf.errors import MedclfWarning, SplitError
from medclf.learn import distributed
from medclf.learn.batches import unread
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.labels import class_names, is_multi_label
from medclf.learn.prediction import predict_loader
from medclf.learn.preprocessing import reading_of
from medclf.learn.training import MedLearner
from medclf.learn.weights import blend_weights, weights_of
from medclf.metrics.calibration import calibrate_out_of_fold
from medclf.metrics.intervals import Sampling, critical
from medclf.metrics.logits import to_logits
from medclf.models.pooling import GlobalPool
from medclf.models.stage_maps import of_last_stage
from medclf.results.predictions import losses_of

FOLDS = 3  # parts of the images that a trial is made on, which are held out in turn
MOST = 4_000  # images that a trial is made on: what helps there helps with more
VIEWS = 2  # augmented views of an image that a linear probe is tried with
BLENDS = (1.0, 0.5, 0.25)  # shares of the trained weights that a trial compares
LEVEL = 0.8  # two-sided: nine times of ten the way that is taken is the better one
LEVEL_IF_FREE = 0.5  # three times of four, for what costs nothing in training and in use


@dataclass(frozen=True)
class Trial:
    """Two ways to train on the same images.

    Args:
        n: images that were compared, none of which either way was fitted on.
        before, after: mean log loss of the first and of the second way.
        right_before, right_after: their shares of images classified correctly.
        low, high: interval of after - before, by patients and near-duplicates.
        seconds: what it took.
        level: of the interval.
    """

    n: int
    before: float
    after: float
    right_before: float
    right_after: float
    low: float
    high: float
    seconds: float = 0.0
    level: float = LEVEL

    @property
    def helps(self) -> bool:
        """Whether the second way is surely better."""
        return self.high < 0

    def sentence(self, what: str, kept: str) -> str:
        """What came out, for people.

        Args:
            what: the second way.
            kept: the first one.

        Example:
            >>> print(Trial(80, 0.3, 0.5, 0.96, 0.92, 0.1, 0.3).sentence("fine-tuning", "the probe"))
            fine-tuning did not help: 96 % before, 92 % after (log loss 0.300 before, 0.500 after: +0.200, 80 % CI
            +0.100 to +0.300, on 80 training images held out); kept the probe
        """
        verdict = "helped" if self.helps else "did not help" if self.after > self.before else "did not surely help"
        change = self.after - self.before
        ends = f"{self.low:+.3f} to {self.high:+.3f}"
        interval = f"{100 * self.level:.0f} % CI {ends}" if math.isfinite(self.low) else "no interval"
        losses = f"log loss {self.before:.3f} before, {self.after:.3f} after: {change:+.3f}, {interval}"
        losses += f", on {self.n} training images held out"
        numbers = f"{100 * self.right_before:.0f} % before, {100 * self.right_after:.0f} % after ({losses})"
        return f"{what} {verdict}: {numbers}" + ("" if self.helps else f"; kept {kept}")

    def as_dict(self) -> dict[str, Any]:
        """For `plan.json`."""
        return {**asdict(self), "helps": self.helps}


def compared(
    y: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    multi_label: bool,
    groups: np.ndarray | None = None,
    level: float = LEVEL,
) -> Trial:
    """Compare two sets of probabilities of the same images by log loss, pair by pair.

    Args:
        y: (n,) classes, or (n, L) of 0, 1 and -1.
        before, after: (n, L) probabilities.
        multi_label: whether an image may have several labels.
        groups: (n,) which images belong together.
        level: of the interval.

    Example:
        >>> sure, unsure = np.tile([[0.9, 0.1]], (50, 1)), np.tile([[0.6, 0.4]], (50, 1))
        >>> compared(np.zeros(50, int), unsure, sure, False).helps
        True
    """
    losses = [losses_of(y, probs, multi_label) for probs in (before, after)]
    known = np.isfinite(losses[0]) & np.isfinite(losses[1])
    gains, sampling = (losses[1] - losses[0])[known], Sampling.of(groups, len(y)).keep(np.flatnonzero(known))
    n, mean = len(gains), float(gains.mean())
    sums = np.bincount(sampling.codes, weights=gains - mean, minlength=sampling.count)
    half = math.inf
    if sampling.count > 1:
        error = math.sqrt((sums**2).sum() * sampling.count / (sampling.count - 1)) / n
        half = critical(level, sampling.count - 1) * error
    right = [float(_right(y, probs, multi_label)[known].mean()) for probs in (before, after)]
    means = [float(loss[known].mean()) for loss in losses]
    return Trial(n, means[0], means[1], right[0], right[1], mean - half, mean + half, level=level)


def _right(y: np.ndarray, probs: np.ndarray, multi_label: bool) -> np.ndarray:
    if not multi_label:
        return np.asarray(probs.argmax(axis=1) == y, float)
    known = y >= 0
    return np.asarray(((probs >= 0.5) == (y == 1)).sum(axis=1, where=known) / np.maximum(known.sum(axis=1), 1), float)


def try_tuning(
    learn: MedLearner,
    loaders: Mapping[str, Any],
    make: Callable[[Any], MedLearner],
    tune: Callable[[MedLearner], None],
) -> tuple[float, Trial]:
    """Fine-tune on two thirds of the training set, and compare with the linear probe on the other third.

    The trained weights are compared, and averages of them with those that the training began with (see `fine_tune`,
    `blend`). Where that is better, but not surely, the other thirds are held out in turn, and all of them count.
    Patients and near-duplicates (see `link_near_duplicates`) stay together. Nothing but training images is looked at.

    Args:
        learn: with the linear probe fitted.
        loaders: what `MedDataLoaders.from_table` was called with.
        make: loaders -> a learner as `learn` was made.
        tune: trains it.

    Returns:
        The share of the trained weights that is best, and how that did.

    Raises:
        SplitError, DataError: the training set cannot be divided.
    """
    start = time.perf_counter()
    table = _inner(learn)
    parts = _parts(table, learn)
    loaders = {**loaders, "split": "folders", "fold": None, "valid_pct": TrainConfig.valid_pct, "progress": False}
    tried: list[_Fold] = []
    said = set(learn.dls.table.attrs.get("notes", ()))  # of the user's own loaders
    for part in range(FOLDS):
        divided = table.assign(partition=np.where(parts == part, "valid", "train"))
        with told_once(said):
            tried.append(_Fold(make(MedDataLoaders.from_table(divided, **loaders)), learn, tune))
        trials = {share: _compared(tried, share) for share in BLENDS}
        best, decided = distributed.from_first(partial(_verdict, trials))
        if decided:
            break
    return best, replace(trials[best], seconds=time.perf_counter() - start)


@contextlib.contextmanager
def told_once(said: set[str]) -> Iterator[None]:
    """Give medclf's warnings of what runs inside but those in `said`, which then holds them: each fold has them again.

    Args:
        said: what was warned of before.
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MedclfWarning)
            yield
    finally:
        for one in caught:
            text = str(one.message)
            if not issubclass(one.category, MedclfWarning):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            elif text not in said:
                said.add(text)
                warnings.warn(MedclfWarning(f"in a trial on parts of the training images: {text}"), stacklevel=4)


def _verdict(trials: Mapping[float, Trial]) -> tuple[float, bool]:
    """The best share, and whether it is surely better, or not better at all."""
    best = best_of(trials)
    return best, trials[best].helps or trials[best].after >= trials[best].before


def _compared(tried: Sequence[_Fold], share: float) -> Trial:
    """The linear probe and the network with this share of the trained weights, on all that was held out."""
    y, before = (np.concatenate([getattr(fold, name) for fold in tried]) for name in ("y", "before"))
    after = np.concatenate([fold.after[share] for fold in tried])
    counts = np.cumsum([0, *(fold.groups.max() + 1 for fold in tried[:-1])])
    groups = np.concatenate([fold.groups + first for fold, first in zip(tried, counts, strict=True)])
    return compared(y, before, after, tried[0].multi_label, groups)


class _Fold:
    """A part of the training set that is held out: what is there, and what the network says of it before and after."""

    def __init__(self, inner: MedLearner, like: MedLearner, tune: Callable[[MedLearner], None]) -> None:
        if inner.pooling != like.pooling:
            inner.pooling = like.pooling
        inner.fit_head(progress=False, views=0 if like.head is None else like.head.views)
        found = predict_loader(inner, inner.dls.valid, "valid")
        self.y, self.multi_label = found.y, found.multi_label
        self.groups = np.arange(len(found.y)) if found.groups is None else found.groups
        self.before = self._calibrated(found.probs)  # where this fails, nothing is trained for nothing
        start = weights_of(inner.model)
        tune(inner)
        last = weights_of(inner.model)
        self.after = {}
        for share in BLENDS:
            inner.model.load_state_dict(last)
            blend_weights(inner.model, start, share)
            self.after[share] = self._calibrated(predict_loader(inner, inner.dls.valid, "valid").probs)

    def _calibrated(self, probs: np.ndarray) -> np.ndarray:
        return calibrated(self.y, probs, self.multi_label, self.groups)


def _parts(table: pd.DataFrame, learn: MedLearner) -> np.ndarray:
    """(n,) which of `FOLDS` parts each image is in: groups stay whole, and labels are shared out, rare ones too.

    What the network that the training begins with was trained on is in none, and never held out.
    """
    groups = groups_of(table)
    count = len(table) if groups is None else len(np.unique(groups))
    if count < FOLDS:
        raise SplitError(f"{FOLDS} {unit_of(table)} or more are needed, and there are {count}")
    y = match_labels(table, class_names(learn.dls), is_multi_label(learn.dls)).y
    parts = folds(y, groups, FOLDS, seed=learn.seed or 0)
    if TRAINED_BEFORE in table:
        before = table[TRAINED_BEFORE].to_numpy(bool)
        codes = np.arange(len(table)) if groups is None else groups
        parts[np.isin(codes, codes[before])] = -1
        if (parts < 0).all():
            raise SplitError("all training images were trained on before, by the run that this one begins with")
    return parts


def has_map(learn: MedLearner) -> bool:
    """Whether the head pools a feature map that is nowhere below zero, which a generalised mean is made for.

    Args:
        learn: with the linear probe fitted.
    """
    pool = next(get_model(learn.model)[1].children(), None)
    features = None if learn.head is None else learn.head.features
    return type(pool) is GlobalPool and not pool.class_token and features is not None and bool((features >= 0).all())


def best_of(trials: Mapping[Any, Trial]) -> Any:
    """The key of the lowest log loss among those that surely help; where none does, among all.

    Example:
        >>> sure, low = Trial(80, 0.5, 0.45, 0.9, 0.9, -0.09, -0.01), Trial(80, 0.5, 0.4, 0.9, 0.9, -0.3, 0.1)
        >>> best_of({"sure": sure, "low": low})
        'sure'
    """
    return min(trials, key=lambda key: (not trials[key].helps, trials[key].after))


def link_near_duplicates(learn: MedLearner) -> int:
    """Look for near-duplicates among the training images, and let folds of them keep such together from now on.

    Args:
        learn: with the linear probe fitted, whose features tell which images to compare.

    Returns:
        How many images have one; where any have, the linear probe's own folds are out of date.
    """
    table = _readable(learn)
    if learn.head is None or learn.head.features is None:
        return 0
    read = ~unread(learn.dls.train)
    items = [item for item, known in zip(learn.dls.train.dataset.items, read, strict=True) if known]
    row_of = {item.relative_to(learn.dls.path).as_posix(): row for row, item in enumerate(items)}
    rows = np.array([row_of.get(path, -1) for path in table["path"]])
    known = of_last_stage(get_model(learn.model)[0], learn.head.features)
    features = np.where(rows[:, None] >= 0, known[rows], np.nan)
    stores = learn.dls.valid.stores or {}
    found = short_audit(table, features, stores.get(1), preprocessing=reading_of(learn.dls), progress=False)
    if len(found.clusters):
        learn.dls.table = with_groups(learn.dls.table, found)
    return len(found.clusters)


def _readable(learn: MedLearner) -> pd.DataFrame:
    """The table of the training images that can be read."""
    whole = learn.dls.table
    table = whole[(whole["partition"] == "train") & (whole["problem"] == "")].copy()
    table.attrs = dict(whole.attrs)
    return table


def _inner(learn: MedLearner) -> pd.DataFrame:
    """The table of the training images that can be read, at most `MOST`, in no partition."""
    table = _readable(learn)
    return (_part(table) if len(table) > MOST else table).assign(partition=None)


def _part(table: pd.DataFrame) -> pd.DataFrame:
    """About `MOST` rows: whole groups, in the order of a hash of their images' names."""
    groups = groups_of(table)
    codes = np.arange(len(table)) if groups is None else groups
    order = pd.unique(codes[shuffled(list(table["path"]), 0)])
    taken = order[np.cumsum(np.bincount(codes)[order]) <= MOST]
    part = table[np.isin(codes, taken if len(taken) else order[:1])].copy()
    part.attrs = dict(table.attrs)
    return part


def calibrated(y: np.ndarray, probs: np.ndarray, multi_label: bool, groups: np.ndarray | None) -> np.ndarray:
    """The probabilities after calibration on the other images, as every way is calibrated before it is used.

    Args:
        y, probs, multi_label, groups: as in `compared`.

    Raises:
        DataError: all images are one patient's.
    """
    logits = to_logits(probs.astype(np.float64).clip(1e-7, 1 - 1e-7), multi_label=multi_label)
    return calibrate_out_of_fold(logits, y, groups=groups, multi_label=multi_label)[0]

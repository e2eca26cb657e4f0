"""Intervals of large sets: resamples are drawn from a part of the images that stands for all of them.

A variance needs no million images to be known well. Above `LARGE` images a part is drawn: patients (or images) with
known chances, the higher the rarer a label is, so that every label keeps enough. Each that was drawn stands for one by
its chance, and a resample draws it as often as Poisson's law says, so that the part varies as the whole would. The
values themselves come from all images. Source: the bag of little bootstraps of Kleiner et al. 2014, with the unequal
chances of Horvitz & Thompson 1952; Hanley & MacGibbon 2006 for Poisson's law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from medclf.metrics.intervals import BLOCK, Sampling
from medclf.metrics.weighted import Task
from medclf.progress import watch

LARGE = 40_000  # images; fewer are all resampled
_IMAGES, _PATIENTS = 20_000, 4_000  # that the part holds about, besides those of rare labels
_MOST_ROWS = 50_000  # of patients with many images, only some are taken
_ENOUGH = 500  # images with a label, without it, predicted as it and not


@dataclass(frozen=True)
class Part:
    """The images that resamples are drawn from.

    Args:
        sampling: which of all images were drawn together.
        rows: (m,) which of all images these are; None for all.
        codes: (m,) patient of each.
        copies: for how many patients each of these stands.
        base: (m,) for how many images of its patient each stands.
    """

    sampling: Sampling
    rows: np.ndarray | None = None
    codes: np.ndarray | None = None
    copies: np.ndarray | None = None
    base: np.ndarray | None = None

    @classmethod
    def of(cls, sampling: Sampling, marks: Iterable[np.ndarray], seed: int = 0) -> Part:
        """Choose the part; all where there are no more than `LARGE` images.

        Args:
            sampling: which images were drawn together.
            marks: (n,) bool each: kinds of images of which enough must be there.
            seed: of the choice.
        """
        n = len(sampling.codes)
        if n <= LARGE:
            return cls(sampling)
        rng = np.random.default_rng((seed, 1))
        needed = np.zeros(n)
        for mark in marks:
            needed[mark] = np.maximum(needed[mark], _ENOUGH / max(int(mark.sum()), 1))
        chance = np.full(sampling.count, max(_PATIENTS / sampling.count, _IMAGES / n))
        np.maximum.at(chance, sampling.codes, needed)
        chance = chance.clip(max=1.0)
        rows = np.flatnonzero((rng.random(sampling.count) < chance)[sampling.codes])
        share = np.maximum(_MOST_ROWS / len(rows), needed[rows]).clip(max=1.0)
        taken = rng.random(len(rows)) < share
        rows, share = rows[taken], share[taken]
        patients, codes = np.unique(sampling.codes[rows], return_inverse=True)
        return cls(sampling, rows, codes, 1 / chance[patients], 1 / share)

    def take(self, values: np.ndarray) -> np.ndarray:
        """Those of (n, ...) values that belong to the part's images."""
        return values if self.rows is None else values[self.rows]

    def of_task(self, task: Task) -> Task:
        """The task, of the part's images."""
        if self.rows is None:
            return task
        columns = {name: getattr(task, name)[self.rows] for name in ("positive", "predicted", "known", "probs")}
        return replace(task, sampling=task.sampling.keep(self.rows), **columns)

    @property
    def weights(self) -> np.ndarray:
        """(1, m) for how many images each stands."""
        if self.codes is None or self.copies is None or self.base is None:
            return np.ones((1, len(self.sampling.codes)))
        return np.asarray(self.copies[self.codes] * self.base)[None]

    def resample(
        self,
        statistic: Callable[[np.ndarray], np.ndarray],
        n_boot: int = 2000,
        seed: int = 0,
        *,
        centre: np.ndarray | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Bootstrap a statistic of the part's weighted images, drawing whole patients.

        Args:
            statistic: (b, m) weights -> (b, k) values.
            n_boot: how many resamples.
            seed: of the draws.
            centre: (k,) values of all images, which the draws are to lie around.
            progress: show a progress bar when it lasts.

        Returns:
            (n_boot, k) values.

        Raises:
            DataError: `n_boot` is below 2.
        """
        if self.codes is None or self.copies is None or self.base is None:
            return self.sampling.resample(statistic, n_boot, seed)
        self.sampling.check(n_boot)
        rng = np.random.default_rng(seed)
        step = max(1, BLOCK // len(self.codes))
        parts = []
        for start in watch(range(0, n_boot, step), -(-n_boot // step), "Computing intervals", progress=progress):
            drawn = rng.poisson(self.copies, (min(step, n_boot - start), len(self.copies))).astype(np.float32)
            parts.append(statistic(drawn[:, self.codes] * self.base.astype(np.float32)))
        draws = np.concatenate(parts)
        return draws if centre is None else draws + (centre - statistic(self.weights)[0])


def part_of(task: Task, seed: int = 0) -> Part:
    """The images of a task that resamples are drawn from: enough of every label."""
    return Part.of(task.sampling, _kinds(task), seed)


def _kinds(task: Task) -> Iterator[np.ndarray]:
    for index in range(len(task.vocab)):
        known = task.known[:, index]
        for mark in (task.positive[:, index], task.predicted[:, index]):
            yield known & mark
            yield known & ~mark

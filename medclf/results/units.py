"""Predictions by image become predictions by unit: one row a patient, study or series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medclf.dataset.folds import linked
from medclf.dataset.labels import objects
from medclf.dataset.units import UNIT, index_of, units_word
from medclf.metrics.units import UnitRule, mean_by
from medclf.results.predictions import Predictions, losses_of

SHOWN = 8  # images of a unit that the page shows
N_IMAGES, IMAGES = "n_images", "unit_images"  # columns of predictions by unit
CONTRIBUTION = "contribution"  # column of images.csv
_OF_IMAGES = {"sha256", "width", "height", "problem", "flags", "group", CONTRIBUTION}


@dataclass
class ByUnit:
    """Predictions by unit, beside those by image that they were made of.

    Args:
        units: one row a unit: its path is that of the image that decided; unit_id, n_images and unit_images (the paths
            of those that decided most, "|" between them) are columns of its table.
        images: the images', with a column contribution.
        index: (n_images,) the row of each image's unit.
        conflicts: the units whose images are labelled differently; their label counts as unknown.
    """

    units: Predictions
    images: Predictions
    index: np.ndarray
    conflicts: list[str]

    def any_of(self, marked: np.ndarray) -> np.ndarray:
        """(n_units,) bool, whether any of a unit's images is marked, (n_images,)."""
        found = np.zeros(len(self.units), bool)
        np.logical_or.at(found, self.index, np.asarray(marked, bool))
        return found


def by_unit(images: Predictions, rule: UnitRule) -> ByUnit:
    """Predictions by unit.

    A unit has the label that its images have; where they differ it is unknown. Of several labels an image, a unit has
    those that any of its images has. Its features are the mean of its images'.

    Args:
        images: with a column unit_id in their table, not calibrated.
        rule: how their probabilities become one answer.

    Returns:
        In the order in which units first appear.
    """
    index, names = index_of(list(images.table[UNIT]))
    n = len(names)
    y, conflicts = _labels(images, index, n)
    probs = rule.probs(images.probs, images.features, index, n)
    features = None if images.features is None else mean_by(images.features, index, n).astype(np.float32)
    units = Predictions(images.vocab, images.multi_label, y, probs, losses_of(y, probs, images.multi_label), _blank(n))
    parts = rule.contributions(images.probs, images.features, index, units.predicted)
    table = _table(images.table, index, parts, names)
    units = replace(units, table=table, features=features)
    shown = replace(images, table=images.table.assign(**{CONTRIBUTION: np.round(parts, 6)}))
    return ByUnit(units, shown, index, [str(names[k]) for k in conflicts])


def _blank(n: int) -> pd.DataFrame:
    return pd.DataFrame({"path": [""] * n})


def _labels(images: Predictions, index: np.ndarray, n: int) -> tuple[np.ndarray, list[int]]:
    """The labels of the units, and which units' images contradict each other."""
    y = np.asarray(images.y)
    if images.multi_label:
        found = np.full((n, y.shape[1]), -1)
        np.maximum.at(found, index, y)
        return found, []
    most, least = np.full(n, -1), np.full(n, len(images.vocab))
    np.maximum.at(most, index, y)
    np.minimum.at(least, index[y >= 0], y[y >= 0])
    differ = (most >= 0) & (least != most)
    return np.where(differ, -1, most), np.flatnonzero(differ).tolist()


def _table(images: pd.DataFrame, index: np.ndarray, parts: np.ndarray, names: list[Any]) -> pd.DataFrame:
    """One row a unit: what all its images agree on, and the image that decided in place of the path."""
    members: list[list[int]] = [[] for _ in names]
    for row in np.argsort(-parts, kind="stable"):
        members[index[row]].append(int(row))
    paths = list(images["path"])
    columns: dict[str, list[Any]] = {
        "path": [paths[rows[0]] for rows in members],
        UNIT: names,
        N_IMAGES: [len(rows) for rows in members],
        IMAGES: ["|".join(paths[row] for row in rows[:SHOWN]) for rows in members],
    }
    for name in images:
        if name not in columns and name not in _OF_IMAGES:
            cells = objects(images, str(name))
            columns[str(name)] = [_shared([cells[row] for row in rows]) for rows in members]
    made = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})
    made[N_IMAGES] = made[N_IMAGES].astype(int)
    groups = _groups(images)
    return made if groups is None else made.assign(group=[groups[rows[0]] for rows in members])


def _shared(cells: list[Any]) -> Any:
    """The value that all cells have; None where they differ."""
    return cells[0] if all(cell == cells[0] for cell in cells) else None


def _groups(images: pd.DataFrame) -> list[str | None] | None:
    """Of each image, what links its unit to others: near-duplicates of any of its images; None where nothing does."""
    own = objects(images, "group")
    if all(one is None for one in own):
        return None
    units = objects(images, UNIT)
    groups = linked(own, units)
    several = {group for group, n in pd.Series(units).groupby(groups).nunique().items() if n > 1}
    return [f"group-{one}" if one in several else None for one in groups] if several else None


def sentence_of(rule: UnitRule, n_units: int, n_images: int) -> str:
    """How answers by unit were made.

    Example:
        >>> sentence_of(UnitRule("patient", "mean"), 2, 9)
        "One answer for each of 2 patients (9 images): the mean of its images' probabilities."
    """
    how = {
        "mean": "the mean of its images' probabilities",
        "noisy-or": "the probability that at least one of its images has the finding",
        "max": "the answer of its most certain image",
        "attention": "a mean of its images' scores, learned so that images with the finding count most (attention)",
    }[rule.answer]
    return f"One answer for each of {n_units} {units_word(rule.unit, n_units)} ({n_images} images): {how}."

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
    """

    units: Predictions
    images: Predictions
    index: np.ndarray

    def any_of(self, marked: np.ndarray) -> np.ndarray:
        """(n_units,) bool, whether any of a unit's images is marked, (n_images,)."""
        found = np.zeros(len(self.units), bool)
        np.logical_or.at(found, self.index, np.asarray(marked, bool))
        return found

    def decided_by(self, rule: UnitRule, units: Predictions) -> ByUnit:
        """The same with what is predicted of the units now: which images speak for it is told anew.

        Args:
            rule: how they were answered.
            units: in the order of `self.units`, calibrated, with decisions.
        """
        parts = rule.contributions(self.images.probs, self.images.features, self.index, units.predicted)
        ranked: list[list[str]] = [[] for _ in range(len(units))]
        paths = list(self.images.table["path"])
        for row in np.argsort(-parts, kind="stable"):
            ranked[self.index[row]].append(paths[row])
        deciding = {"path": [own[0] for own in ranked], IMAGES: ["|".join(own[:SHOWN]) for own in ranked]}
        images = self.images.table.assign(**{CONTRIBUTION: np.round(parts, 6)})
        return ByUnit(
            replace(units, table=units.table.assign(**deciding)), replace(self.images, table=images), self.index
        )


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
    y, probs = labels_of(images.y, index, n), rule.probs(images.probs, images.features, index, n)
    features = None if images.features is None else mean_by(images.features, index, n).astype(np.float32)
    losses, table = losses_of(y, probs, images.multi_label), _table(images.table, index, names)
    units = replace(
        images, y=y, probs=probs, losses=losses, table=table, features=features, decided=None, unit=rule.unit
    )
    return ByUnit(units, images, index).decided_by(rule, units)


def labels_of(y: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
    """The labels of the units; -1 of those whose images contradict each other.

    Args:
        y: (n_images,) or (n_images, n_labels), -1 where unknown.
        index: (n_images,) the unit of each.
        n: units.

    Example:
        >>> labels_of(np.array([0, 0, 1, -1, 0, 1]), np.array([0, 0, 1, 1, 2, 2]), 3).tolist()
        [0, 1, -1]
    """
    y = np.asarray(y)
    if y.ndim == 2:
        found = np.full((n, y.shape[1]), -1)
        np.maximum.at(found, index, y)
        return found
    most, least = np.full(n, -1), np.full(n, y.max(initial=-1) + 1)
    np.maximum.at(most, index, y)
    np.minimum.at(least, index[y >= 0], y[y >= 0])
    return np.where(least != most, -1, most)


def _table(images: pd.DataFrame, index: np.ndarray, names: list[Any]) -> pd.DataFrame:
    """One row a unit: what all its images agree on; which of them decided is still to be told."""
    members: list[list[int]] = [[] for _ in names]
    for row, unit in enumerate(index):
        members[unit].append(row)
    columns: dict[str, list[Any]] = {
        "path": [""] * len(names),
        UNIT: names,
        N_IMAGES: [len(rows) for rows in members],
        IMAGES: [""] * len(names),
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
    finding = " of the finding" if rule.multi_label or rule.finding is not None else ""
    how = {
        "mean": "the mean of its images' probabilities",
        "noisy-or": "the probability that at least one of its images has the finding",
        "max": f"the answer of its image that is most certain{finding}",
        "attention": "a mean of its images' scores, learned so that images with the finding count most (attention)",
    }[rule.answer]
    return f"One answer for each of {n_units} {units_word(rule.unit, n_units)} ({n_images} images): {how}."

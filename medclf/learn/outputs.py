"""LEARNER -> what its network gives: predictions and features of its images, each run over them once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.torch_core import get_model

from medclf.dataset.groups import TRAINED_BEFORE
from medclf.dataset.matching import match_labels
from medclf.dataset.scan import with_problems
from medclf.dataset.units import UNIT
from medclf.errors import DataError
from medclf.learn.batches import unread
from medclf.learn.features import image_features
from medclf.learn.maps import of_learner
from medclf.learn.prediction import paths_of, predict_loader
from medclf.learn.training import MedLearner
from medclf.learn.units import is_by_unit
from medclf.models.stage_maps import of_last_stage
from medclf.results import maps
from medclf.results.predictions import Predictions, losses_of


@dataclass
class Outputs:
    """What a trained network gives: all that `assess` needs besides the learner.

    Args:
        reported: the predictions to report: of the validation images, or of every image by the fold that held it out.
        features: (n, f) pooled features of the training images that can be read; None where they are not known.
        held_out: predictions of the test images of the data's own table, those with labels and those without.
        cross_validated: whether `reported` comes from a cross-validation.
        saliency: where the network looked, a picture by path.
    """

    reported: Predictions
    features: np.ndarray | None = None
    held_out: list[Predictions] = field(default_factory=list)
    cross_validated: bool = False
    saliency: dict[str, str] = field(default_factory=dict)


def outputs_of(
    learn: Any, valid: Predictions | None = None, features: np.ndarray | None = None, *, saliency: int = maps.LIMIT
) -> Outputs:
    """Run the network over the validation, test and training images, as far as that was not done.

    Args:
        learn: a learner, trained.
        valid: its predictions of the validation images, with features.
        features: see `Outputs`.
        saliency: how many images get a map.

    Raises:
        DataError: there are no validation images, as in a learner that was exported.
    """
    if valid is None and not len(learn.dls.valid_ds):
        text = "the learner has no validation images to assess; one that was exported holds no images"
        raise DataError(text, "put loaders into it: learn.dls = dls")
    ours = isinstance(learn, MedLearner)
    valid = valid or predict_loader(learn, learn.dls.valid, "valid", features=ours)
    if features is None and ours:
        features = train_features(learn)
    held_out = predict_held_out(learn) if table_of_data(learn) is not None else []
    pictures = of_learner(learn, valid, saliency) if saliency else {}
    return Outputs(valid, features, held_out, saliency=pictures)


def train_features(learn: MedLearner) -> np.ndarray:
    """(n, f) pooled features of the training images that can be read: the probe's own where nothing was tuned."""
    read = ~unread(learn.dls.train)
    known = learn.head.features if learn.head is not None and learn.is_probe else None
    if known is not None and len(known) == read.sum():
        return known
    return np.asarray(image_features(learn.model, learn.dls.train)[0][read])


def predict_held_out(learn: Any) -> list[Predictions]:
    """Predictions of the images that the data's own table holds back for test: those with labels, and those without."""
    table, vocab, dls = learn.dls.table, list(learn.dls.vocab), learn.dls
    paths = [dls.path / path for path in table.loc[is_held_out(table), "path"]]
    if not paths:
        return []
    ours = isinstance(learn, MedLearner)
    found = predict_loader(learn, dls.test_dl(paths, problems=dls.problems), "test", features=ours)
    row_of = {path: row for row, path in enumerate(table["path"])}
    y = match_labels(table, vocab, found.multi_label).y[[row_of[path] for path in found.table["path"]]]
    known = (y.reshape(len(y), -1) >= 0).any(axis=1)
    if is_by_unit(table):  # a unit is in one part; images of labels that differ, one of them not learned, leave it none
        units = table[UNIT].iloc[[row_of[path] for path in found.table["path"]]].to_numpy()
        known = np.isin(units, units[known]) if found.multi_label else ~np.isin(units, units[~known])
        y = y if found.multi_label else np.where(known, y, -1)
    found = replace(found, y=y, losses=losses_of(y, found.probs, found.multi_label))
    return [found.subset(part) for part in (known, ~known) if part.any()]


def is_held_out(table: pd.DataFrame) -> np.ndarray:
    """(n,) which rows are of the test set."""
    return np.asarray(((table["partition"] == "test") & (table["problem"] == "")).to_numpy(bool))


def table_of_data(learn: Any) -> pd.DataFrame | None:
    """The loaders' table, where they have one, with the files that could not be read since it was made."""
    table, problems = (getattr(learn.dls, name, None) for name in ("table", "problems"))
    if table is None:
        return None
    table = with_problems(table, problems) if problems else table
    learned = learn.has_learned(table) if hasattr(type(learn), "has_learned") else pd.Series(False, table.index)
    return table.assign(**{TRAINED_BEFORE: learned | table.get(TRAINED_BEFORE, False)}) if learned.any() else table


def features_by_row(learn: Any, table: pd.DataFrame, features: np.ndarray, parts: Sequence[Predictions]) -> np.ndarray:
    """(rows of the table, f) features of the last stage, NaN where none are known."""
    body = get_model(learn.model)[0]
    place = {path: row for row, path in enumerate(table["path"])}
    result = np.full((len(place), of_last_stage(body, features).shape[1]), np.nan, np.float32)
    for paths, values in [(train_paths(learn.dls), features), *((part.table["path"], part.features) for part in parts)]:
        if values is not None:
            result[[place[path] for path in paths]] = of_last_stage(body, values)
    return result


def train_paths(dls: Any) -> list[str]:
    """The training images that can be read, as the table names them, in the loader's order."""
    items = [item for item, lost in zip(dls.train.dataset.items, unread(dls.train), strict=True) if not lost]
    return [Path(item).relative_to(dls.path).as_posix() for item in items]


def repeats(dls: Any) -> list[str]:
    """What is to be said of files that loaders without a table give more than once."""
    files = [[path for path in paths_of(loader) if isinstance(path, (str, Path))] for loader in (dls.train, dls.valid)]
    train, valid = (Counter(map(str, paths)) for paths in files)
    both = sum(n for path, n in valid.items() if path in train)
    again = sum((train + valid).values()) - len(train | valid) - len(train & valid)
    memory = f"{both} of {valid.total()} validation images are training images too: scores on them measure memory"
    within = f"{again} of {train.total() + valid.total()} images are given again within the training or validation set"
    return [text for n, text in ((both, memory), (again, within)) if n]


def out_of_fold(learn: Any, table: pd.DataFrame, predictions: Predictions) -> Predictions | None:
    """What the linear probe's folds say of the training images that they held out; None where no probe was fitted."""
    head = getattr(learn, "head", None)
    held_out = getattr(head, "held_out", None)
    if held_out is None:
        return None
    known = ~np.isnan(held_out).any(axis=1)
    if not known.any():  # too few images of a class for folds
        return None
    place = {path: row for row, path in enumerate(table["path"])}
    rows = np.array([place[path] for path in train_paths(learn.dls)], int)[known]
    vocab, several = predictions.vocab, predictions.multi_label
    y, probs = match_labels(table, vocab, several).y[rows], held_out[known]
    columns = [column for column in predictions.table if column in table]
    return Predictions(
        vocab,
        several,
        y,
        probs,
        losses_of(y, probs, several),
        table.iloc[rows][columns].reset_index(drop=True),
        ordinal=predictions.ordinal,
    )

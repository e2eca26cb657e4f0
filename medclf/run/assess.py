"""What a run's numbers are worth: the audit, the leak-free numbers, calibrated probabilities, limits to decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.assess import apply_calibration, calibrate, flag_out_of_distribution, ood_section, seen_in_training
from medclf.auditing.audit import Audit, with_groups, with_partition
from medclf.auditing.calibration_set import CalibrationSet
from medclf.auditing.decisions import DecisionPolicy
from medclf.auditing.short_audit import short_audit
from medclf.dataset.labels import objects
from medclf.dataset.scan import count_labels
from medclf.learn.batches import unread
from medclf.learn.learner import MedLearner
from medclf.learn.preprocessing import described, reading_of
from medclf.metrics.ood import FEWEST, ood_fit
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions
from medclf.results.results import by_fold, leak_free, summarize
from medclf.run.audit import audit_table
from medclf.run.config import TrainConfig

Say = Callable[[str], None]

_PAIRS = 12  # of twins, in the report
_LINKING = ("grouped", "kfold")


@dataclass
class Trained:
    """What a training leaves behind.

    Args:
        learn: the network that is shipped.
        shown: the predictions to report: of the valid images, or of every image by the fold that held it out.
        features: (n, f) pooled features of the training images that can be read.
        test: those of the images that the data hold back, labelled or not.
        crossed: whether `shown` comes from a cross-validation.
        pictures: where the network looked, by path.
    """

    learn: MedLearner
    shown: Predictions
    features: np.ndarray | None = None
    test: list[Predictions] = field(default_factory=list)
    crossed: bool = False
    pictures: dict[str, str] = field(default_factory=dict)


@dataclass
class Weighed:
    """The predictions, the facts, what goes into the bundle, the audit, and the features of images by path."""

    predictions: Predictions
    facts: dict[str, Any]
    calibration: Calibration
    found: Audit | None
    features: dict[str, np.ndarray]


def link_first(config: TrainConfig, table: pd.DataFrame, say: Say) -> tuple[pd.DataFrame, Audit | None]:
    """Before a split that keeps linked images on one side: find them.

    Args:
        config: of the run.
        table: as `scan` returns it.
        say: called with a line for the user.

    Returns:
        The table, with a column group where near-duplicates were found, and the audit that found them; None where the
        split needs none.
    """
    if config.split not in _LINKING or not config.audit:
        return table, None
    found, _ = audit_table(table, embed=False, window=config.window, frame=config.frame)
    n, images = found.clusters.nunique(), len(found.clusters)
    say(f"{images} images in {n} cluster{'' if n == 1 else 's'} of twins: each stays on one side of the split")
    return with_groups(found.table, found), found


def weigh(config: TrainConfig, trained: Trained, found: Audit | None) -> Weighed:
    """Audit the data, calibrate, choose limits, and say what all of it is worth.

    Args:
        config: of the run.
        trained: what was trained, and what it predicts.
        found: the audit that was made before the split, if one was.

    Returns:
        A `Weighed`; `trained.learn.dls.table` has the clusters of twins in its column group afterwards.
    """
    learn = trained.learn
    features = trained.features if len(learn.dls.train_ds) >= FEWEST else None
    linked_before = found is not None
    by_row = _by_row(learn.dls, features, [trained.shown, *trained.test])
    found = _audited(config, trained, found, by_row)
    if found is not None:
        if not linked_before:
            learn.dls.table = with_groups(learn.dls.table, found)
        parts = [_with_groups(part, learn.dls.table) for part in (trained.shown, *trained.test)]
        trained.shown, *trained.test = parts
    found_limits = calibrate(trained.shown, _basis(config, trained), policy_of(config))
    detector = None if features is None else ood_fit(features, groups=read_groups(learn))
    calibration = replace(found_limits.calibration, ood=detector)
    shown = found_limits.predictions
    shown = shown if trained.crossed else flag_out_of_distribution(shown, calibration)
    tests = [apply_calibration(part, replace(calibration, abstain_below=None)) for part in trained.test]
    results = summarize(
        shown,
        table=learn.dls.table,
        recipe=described(learn),
        history=learn.history,
        linear_probe=learn.head.as_dict() if learn.head else None,
    )
    facts: dict[str, Any] = {**results}
    facts |= found_limits.sections | _more_facts(trained, shown, tests, calibration, found, facts)
    rows = {} if by_row is None else dict(zip(learn.dls.table["path"], by_row, strict=True))
    known = {path: row for path, row in rows.items() if np.isfinite(row).all()}
    return Weighed(Predictions.concat([shown, *tests]), facts, calibration, found, known)


def policy_of(config: TrainConfig, table: pd.DataFrame | None = None) -> DecisionPolicy:
    """What the settings ask of the decisions.

    Args:
        config: of the run.
        table: where given, its labels are looked at too.

    Raises:
        DataError: a rule, share or label that cannot be.
    """
    policy = DecisionPolicy(config.keep_accuracy, config.positive, config.operating_point, config.prevalence)
    if table is not None:
        policy.check(count_labels(table["label"]), bool(table.attrs.get("multi_label")))
    return policy


def _audited(config: TrainConfig, trained: Trained, found: Audit | None, by_row: np.ndarray | None) -> Audit | None:
    """The audit that was made before, with the split that came of it; else a short one."""
    if not config.audit:
        return None
    dls = trained.learn.dls
    if found is not None:
        return with_partition(found, dls.table["partition"])
    return short_audit(dls.table, by_row, (dls.valid.stores or {}).get(1), preprocessing=reading_of(dls))


def _by_row(dls: Any, features: np.ndarray | None, parts: Sequence[Predictions]) -> np.ndarray | None:
    """(rows of the table, f) features, NaN where none are known."""
    if features is None:
        return None
    place = {path: row for row, path in enumerate(dls.table["path"])}
    result = np.full((len(place), features.shape[1]), np.nan, np.float32)
    items = [item for item, lost in zip(dls.train.dataset.items, unread(dls.train), strict=True) if not lost]
    names = [Path(item).relative_to(dls.path).as_posix() for item in items]
    for paths, values in [(names, features), *((part.table["path"], part.features) for part in parts)]:
        if values is not None:
            result[[place[path] for path in paths]] = values
    return result


def _with_groups(part: Predictions, table: pd.DataFrame) -> Predictions:
    """The predictions with the column group of the table, where some images have a twin."""
    groups = dict(zip(table["path"], objects(table, "group"), strict=True))
    found = [groups[path] for path in part.table["path"]]
    return part if all(one is None for one in found) else replace(part, table=part.table.assign(group=found))


def _basis(config: TrainConfig, trained: Trained) -> CalibrationSet:
    """What to fit temperature and limits on: never what is reported, or each without its own fold."""
    if trained.crossed:
        return CalibrationSet.of(trained.shown, "the predictions of the other images, in five parts")
    learn, head = trained.learn, trained.learn.head
    if config.epochs or head is None or head.held_out is None or head.targets is None:
        return CalibrationSet.of(trained.shown, "the other valid images, in five parts")
    held_out, y, groups = head.held_out, head.targets.astype(int), read_groups(learn)
    known = ~np.isnan(held_out).any(axis=1)
    words = "the training images, each predicted by a head that was fitted without it"
    return CalibrationSet(y[known], held_out[known], None if groups is None else groups[known], words)


def read_groups(learn: MedLearner) -> np.ndarray | None:
    """(n,) groups of the training images that can be read."""
    groups = learn.groups()
    return None if groups is None else groups[~unread(learn.dls.train)]


def _more_facts(
    trained: Trained,
    shown: Predictions,
    tests: Sequence[Predictions],
    calibration: Calibration,
    found: Audit | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if found is not None:
        more["audit"] = found.facts(_PAIRS)
    if trained.crossed:
        more["folds"], more["fold_spread"] = by_fold(shown)
    else:
        more |= ood_section(shown, calibration)
        more["leak_free"] = leak_free(shown, *seen_in_training(shown, trained.learn.dls.table, found), facts)
    for part in tests:
        if (part.y >= 0).any():
            more["test"] = summarize(part, partition="test")
            seen = seen_in_training(part, trained.learn.dls.table, found)
            more["test"]["leak_free"] = leak_free(part, *seen, more["test"])
    return {key: value for key, value in more.items() if value}

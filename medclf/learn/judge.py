"""PREDICTIONS of a learner -> calibrated and guarded, by what is chosen on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.assess import Sections, apply_calibration, flag_out_of_distribution
from medclf.auditing.calibrate import calibrate
from medclf.auditing.calibration_set import FEWEST as FEWEST_TO_FIT
from medclf.auditing.calibration_set import CalibrationSet
from medclf.auditing.decisions import DecisionPolicy
from medclf.auditing.fusion import TrainingRows, WithTable, column_names, with_table
from medclf.learn.balance import label_shares
from medclf.learn.batches import unread
from medclf.learn.columns_beside import ColumnsBeside, columns_beside, with_columns
from medclf.learn.outputs import train_paths
from medclf.learn.training import MedLearner
from medclf.learn.units import AnswersByUnit, unit_shares
from medclf.metrics.ood import FEWEST, OodDetector, ood_fit
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions


@dataclass(frozen=True)
class Judged:
    """Predictions as the bundle would give them, and what was chosen for that.

    Args:
        reported: calibrated, with flags.
        held_out: the test images', likewise; they have no part in any choice.
        calibration: what the bundle decides with.
        sections: of results.json: what was chosen.
        units: what the predictions are made of, where units have one answer each.
        table: the data's, with the columns that were asked for.
    """

    reported: Predictions
    held_out: list[Predictions]
    calibration: Calibration
    sections: Sections
    units: AnswersByUnit | None
    table: pd.DataFrame | None


def judge(
    learn: Any,
    parts: Sequence[Predictions],
    table: pd.DataFrame | None,
    features: np.ndarray | None,
    units: AnswersByUnit | None,
    policy: DecisionPolicy | None,
    tabular: Sequence[str] | str,
    cross_validated: bool,
) -> Judged:
    """Choose calibration and limits on images that the network was not trained on, and apply them to all."""
    reported, *held_out = parts
    fitted_on = _calibration_set(learn, reported, cross_validated, table, units)
    beside = WithTable()
    if tabular:
        asked = columns_beside(learn, table, column_names(tabular), cross_validated=cross_validated)
        table, (reported, *held_out) = asked.table, [with_columns(part, asked) for part in parts]
        beside = _with_table(learn, table, reported, asked, cross_validated)
    if beside.reported is not None and beside.calibration_set is not None:
        reported, fitted_on = beside.reported, beside.calibration_set
    if units is None or table is None:
        shares = label_shares(learn.dls.train, len(reported.vocab))
    else:  # not those of what is fitted on: after fine-tuning that is the validation units
        shares = unit_shares(table, reported.vocab, reported.multi_label)
    fitted = calibrate(reported, fitted_on, policy, shares)
    detector, rule = _detector(learn, table, features, units), None if units is None else units.rule
    calibration = replace(fitted.calibration, ood=detector, fusion=beside.fusion, unit=rule)
    reported = fitted.predictions
    if not cross_validated:  # each fold has features of its own
        reported = flag_out_of_distribution(reported, calibration)
    held_out = [apply_calibration(part, replace(calibration, abstain_below=None)) for part in held_out]
    if units is not None:
        units = units.decided_by([reported, *held_out])
        reported, *held_out = [part.units for part in units.parts]
    sections = fitted.sections | ({"tabular": beside.section} if beside.section else {})
    return Judged(reported, held_out, calibration, sections, units, table)


def _calibration_set(
    learn: Any,
    reported: Predictions,
    cross_validated: bool,
    table: pd.DataFrame | None,
    units: AnswersByUnit | None,
) -> CalibrationSet:
    """Never what is reported; or, where there is nothing else, each image without its own fold."""
    if units:
        tuned = not getattr(learn, "is_probe", False)
        return units.calibration_set(cross_validated=cross_validated, tuned=tuned)
    if cross_validated:
        return CalibrationSet.of(reported, "the predictions of the other images, in five parts")
    others = CalibrationSet.of(reported, "the other validation images, in five parts")
    head = getattr(learn, "head", None)
    if head is None or not learn.is_probe or head.held_out is None or head.targets is None:
        return others
    y, groups = head.targets.astype(int), _read_groups(learn, table)
    known = ~np.isnan(head.held_out).any(axis=1)
    if known.sum() < FEWEST_TO_FIT <= len(reported):  # as of a body that was trained on them before
        return others
    described = "the training images, each predicted by a head that was fitted without it"
    return CalibrationSet(y[known], head.held_out[known], None if groups is None else groups[known], described)


def _with_table(
    learn: Any, table: pd.DataFrame, reported: Predictions, asked: ColumnsBeside, cross_validated: bool
) -> WithTable:
    """What columns of the table add to a linear probe, or to the networks of a cross-validation."""
    if cross_validated:
        return with_table(reported, None, asked.names, notes=asked.notes, seed=learn.seed)
    head = learn.head
    place = {path: row for row, path in enumerate(table["path"])}
    rows = table.iloc[[place[path] for path in train_paths(learn.dls)]]
    training = TrainingRows(head.targets.astype(int), head.held_out, rows, _read_groups(learn, table))
    return with_table(reported, training, asked.names, notes=asked.notes, seed=learn.seed)


def _detector(
    learn: Any, table: pd.DataFrame | None, features: np.ndarray | None, units: AnswersByUnit | None
) -> OodDetector | None:
    """Knows the training images, or, of units, the mean of each one's."""
    if features is None:
        return None
    if units is None:
        return ood_fit(features, groups=_read_groups(learn, table))
    if units.features is None or len(units.features) < FEWEST:
        return None
    return ood_fit(units.features, groups=units.groups)


def _read_groups(learn: MedLearner, table: pd.DataFrame | None) -> np.ndarray | None:
    """(n,) groups of the training images that can be read."""
    groups = learn.groups(table)
    return None if groups is None else groups[~unread(learn.dls.train)]

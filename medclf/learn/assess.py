"""LEARNER -> what is said, shown and shipped of it: the one road after the last epoch, in the shell and in Python."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.assess import (
    Sections,
    apply_calibration,
    chosen_in_training,
    evaluate_limits,
    ood_section,
    seen_in_training,
)
from medclf.auditing.audit import Audit, with_groups, with_partition
from medclf.auditing.decisions import DecisionPolicy
from medclf.auditing.label_errors import CheckedLabels, check_labels
from medclf.auditing.short_audit import short_audit
from medclf.config import TrainConfig, UnitChoice
from medclf.dataset.groups import trained_on
from medclf.dataset.labels import objects
from medclf.dataset.matching import left_out, match_labels
from medclf.dataset.splits import no_partition, unplaced
from medclf.errors import DataError, MedclfWarning
from medclf.learn import augmentation_picture
from medclf.learn.judge import Judged, judge
from medclf.learn.neighbours import similar_training_images
from medclf.learn.outputs import (
    Outputs,
    features_by_row,
    is_held_out,
    out_of_fold,
    outputs_of,
    repeats,
    table_of_data,
    train_paths,
)
from medclf.learn.preprocessing import described, reading_of
from medclf.learn.units import AnswersByUnit, answer_by_unit, is_by_unit, unit_rows
from medclf.metrics.intervals import as_plain
from medclf.metrics.ood import FEWEST
from medclf.options import options
from medclf.results import maps
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions
from medclf.results.results import by_fold, leak_free, summarize
from medclf.results.subgroups import subgroups as metrics_by_group
from medclf.results.units import ByUnit, by_unit
from medclf.results.wording import sensitivities, summary

_PAIRS = 12  # of near-duplicates, in results.json


@dataclass
class Assessment:
    """What is known of a trained network.

    Args:
        predictions: of the validation and test images: calibrated, with flags.
        results: what results.json holds, but for the card and the checklist.
        calibration: what `save_bundle` takes.
        audit: of the data; None where there was none.
        table: the data's table, with the groups of near-duplicates.
        neighbours: the training images most similar to each image: path, rank, neighbour, similarity.
        saliency: where the network looked, a picture by path.
        augmentation: a training image and what the augmentation makes of it, a JPEG data URI; "" without any.
        out_of_fold: the linear probe's predictions of the training images, each by a fold that was fitted without it;
            None where there are none.
        labels: which are doubtful; None where the loaders have no table.
        images: where `predictions` are by patient or another unit, those by image.
    """

    predictions: Predictions
    results: Sections
    calibration: Calibration
    audit: Audit | None
    table: pd.DataFrame | None
    neighbours: pd.DataFrame | None
    saliency: dict[str, str]
    augmentation: str = ""
    out_of_fold: Predictions | None = None
    labels: CheckedLabels | None = None
    images: Predictions | None = None

    @property
    def card(self) -> dict[str, Any]:
        """What a bundle tells its users of how the network did."""
        shift = self.calibration.shift
        stand = {} if shift is None else {"probabilities": f"for a prevalence of {shift}"}
        leak = (self.results.get("leak_free") or {}).get("sentence", "")
        evaluated = f"{summary(self.results)} {leak}".strip()
        return {"evaluated": evaluated, **stand, "sensitivity": sensitivities(self.results)}

    def of_others(self, learn: Any, predictions: Predictions, partition: str) -> tuple[Predictions, Sections]:
        """Predictions of other images as the bundle would give them, and their results, at limits chosen before.

        Args:
            learn: whose they are.
            predictions: of the network, as `MedInterpretation` has them.
            partition: which images they are.
        """
        rule = self.calibration.unit
        units = None if rule is None else by_unit(predictions, rule)
        found = apply_calibration(predictions if units is None else units.units, self.calibration)
        if rule is not None and units is not None:
            units = units.decided_by(rule, found)
            found = units.units
        limits = evaluate_limits(found, self.calibration, **chosen_in_training(self.results))
        results = _summary(learn, found, self.table, partition) | limits
        if self.table is not None and partition != "train":
            results |= _leak_free(found, self.table, self.audit, results, units)
        return found, {key: value for key, value in results.items() if value is not None}


def assess(
    learn: Any,
    *,
    audit: bool | Audit = True,
    policy: DecisionPolicy | None = None,
    saliency: int = maps.LIMIT,
    subgroups: Sequence[str] | str = (),
    tabular: Sequence[str] | str = (),
    outputs: Outputs | None = None,
    unit_answer: UnitChoice = "auto",
) -> Assessment:
    """Audit the data, score without leaked images, calibrate, and choose the limits that a bundle carries.

    It is what `medclf train` does after the last epoch. `report` and `save_bundle` do it where it was not done since
    the network changed; call it first to leave parts out or to set a policy.

    Args:
        learn: what `med_learner` returned, trained.
        audit: look for near-duplicates, leaks and confounders; or an `Audit` of the table that was made before.
        policy: how decisions are made of probabilities; the defaults where None.
        saliency: how many images get a map of where the network looked, the errors first; 0 for none.
        subgroups: columns of the table to give the metrics by.
        tabular: columns of the table to use beside the pixels, where they surely help; see `medclf.auditing.fusion`.
        outputs: the network's, where they are at hand.
        unit_answer: how the images of a unit become one answer, where `with_units` was called on the loaders' table:
            all numbers and limits are then by unit.

    Raises:
        DataError: a column or label that is not there, or a policy or way to answer that is none.

    Warns:
        MedclfWarning: the loaders have no table, so that nothing could be audited.

    Example:
        >>> # learn.fine_tune(5); assess(learn, policy=DecisionPolicy(rule="sensitivity=0.95")).results["abstain"]
    """
    _check_asked(learn, policy)
    options(TrainConfig)["unit_answer"].checked(unit_answer)
    subgroups = [subgroups] if isinstance(subgroups, str) else subgroups
    outputs = outputs or outputs_of(learn, saliency=saliency)
    table = table_of_data(learn)
    if policy is not None:
        policy.check(outputs.reported.vocab, outputs.reported.multi_label)
    features = outputs.features if len(learn.dls.train_ds) >= FEWEST else None
    parts = [outputs.reported, *outputs.held_out]
    by_row = None if table is None or features is None else features_by_row(learn, table, features, parts)
    if table is None and audit:
        text = "the images were not checked for near-duplicates and leaks: make the loaders with MedDataLoaders"
        warnings.warn(MedclfWarning(". ".join([*repeats(learn.dls), text])), stacklevel=2)
    table, found = _audited(learn, table, by_row, audit)
    if table is not None and found is not None:
        parts = [_with_groups(part, table) for part in parts]
    probed = None if table is None else out_of_fold(learn, table, parts[0])
    units = None
    if table is not None and is_by_unit(table):
        units = _by_unit(learn, table, parts, probed, features, policy, outputs.cross_validated, unit_answer)
        parts = [part.units for part in units.parts]
        probed = None if units.out_of_fold is None else units.out_of_fold.units
    judged = judge(learn, parts, table, features, units, policy, tabular, outputs.cross_validated)
    units, table = judged.units, judged.table
    if probed is not None and judged.calibration.shift is not None:
        probed = probed.shifted(judged.calibration.shift)
    results = _sections(learn, judged, found, outputs.cross_validated)
    results |= {"subgroups": as_plain(metrics_by_group(judged.reported, subgroups))} if subgroups else {}
    known = {}
    if by_row is not None and table is not None:
        known = {path: row for path, row in zip(table["path"], by_row, strict=True) if np.isfinite(row).all()}
    predictions = Predictions.concat([judged.reported, *judged.held_out])
    probed = None if outputs.cross_validated else probed
    checked = None if table is None else _checked_labels(learn, table, predictions, probed, found, units, known)
    results |= {"label_errors": checked.section} if checked else {}
    near = similar_training_images(learn, predictions.table["path"], known=known) if known else None
    results |= maps.described(outputs.saliency) | augmentation_picture.described(learn.dls)
    picture = augmentation_picture.augmentation_picture(learn.dls)
    assessment = Assessment(
        predictions,
        results,
        judged.calibration,
        found,
        table,
        near,
        outputs.saliency,
        picture,
        probed,
        checked,
        None if units is None else units.images,
    )
    learn.last_assessment = (_state(learn), assessment)
    return assessment


def assessment_of(learn: Any, valid: Predictions | None = None) -> Assessment:
    """The learner's last assessment where the network has not changed since; else a new one.

    Args:
        learn: a learner.
        valid: its predictions of the validation images, where they are at hand.
    """
    last: tuple[Any, Assessment | None] = getattr(learn, "last_assessment", (None, None))
    state, assessment = last
    if assessment is not None and state == _state(learn):
        return assessment
    return assess(learn, outputs=outputs_of(learn, valid))


def _state(learn: Any) -> tuple[Any, ...]:
    """Another one whenever the loaders or a tensor of the network have been changed."""
    tensors = [*learn.model.parameters(), *learn.model.buffers()]
    return id(learn.dls), *((tensor.data_ptr(), tensor._version) for tensor in tensors)


def _check_asked(learn: Any, policy: Any) -> None:
    if not hasattr(learn, "dls"):
        raise DataError(f"assess takes a learner, not a {type(learn).__name__}", "evaluate takes a bundle or a RUN")
    if policy is not None and not isinstance(policy, DecisionPolicy):
        raise DataError(
            f"policy is a {type(policy).__name__}", "give a DecisionPolicy, such as DecisionPolicy(rule='youden')"
        )


def _sections(learn: Any, judged: Judged, audit: Audit | None, cross_validated: bool) -> Sections:
    """What results.json says of the network's predictions."""
    reported, table, units = judged.reported, judged.table, judged.units
    results = _summary(learn, reported, table) | judged.sections
    results |= {"units": units.section | unit_rows(reported, units.parts[0])} if units else {}
    results |= {} if audit is None else {"audit": audit.facts(_PAIRS)}
    results |= _folds(reported) if cross_validated else ood_section(reported, judged.calibration)
    if table is None:
        return results
    if not cross_validated:
        results |= _leak_free(reported, table, audit, results, units.parts[0] if units else None)
    return results | _test_results(judged.held_out, table, audit, units) | not_measured(table, reported.vocab)


def not_measured(table: pd.DataFrame, vocab: list[str]) -> Sections:
    """What of the data no number of the run is about, for results.json and the page; {} where there is nothing."""
    several = bool(table.attrs.get("multi_label"))
    lost = left_out(match_labels(table, vocab, several), is_held_out(table))
    sentences = [no_partition(table), f"Test set: {lost['sentence']}" if lost else ""]
    found = {"sentence": " ".join(filter(None, sentences)), "no_partition": len(unplaced(table)), "test": lost}
    return {"left_out": found} if found["sentence"] else {}


def _audited(
    learn: Any, table: pd.DataFrame | None, by_row: np.ndarray | None, audit: bool | Audit
) -> tuple[pd.DataFrame | None, Audit | None]:
    """The table, with the groups that a short audit finds in what the training has computed anyway; and the audit.

    Raises:
        DataError: the audit that is given is none, or of other images.
    """
    if table is None or not audit:
        return table, None
    if isinstance(audit, Audit):
        partition, audited = table.set_index("path")["partition"], audit.table["path"]
        if missing := len(set(partition[partition.notna()].index) - set(audited)):
            text = f"the audit is of other images: it lacks {missing} of the learner's"
            raise DataError(text, "audit(learn.dls.table) is of these, or leave audit out")
        table = table if "group" in table else with_groups(table, audit)
        return table, with_partition(audit, objects(pd.DataFrame({"side": audited.map(partition)}), "side"))
    if audit is not True:
        raise DataError(f"audit is a {type(audit).__name__}", "give True, False or what medclf.audit returned")
    found = short_audit(table, by_row, (learn.dls.valid.stores or {}).get(1), preprocessing=reading_of(learn.dls))
    return with_groups(table, found), found


def _by_unit(
    learn: Any,
    table: pd.DataFrame,
    parts: Sequence[Predictions],
    training: Predictions | None,
    features: np.ndarray | None,
    policy: DecisionPolicy | None,
    cross_validated: bool,
    asked: UnitChoice,
) -> AnswersByUnit:
    frozen = getattr(learn, "is_probe", False) and not cross_validated
    if training is not None and frozen and features is not None:
        place = {path: row for row, path in enumerate(train_paths(learn.dls))}
        training = replace(training, features=features[[place[path] for path in training.table["path"]]])
    known = None if features is None else (train_paths(learn.dls), features)
    positive = policy.positive if policy else None
    return answer_by_unit(table, parts, training, known, asked=asked, positive=positive, attention=frozen)


def _checked_labels(
    learn: Any,
    table: pd.DataFrame,
    predictions: Predictions,
    probed: Predictions | None,
    audit: Audit | None,
    units: AnswersByUnit | None,
    features: dict[str, np.ndarray],
) -> CheckedLabels:
    """Which labels are doubtful; where units have one answer each, those of the images that stand for their units."""
    tuned = not getattr(learn, "is_probe", False)
    if units:
        paths = {path for part in (predictions, probed) if part is not None for path in part.table["path"]}
        table = table[table["path"].isin(paths)]
    return check_labels(predictions, probed, table, audit, None if tuned or units else features)


def _with_groups(part: Predictions, table: pd.DataFrame) -> Predictions:
    """The predictions with the table's groups, where some images have a near-duplicate."""
    groups = dict(zip(table["path"], objects(table, "group"), strict=True))
    found = [groups[path] for path in part.table["path"]]
    return part if all(one is None for one in found) else replace(part, table=part.table.assign(group=found))


def _summary(learn: Any, predictions: Predictions, table: pd.DataFrame | None, partition: str = "valid") -> Sections:
    head, history = getattr(learn, "head", None), getattr(learn, "history", ())
    head = head if history or getattr(learn, "is_probe", False) else None  # else its weights came from elsewhere
    results = summarize(
        predictions,
        partition=partition,
        table=table,
        recipe=described(learn),
        history=history,
        linear_probe=head.as_dict() if head is not None else None,
    )
    found = {"fine_tune": "tuning", "returned_epoch": "returned_epoch"}
    results["training"] |= {key: getattr(learn, name, None) for key, name in found.items()}
    return {**results}


def _folds(reported: Predictions) -> Sections:
    folds, spread = by_fold(reported)
    return {"folds": folds, "fold_spread": spread}


def _leak_free(
    part: Predictions,
    table: pd.DataFrame,
    audit: Audit | None,
    results: Sections,
    units: ByUnit | None = None,
) -> Sections:
    """The section leak_free; `units` is what the part is made of, where it is by unit."""
    images = part if units is None else units.images
    seen = seen_in_training(images, table, audit)
    if units is not None:  # a unit leaks where any of its images does
        seen = tuple(map(units.any_of, seen))
    found = leak_free(part, seen, results)
    if found is None:
        return {}
    return {"leak_free": _naming_training_images({**found}, images, table)}


def _naming_training_images(found: Sections, images: Predictions, table: pd.DataFrame) -> Sections:
    """The section, which says how many of the images that leak are images that the network was trained on."""
    if n := len(trained_on(table) & set(images.table["path"])):
        told = "1 image" if n == 1 else f"{n} images"
        found["sentence"] += f" Among them: {told} that the network was trained on."
    return found


def _test_results(
    held_out: Sequence[Predictions], table: pd.DataFrame, audit: Audit | None, units: AnswersByUnit | None = None
) -> Sections:
    """The section test, of the test images whose label is known."""
    for place, part in enumerate(held_out, 1):
        if (part.y >= 0).any():
            results: Sections = {**summarize(part, partition="test")}
            results |= {"units": {"by": units.rule.unit}} if units else {}
            made = units.parts[place] if units else None
            return {"test": results | _leak_free(part, table, audit, results, made)}
    return {}

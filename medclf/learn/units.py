"""LEARNER -> answers by unit: what `assess` needs where a patient, study or series has one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.calibrate import shares_of
from medclf.auditing.calibration_set import CalibrationSet
from medclf.auditing.unit_answer import choose_answer
from medclf.config import UnitChoice
from medclf.dataset.matching import match_labels
from medclf.dataset.units import UNIT, check_whole, index_of, units_word
from medclf.errors import DataError, argument
from medclf.metrics.intervals import as_plain
from medclf.metrics.units import UnitRule, mean_by
from medclf.results.predictions import Predictions
from medclf.results.results import short_metrics, summarize
from medclf.results.units import CONTRIBUTION, SHOWN, ByUnit, by_unit, labels_of, sentence_of
from medclf.results.wording import counted_as

_NAMED = 20  # units that results.json names


@dataclass
class AnswersByUnit:
    """A network's predictions by unit.

    Args:
        rule: how they were made.
        parts: of the reported images first, then of the held-out ones.
        out_of_fold: of the training images; None where no fold says.
        features: (n_units, f) of the training units, and their groups; None where they are not known.
        groups: (n_units,) of the training units.
        section: of results.json.
    """

    rule: UnitRule
    parts: list[ByUnit]
    out_of_fold: ByUnit | None
    features: np.ndarray | None
    groups: np.ndarray | None
    section: dict[str, Any]

    def calibration_set(self, *, cross_validated: bool, tuned: bool) -> CalibrationSet:
        """What to fit on: never the reported units, or each of them without its own fold."""
        if cross_validated or tuned or self.out_of_fold is None:
            others = counted_as(self.rule.unit)
            what = f"the predictions of the other {others}" if cross_validated else f"the other validation {others}"
            return CalibrationSet.of(self.parts[0].units, f"{what}, in five parts")
        found = self.out_of_fold.units
        found = found.subset(found.known)
        described = f"the training {units_word(self.rule.unit)}, each predicted by a head that was fitted without it"
        return CalibrationSet(found.y, found.probs, found.groups, described, unit=found.unit)

    def decided_by(self, parts: Sequence[Predictions]) -> AnswersByUnit:
        """The same with what is predicted of the units now: see `ByUnit.decided_by`."""
        made = [one.decided_by(self.rule, part) for one, part in zip(self.parts, parts, strict=True)]
        return replace(self, parts=made)

    @property
    def images(self) -> Predictions:
        """What images.csv holds: the reported and held-out images, and what each contributed."""
        return Predictions.concat([part.images for part in self.parts])


def unit_shares(table: pd.DataFrame, vocab: Sequence[Any], multi_label: bool) -> np.ndarray:
    """(n_labels,) share of the training units with a known label that have each.

    Args:
        table: the data's, with units and partitions.
        vocab: the labels.
        multi_label: an image may have several.
    """
    rows = table[(table["partition"] == "train") & (table["problem"] == "")]
    index, names = index_of(list(rows[UNIT]))
    return shares_of(labels_of(match_labels(rows, vocab, multi_label).y, index, len(names)), len(vocab))


def is_by_unit(table: pd.DataFrame | None) -> bool:
    """Whether `with_units` was called on the data's table."""
    return table is not None and UNIT in table and "unit" in table.attrs


def answer_by_unit(
    table: pd.DataFrame,
    parts: Sequence[Predictions],
    training: Predictions | None,
    features: tuple[list[str], np.ndarray] | None,
    *,
    asked: UnitChoice = "auto",
    positive: str | None = None,
    attention: bool = True,
) -> AnswersByUnit:
    """Choose how units are answered, and answer them.

    Args:
        table: the data's, with units and partitions.
        parts: predictions of the reported images, then of the held-out ones.
        training: of the training images, by folds without them; with features where the encoder is frozen.
        features: the paths of the training images, and (n, f) their features; None where they are not known.
        asked: "auto", or an answer.
        positive: the label that decisions are about.
        attention: whether the encoder is frozen, so that attention may be fitted on its features.

    Raises:
        SplitError: a unit has images in two partitions.
        DataError: the answer that is asked for cannot be had.
    """
    if "fold" not in parts[0].table:
        check_whole(table)
    first, several = parts[0], parts[0].multi_label
    fit = partial(_fit, n_labels=len(first.vocab), multi_label=several) if attention else None
    unit = table.attrs["unit"]
    chosen = choose_answer(unit, asked, training, list(first.vocab), multi_label=several, positive=positive, fit=fit)
    made = [by_unit(part, chosen.rule) for part in parts]
    if not made[0].units.known.any():
        text = f"none of the {len(made[0].units)} {units_word(unit)} to validate on has one label: their images differ"
        raise DataError(text, f"give each one label, or raise {argument('valid_pct')}")
    found, groups = None, None
    if features is not None:
        paths, values = features
        rows = table.set_index("path").loc[paths]
        index, names = index_of(list(rows[UNIT]))
        found = mean_by(values, index, len(names)).astype(np.float32)
        if chosen.out_of_fold is not None:
            known = dict(zip(chosen.out_of_fold.units.table[UNIT], _groups(chosen.out_of_fold.units), strict=True))
            groups = np.array([known.get(name, -1 - k) for k, name in enumerate(names)])
    told = chosen.sentence
    if chosen.candidates and asked == "auto" and "fold" in first.table:
        told += " They are the reported ones too, which flatters a little."
    section = units_section(made, chosen.rule, table, told, chosen.candidates)
    return AnswersByUnit(chosen.rule, made, chosen.out_of_fold, found, groups, section)


def _groups(units: Predictions) -> np.ndarray:
    return np.arange(len(units)) if units.groups is None else units.groups


def _fit(features: np.ndarray, unit: np.ndarray, y: np.ndarray, **how: Any) -> Any:
    from medclf.metrics.units import Attention
    from medclf.models.attention import fit_attention

    return Attention(**fit_attention(features, unit, y, **how))


def units_section(
    parts: Sequence[ByUnit],
    rule: UnitRule,
    table: pd.DataFrame,
    chosen: str = "",
    candidates: Mapping[Any, Any] | None = None,
) -> dict[str, Any]:
    """The section units of results.json.

    Args:
        parts: the reported units first.
        rule: how they were answered.
        table: the data's.
        chosen: how the rule was chosen.
        candidates: what it was chosen among.
    """
    first = parts[0]
    n_images = first.units.table["n_images"]
    conflicts = [] if first.units.multi_label else _conflicts(table)
    lost = table[(table["problem"] != "").to_numpy()]
    nameless = (lost[UNIT] == lost["path"]).to_numpy() & (rule.unit not in ("folder", "file"))
    broken = lost[~nameless]
    gone = sorted(set(map(str, broken[UNIT])) - set(map(str, table.loc[~table.index.isin(lost.index), UNIT])))
    sentence = f"{sentence_of(rule, len(first.units), len(first.images))} {chosen}".rstrip()
    if conflicts:
        what = units_word(rule.unit, len(conflicts))
        has, counts = ("has", "counts") if len(conflicts) == 1 else ("have", "count")
        sentence += f" {len(conflicts)} {what} {has} images of different labels and {counts} as unlabelled."
    if len(broken):
        images, n = "image" if len(broken) == 1 else "images", broken[UNIT].nunique()
        sentence += f" {len(broken)} {images} of {n} {units_word(rule.unit, n)} could not be used."
    if n := int(nameless.sum()):
        images = "image that names" if n == 1 else "images that name"
        sentence += f" {n} {images} no {units_word(rule.unit, 1)} could not be used."
    if gone:
        has = "has" if len(gone) == 1 else "have"
        sentence += f" {len(gone)} {units_word(rule.unit, len(gone))} {has} no usable image."
    by_image = summarize(first.images, n_boot=200)
    return {
        "sentence": sentence,
        "by": rule.unit,
        "answer": rule.answer,
        "n": len(first.units),
        "n_images": len(first.images),
        "images_a_unit": {
            "fewest": int(n_images.min()),
            "most": int(n_images.max()),
            "median": float(n_images.median()),
        },
        "candidates": dict(candidates or {}),
        "by_image": {"n": by_image["n"], **as_plain(short_metrics(by_image))},
        "conflicts": {"n": len(conflicts), "some_paths": conflicts[:_NAMED]},
        "unreadable": {"n_images": len(lost), "n_units_without_image": len(gone), "some_paths": gone[:_NAMED]},
    }


def _conflicts(table: pd.DataFrame) -> list[str]:
    """The units whose images are labelled differently, in whatever partition."""
    n_labels = table[table["problem"] == ""].groupby(UNIT)["label"].nunique()
    return sorted(map(str, n_labels.index[n_labels > 1]))


def unit_rows(units: Predictions, made: ByUnit, limit: int = 12) -> dict[str, Any]:
    """{"rows": some units with the images that counted most, those predicted wrongly first}, for the page.

    Args:
        units: calibrated, with decisions, in the order of `made.units`.
        made: what they were made of.
        limit: units to show.
    """
    actual, predicted = units.labels, units.preds
    wrong = np.array([one != other for one, other in zip(actual, predicted, strict=True)]) & units.known
    order = np.lexsort((units.probs.max(axis=1), ~wrong))
    counted, paths = made.images.table[CONTRIBUTION], made.images.table["path"]
    rows = []
    for row in order[:limit]:
        own = np.flatnonzero(made.index == row)
        own = own[np.argsort(-counted.to_numpy()[own], kind="stable")][:SHOWN]
        rows.append(
            {
                "unit_path": str(units.table[UNIT].iloc[row]),  # a name that is hidden as paths are
                "actual": actual[row],
                "predicted": predicted[row],
                "n_images": int(units.table["n_images"].iloc[row]),
                "images": [{"path": paths.iloc[k], "contribution": float(counted.iloc[k])} for k in own],
            }
        )
    return {"rows": rows}

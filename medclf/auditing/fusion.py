"""PREDICTIONS and a table's columns -> image alone, table alone and both, side by side; both where that surely helps.

All choices are made on the training images, each predicted by folds that did not hold it. The reported images only
measure what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medclf.auditing.calibration_set import FEWEST, CalibrationSet
from medclf.dataset.groups import unit_of
from medclf.dataset.labels import objects, usable
from medclf.errors import DataError, argument, did_you_mean
from medclf.files import is_number
from medclf.images.image_columns import POSITION_BOX, is_image_column, source_of
from medclf.images.image_columns import columns_of as image_columns_of
from medclf.metrics.classification import classification_metrics
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import Estimate, Sampling, as_plain, critical
from medclf.metrics.logits import to_logits, to_probs
from medclf.models.table_fusion import Fusion
from medclf.models.tabular import NEW_FIELDS, Columns, TableEncoder, is_unknown, says_nothing, unclear
from medclf.models.tabular_fit import ThreeModels, fit_fusion
from medclf.results.predictions import Predictions, losses_of
from medclf.results.results import labelled, short_metrics
from medclf.results.wording import is_metric, number, percent

NEARLY = 0.8  # of what the image's AUROC gains over 0.5: a column that gains as much alone may be a shortcut
_BOOT = 1000
_MOST_CODES = 6  # whole numbers of a column, which may be codes: ages and counts have more
_NOT_FIELDS = frozenset(
    ("path", "label", "patient", "partition", "unknown", "width", "height", "sha256", "problem", "group", "fold")
)
IMAGE, TABLE, BOTH = "image alone", "table alone", "both"


@dataclass
class TrainingRows:
    """The training images as a fusion is fitted on them.

    Args:
        y: (n,) classes, or (n, n_labels) of 0 and 1.
        probs: (n, n_labels) of the network, each from a fold that did not hold the image; NaN where none says.
        table: n rows of the data's table.
        groups: (n,) which images belong together; None where none do.
    """

    y: np.ndarray
    probs: np.ndarray
    table: pd.DataFrame
    groups: np.ndarray | None = None


@dataclass
class WithTable:
    """What a table adds.

    Args:
        section: of results.json: `tabular`.
        fusion: what the bundle adds to the image; None where the table does not surely help.
        reported: the reported images as both predict them; None likewise.
        calibration_set: images to calibrate on, as both predict them; None likewise.
    """

    section: dict[str, Any] = field(default_factory=dict)
    fusion: Fusion | None = None
    reported: Predictions | None = None
    calibration_set: CalibrationSet | None = None


def column_names(given: str | Sequence[str]) -> list[str]:
    """The names in `--tabular age,sex --tabular site`, each once.

    Example:
        >>> column_names(["age,sex", "site"]), column_names("age, sex")
        (['age', 'sex', 'site'], ['age', 'sex'])
    """
    parts = [given] if isinstance(given, str) else given
    names = [name.strip() for part in parts for name in part.split(",")]
    return list(dict.fromkeys(filter(None, names)))


def check_fields(table: pd.DataFrame, names: Sequence[str]) -> None:
    """See that columns of the data's table can stand beside the pixels.

    Raises:
        DataError: there is no such column, it is the label itself, or of the file, or cannot be told to hold numbers or
            categories; or none of the columns says anything. The message names them.
    """
    empty: dict[str, str] = {}
    offered = [str(name) for name in table if name not in _NOT_FIELDS]
    for name in names:
        if is_image_column(name):
            image_columns_of(name)  # which refuses a box that is none
            continue
        if name in _NOT_FIELDS:
            raise DataError(f"{argument('tabular', name)} is not a field of a patient or an image", _offer(offered))
        if name not in table:
            raise DataError(
                f"the table has no column {name!r}", did_you_mean(name, [*offered, POSITION_BOX]) or _offer(offered)
            )
        if _is_the_label(objects(table, name), objects(table, "label")):
            text = f"{argument('tabular', name)}: the column {name!r} says the label itself in other words"
            raise DataError(text, "leave it out: a new image has no label to give")
        known = [value for value in objects(usable(table), name) if not is_unknown(value)]
        if why := unclear(known):
            text = f"{argument('tabular', name)}: it cannot be told whether {name!r} holds numbers or categories: {why}"
            raise DataError(
                text, "write numbers such as 1.5 (of dates, the years between), or text alone for categories"
            )
        empty |= {name: why} if (why := says_nothing(known)) else {}
    if empty and len(empty) == len(names):
        told = "; ".join(f"{name!r}: {why}" for name, why in empty.items())
        told = told.replace("training image", "image")
        raise DataError(
            f"no column of {argument('tabular')} can be used ({told})",
            _offer([one for one in offered if one not in empty]),
        )


def _offer(names: Sequence[str]) -> str:
    return f"its further columns: {', '.join(names)}" if names else "give a CSV with further columns"


def _is_the_label(values: Sequence[Any], labels: Sequence[Any]) -> bool:
    """Whether each value goes with one label, and each label with one value."""
    pairs = {(str(value), str(label)) for value, label in zip(values, labels, strict=True) if not _lacks(value, label)}
    first, second = ({pair[side] for pair in pairs} for side in (0, 1))
    return len(pairs) > 1 and len(first) == len(pairs) == len(second)


def _lacks(value: Any, label: Any) -> bool:
    return is_unknown(value) or label is None


def columns_of(table: pd.DataFrame, names: Sequence[str]) -> Columns:
    """The columns' values, None where a cell holds nothing; a column that is not there is unknown in each row."""
    return {name: objects(table, name) for name in names}


def fused(predictions: Predictions, fusion: Fusion) -> Predictions:
    """The predictions with the table's columns added.

    Raises:
        DataError: the model reads columns from the image, and their table does not have them.
    """
    missing = [name for name in fusion.encoder.names if source_of(name) and name not in predictions.table]
    if missing:
        text = f"the model reads {source_of(missing[0])!r} from the pixels, which these predictions do not have"
        raise DataError(text, "save a bundle and evaluate that")
    logits = fusion.logits(
        to_logits(predictions.probs, multi_label=predictions.multi_label),
        columns_of(predictions.table, fusion.encoder.names),
    )
    return _with_logits(predictions, logits)


def _with_logits(predictions: Predictions, logits: np.ndarray) -> Predictions:
    return predictions.with_probs(to_probs(logits, multi_label=predictions.multi_label))


def with_table(
    reported: Predictions,
    training: TrainingRows | None,
    names: Sequence[str],
    *,
    notes: Sequence[str] = (),
    seed: int = 42,
) -> WithTable:
    """Fit table and both beside the image, judge them, and keep both only where it surely helps.

    Args:
        reported: predictions of the network, whose table has the columns.
        training: what to fit on; None where a cross-validation reports every image, each predicted by a network that
            was trained without it: then folds of these are fitted on, and report those that they held out.
        names: of the columns; none are told apart from a table that does not help.
        notes: what else is to be said of them.
        seed: of the folds.

    Raises:
        DataError: no column is left to use, or a field's number is none.
    """
    if not names:
        sentence = "The model uses the image alone: nothing could be read besides."
        return WithTable({"sentence": sentence, "used": False, "columns": [], "notes": list(notes)})
    alone = training is None
    if training is None:
        training = TrainingRows(reported.y, reported.probs, reported.table, reported.groups)
    known = (np.asarray(training.y).reshape(len(training.y), -1) >= 0).all(axis=1)
    known &= np.isfinite(training.probs).all(axis=1)
    if known.sum() < FEWEST:
        text = f"{known.sum()} training images are too few to tell what {argument('tabular')} adds"
        raise DataError(f"{text} (at least {FEWEST} are needed)", f"leave out {argument('tabular')}")
    y, groups = training.y[known], None if training.groups is None else training.groups[known]
    rows = columns_of(training.table[known], names)
    encoder, left_out = TableEncoder.fit(rows)
    many = reported.multi_label
    found = fit_fusion(to_logits(training.probs[known], multi_label=many), encoder, rows, y, groups=groups, seed=seed)
    gain = _gain(y, found, groups, many)
    shown = {
        IMAGE: reported,
        TABLE: _with_logits(reported, found.table_logits(columns_of(reported.table, encoder.names))),
        BOTH: fused(reported, found.fusion),
    }
    if alone:
        held = {TABLE: found.held_out.table, BOTH: found.held_out.both}
        shown |= {name: _where(shown[name], known, probs) for name, probs in held.items()}
    used = gain.low > 0
    beside = _side_by_side({name: labelled(one) for name, one in shown.items()})
    section: dict[str, Any] = {
        "sentence": _sentence(gain),
        "used": used,
        "columns": encoder.sources,
        "gain": gain.as_dict(),
        **beside,
        **_shortcuts(y, found, reported.vocab, groups, many, beside.get("numbers") or {}),
        "notes": [
            *(*notes, *_telling(encoder, rows, y), *_codes(encoder, rows), *_stand_ins(encoder, rows)),
            *_notes(left_out),
            *(*_unseen(encoder, reported.table), *_unknown(encoder, reported.table)),
        ],
    }
    if not used:
        return WithTable(section)
    if alone:
        section["notes"].append(
            "Whether the table is used was decided on the reported images, which flatters a little."
        )
        others = CalibrationSet.of(shown[BOTH], "the predictions of the other images, in five parts")
        return WithTable(section, found.fusion, shown[BOTH], others)
    described = "the training images, each predicted by models that were fitted without it"
    return WithTable(section, found.fusion, shown[BOTH], CalibrationSet(y, found.held_out.both, groups, described))


def _where(predictions: Predictions, known: np.ndarray, probs: np.ndarray) -> Predictions:
    """The predictions with other probabilities, in [0, 1], of the images that are known, where these are finite."""
    result = predictions.probs.copy()
    finite = np.isfinite(probs).all(axis=1)
    result[np.flatnonzero(known)[finite]] = probs[finite]
    return predictions.with_probs(result)


def _gain(y: np.ndarray, found: ThreeModels, groups: np.ndarray | None, many: bool) -> Estimate:
    """By how much the log loss of both is below the image's, on images that a fold held out."""
    held = found.held_out
    judged = np.isfinite(held.image).all(axis=1) & np.isfinite(held.both).all(axis=1)
    if judged.sum() < FEWEST:
        return Estimate(float("nan"), float("nan"), float("nan"), int(judged.sum()), "too few images for folds")
    each = losses_of(y[judged], held.image[judged], many) - losses_of(y[judged], held.both[judged], many)
    sampling = Sampling.of(None if groups is None else groups[judged], len(each))
    draws = sampling.resample(lambda weights: (weights @ each / weights.sum(axis=1))[:, None], _BOOT)
    half = critical(0.95, max(sampling.groups() - 1, 1)) * float(np.sqrt(sampling.variance(draws)[0]))
    value = float(each.mean())
    return Estimate(value, value - half, value + half, len(each))


def _sentence(gain: Estimate) -> str:
    if not np.isfinite(gain.value):
        return f"The model uses the image alone: {gain.n} training images are too few to tell whether the table helps."
    ends = f"{-gain.value:+.3f} (95 % CI {-gain.high:+.3f} to {-gain.low:+.3f})"
    how = f"on {number(gain.n)} training images, each predicted without it, the log loss changes by {ends}"
    if gain.low > 0:
        return f"The model uses image and table: {how}."
    return f"The model uses the image alone, since the table does not surely help: {how}."


def _side_by_side(shown: Mapping[str, Predictions]) -> dict[str, Any]:
    """The three models' metrics on the reported images, and the paired differences."""
    image = shown[IMAGE]
    if not len(image):
        return {}
    given: dict[str, Any] = {
        "groups": image.groups,
        "multi_label": image.multi_label,
        "ordinal": image.ordinal,
        "n_boot": _BOOT,
    }
    numbers = {
        name: {"n": len(one), **short_metrics(classification_metrics(one.y, one.probs, one.vocab, **given))}
        for name, one in shown.items()
    }
    differences = {}
    for other in (IMAGE, TABLE):
        found = compare_predictions(
            image.y,
            shown[other].probs,
            shown[BOTH].probs,
            image.vocab,
            names=(other, BOTH),
            unit=unit_of(image.table),
            **given,
        )
        row = {key: found[key] for key in ("accuracy", "balanced_accuracy", "auroc", "quadratic_kappa") if key in found}
        differences[f"{BOTH} less {other}"] = row
    plain: dict[str, Any] = as_plain({"numbers": numbers, "differences": differences})
    return plain


def _shortcuts(
    y: np.ndarray,
    found: ThreeModels,
    vocab: Sequence[str],
    groups: np.ndarray | None,
    many: bool,
    reported: Mapping[str, Any],
) -> dict[str, Any]:
    """What the table and each column reach alone, and which of them do nearly as well as the image.

    Columns are judged on the training images' held-out answers; the table on the `reported` images' numbers as well.
    """
    held = {"image": found.held_out.image, "the table": found.held_out.table}
    names = found.held_out.columns
    held |= {f"{name!r}": probs for name, probs in names.items() if len(names) > 1}
    scores = {}
    for name, probs in held.items():
        judged = np.isfinite(probs).all(axis=1)
        if judged.sum() >= FEWEST:
            part = None if groups is None else groups[judged]
            said = classification_metrics(y[judged], probs[judged], vocab, groups=part, multi_label=many, n_boot=200)
            scores[name] = said["auroc"]
    if "image" not in scores:
        return {}
    image, sentences = scores.pop("image"), []
    for name, one in scores.items():
        if _nearly(one.as_dict(), image.as_dict()):
            sentences.append(_shortcut(name, one.as_dict(), image.as_dict()))
    table, whole = ((reported.get(name) or {}).get("auroc") or {} for name in (TABLE, IMAGE))
    if _nearly(table, whole) and not any("the table alone" in sentence for sentence in sentences):
        sentences.append(_shortcut("on the reported images the table", table, whole))
    return {"shortcuts": sentences, "alone": as_plain({"image": image, **scores})}


def _nearly(one: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether an AUROC is surely above chance and gains over it nearly what the image's does."""
    if not (is_metric(one) and is_metric(image) and is_number(one["low"])):
        return False
    return bool(one["low"] > 0.5 and one["value"] - 0.5 >= NEARLY * (image["value"] - 0.5))


def _shortcut(name: str, one: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    return (
        f"Shortcut: {name} alone reaches an AUROC of {one['value']:.3f} "
        f"(95 % CI {one['low']:.3f} to {one['high']:.3f}); "
        f"the image alone {image['value']:.3f}. Check that it does not stand for how the images were collected."
    )


def _telling(encoder: TableEncoder, rows: Columns, y: np.ndarray) -> list[str]:
    """Columns of categories each of which goes with one label alone, as patients and the label's own words do."""
    found = []
    for name in (one["name"] for one in encoder.described() if one["kind"] == "category"):
        labelled_values = zip(rows[name], y.tolist(), strict=True)
        known = [(str(value), str(label)) for value, label in labelled_values if not is_unknown(value)]
        values, pairs = ({pair[0] for pair in known}, set(known))
        if len(values) == len(pairs) > len(np.unique(y, axis=0)) and 2 * len(values) <= len(known):
            text = f"Each of the {len(values)} values of {name!r} has training images of one label alone"
            found.append(f"{text}: it may name patients, or say the label. A new patient has none of them.")
    return found


def _codes(encoder: TableEncoder, rows: Columns) -> list[str]:
    """Columns of few whole numbers, which may be codes without an order."""
    found = []
    for name in (one["name"] for one in encoder.described() if one["kind"] == "number"):
        values = {float(value) for value in rows[name] if not is_unknown(value)}
        few = 2 < len(values) <= _MOST_CODES and not source_of(name)
        if few and all(value.is_integer() for value in values):
            codes = ", ".join(f"{value:g}" for value in sorted(values))
            found.append(f"{name!r} is read as a number, of {codes}. If these are codes, write them as words.")
    return found


def _stand_ins(encoder: TableEncoder, rows: Columns) -> list[str]:
    """Columns with a number that stands apart from all others and recurs, as -1 or 999 for an unknown age do."""
    found = []
    for name in (one["name"] for one in encoder.described() if one["kind"] == "number"):
        values = np.array([float(value) for value in rows[name] if not is_unknown(value)])
        for end in (values.min(), values.max()):
            rest = values[values != end]
            n, apart = len(values) - len(rest), abs(rest - end).min(initial=np.inf)
            alone = apart > np.ptp(rest) or end < 0 <= rest.min()
            if n > 1 and len(np.unique(rest)) > 2 and alone:
                text = f"{name!r} is {end:g} in {n} training images, apart from all other values"
                found.append(f"{text}. If it stands for unknown, leave these cells empty.")
    return found


def _notes(left_out: Mapping[str, str]) -> list[str]:
    return [f"Column {name!r} is not used: {why}." for name, why in left_out.items() if not source_of(name)]


def _unknown(encoder: TableEncoder, table: pd.DataFrame) -> list[str]:
    """How often a column is unknown among the reported images."""
    found = []
    for name in encoder.names:
        if source_of(name):
            continue
        n = sum(map(is_unknown, objects(table, name)))
        if n:
            found.append(f"{name!r} is unknown in {n} of {len(table)} images ({percent(n / len(table), 0)}).")
    return found


def _unseen(encoder: TableEncoder, table: pd.DataFrame) -> list[str]:
    """Categories of the reported images that no training image has, and numbers beyond theirs."""
    seen: dict[str, int] = {}
    names = [one["name"] for one in encoder.described()]
    for row in zip(*(objects(table, name) for name in names), strict=True):
        for text in encoder.check(dict(zip(names, row, strict=True))):
            seen[text] = seen.get(text, 0) + 1
    return [f"No training image has {text} ({n} images): {NEW_FIELDS}." for text, n in seen.items()]

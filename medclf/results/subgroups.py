"""Does a model serve all alike? The metrics by any column of the table, with intervals and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medclf.errors import DataError
from medclf.metrics.comparison import MISSING, subgroup_metrics
from medclf.results.predictions import Predictions

FEW = 30  # images below which a group is called small
OVERALL = ("accuracy", "balanced_accuracy", "auroc")
_OURS = {"path", "label", "problem", "sha256"}


def check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """See that a table can be grouped by these columns.

    Raises:
        DataError: it has no such column, or the column holds nothing.

    Example:
        >>> check_columns(pd.DataFrame({"path": ["a"], "sex": ["f"]}), ["age"])
        Traceback (most recent call last):
        ...
        medclf.errors.DataError: no column 'age' to group by
        the table has: sex
    """
    for column in columns:
        known = [str(name) for name in table.columns if name not in _OURS]
        if column not in known:
            raise DataError(f"no column '{column}' to group by", f"the table has: {', '.join(known) or 'none'}")
        if table[column].isna().all():
            raise DataError(f"column '{column}' is empty, so there is nothing to group by", "name another column")


def subgroups(
    predictions: Predictions, columns: Sequence[str] | str, *, n_boot: int = 2000, level: float = 0.95
) -> dict[str, dict[str, Any]]:
    """The metrics of each group of images: sex, view, scanner, age in quarters.

    Args:
        predictions: of the images that are reported on, or an interpretation or assessment that has them; of several
            labels, each counts where it is known.
        columns: one or more of `predictions.table`; numbers of more than ten kinds are cut into quarters.
        n_boot: bootstrap resamples; whole patients where they are known.
        level: of the intervals.

    Returns:
        By column: finding (whether a difference is shown), groups (one dict a group: group, n, n_patients, accuracy,
        balanced_accuracy and auroc as `Estimate`, remark) and sensitivity (one dict a group: group and each label's
        `Estimate`).

    Raises:
        DataError: a column is not there, or empty; or there are no predictions.
    """
    predictions = getattr(predictions, "predictions", predictions)
    if not isinstance(predictions, Predictions):
        text = f"subgroups takes predictions, not a {type(predictions).__name__}"
        raise DataError(text, "give MedInterpretation.from_learner(learn), or assess(learn)")
    columns = [columns] if isinstance(columns, str) else columns
    check_columns(predictions.table, columns)
    known = predictions.subset(predictions.known).measured
    result = {}
    for column in columns:
        found = subgroup_metrics(
            known.y,
            known.probs,
            known.vocab,
            known.table[column],
            groups=known.groups,
            multi_label=known.multi_label,
            predicted=known.predicted,
            n_boot=n_boot,
            level=level,
        )
        result[str(column)] = {
            "finding": _sentence(found),
            "groups": [_row(name, metrics, known.groups is not None) for name, metrics in found.items()],
            "sensitivity": [
                {"group": name, **{label: one["sensitivity"] for label, one in metrics["per_class"].items()}}
                for name, metrics in found.items()
            ],
        }
    return result


def _row(name: str, metrics: Mapping[str, Any], with_patients: bool) -> dict[str, Any]:
    patients = {"n_patients": metrics["n_groups"]} if with_patients else {}
    overall = {key: metrics[key] for key in OVERALL}
    return {"group": name, "n": metrics["n"], **patients, **overall, "remark": _remark(metrics, with_patients)}


def _remark(metrics: Mapping[str, Any], with_patients: bool) -> str:
    """What makes a group's figures say little."""
    remarks = []
    if metrics["n"] < FEW:
        remarks.append(f"small group: {metrics['n']} image{'' if metrics['n'] == 1 else 's'}")
    if with_patients and metrics["n_groups"] < FEW // 3:
        remarks.append(f"{metrics['n_groups']} patient{'' if metrics['n_groups'] == 1 else 's'}")
    absent = [str(label) for label, one in metrics["per_class"].items() if one["sensitivity"].n == 0]
    if absent:
        remarks.append(f"none has {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}")
    return "; ".join(remarks)


def _sentence(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether the accuracies' intervals lie apart; small groups are not judged."""
    sure = {name: metrics["accuracy"] for name, metrics in found.items() if metrics["n"] >= FEW and name != MISSING}
    if len(sure) < 2:
        return f"Fewer than two groups have {FEW} images: too few to compare."
    low, high = min(sure, key=lambda name: sure[name].high), max(sure, key=lambda name: sure[name].low)
    ends = f"{_percent(sure[low])} for {low}, {_percent(sure[high])} for {high}"
    if sure[low].high < sure[high].low:
        return f"The accuracy differs: {ends}. Look for what else differs between these groups."
    return (
        f"No clear difference in accuracy between groups of {FEW} images or more ({ends}): the intervals overlap. "
        "This does not prove that the groups are equal."
    )


def _percent(found: Any) -> str:
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"

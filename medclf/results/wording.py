"""How a number and the main sentence of results.json are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def is_metric(value: Any) -> bool:
    """Whether `value` is a metric: {"value", "low", "high", "n"}.

    Example:
        >>> is_metric({"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}), is_metric({"n": 3})
        (True, False)
    """
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def percent(share: Any) -> str:
    """A share as a percentage with one decimal; a dash where there is none.

    Nothing short of all reads as 100 %, and nothing above none as 0 %.

    Example:
        >>> percent(0.9464), percent(1.0), percent(0.9999), percent(0.0001), percent(None)
        ('94.6 %', '100 %', '>99.9 %', '<0.1 %', '–')
    """
    if not is_number(share):
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if not 0.0005 <= share < 0.9995 and 0 < share < 1:
        return ">99.9 %" if share > 0.5 else "<0.1 %"
    return f"{100 * share:.1f} %"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, unit: str = "") -> str:
    """A number as a reader wants it: counts whole with thin spaces, the rest with three decimals.

    Example:
        >>> number(12345), number(0.98765), number(0.5, "%"), number(None), number(3e-5)
        ('12\\u202f345', '0.988', '50.0 %', '–', '<0.001')
    """
    if unit == "%":
        return percent(value)
    if isinstance(value, bool) or not is_number(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def interval(metric: Any, unit: str = "") -> str:
    """The ends of a metric's interval.

    Example:
        >>> interval({"value": 0.93, "low": 0.916, "high": 0.941, "n": 1600}, "%")
        '91.6 to 94.1 %'
    """
    if not is_metric(metric) or not (is_number(metric["low"]) and is_number(metric["high"])):
        return ""
    if unit == "%":
        low, high = (f"{100 * metric[end]:.1f}".replace("100.0", "100") for end in ("low", "high"))
        return f"{low} to {high} %"
    return f"{metric['low']:.3f} to {metric['high']:.3f}"


def summary(facts: Mapping[str, Any]) -> str:
    """One sentence that says how good the model is, and how sure that is.

    Example:
        >>> accuracy = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}
        >>> summary({"task": "single-label", "partition": "valid", "n": 10, "accuracy": accuracy})
        '9 of 10 valid images are read right: an accuracy of 90.0 % (95 % interval 59.6 to 98.2 %).'
    """
    n, partition = facts.get("n", 0), facts.get("partition") or ""
    images = f"{number(n)} {partition} image{'' if n == 1 else 's'}".replace("  ", " ")
    patients = facts.get("n_patients")
    if patients:
        images += f" of {number(patients)} patient{'' if patients == 1 else 's'}"
    accuracy, auroc = facts.get("accuracy") or {}, facts.get("auroc") or {}
    if facts.get("task") == "multi-label":
        labels = len(facts.get("vocab", []))
        if not is_metric(auroc) or auroc["value"] is None:
            return f"{images} with {labels} labels were predicted."
        mean = f"{number(auroc['value'])} (95 % interval {interval(auroc)})"
        return f"Over {images} and {labels} labels, the mean AUROC is {mean}."
    if not is_metric(accuracy) or accuracy["value"] is None:
        return f"{images} were predicted."
    right = round(accuracy["value"] * accuracy.get("n", n))
    verb = "is" if right == 1 else "are"
    share = f"an accuracy of {percent(accuracy['value'])} (95 % interval {interval(accuracy, '%')})"
    return f"{number(right)} of {images} {verb} read right: {share}."

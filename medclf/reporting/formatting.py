"""How a number and a sentence of results.json are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medclf.metrics.table import METRICS, overall_metrics

_SHARES = {"coverage", "prevalence", "moved"}  # that are no metrics
_CAPITALS = {"id", "url", "csv", *(key for key, metric in METRICS.items() if metric.title.isupper())}


def words(key: str) -> str:
    """A key as a heading.

    Example:
        >>> words("balanced_accuracy"), words("auroc"), words("n_images")
        ('Balanced accuracy', 'AUROC', 'Images')
    """
    if key == "n":
        return key
    if key in METRICS:
        return METRICS[key].title
    parts = [p.upper() if p in _CAPITALS else p for p in key.removeprefix("n_").split("_") if p]
    text = " ".join(parts)
    return text[:1].upper() + text[1:]


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


def unit_of(key: str) -> str:
    """How the number under `key` is written: "%" or ""."""
    return METRICS[key].unit if key in METRICS else "%" if key in _SHARES else ""


def headlines(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The overall metrics that the facts hold, written out for the page."""
    return [
        {
            "key": metric.key,
            "name": metric.title,
            "value": number(found.get("value"), metric.unit),
            "interval": interval(found, metric.unit),
            "note": found.get("note", ""),
            "meaning": metric.describe(facts.get("task") == "multi-label"),
            "metric": found,
        }
        for metric in overall_metrics()
        if is_metric(found := facts.get(metric.key, {}))
    ]


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


def cautions(facts: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the number."""
    data = facts.get("data") or {}
    split = data.get("split") or {}
    missing = (facts.get("left_out") or {}).get("sentence")
    texts = [text for text in (missing, split.get("sentence")) if text]
    both = split.get("patients_on_both_sides")
    if both:
        texts.append(
            f"{number(both)} patients have images on both sides of the split: the number is too good. Split by patient."
        )
    if facts.get("partition") == "valid":
        texts.append(
            "The valid images also guided the training's choices; a test set that was never looked at says more."
        )
    leak = facts.get("leak_free") or {}
    if leak.get("sentence"):
        texts.append(f"{leak['sentence']} See the numbers without them below.")
    if not facts.get("n_patients"):
        twins = "but for the twins that were found, " if facts.get("n_groups") else ""
        texts.append(
            f"No patients are named, so {twins}the intervals take every image as independent; several images of "
            "one patient or procedure would widen them."
        )
    return texts

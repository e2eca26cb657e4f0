"""How a number and a sentence of results.json are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medclf.metrics.table import METRICS, overall_metrics
from medclf.results.wording import interval, is_metric, number, rests_on_few

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


def cautions(facts: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the number."""
    data = facts.get("data") or {}
    split = data.get("split") or {}
    missing = (facts.get("left_out") or {}).get("sentence")
    texts = [text for text in (missing, split.get("sentence"), rests_on_few(facts)) if text]
    if facts.get("partition") == "valid":
        texts.append(
            "The validation set was used during training, so this score is optimistic. "
            "Confirm it on a separate test set."
        )
    leak = facts.get("leak_free") or {}
    if leak.get("sentence"):
        texts.append(f"{leak['sentence']} The leak-free numbers are below.")
    if not facts.get("n_patients"):
        but = ", except near-duplicates" if facts.get("n_groups") else ""
        texts.append(
            f"Without patient IDs, intervals assume independent images{but}. If patients have several images, the true "
            "intervals are wider."
        )
    return texts

"""How a number and a sentence of results.json are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medclf.metrics.table import METRICS, overall_metrics
from medclf.results.wording import (
    counted,
    interval,
    is_metric,
    labels_scored,
    measured,
    number,
    of_validation,
    partition_name,
    rests_on_few,
    score_key,
    without_leaks,
)

_SHARES = {
    "coverage",
    "prevalence",
    "moved",
    "flagged",
    "share",
    "mean_probability",
    "judge_agrees",
}  # that are no metrics
_NAMES = {  # keys of results.json whose words do not say what they are
    "valid_pct": "Share for validation",
    "patients_on_both_sides": "Patients in training and validation set",
    "test_patients_elsewhere": "Patients of the test set with images outside it",
    "clusters_of_twins": "Groups of near-duplicates",
    "images_with_a_twin": "Images with a near-duplicate",
    "with_twin_in_train": "With a near-duplicate in the training set",
    "n_compared": "Pairs compared",
    "ways": "Searched by",
    "n_judged": "Labels judged",
    "n_doubtful": "Doubtful by what the image shows",
    "n_conflicts": "Doubtful since a near-duplicate has another label",
    "n_unjudged": "Labels not judged",
    "judge_agrees": "Labels that the judge agrees with",
    "labels_not_judged": "Classes not judged",
    "leak_free": "Leaks",
    "cv_folds": "Folds of the cross-validation",
    "n_train": "In training",
    "n_features": "Features of an image",
    "strength": "Strength of the regularisation (C)",
    "views": "Augmented views",
    "blend": "Share of the fine-tuned weights",
    "n_untold": "Fits that stay close to the frequencies",
    "abstain_below": "Flagged unsure below",
    "log_loss": "Log loss",
    "size-tells-class": "Image size predicts the class",
    "depth-tells-class": "File format predicts the class",
    "overlay-tells-class": "Borders or overlays that predict the class",
    "colour-tells-class": "Colour predicts the class",
    "near-duplicate": "Pairs of near-duplicates",
    "label-conflict": "Pairs with different labels",
    "twin-across-split": "Pairs split across training, validation or test set",
    "twin-of-two-patients": "Pairs from two patients",
    "patient-across-split": "Patients in more than one set",
    "moved": "Predictions changed",
    "change": "Change of probability",
    "towards": "Change towards that label",
    "from": "Filled from images of",
    "brier_of_share": "Brier score of guessing",
    "ap": "AP",
    "ap50": "AP50",
    "donor_carries": "Taken from images that carry it",
}
_CAPITALS = {"id", "url", "csv", *(key for key, metric in METRICS.items() if metric.title.isupper())}


def words(key: str) -> str:
    """A key as a heading.

    Example:
        >>> words("balanced_accuracy"), words("auroc"), words("n_images")
        ('Balanced accuracy', 'AUROC', 'Images')
    """
    if key == "n":
        return key
    if key in _NAMES:
        return _NAMES[key]
    if key in METRICS:
        return METRICS[key].title
    parts = [p.upper() if p in _CAPITALS else p for p in key.removeprefix("n_").split("_") if p]
    text = " ".join(parts)
    return text[:1].upper() + text[1:]


def unit_of(key: str) -> str:
    """How the number under `key` is written: "%" or ""."""
    return METRICS[key].unit if key in METRICS else "%" if key in _SHARES else ""


def headlines(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The overall metrics that the facts hold, written out for the page."""
    return [
        {
            "key": metric.key,
            "name": metric.title,
            "value": number(found.get("value"), metric.unit),
            "interval": interval(found, metric.unit),
            "note": found.get("note", ""),
            "meaning": metric.describe(results.get("task") == "multi-label"),
            "metric": found,
        }
        for metric in overall_metrics()
        if is_metric(found := results.get(metric.key, {}))
    ]


def cautions(results: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the number."""
    data = results.get("data") or {}
    split = data.get("split") or {}
    missing = (results.get("left_out") or {}).get("sentence")
    texts = [
        text for text in (missing, split.get("sentence"), rests_on_few(results), results.get("resampling")) if text
    ]
    if told := of_validation(results):
        texts.append(f"{told} Confirm them on a separate test set.")
    leak = results.get("leak_free") or {}
    if leak.get("sentence"):
        texts.append(str(leak["sentence"]))
    if not results.get("n_patients"):
        but = ", except near-duplicates" if results.get("n_groups") else ""
        texts.append(
            f"Without patient IDs, intervals assume independent images{but}. If patients have several images, the true "
            "intervals are wider."
        )
    return texts


def scores(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The scores of the page's first screen, the one to believe first: without leaked images, on all, on a test set.

    Where images of the test set leak, its score is the one without them.

    Example:
        >>> accuracy = {"value": 0.92, "low": 0.804, "high": 0.97, "n": 50}
        >>> scores({"task": "single-label", "partition": "valid", "n": 50, "accuracy": accuracy})
        [{'name': 'Accuracy', 'value': '92 %', 'interval': '95 % CI 80 to 97 %', 'images': '50 validation images'}]
    """
    key = score_key(results)
    title, partition = METRICS[key].title, partition_name(results.get("partition"))
    test, leak_free = results.get("test") or {}, without_leaks(results)
    clean, images = without_leaks(test), f"{partition} {counted(results)}".strip()
    of_test = f"of {number(test.get('n', 0))} " if clean else ""
    named = [
        (
            f"{title} without leaked images",
            leak_free,
            images,
        ),
        (f"{title} on all" if leak_free else title, results, images),
        (
            f"{title} on the test set{' without leaked images' if clean else ''}",
            clean or test,
            f"{of_test}test {counted(results)}",
        ),
    ]
    return [
        {
            "name": name,
            "value": _written(found[key], key).partition(" (")[0],
            "interval": _written(found[key], key).partition(" (")[2].removesuffix(")"),
            "images": ", ".join(filter(None, [f"{number(found.get('n', 0))} {images}", labels_scored(results, found)])),
        }
        for name, found, images in named
        if is_metric(found.get(key)) and found[key]["value"] is not None
    ]


def _written(metric: Mapping[str, Any], key: str) -> str:
    """A metric with its interval: a share in no more digits than the interval allows."""
    if METRICS[key].unit == "%":
        return measured(metric)
    ends = interval(metric)
    return number(metric["value"]) + (f" (95 % CI {ends})" if ends else "")

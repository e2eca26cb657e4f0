"""PREDICTIONS -> the facts of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

import numpy as np
import pandas as pd

from medclf.metrics.classification import Metrics, classification_metrics
from medclf.metrics.intervals import as_plain
from medclf.metrics.table import overall_metrics, statistics
from medclf.metrics.thinning import LARGE
from medclf.metrics.weighted import read_task
from medclf.results.predictions import Predictions, losses_of
from medclf.results.provenance import DataSummary, describe_data, versions
from medclf.results.schema import SCHEMA
from medclf.results.wording import beside_guessing, measured, n_scored, partition_name


class MetricJson(TypedDict, total=False):
    """A metric as JSON has it; None where it is undefined or has no interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str


class LeakFree(TypedDict, total=False):
    """The numbers with and without the images that have something in train."""

    sentence: str
    n: int
    n_leaking: int
    n_grouped: int
    numbers: dict[str, dict[str, Any]]


class Results(TypedDict, total=False):
    """`results.json`: what every run has, and the sections that `medclf.reporting.sections.SECTIONS` names.

    A metric that is added to `medclf.metrics.table.METRICS` is there too, under its key.
    """

    schema: int
    task: Literal["single-label", "multi-label"]
    partition: str
    n: int
    n_groups: int | None
    n_patients: int | None
    resampling: str
    vocab: list[str]
    accuracy: MetricJson
    balanced_accuracy: MetricJson
    exact_match: MetricJson
    auroc: MetricJson
    auprc: MetricJson
    f1: MetricJson
    mcc: MetricJson
    quadratic_kappa: MetricJson
    grade_error: MetricJson
    ordinal: dict[str, Any]
    brier: MetricJson
    ece: MetricJson
    per_class: dict[str, dict[str, Any]]
    confusion_matrix: list[list[int]] | dict[str, list[list[int]]]
    most_confused: list[list[Any]]
    roc: dict[str, dict[str, list[float]]]
    baseline: dict[str, Any]
    training: dict[str, Any]
    data: DataSummary
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    title: str
    left_out: dict[str, Any]
    leak_free: LeakFree
    audit: dict[str, Any]
    calibration: dict[str, Any]
    abstain: dict[str, Any]
    ood: dict[str, Any]
    decision: dict[str, Any]
    operating_point: dict[str, Any]
    tabular: dict[str, Any]
    external: list[dict[str, Any]]
    subgroups: dict[str, Any]
    folds: list[dict[str, Any]]
    fold_spread: dict[str, dict[str, float]]
    corrections: dict[str, Any]
    shortcuts: dict[str, Any]
    card: dict[str, Any]
    checklist: dict[str, Any]
    test: dict[str, Any]


def summarize(
    predictions: Predictions,
    *,
    partition: str = "valid",
    table: pd.DataFrame | None = None,
    recipe: dict[str, Any] | None = None,
    history: Sequence[dict[str, Any]] = (),
    linear_probe: dict[str, Any] | None = None,
    n_boot: int = 2000,
) -> Results:
    """All that `results.json` holds and the report shows.

    Args:
        predictions: of the images that are reported on.
        partition: which they are.
        table: the data's table, for the counts, the problems and the split.
        recipe: the learner's settings.
        history: one dict an epoch.
        linear_probe: what the linear probe did.
        n_boot: bootstrap resamples for the intervals.

    Returns:
        A dict of plain numbers, lists and dicts; a metric is {"value", "low", "high", "n"}.
    """
    known = labelled(predictions).measured
    metrics = metrics_of(known, n_boot)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "task": "multi-label" if predictions.multi_label else "single-label",
        "partition": partition,
        "n": len(known),
        "n_groups": metrics.pop("n_groups"),
        "n_patients": n_patients(known.table),
    }
    metrics.pop("n", None)
    results |= as_plain(metrics)
    if known.ordinal:
        results["ordinal"] = near_misses(results["confusion_matrix"], known.vocab)
    if len(known):
        results["baseline"] = baseline(known)
        if predictions.shift is not None:
            results["baseline"] |= {"label": None, "accuracy": None}
        results["baseline"]["sentence"] = beside_guessing(results, known.counted())
        if predictions.shift is not None:
            results["baseline"]["sentence"] += " " + _OF_PREVALENCE
    if len(known) > LARGE:
        there = f"There are {len(known):,} {known.counted()}"
        results["resampling"] = f"{there}: intervals are resampled from a part that stands for all of them."
    results["most_confused"] = [list(row) for row in most_confused(results["confusion_matrix"], known.vocab)]
    results["roc"] = roc_curves(known)
    results["training"] = {"history": list(history), "linear_probe": linear_probe}
    if table is not None:
        results["data"] = describe_data(table, recipe or {})
    results["settings"] = {k: v for k, v in (recipe or {}).items() if k not in {"vocab", "split"}}
    results["versions"] = versions()
    return cast(Results, results)


_OF_PREVALENCE = (
    "Labels are chosen for another prevalence than these images have: accuracy is not held against always predicting "
    "the most frequent label."
)


def baseline(known: Predictions) -> dict[str, Any]:
    """What a model without any image would score: one that always says how frequent each label is here.

    Args:
        known: predictions of images with a known label.

    Returns:
        label (the most frequent; None for several labels an image) and accuracy (of always predicting it; of several
        labels, of predicting each where it is on more than half of the images; mean over those that were read),
        brier and log_loss ({"model", "frequencies"}; of several labels means over those that were read).
    """
    y, probs = np.asarray(known.y), np.asarray(known.probs, np.float64)
    many = known.multi_label
    positive = y == 1 if many else np.equal.outer(y, np.arange(len(known.vocab)))
    judged = y >= 0 if many else np.ones(positive.shape, bool)
    read = judged.any(axis=0)  # a label that no image was read for has no frequency
    n = np.maximum(judged.sum(axis=0), 1)
    shares = (positive & judged).sum(axis=0) / n
    said = np.broadcast_to(shares, positive.shape)
    sums = not many and len(known.vocab) > 2  # as the metric brier does

    def brier(p: np.ndarray) -> float:
        each = (((p - positive) ** 2) * judged).sum(axis=0) / n
        return float(each.sum() if sums else each[read].mean())

    losses = {"model": probs, "frequencies": said}
    right = float(np.maximum(shares, 1 - shares)[read].mean() if many else shares.max())
    label = None if many else known.vocab[int(shares.argmax())]
    return {
        "label": label,
        "accuracy": right,
        "brier": {name: brier(p) for name, p in losses.items()},
        "log_loss": {name: float(np.nanmean(losses_of(y, p, many))) for name, p in losses.items()},
    }


def by_fold(predictions: Predictions) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """What each fold of a cross-validation gave, and how far the folds lie apart.

    Args:
        predictions: with a column fold.

    Returns:
        One dict a fold: fold, n and the metrics; and {metric: {"mean", "deviation", "lowest", "highest"}}.
    """
    rows = []
    for fold, places in predictions.table.groupby("fold").indices.items():
        part = predictions.subset(places).measured
        task = read_task(
            part.y, part.probs, part.vocab, None, part.multi_label, predicted=part.predicted, ordinal=part.ordinal
        )
        values = statistics(task, np.ones((1, task.n)))
        rows.append({"fold": int(fold) + 1, "n": task.n, **{k: float(v[0]) for k, v in short_metrics(values).items()}})
    spread = {}
    for name in short_metrics(rows[0] if rows else {}):
        seen = np.array([row[name] for row in rows])
        seen = seen[np.isfinite(seen)]
        if len(seen) > 1:
            ends = {"lowest": float(seen.min()), "highest": float(seen.max())}
            spread[name] = {"mean": float(seen.mean()), "deviation": float(seen.std(ddof=1)), **ends}
    return rows, spread


def short_metrics(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of what was found, the overall metrics that are shown where there is room for a few.

    Example:
        >>> short_metrics({"n": 3, "brier": 0.1, "auroc": 0.9, "accuracy": 0.8})
        {'accuracy': 0.8, 'auroc': 0.9}
    """
    return {row.key: found[row.key] for row in overall_metrics(short=True) if row.key in found}


_SEEN = (  # in the order of `seen_in_training`, of one and of several
    ("is a near-duplicate of a training image", "are near-duplicates of training images"),
    ("comes from a patient with training images", "come from patients with training images"),
    ("is in a group with training images", "are in groups with training images"),
)
_OF_UNITS = ("has a near-duplicate of a training image", "have near-duplicates of training images")


def leak_free(shown: Predictions, seen: Sequence[np.ndarray], results: Mapping[str, Any]) -> LeakFree | None:
    """The numbers on all images, and on those that do not leak.

    Args:
        shown: the predictions.
        seen: (n,) bool each, whether an image has a near-duplicate in the training set, whether its patient has images
            there, and whether a group of the data's own links it to them; as many of these as are known.
        results: the numbers on all images, as `summarize` gives them.

    Returns:
        {"sentence", "n", "n_leaking", "numbers": {which images: {"n", metrics}}}; None where nothing leaks.
    """
    leaking = np.any(seen, axis=0)
    n, left = len(shown), shown.subset(~leaking)
    if not leaking.any():
        return None
    partition = partition_name(results.get("partition"))
    words = (_OF_UNITS, *_SEEN[1:]) if shown.unit is not None else _SEEN
    counted = [(int(np.sum(one)), told) for one, told in zip(seen, words, strict=False)]
    images = f"of the {n} {partition} {shown.counted()}".replace("  ", " ")
    sentence = " ".join(f"{k} {images} {told[k > 1]}." for k, told in counted if k)
    found = LeakFree(sentence=sentence, n=n, n_leaking=int(leaking.sum()))
    if n_grouped := sum(k for k, _ in counted[2:]):
        found["n_grouped"] = n_grouped
    if len(left) < 2:
        found["sentence"] += f" No {shown.counted()} are left without them: split by patient, or grouped."
        return found
    metrics = as_plain(metrics_of(left))
    best = "auroc" if left.multi_label else "accuracy"
    if metrics[best]["value"] is not None:
        value = metrics[best]["value"]
        score = f"mean AUROC is {value:.3f}" if left.multi_label else f"accuracy is {measured(metrics[best])}"
        found["sentence"] += f" Without them {score}."
    rows = {f"all {n} {shown.counted()}": results, f"the {len(left)} {shown.counted()} without leaks": metrics}
    scored = {name: {"labels_scored": n_scored(m)} if left.multi_label else {} for name, m in rows.items()}
    found["numbers"] = {name: {"n": m["n"], **short_metrics(m), **scored[name]} for name, m in rows.items()}
    return found


def metrics_of(predictions: Predictions, n_boot: int = 2000) -> Metrics:
    """`classification_metrics` of the labels that are predicted, by whatever rule chose them."""
    shown = predictions.measured
    return classification_metrics(
        shown.y,
        shown.probs,
        shown.vocab,
        groups=shown.groups,
        multi_label=shown.multi_label,
        predicted=shown.predicted,
        ordinal=shown.ordinal,
        n_boot=n_boot,
    )


def labelled(predictions: Predictions) -> Predictions:
    """Those with a known label; of several labels, with any known: the others count for the labels that are known."""
    return predictions.subset(predictions.known)


def n_patients(table: pd.DataFrame) -> int | None:
    """How many patients the images are of, an image of none being one; None where none is known."""
    if "patient" not in table or table["patient"].isna().all():
        return None
    return int(table["patient"].nunique() + table["patient"].isna().sum())


def most_confused(matrix: Any, vocab: Sequence[str], min_val: int = 1) -> list[tuple[str, str, int]]:
    """(actual, predicted, n) for the cells off the diagonal with at least `min_val` images, the largest first.

    For multi-label, (label, "missed", n) and (label, "false alarm", n).

    Example:
        >>> most_confused([[5, 1], [3, 4]], ["normal", "polyp"])
        [('polyp', 'normal', 3), ('normal', 'polyp', 1)]
    """
    if isinstance(matrix, dict):
        cells = [
            (label, kind, int(np.asarray(m)[at]))
            for label, m in matrix.items()
            for kind, at in (("missed", (1, 0)), ("false alarm", (0, 1)))
        ]
    else:
        counts = np.asarray(matrix)
        cells = [(vocab[i], vocab[j], int(counts[i, j])) for i, j in np.argwhere(counts >= min_val) if i != j]
    return sorted((cell for cell in cells if cell[2] >= min_val), key=lambda cell: -cell[2])


def near_misses(matrix: Sequence[Sequence[int]], vocab: Sequence[str]) -> dict[str, Any]:
    """How far off the errors of labels with an order are.

    Args:
        matrix: the confusion matrix, in the labels' order.
        vocab: the labels, lowest grade first.

    Returns:
        {"sentence", "order": the labels, "off_by": {grades: images}}.

    Example:
        >>> near_misses([[5, 2, 0], [1, 4, 0], [1, 0, 3]], ["mild", "moderate", "severe"])["sentence"]
        '3 of the 4 errors are one grade off; the furthest is 2 grades off (severe predicted as mild: 1).'
    """
    counts = np.asarray(matrix)
    apart = np.abs(np.subtract.outer(np.arange(len(counts)), np.arange(len(counts))))
    off_by = {str(k): int(counts[apart == k].sum()) for k in range(len(counts))}
    wrong = sum(off_by.values()) - off_by["0"]
    sentence = "No image is predicted as a wrong grade."
    if wrong:
        near = off_by["1"]
        sentence = f"{near} of the {wrong} error{'s' * (wrong > 1)} {'is' if near == 1 else 'are'} one grade off"
        far = max(k for k in range(1, len(counts)) if off_by[str(k)])
        if far > 1:
            cells = ", ".join(
                f"{vocab[i]} predicted as {vocab[j]}: {counts[i, j]}"
                for i, j in np.argwhere((apart == far) & (counts > 0))
            )
            sentence += f"; the furthest {'is' if off_by[str(far)] == 1 else 'are'} {far} grades off ({cells})"
        sentence += "."
    return {"sentence": sentence, "order": list(vocab), "off_by": off_by}


def roc_curves(predictions: Predictions, n_points: int = 200) -> dict[str, dict[str, list[float]]]:
    """{label: {"fpr", "tpr"}} one against the rest, for labels with both kinds of image, thinned to `n_points`."""
    from sklearn.metrics import roc_curve

    vocab = predictions.vocab
    truth = predictions.y if predictions.multi_label else (predictions.y[:, None] == np.arange(len(vocab))).astype(int)
    curves = {}
    for k, label in enumerate(vocab):
        known = truth[:, k] >= 0
        if 0 < truth[known, k].sum() < known.sum():
            fpr, tpr, _ = roc_curve(truth[known, k], predictions.probs[known, k])
            keep = np.unique(np.linspace(0, len(fpr) - 1, n_points).round().astype(int))
            curves[label] = {"fpr": fpr[keep].round(5).tolist(), "tpr": tpr[keep].round(5).tolist()}
    return curves

"""Is it better? Two models on the same images, and one model on several groups of images, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, cast

import numpy as np
import pandas as pd
from scipy import stats

from medclf.errors import DataError
from medclf.files import Json
from medclf.metrics.classification import Metrics, balanced_parts, classification_metrics, left_out, no_interval
from medclf.metrics.intervals import BLOCK, Sampling, difference_interval
from medclf.metrics.table import METRICS, mean_of, overall_metrics, statistics
from medclf.metrics.thinning import part_of
from medclf.metrics.weighted import Task, all_right, read_task

MISSING = "(missing)"
N_FLIPS = 10_000


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same images, and how far apart they are.

    Args:
        a: the metric of the first model.
        b: of the second.
        value: b - a.
        low: lower end of the interval of b - a.
        high: upper end.
        n: how many images it rests on.
        note: what a reader must know beside it.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    note: str = ""

    def as_dict(self) -> dict[str, Json]:
        """For JSON; NaN becomes None."""
        numbers = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        return numbers if self.note else {k: v for k, v in numbers.items() if k != "note"}


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images: only the images that one alone has right can tell them apart.

    Args:
        only_a: images that the first model alone has right.
        only_b: images that the second alone has right.
        p_exact: two-sided, from the binomial distribution; cautious.
        p_mid: mid-p, which is not: recommended.
        p_groups: two-sided, swapping the two models for whole patients or groups; None where each image is its own.
    """

    only_a: int
    only_b: int
    p_exact: float
    p_mid: float
    p_groups: float | None = None

    @property
    def p(self) -> float:
        """The one to read: by whole groups where there are any, else mid-p."""
        return self.p_mid if self.p_groups is None else self.p_groups

    def as_dict(self) -> dict[str, Json]:
        """For JSON."""
        return asdict(self)


def mcnemar(right_a: Any, right_b: Any, *, groups: Any = None, seed: int = 0) -> McNemar:
    """McNemar's test on paired answers.

    Args:
        right_a: (n,) bool, whether the first model is right.
        right_b: (n,) likewise of the second.
        groups: (n,) patient of each image. McNemar's test takes images as independent; with patients
            `p_groups` is the one to read: the models are swapped at random for whole patients, 10,000 times.
        seed: of these swaps.

    Source: McNemar 1947; Fagerland, Lydersen & Laake 2013 for mid-p; the swaps are Fisher's permutation test, which for
    single images is McNemar's exact test.

    Example:
        >>> result = mcnemar([1, 1, 0, 0, 1], [1, 1, 1, 1, 1])
        >>> result.only_b, result.p_exact, result.p_mid
        (2, 0.5, 0.25)
    """
    first, second = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"answers of the shapes {first.shape} and {second.shape} are no pairs", "give (n,) and (n,)")
    only_a, only_b = int((first & ~second).sum()), int((~first & second).sum())
    p_exact, p_mid = _paired_p(only_a, only_b)
    sampling = Sampling.of(groups, len(first))
    p_groups = None if sampling.independent else _swap_groups(first, second, sampling, seed)
    return McNemar(only_a, only_b, p_exact, p_mid, p_groups)


def _paired_p(only_a: int, only_b: int) -> tuple[float, float]:
    total, fewer = only_a + only_b, min(only_a, only_b)
    if not total:
        return 1.0, 1.0
    tail = 2 * float(stats.binom.cdf(fewer, total, 0.5))
    return min(1.0, tail), min(1.0, tail - float(stats.binom.pmf(fewer, total, 0.5)))


def _swap_groups(first: np.ndarray, second: np.ndarray, sampling: Sampling, seed: int) -> float:
    gains = second.astype(float) - first
    by_patient = np.bincount(sampling.codes, weights=gains, minlength=sampling.count)
    by_patient = by_patient[by_patient != 0]
    rng = np.random.default_rng(seed)
    as_far = 0
    step = max(1, min(500, BLOCK // max(len(by_patient), 1)))  # in blocks, for memory
    for start in range(0, N_FLIPS, step):
        signs = rng.integers(0, 2, (min(step, N_FLIPS - start), len(by_patient))) * 2 - 1
        as_far += int((np.abs(signs @ by_patient) >= abs(by_patient.sum()) - 1e-9).sum())
    return (as_far + 1) / (N_FLIPS + 1)


class ComparedMetrics(TypedDict, total=False):
    """What `compare_predictions` returns; a metric that is added to the table is there too, under its key."""

    names: list[str]
    n: int
    n_groups: int | None
    unit: str | None
    better: str | None
    accuracy: Difference
    balanced_accuracy: Difference
    exact_match: Difference
    auroc: Difference
    auprc: Difference
    f1: Difference
    mcc: Difference
    quadratic_kappa: Difference
    per_class: dict[str, ClassComparison]
    mcnemar: McNemar
    sentence: str


class ClassComparison(TypedDict):
    """One label's."""

    sensitivity: Difference
    specificity: Difference
    mcnemar: McNemar


def compare_predictions(
    y: Any,
    probs_a: Any,
    probs_b: Any,
    vocab: Sequence[str],
    *,
    groups: Any = None,
    multi_label: bool = False,
    predicted: tuple[Any, Any] = (None, None),
    ordinal: bool = False,
    names: tuple[str, str] = ("A", "B"),
    unit: str = "patients",
    counted: str = "images",
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> ComparedMetrics:
    """Whether the second of two models is better than the first on the same images.

    Args:
        y: the reference standard, as in `classification_metrics`.
        probs_a: (n, L) of the first model.
        probs_b: (n, L) of the second, image by image the same.
        vocab: the label names.
        groups: (n,) patient of each image; both models are resampled with the same patients.
        multi_label: whether an image may have several labels.
        predicted: (n, L) bool of either model, where another rule than the highest probability decides.
        ordinal: `vocab` is an order, lowest grade first: adds quadratic_kappa.
        names: of the two models, for the sentence.
        unit: what `groups` are, for the sentence; see `medclf.dataset.groups.unit_of`.
        counted: what the rows are, for the sentence.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the intervals.

    Returns:
        names, n, n_groups, unit (None without groups), better (a name, or None), accuracy and the other overall metrics
        of which more is better (each a `Difference`), per_class {label: {sensitivity, specificity: `Difference`,
        mcnemar: on the images that have the label}}, mcnemar (`McNemar` over all images; multi-label: all labels of an
        image right), sentence.

    Raises:
        DataError: as `classification_metrics`.

    Example:
        >>> y = [0] * 10 + [1] * 10
        >>> good, bad = [[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10, [[0.6, 0.4]] * 20
        >>> result = compare_predictions(y, bad, good, ["normal", "polyp"])
        >>> result["accuracy"].value, result["mcnemar"].only_b
        (0.5, 10)
    """
    first = read_task(y, probs_a, vocab, groups, multi_label, predicted=predicted[0], ordinal=ordinal)
    second = read_task(y, probs_b, vocab, groups, multi_label, predicted=predicted[1], ordinal=ordinal)
    differences = _differences(first, second, n_boot, seed, level)
    right = [all_right(task) for task in (first, second)]
    patients = None if first.sampling.independent else first.sampling.codes
    test = mcnemar(*right, groups=patients, seed=seed)
    per_class = {}
    for index, label in enumerate(first.vocab):
        has = first.positive[:, index] & first.known[:, index]
        found = [task.predicted[has, index] for task in (first, second)]
        codes = None if patients is None else patients[has]
        rates = {name: differences[f"{label}/{name}"] for name in ("sensitivity", "specificity")}
        per_class[label] = {**rates, "mcnemar": mcnemar(*found, groups=codes, seed=seed)}
    result = {
        "names": list(names),
        "n": first.n,
        "n_groups": None if groups is None else first.sampling.count,
        "unit": None if groups is None else unit,
        "better": _better(names, differences["accuracy"], test, level),
        **{name: difference for name, difference in differences.items() if "/" not in name},
        "per_class": per_class,
        "mcnemar": test,
        "sentence": _sentence(names, differences["accuracy"], test, unit, counted, level),
    }
    return cast(ComparedMetrics, result)


def _differences(first: Task, second: Task, n_boot: int, seed: int, level: float) -> dict[str, Difference]:
    labels = [f"{label}/{name}" for label in first.vocab for name in ("sensitivity", "specificity")]
    names = [row.key for row in overall_metrics() if row.compared and row.applies_to(first)] + labels

    def both(tasks: Sequence[Task], weights: np.ndarray) -> np.ndarray:
        found = [statistics(task, weights) for task in tasks]
        return np.stack([np.stack([one[name] for name in names], axis=1) for one in found])

    def gain(weights: np.ndarray) -> np.ndarray:
        a, b = both(few, weights)
        return np.asarray(b - a)

    if not first.n:
        nothing = (math.nan,) * 5
        return {name: Difference(*nothing, 0, "no image with a known label") for name in names}
    values = both((first, second), np.ones((1, first.n)))[:, 0]
    part = part_of(first, seed)
    few = [part.of_task(task) for task in (first, second)]
    variances = first.sampling.variance(part.resample(gain, n_boot, seed))
    return {
        name: _difference(first, name, float(a), float(b), float(variance), level)
        for name, a, b, variance in zip(names, *values, variances, strict=True)
    }


def _difference(task: Task, name: str, a: float, b: float, variance: float, level: float) -> Difference:
    label, _, key = name.rpartition("/")
    metric, index = METRICS[key], task.vocab.index(label) if label else None
    mask = metric.counted(task, index)
    sampling, n = task.sampling, int(mask.sum())
    one_patient = not sampling.independent and sampling.patients(mask) < 2
    if math.isnan(b - a) or one_patient or math.isnan(variance):
        reason = no_interval(n) if one_patient else "undefined for these images"
        return Difference(a, b, b - a, math.nan, math.nan, n, reason)
    parts = [] if label else balanced_parts(task, metric)
    if parts:
        freedom, units = sampling.freedom(*parts), sampling.units(*parts)
    else:
        freedom = math.inf if sampling.independent else sampling.groups(mask) - 1
        units = sampling.units(mask)
    least, most = metric.bounds(task)
    span = most - least
    ends = difference_interval((b - a) / span, variance / span**2, units=units, level=level, freedom=freedom)
    note = "" if label else left_out(mean_of(metric, task), metric.key)
    return Difference(a, b, b - a, span * ends[0], span * ends[1], n, note)


def _better(names: tuple[str, str], accuracy: Difference, test: McNemar, level: float) -> str | None:
    """The model that is better: the interval of the difference and the test must both say so."""
    if not accuracy.low * accuracy.high > 0 or test.p >= 1 - level:
        return None
    return names[int(accuracy.low > 0)]


def _sentence(
    names: tuple[str, str], accuracy: Difference, test: McNemar, unit: str, counted: str, level: float
) -> str:
    a, b = names
    if math.isnan(accuracy.value):
        return f"{a} and {b} were not compared: {accuracy.note}."
    scores = f"{100 * accuracy.a:.1f} % for {a}, {100 * accuracy.b:.1f} % for {b}"
    facts = f"accuracy {scores}, on the same {accuracy.n:,} {counted}"
    if math.isnan(accuracy.low):
        return f"{facts[0].upper()}{facts[1:]}. {accuracy.note[0].upper()}{accuracy.note[1:]}."
    ends = f"{100 * level:.0f} % CI {100 * accuracy.low:+.1f} to {100 * accuracy.high:+.1f}"
    name = "McNemar mid-p" if test.p_groups is None else f"p by {unit}"
    chance = f"{name} {'< 0.001' if test.p < 0.001 else f'= {test.p:.3f}'}"
    difference = f"Difference ({b} minus {a}): {100 * accuracy.value:+.1f} points ({ends}; {chance})"
    better = _better(names, accuracy, test, level)
    if better:
        return f"{better} is better: {facts}. {difference}."
    return f"No clear difference: {facts}. {difference}. This does not prove that the models are equal."


def subgroup_metrics(
    y: Any,
    probs: Any,
    vocab: Sequence[str],
    column: Any,
    *,
    groups: Any = None,
    multi_label: bool = False,
    predicted: Any = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Metrics]:
    """All metrics for each value of a column (sex, view, scanner, age): does the model serve all alike?

    Args:
        y: as in `classification_metrics`.
        probs: as in `classification_metrics`.
        vocab: as in `classification_metrics`.
        column: (n,) values; numbers of more than ten kinds are cut into quarters; None or NaN is "(missing)".
        groups: (n,) patient of each image.
        multi_label: whether an image may have several labels.
        predicted: as in `classification_metrics`.
        n_boot: bootstrap resamples.
        seed: of the resamples.
        level: of the intervals.

    Returns:
        {value: what `classification_metrics` returns}, in the order of the values. Many groups are many chances: one
        odd group in twenty is expected.

    Raises:
        DataError: there is not one value an image.

    Example:
        >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]
        >>> result = subgroup_metrics([0, 1, 0, 1], probs, ["ap", "pa"], ["F", "F", "M", "M"])
        >>> {value: metrics["accuracy"].value for value, metrics in result.items()}
        {'F': 1.0, 'M': 0.5}
    """
    truth, scores = np.asarray(y), np.asarray(probs)
    names = subgroup_names(column)
    if len(names) != len(truth):
        raise DataError(f"the column has {len(names)} values for {len(truth)} images", "give one value an image")
    patients = None if groups is None else np.asarray(pd.Series(list(groups), dtype=object))
    result = {}
    for name in names.cat.categories:
        rows = np.flatnonzero(names == name)
        result[str(name)] = classification_metrics(
            truth[rows],
            scores[rows],
            vocab,
            groups=None if patients is None else patients[rows],
            multi_label=multi_label,
            predicted=None if predicted is None else predicted[rows],
            n_boot=n_boot,
            seed=seed,
            level=level,
        )
    return result


def subgroup_names(column: Any) -> pd.Series:
    """The group of each image as ordered text: the value, a quarter of the range of numbers, or "(missing)".

    Example:
        >>> subgroup_names(["M", None, "F"]).tolist()
        ['M', '(missing)', 'F']
    """
    values = pd.Series(list(column))
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values) and values.nunique() > 10:
        quarters = pd.qcut(values, 4, duplicates="drop")
        kinds = list(quarters.cat.categories)
        labels = {kind: f"{_least(values, quarters, kind):g} to {kind.right:g}" for kind in kinds}
        named, order = quarters.astype(object).map(labels), list(labels.values())
    else:
        order = [str(value) for value in sorted(values.dropna().unique(), key=lambda value: (str(type(value)), value))]
        named = values.map(str, na_action="ignore")
    named = named.astype(object).where(values.notna(), MISSING)
    present = [name for name in dict.fromkeys([*order, MISSING]) if (named == name).any()]
    return pd.Series(pd.Categorical(named, present, ordered=True))


def _least(values: pd.Series, quarters: pd.Series, kind: Any) -> float:
    return float(values[quarters == kind].min())

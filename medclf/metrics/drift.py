"""Have the incoming images drifted, and what is the accuracy on them likely to be? From sketches, without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medclf.errors import DataError
from medclf.metrics.intervals import Estimate, critical, undefined

WINDOWS = (50, 100, 200)
STEP = 25
HORIZON = 2000
CLASS_SHARE = "share of class "  # then its code
FALSE_ALARMS = 0.02
FEWEST = 50  # images of the reference, and of a window, before an accuracy is estimated
_CATEGORIES = 8
_REPEATED = 0.1  # one image's share of a window that nobody need wonder at
_SUSPECT = 0.01  # chance of "cannot say" where nothing has changed


@dataclass(frozen=True)
class Stream:
    """Images as their sketches, in the order in which they came.

    Args:
        measures: name -> (n,) numbers: where features lie, brightness, contrast, ...
        probs: (n, n_labels) in [0, 1], calibrated.
        pred: (n,) the predicted class; of several labels, the likeliest.
        kinds: name -> n texts: scanner, size, ...; "" where unknown.
        images: n texts, equal for equal images.
        per_unit: images of one patient, on average: what depends on each other counts for less.
        multi_label: whether an image may have several labels, each with a probability of its own.
    """

    measures: dict[str, np.ndarray]
    probs: np.ndarray
    pred: np.ndarray
    kinds: dict[str, Sequence[str]] = field(default_factory=dict)
    images: Sequence[str] = ()
    per_unit: float = 1.0
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.pred)

    @property
    def confidence(self) -> np.ndarray:
        """(n,) probability of the likeliest class; of several labels, how sure the least sure one is."""
        if not len(self.probs):
            return np.zeros(0)
        return np.maximum(self.probs, 1 - self.probs).min(1) if self.multi_label else np.asarray(self.probs.max(1))

    def part(self, rows: slice | np.ndarray) -> Stream:
        """Some of it."""
        of_texts = np.arange(len(self))[rows]
        return Stream(
            {name: values[rows] for name, values in self.measures.items()},
            self.probs[rows],
            self.pred[rows],
            {name: [values[row] for row in of_texts] for name, values in self.kinds.items()},
            [self.images[row] for row in of_texts] if self.images else (),
            self.per_unit,
            self.multi_label,
        )


@dataclass(frozen=True)
class Alarm:
    """What differs from the reference, and where in the stream that was seen first.

    Args:
        at: number of images that had come.
        window: so many of the last images were looked at.
        what: the measure.
        p_value: how likely such a difference is where nothing has changed, in one test.
    """

    at: int
    window: int
    what: str
    p_value: float


def find_drift(
    reference: Stream,
    stream: Stream,
    *,
    false_alarms: float = FALSE_ALARMS,
    windows: Sequence[int] = WINDOWS,
    step: int = STEP,
    horizon: int = HORIZON,
) -> list[Alarm]:
    """Compare the last images with the reference again and again, and say what differs.

    After every `step` images, each measure of the last 50, 100 and 200 is compared by the two-sample Kolmogorov-
    Smirnov test, each predicted class, scanner and size by Fisher's exact test. The limit is `false_alarms` divided
    by the number of all tests of `horizon` images (Bonferroni): where nothing changes and images do not depend on
    each other, a false alarm comes with at most that probability within so many images.

    Args:
        reference: images that the model was not trained on, from where it is meant to be used.
        stream: what came, in order.
        false_alarms: probability of a false alarm within `horizon` images.
        windows, step, horizon: numbers of images.

    Returns:
        The first alarm of each measure, in the order of the stream; empty where nothing was found.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def images(n, shift):
        ...     return Stream({"brightness": rng.normal(shift, size=n)}, np.full((n, 2), 0.5), np.zeros(n, int))
        >>> find_drift(images(200, 0), images(400, 0))
        []
        >>> find_drift(images(200, 0), images(400, 2))[0].what
        'brightness'
    """
    n_tests = _count_tests(reference) * len(windows) * max(1, horizon // step)
    limit = false_alarms / n_tests
    found: dict[str, Alarm] = {}
    for at in range(step, len(stream) + 1, step):
        for window in windows:
            if at < window:
                continue
            part = stream.part(slice(at - window, at))
            for what, p_value in differences(reference, part).items():
                if p_value < limit and what not in found:
                    found[what] = Alarm(at, window, what, p_value)
    return list(found.values())


def differences(reference: Stream, part: Stream) -> dict[str, float]:
    """The p-value of each measure of some images, against the reference.

    Args:
        reference, part: see `find_drift`.
    """
    units = max(reference.per_unit, 1.0)
    found = {name: _ks(values, part.measures[name], units) for name, values in reference.measures.items()}
    found["confidence"] = _ks(reference.confidence, part.confidence, units)
    for code in range(reference.probs.shape[1]):
        found[f"{CLASS_SHARE}{code}"] = _fisher(reference.pred == code, part.pred == code, units)
    for name, values in reference.kinds.items():
        theirs = part.kinds.get(name) or [""] * len(part)
        for kind in _frequent(values):
            found[f"{name} {kind}"] = _fisher(_is(values, kind), _is(theirs, kind), units)
        counts = Counter(values)
        single = np.array([counts[kind] == 1 for kind in values])  # to the rest of the reference, these are new too
        found[f"new {name}"] = _fisher(single, np.array([kind not in counts for kind in theirs]), units)
    found["one image again and again"] = _repeated(part.images)
    return found


def _count_tests(reference: Stream) -> int:
    kinds = sum(len(_frequent(values)) + 1 for values in reference.kinds.values())
    return len(reference.measures) + int(reference.probs.shape[1]) + kinds + 2


def _frequent(values: Sequence[str]) -> list[str]:
    return [kind for kind, _ in Counter(values).most_common(_CATEGORIES)]


def _is(values: Sequence[str], kind: str) -> np.ndarray:
    return np.array([value == kind for value in values], bool)


def _ks(a: np.ndarray, b: np.ndarray, per_unit: float) -> float:
    """Of the two-sample Kolmogorov-Smirnov test, by its limit distribution; images of one patient count as one."""
    from scipy.special import kolmogorov

    first, second = np.sort(a), np.sort(b)
    both = np.concatenate([first, second])
    gap = np.abs(
        np.searchsorted(first, both, "right") / len(first) - np.searchsorted(second, both, "right") / len(second)
    ).max()
    return float(kolmogorov(gap * np.sqrt(len(a) * len(b) / (len(a) + len(b)) / per_unit)))


def _fisher(a: np.ndarray, b: np.ndarray, per_unit: float) -> float:
    from scipy.stats import fisher_exact

    counts = [[array.sum() / per_unit, (~array).sum() / per_unit] for array in (a, b)]
    return float(fisher_exact(np.round(counts).astype(int))[1])


def _repeated(images: Sequence[str]) -> float:
    """Of the most frequent image's count, were its share of what comes a tenth."""
    from scipy.stats import binom

    if not images:
        return 1.0
    counts = Counter(images)
    return float(min(1.0, len(counts) * binom.sf(max(counts.values()) - 1, len(images), _REPEATED)))


def estimate_accuracy(
    reference: Stream, right: np.ndarray, stream: Stream, *, level: float = 0.95, suspect: float = _SUSPECT
) -> Estimate:
    """Accuracy on images without labels, from how sure the model is of them; or why that cannot be said.

    The mean confidence, corrected by how far accuracy and confidence lie apart on the reference (by predicted class,
    drawn towards the mean of all). The interval adds what the reference leaves open and the chance by which each
    answer is right. It says nothing where the images differ from the reference, since confidence then means something
    else; nor where the share of the images more confident than a threshold that fits the reference (ATC) leads to
    another accuracy.

    Args:
        reference: see `find_drift`.
        right: (n_reference,) whether the reference's images were classified correctly.
        stream: the images asked about.
        level: of the interval.
        suspect: total chance of saying nothing where nothing has changed.

    Returns:
        An `Estimate`; its `note` says why where there is no value.

    Source: Guillory et al. 2021 (difference of confidences); Garg et al. 2022 (average thresholded confidence).
    """
    n, right = len(stream), np.asarray(right, float)
    if len(reference) < FEWEST:
        return undefined(n, f"it needs {FEWEST} images with known labels to go by, and has {len(reference)}")
    if n < FEWEST:
        return undefined(n, f"fewer than {FEWEST} images came")
    tests = differences(reference, stream)
    shares = [name for name in tests if name.startswith(CLASS_SHARE)]
    odd = [
        name for name, p in tests.items() if name not in shares and name != "confidence" and p < suspect / len(tests)
    ]
    if odd:
        return undefined(n, f"the images differ from those it would go by: {', '.join(odd[:3])}")
    gaps = right - reference.confidence
    spread, overall = gaps.std(ddof=1), gaps.mean()
    value, open_ = stream.confidence.sum(), 0.0
    for code in np.unique(stream.pred):
        mine = gaps[reference.pred == code]
        weight = len(mine) / (len(mine) + 10)
        share = int((stream.pred == code).sum())
        value += share * (weight * mine.mean() + (1 - weight) * overall if len(mine) else overall)
        open_ += (share / n) ** 2 * spread**2 * (weight**2 / max(len(mine), 1) + (1 - weight) ** 2 / len(gaps))
    value = float(np.clip(value / n, 0, 1))
    chance = (stream.confidence * (1 - stream.confidence)).sum() / n**2
    chance = max(chance, value * (1 - value) / n)
    reach = critical(level) * np.sqrt(reference.per_unit * open_ + chance)
    threshold = np.quantile(reference.confidence, 1 - right.mean())
    other = float((stream.confidence >= threshold).mean())
    if abs(other - value) > 2 * reach + 0.02:
        return undefined(n, f"two ways to estimate it disagree: {value:.0%} and {other:.0%}")
    return Estimate(value, max(0.0, value - float(reach)), min(1.0, value + float(reach)), n)


def stream_of(
    rows: Sequence[dict[str, Any]],
    vocab: Sequence[str],
    multi_label: bool = False,
    decide: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Stream:
    """Sketches, as `medclf.inference.sketches` keeps them, as one stream.

    Args:
        rows: the sketches.
        vocab: the labels.
        multi_label: whether an image may have several.
        decide: (n, n_labels) probabilities -> which label is predicted; the likeliest where None, or of several labels.

    Raises:
        DataError: some have other measures than the first.
    """
    probs = np.array([[row["probs"][label] for label in vocab] for row in rows], float).reshape(len(rows), len(vocab))
    names = list(rows[0]["measures"]) if rows else []
    if other := sum(row["measures"].keys() != set(names) for row in rows):
        raise DataError(
            f"{other} of {len(rows)} sketches have other measures than the first", "look at each kind alone"
        )
    kinds = list(dict.fromkeys(name for row in rows for name in row["kinds"]))
    return Stream(
        {name: np.array([row["measures"][name] for row in rows], float) for name in names},
        probs,
        (decide(probs) if decide and not multi_label else probs).argmax(1) if len(rows) else np.zeros(0, int),
        {name: [row["kinds"].get(name, "") for row in rows] for name in kinds},
        [row["image"] for row in rows],
        multi_label=multi_label,
    )

"""How often medclf's 95 % intervals hold the truth: thousands of small validation sets drawn from known populations.

    python benchmarks/coverage.py [--sets 1000] [--resamples 500] [--percentile] [--only WORDS]

Each row is a population: how many patients, how many images each, how alike a patient's images are, how rare the
second label is, how good the model. The truth is the metric on 400,000 images of that population. A cell is the share
of validation sets, in percent, whose interval holds it; 95 is wished. --percentile adds the plain percentile
bootstrap of the same resamples below each row, which is why medclf does not use it.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medclf.metrics.agreement import cohen_kappa
from medclf.metrics.classification import estimate_all
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.table import statistics
from medclf.metrics.weighted import Task, read_task

COLUMNS = {
    "accuracy": "acc",
    "{}/sensitivity": "sens",
    "{}/specificity": "spec",
    "{}/ppv": "ppv",
    "balanced_accuracy": "bal",
    "auroc": "auroc",
    "{}/auprc": "auprc",
    "f1": "f1",
    "mcc": "mcc",
    "brier": "brier",
    "ece": "ece",
}
PAIRED = {"accuracy": "Δacc", "balanced_accuracy": "Δbal", "auroc": "Δauroc", "mcc": "Δmcc"}
POPULATION = 400_000


@dataclass(frozen=True)
class Scenario:
    """A population of patients and a model that reads their images."""

    name: str
    patients: int
    images: float = 1.0  # mean number a patient
    uneven: bool = False  # a few patients have many images
    labels: int = 2
    rare: float | None = None  # share of the last label; None: all alike
    separation: float = 1.5  # of the labels' scores, in standard deviations
    alike: float = 0.0  # correlation of a patient's scores
    mixed: bool = False  # a patient's images differ in their label
    overconfident: float = 1.0  # factor on the logits
    multi_label: bool = False

    @property
    def vocab(self) -> list[str]:
        return [f"label{i}" for i in range(self.labels)]


SCENARIOS = [
    Scenario("10 + 10 images", 20, separation=2.0),
    Scenario("20 + 20 images, good", 40, separation=3.0),
    Scenario("100 images, 20 % rare", 100, rare=0.2),
    Scenario("100 images, near perfect", 100, separation=3.6),
    Scenario("200 images, 10 % rare", 200, rare=0.1, separation=2.5),
    Scenario("1,000 images, 5 % rare", 1000, rare=0.05, separation=2.0),
    Scenario("112 images, 5 labels", 112, labels=5, separation=2.0),
    Scenario("112 images, 5 labels, good", 112, labels=5, separation=2.8),
    Scenario("150 images, too sure x 2", 150, overconfident=2.0),
    Scenario("1,000 images, too sure x 1.5", 1000, overconfident=1.5),
    Scenario("200 images, 3 labels at once", 200, labels=3, multi_label=True, rare=0.2, separation=2.0),
    Scenario("10 patients x 8", 10, 8, alike=0.4, mixed=True),
    Scenario("10 patients x 8, good", 10, 8, separation=3.0, alike=0.4, mixed=True),
    Scenario("20 patients x 5", 20, 5, alike=0.4),
    Scenario("20 patients x 5, much alike", 20, 5, separation=3.0, alike=0.9),
    Scenario("30 patients, uneven", 30, 3.5, uneven=True, rare=0.4, separation=2.5, alike=0.4),
    Scenario("70 patients, uneven, rare", 70, 3.5, uneven=True, rare=0.3, alike=0.4),
    Scenario("70 patients, uneven, good", 70, 3.5, uneven=True, rare=0.3, separation=3.0, alike=0.4),
    Scenario("50 patients x 4, unlike", 50, 4, rare=0.4, separation=2.0, alike=0.02, mixed=True),
    Scenario("60 patients x 4, 5 labels", 60, 4, labels=5, separation=2.0, alike=0.5, mixed=True),
    Scenario("200 patients x 5, too sure x 2", 200, 5, alike=0.4, overconfident=2.0),
]


@dataclass(frozen=True)
class Drawn:
    y: np.ndarray
    probs: np.ndarray
    rival: np.ndarray  # of a model that sees the same images with more noise
    patients: np.ndarray


def draw(scenario: Scenario, patients: int, rng: np.random.Generator) -> Drawn:
    """Scores are normal about their label's mean, partly shared by a patient's images; the probabilities are
    those that fit, sharpened by `overconfident`."""
    s = scenario
    if s.images == 1:
        sizes = np.ones(patients, dtype=int)
    elif s.uneven:
        sizes = np.minimum(rng.geometric(1 / s.images, patients), 25)
    else:
        sizes = 1 + rng.poisson(s.images - 1, patients)
    codes = np.repeat(np.arange(patients), sizes)
    n = len(codes)
    shares = np.full(s.labels, 1 / s.labels)
    if s.rare is not None and not s.multi_label:
        shares = np.append(np.full(s.labels - 1, (1 - s.rare) / (s.labels - 1)), s.rare)
    own, shared = rng.normal(size=(2, n, s.labels)), rng.normal(size=(2, patients, s.labels))
    noise = math.sqrt(s.alike) * shared[:, codes] + math.sqrt(1 - s.alike) * own
    d = s.separation
    if s.multi_label:
        prevalence = s.rare or 0.5
        y = (rng.random((n, s.labels)) < prevalence).astype(int)
        logits = [d * (e + d * y) - d * d / 2 + math.log(prevalence / (1 - prevalence)) for e in noise]
        probs = [1 / (1 + np.exp(-logit * s.overconfident)) for logit in logits]
        return Drawn(y, probs[0], (probs[0] + probs[1]) / 2, codes)
    y = rng.choice(s.labels, n, p=shares) if s.mixed else rng.choice(s.labels, patients, p=shares)[codes]
    scale = d / math.sqrt(2) if s.labels == 2 else d  # two labels: the difference of two scores is d apart
    marks = np.eye(s.labels)[y]
    logits = [(scale * (e + scale * marks) + np.log(shares)) * s.overconfident for e in noise]
    logits[1] = 0.8 * logits[0] + 0.6 * logits[1]  # alike, yet another model
    exps = [np.exp(logit - logit.max(axis=1, keepdims=True)) for logit in logits]
    first, second = (e / e.sum(axis=1, keepdims=True) for e in exps)
    return Drawn(y, first, second, codes)


def truth(scenario: Scenario) -> dict[str, float]:
    """Every metric, and every difference of the two models, on a whole population."""
    drawn = draw(scenario, int(POPULATION / scenario.images), np.random.default_rng(1))
    found = []
    for probs in (drawn.probs, drawn.rival):
        task = read_task(drawn.y, probs, scenario.vocab, None, scenario.multi_label)
        found.append({k: float(v[0]) for k, v in statistics(task, np.ones((1, task.n))).items()})
    differences = {f"Δ{name}": found[1][name] - found[0][name] for name in PAIRED}
    kappa = {} if scenario.multi_label else {"kappa": cohen_kappa(drawn.y, drawn.probs.argmax(1), n_boot=2).value}
    return {**found[0], **differences, **kappa}


def intervals(
    scenario: Scenario, drawn: Drawn, n_boot: int, seed: int, paired: bool
) -> Iterator[tuple[str, float, float]]:
    """Name, low and high of every interval of one validation set."""
    groups = None if scenario.images == 1 else drawn.patients
    task = read_task(drawn.y, drawn.probs, scenario.vocab, groups, scenario.multi_label)
    for name, estimate in estimate_all(task, n_boot=n_boot, seed=seed).items():
        yield name, estimate.low, estimate.high
    if not paired:
        return
    rival = {"groups": groups, "multi_label": scenario.multi_label, "n_boot": n_boot, "seed": seed}
    compared = compare_predictions(drawn.y, drawn.probs, drawn.rival, scenario.vocab, **rival)
    for name in PAIRED:
        yield f"Δ{name}", compared[name].low, compared[name].high
    if not scenario.multi_label:
        kappa = cohen_kappa(drawn.y, drawn.probs.argmax(1), groups=groups, n_boot=n_boot, seed=seed)
        yield "kappa", kappa.low, kappa.high


def percentiles(scenario: Scenario, drawn: Drawn, n_boot: int, seed: int) -> Iterator[tuple[str, float, float]]:
    """What the plain percentile bootstrap says."""
    groups = None if scenario.images == 1 else drawn.patients
    task: Task = read_task(drawn.y, drawn.probs, scenario.vocab, groups, scenario.multi_label)
    names = list(statistics(task, np.ones((1, task.n))))
    draws = task.sampling.resample(
        lambda weights: np.stack(list(statistics(task, weights).values()), axis=1), n_boot, seed
    )
    yield from zip(names, *np.nanpercentile(draws, [2.5, 97.5], axis=0), strict=True)


def cover(
    scenario: Scenario, sets: int, n_boot: int, *, percentile: bool = False, paired: bool = True
) -> dict[str, float]:
    """Share of validation sets whose interval holds the truth, for each metric."""
    whole, rng = truth(scenario), np.random.default_rng(0)
    held: dict[str, list[bool]] = {}
    for seed in range(sets):
        drawn = draw(scenario, scenario.patients, rng)
        ends = (
            percentiles(scenario, drawn, n_boot, seed)
            if percentile
            else intervals(scenario, drawn, n_boot, seed, paired)
        )
        for name, low, high in ends:
            if name in whole and not math.isnan(low):
                held.setdefault(name, []).append(low - 1e-9 <= whole[name] <= high + 1e-9)
    return {name: float(np.mean(hits)) for name, hits in held.items()}


def line(scenario: Scenario, title: str, shares: dict[str, float]) -> str:
    last = scenario.vocab[-1]
    names = [*(name.format(last) for name in COLUMNS), *(f"Δ{name}" for name in PAIRED), "kappa"]
    return f"{title:32}" + " ".join(f"{100 * shares[n]:6.1f}" if n in shares else f"{'-':>6}" for n in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--percentile", action="store_true")
    parser.add_argument("--only", default="", help="only populations whose name holds these words")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    print(f"{'':32}" + " ".join(f"{name:>6}" for name in (*COLUMNS.values(), *PAIRED.values(), "kappa")))
    for scenario in SCENARIOS:
        if arguments.only not in scenario.name:
            continue
        shares = cover(scenario, arguments.sets, arguments.resamples)
        print(line(scenario, scenario.name, shares), flush=True)
        if arguments.percentile:
            plain = cover(scenario, arguments.sets, arguments.resamples, percentile=True)
            print(line(scenario, "  plain percentiles", plain), flush=True)


if __name__ == "__main__":
    main()

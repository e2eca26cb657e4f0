"""How long all metrics with 2,000 resamples take, beside a loop over scikit-learn's functions.

    python benchmarks/bootstrap_speed.py [--resamples 2000] [--looped 20]

The loop computes the same overall metrics with scikit-learn, one resample after another; it is timed on a few
resamples (--looped) and multiplied up. Both run in one process on the same predictions, in turns.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn import metrics as peer

from medclf.metrics.classification import classification_metrics
from medclf.metrics.comparison import compare_predictions

CASES = [
    (1_000, 2, None),
    (10_000, 2, None),
    (10_000, 8, None),
    (10_000, 8, 5),
    (10_000, 23, None),
    (100_000, 5, None),
]  # images, labels, images a patient


def predictions(n: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, labels, n)
    scores = rng.normal(size=(n, labels)) + 2 * np.eye(labels)[y]
    exps = np.exp(scores)
    return y, exps / exps.sum(axis=1, keepdims=True)


def looped(y: np.ndarray, probs: np.ndarray, resamples: int) -> None:
    rng, marks = np.random.default_rng(0), np.eye(probs.shape[1])[y]
    for _ in range(resamples):
        rows = rng.integers(0, len(y), len(y))
        actual, said, ones = y[rows], probs[rows], marks[rows]
        pred = said.argmax(axis=1)
        peer.accuracy_score(actual, pred)
        peer.balanced_accuracy_score(actual, pred)
        peer.f1_score(actual, pred, average="macro")
        peer.matthews_corrcoef(actual, pred)
        peer.roc_auc_score(ones, said, average="macro")
        peer.average_precision_score(ones, said, average="macro")
        peer.brier_score_loss(actual, said if probs.shape[1] > 2 else said[:, 1])


def seconds(work: Callable[[], object], runs: int) -> float:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--looped", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    n_boot = arguments.resamples
    print(
        f"{'images':>8} {'labels':>7} {'a patient':>10} {'medclf, s':>10} {'loop, s':>9} {'ratio':>6} {'paired, s':>10}"
    )
    for n, labels, per_patient in CASES:
        y, probs = predictions(n, labels)
        vocab = [f"label{i}" for i in range(labels)]
        groups = None if per_patient is None else np.arange(n) // per_patient
        options = {"groups": groups, "n_boot": n_boot}
        ours = seconds(lambda: classification_metrics(y, probs, vocab, **options), arguments.runs)  # noqa: B023
        loop = seconds(lambda: looped(y, probs, arguments.looped), 1) * n_boot / arguments.looped  # noqa: B023
        paired = seconds(lambda: compare_predictions(y, probs, probs, vocab, **options), 1)  # noqa: B023
        print(
            f"{n:8,} {labels:7} {per_patient or 1:10} {ours:10.2f} {loop:9.0f} {loop / ours:6.0f} {paired:10.2f}",
            flush=True,
        )
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()

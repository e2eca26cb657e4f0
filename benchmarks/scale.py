"""What large sets cost: metrics with intervals, and the linear probe with its cross-validation.

    python benchmarks/scale.py [--images 10000 100000 1000000] [--probe 2000 4000] [--features 1280] [--classes 8]

Processor seconds count, so that it can run on a machine that others use. Predictions and features are drawn.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from medclf.metrics.classification import classification_metrics
from medclf.models.linear_probe import fit_linear, one_thread_if_small


def predictions(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    powers = np.exp(rng.normal(size=(n, classes)) + 2 * np.eye(classes)[y])
    return y, powers / powers.sum(axis=1, keepdims=True)


def drawn_features(n: int, f: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated, with classes that overlap, as those of a network are."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n)
    mixing, centres = rng.normal(size=(200, f)) / 14, rng.normal(size=(classes, 200)) * 0.12
    x = (rng.normal(size=(n, 200)) + centres[y]) @ mixing + rng.normal(size=(n, f)) * 0.3
    return np.maximum(x, 0).astype(np.float32), y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--probe", nargs="*", type=int, default=[2_000, 4_000])
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=8)
    args = parser.parse_args()
    print("| images | images a patient | metrics with intervals, CPU s |\n|---|---|---|")
    for n in args.images:
        y, probs = predictions(n, args.classes)
        for per_patient in (1, 5):
            groups = None if per_patient == 1 else np.arange(n) // per_patient
            start = time.process_time()
            classification_metrics(y, probs, [f"label{k}" for k in range(args.classes)], groups=groups)
            print(f"| {n:,} | {per_patient} | {time.process_time() - start:.1f} |", flush=True)
    print("\n| images | features | classes | probe with cross-validation, CPU s | C |\n|---|---|---|---|---|")
    for n in args.probe:
        x, y = drawn_features(n, args.features, args.classes)
        start = time.process_time()
        with one_thread_if_small(x.size):
            fit = fit_linear(x, y, args.classes)
        seconds = time.process_time() - start
        print(f"| {n:,} | {args.features} | {args.classes} | {seconds:.1f} | {fit.strength:g} |", flush=True)


if __name__ == "__main__":
    main()

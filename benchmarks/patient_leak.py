"""What images of one patient on both sides of a split are worth: the same classifier on random and on patient folds.

    python benchmarks/patient_leak.py [--arch efficientnet_lite0] [--repeats 10]

`hannover-cxr`, 243 chest radiographs of 71 patients, labelled by whether the patient was in intensive care
(`icu_admission_offset` filled or not): up to 22 images a patient, all of one label. Features of the frozen backbone,
each computed once; medclf's own head on them, its strength chosen inside the training images; five folds, stratified,
over the images or over whole patients; each image predicted once by the folds that it is not in. The first two rows are
of the first seed, with the interval that takes images as independent and the one that resamples patients; the last
column has the range over all repeats, each with other folds.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import pandas as pd
from side_by_side import print_table, shared_data

from medclf.dataset.splitters import KFoldSplitter
from medclf.metrics.classification import classification_metrics
from medclf.models.features import embed_table
from medclf.models.linear_probe import fit_linear

FOLDS = 5


def read_data() -> pd.DataFrame:
    folder = shared_data() / "hannover-cxr"
    table = pd.read_csv(folder / "data.csv").sort_values("image_id", ignore_index=True)
    table = table.assign(path="png/" + table["image_id"] + ".png", y=table["icu_admission_offset"].notna().astype(int))
    table.attrs["root"] = str(folder)
    return table


def out_of_fold(features: np.ndarray, table: pd.DataFrame, by_patient: bool, seed: int) -> np.ndarray:
    """(n, 2) probabilities, each image's by the fold that it is not in."""
    y, patients = table["y"].to_numpy(), table["patient_id"].to_numpy()
    probs = np.zeros((len(y), 2))
    for fold in range(FOLDS):
        groups = list(patients) if by_patient else None
        train, valid = KFoldSplitter(fold, FOLDS, seed, labels=list(y), groups=groups)(list(table["path"]))
        weight, bias, *_ = fit_linear(features[train], y[train], 2, patients[train] if by_patient else None)
        logits = features[valid] @ weight.T + bias
        probs[valid] = np.exp(logits - logits.max(1, keepdims=True))
    return probs / probs.sum(1, keepdims=True)


def balanced_accuracy(table: pd.DataFrame, probs: np.ndarray, groups: np.ndarray | None) -> tuple[str, str]:
    found = classification_metrics(table["y"].to_numpy(), probs, ["ward", "icu"], groups=groups)["balanced_accuracy"]
    return f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    table = read_data()
    features = embed_table(table, options.arch, progress=False)
    patients = table["patient_id"].to_numpy()
    rows, seen = [], {}
    for name, by_patient in (("random folds", False), ("patient folds", True)):
        runs = [out_of_fold(features, table, by_patient, seed) for seed in range(options.repeats)]
        seen[name] = [float(balanced_accuracy(table, probs, None)[0]) for probs in runs]
        value, of_images = balanced_accuracy(table, runs[0], None)
        _, of_patients = balanced_accuracy(table, runs[0], patients)
        mean, ends = statistics.mean(seen[name]), f"{min(seen[name]):.3f} to {max(seen[name]):.3f}"
        rows.append([name, value, of_images, of_patients, f"{mean:.3f} ({ends})"])
    print(
        f"{len(table)} images of {table['patient_id'].nunique()} patients, {table['y'].sum()} images of intensive care"
    )
    print_table(
        ["", "balanced accuracy", "interval, images", "interval, patients", f"mean of {options.repeats} (range)"], rows
    )
    gaps = [a - b for a, b in zip(*seen.values(), strict=True)]
    print(f"too good by {statistics.mean(gaps):.3f} on average ({min(gaps):+.3f} to {max(gaps):+.3f})")


if __name__ == "__main__":
    main()

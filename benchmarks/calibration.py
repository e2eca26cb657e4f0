"""Whether the linear probe's probabilities are true, at prevalences made by leaving images out.

    python benchmarks/calibration.py [--features features.npz] [--labels Cardiomegaly Effusion] [--balance none loss]

Frozen EfficientNet-Lite0 features of nih-multilabel-64 (64 pixels): each label of 20 images or more against the others,
at prevalences of 0.5, 0.2, 0.08 and 0.05, and all labels together as they are; ham10000-small (128 pixels) by lesion.
Five outer folds, whole patients. In each a probe is fitted on the others, and calibrated on the predictions of its own
inner folds, as `medclf train --epochs 0` does; what is printed is of the images held out.

- mean: the mean probability lies within 1.2 times the frequency, or within its 95 % binomial interval.
- Brier: at most 1.02 times that of always saying the frequency.
- ECE: 15 bins; not above the 95 % quantile of 1,000 draws of labels from the probabilities themselves.

The same is said of always saying the frequency of the other folds. Where a label has few patients of many images each,
the folds differ in it, and saying the frequency is not right either. And of Platt's line through the very images that
are judged, which no calibration fitted on others can surpass: its ECE is above the quantile where images of a patient
err alike, since the draws take them for independent. And what true probabilities would keep: labels are drawn from
the probe's own, each image by itself, and so that a patient's images err alike as often as they do here.

--features keeps the features for the next run.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from side_by_side import print_table, shared_data
from sklearn.linear_model import LogisticRegression

from medclf.dataset.folds import folds
from medclf.errors import MedclfWarning
from medclf.images.reading import prepare
from medclf.metrics.calibration import fit_calibration
from medclf.metrics.intervals import wilson
from medclf.metrics.logits import to_logits
from medclf.metrics.weighted import bin_gaps
from medclf.models.backbones import build_body, describe
from medclf.models.linear_probe import LinearFit, fit_linear, one_thread_if_small

PREVALENCES = (0.5, 0.2, 0.08, 0.05)
FEWEST, DRAWS = 20, 300
BALANCES = ("none", "loss", "sampling", "focal", "logits")


def features(files: list[Path], size: int, arch: str = "efficientnet_lite0") -> np.ndarray:
    """(n, f) pooled features of the frozen body."""
    backbone, body = describe(arch), build_body(arch).eval().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (backbone.mean, backbone.std))
    parts = []
    for start in range(0, len(files), 32):
        pixels = np.stack([prepare(file, size) for file in files[start : start + 32]])
        batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.inference_mode():
            parts.append(body(batch.contiguous(memory_format=torch.channels_last)).mean((2, 3)).numpy())
    return np.concatenate(parts)


def logits_of(fitted: LinearFit, x: np.ndarray) -> np.ndarray:
    """(n, n_out)."""
    return x @ fitted.weight.T + fitted.bias


def out_of_fold(x: np.ndarray, y: np.ndarray, groups: np.ndarray, balance: str = "none") -> np.ndarray:
    """(n, n_labels) calibrated probabilities, each by a probe and a calibration that never saw the image's group."""
    many = y.ndim == 2
    n_out = y.shape[1] if many else int(y.max()) + 1
    probs = np.zeros((len(y), n_out))
    fold_of = folds(y, groups, 5, seed=0)
    for fold in np.unique(fold_of):
        rest, held = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        with one_thread_if_small(x[rest].size):
            fitted = fit_linear(x[rest], y[rest], n_out, groups[rest], balance=balance)
        known = ~np.isnan(fitted.held_out).any(axis=1)
        inner = to_logits(fitted.held_out[known], multi_label=many)
        calibration = fit_calibration(inner, y[rest][known], groups=groups[rest][known], multi_label=many)
        probs[held] = calibration.apply(logits_of(fitted, x[held]))
    return probs


def frequencies(y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) the label's frequency in the other folds: what a probe that sees nothing would say."""
    fold_of = folds(y, groups, 5, seed=0)
    return np.array([y[fold_of != fold].mean() for fold in fold_of])


def judged(p: np.ndarray, y: np.ndarray) -> tuple[list[object], list[bool]]:
    """What is printed of one label, and whether mean, Brier score and ECE are as they should be."""
    limit = ece_limit(p)
    found = figures(p, y)
    right = keeps(p, y, limit)
    cells = [f"{value:.3f}{'' if one else ' !'}" for value, one in zip(found, right, strict=True)]
    return [len(y), f"{y.mean():.3f}", *cells, f"{limit:.3f}"], right


def figures(p: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Mean, Brier score beside the frequency's, ECE."""
    share = float(y.mean())
    return float(p.mean()), float(((p - y) ** 2).mean()) / (share * (1 - share)), ece(p, y == 1)


def ece_limit(p: np.ndarray) -> float:
    draws = np.random.default_rng(0).random((1000, len(p))) < p
    return float(np.quantile([ece(p, one) for one in draws], 0.95))


def keeps(p: np.ndarray, y: np.ndarray, limit: float) -> list[bool]:
    """Whether mean, Brier score and ECE are as they should be."""
    share = float(y.mean())
    low, high = wilson(float(y.sum()), len(y))
    mean, brier, gap = figures(p, y)
    return [min(low, share / 1.2) <= mean <= max(high, share * 1.2), brier <= 1.02, gap <= limit]


def kept_by_true(p: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """How often labels drawn from the probabilities keep all rules: images by themselves; alike as a patient's here."""
    draw, limit = np.random.default_rng(1), ece_limit(p)
    _, of = np.unique(groups, return_inverse=True)
    error = (y - p) / np.sqrt(p * (1 - p))
    sizes, sums, squares = (np.bincount(of, weights) for weights in (None, error, error**2))
    alike = float(np.clip((sums**2 - squares).sum() / max((sizes * (sizes - 1)).sum(), 1), 0, 1))

    def share(with_patient: float) -> float:
        kept = []
        for _ in range(DRAWS):
            shared = draw.random(len(p)) < with_patient
            labels = (np.where(shared, draw.random(len(sizes))[of], draw.random(len(p))) < p).astype(int)
            kept.append(0 < labels.mean() < 1 and all(keeps(p, labels, limit)))
        return float(np.mean(kept))

    return share(0), share(np.sqrt(alike))  # a pair errs alike where both take their patient's draw


def fitted_here(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The probabilities after Platt's calibration on these images themselves."""
    logits = to_logits(p[:, None], multi_label=True)
    return LogisticRegression(C=np.inf).fit(logits, y).predict_proba(logits)[:, 1]


def ece(p: np.ndarray, y: np.ndarray) -> float:
    """15 bins."""
    return float(np.abs(bin_gaps(np.ones((1, len(y))), p, y)).sum())


def at_prevalence(y: np.ndarray, prevalence: float) -> np.ndarray:
    """Rows in which the label is as frequent as that, as many as there are."""
    draw = np.random.default_rng(0)
    with_it, without = draw.permutation(np.flatnonzero(y == 1)), draw.permutation(np.flatnonzero(y == 0))
    n_with = int(min(len(with_it), len(without) * prevalence / (1 - prevalence)))
    n_without = round(min(len(without), n_with * (1 - prevalence) / prevalence))
    return np.sort(np.concatenate([with_it[:n_with], without[:n_without]]))


def kept_features(cache: Path | None, data: Path) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
    """Features by set, and the two tables."""
    chest = pd.read_csv(data / "nih-multilabel-64" / "labels.csv", dtype=str)
    skin = pd.read_csv(data / "ham10000-small" / "HAM10000_metadata.csv")
    images = {path.stem: path for path in (data / "ham10000-small" / "images").rglob("*") if path.is_file()}
    skin = skin[skin["image_id"].isin(images)].reset_index(drop=True)
    if cache and cache.is_file():
        return dict(np.load(cache)), chest, skin
    found = {
        "chest": features([data / "nih-multilabel-64" / name for name in chest["file"]], 64),
        "skin": features([images[name] for name in skin["image_id"]], 128),
    }
    if cache:
        np.savez(cache, **found)
    return found, chest, skin


def one_label(
    x: np.ndarray, chest: pd.DataFrame, labels: list[str], balances: list[str]
) -> Iterator[tuple[list[object], list[bool], list[bool], list[bool], tuple[float, float]]]:
    """A row for each label, prevalence and balance; whether it, the frequencies and Platt on these images are right.

    And how often true probabilities would be.
    """
    groups = chest["patient_id"].to_numpy()
    for label in labels:
        y = chest["finding_labels"].str.contains(label).to_numpy(int)
        for prevalence in PREVALENCES:
            rows = at_prevalence(y, prevalence)
            if y[rows].sum() < FEWEST:
                continue
            blind = judged(frequencies(y[rows], groups[rows]), y[rows])[1]
            for balance in balances:
                probs = out_of_fold(x[rows], y[rows], groups[rows], balance)[:, 1]
                cells, right = judged(probs, y[rows])
                best = judged(fitted_here(probs, y[rows]), y[rows])[1]
                true = kept_by_true(probs, y[rows], groups[rows])
                yield [label, prevalence, balance, *cells], right, blind, best, true


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--labels", nargs="*")
    parser.add_argument("--balance", nargs="*", default=["none"], choices=BALANCES)
    args = parser.parse_args()
    warnings.simplefilter("ignore", MedclfWarning)
    kept, chest, skin = kept_features(args.features, shared_data())
    names = chest["finding_labels"].str.split("|").explode().value_counts()
    labels = args.labels or [name for name, n in names.items() if n >= FEWEST and name != "No Finding"]
    rows, right, blind, best, true = zip(*one_label(kept["chest"], chest, labels, args.balance), strict=True)
    heads = ["label", "prevalence", "balance", "images", "frequency", "mean", "Brier / frequency's", "ECE", "at most"]
    print_table(heads, list(rows))
    print()
    named = {
        "as it should be": right,
        "always saying the other folds' frequency": blind,
        "Platt's calibration on the very images": best,
    }
    for name, found in named.items():
        kinds = zip(("mean", "Brier", "ECE"), np.array(found).sum(axis=0), strict=True)
        print(f"{name}, of {len(right)}: " + ", ".join(f"{kind} {n}" for kind, n in kinds), flush=True)
    both = sum(all(one) for one, other in zip(right, blind, strict=True) if all(other))
    print(f"all three, where that frequency has all three: {both} of {sum(map(all, blind))}", flush=True)
    of_all = " and ".join(f"{values.sum():.1f}" for values in np.array(true).T)
    of_those = " and ".join(f"{values.sum():.1f}" for values in np.array(true)[[all(other) for other in blind]].T)
    print(f"all three: {sum(map(all, right))} of {len(right)}", flush=True)
    print(f"labels drawn from the probabilities, each image by itself and a patient's alike, keep them in {of_all}")
    print(f"on average, where that frequency has all three in {of_those}", flush=True)
    fits = [all(one) for one, *others in zip(right, blind, best, strict=True) if all(map(all, others))]
    print(f"all three, where that frequency and Platt's have all three: {sum(fits)} of {len(fits)}\n", flush=True)
    y = np.stack([chest["finding_labels"].str.contains(label).to_numpy(int) for label in labels], axis=1)
    probs = out_of_fold(kept["chest"], y, chest["patient_id"].to_numpy())
    found = [judged(probs[:, k], y[:, k]) for k in range(len(labels))]
    print_table(["all labels at once", *heads[3:]], [[n, *cells] for n, (cells, _) in zip(labels, found, strict=True)])
    classes, y = np.unique(skin["dx"], return_inverse=True)
    probs = out_of_fold(kept["skin"], y, skin["lesion_id"].to_numpy())
    shares = np.bincount(y) / len(y)
    told = np.broadcast_to(shares, probs.shape)
    rows_of_skin = [
        [name, f"{(p.argmax(1) == y).mean():.3f}", f"{-np.log(p[np.arange(len(y)), y]).mean():.3f}"]
        for name, p in (("probe", probs), (f"always {classes[shares.argmax()]}", told))
    ]
    print()
    print_table([f"ham10000-small, {len(y)} images", "accuracy", "log loss"], rows_of_skin)


if __name__ == "__main__":
    main()

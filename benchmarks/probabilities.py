"""Calibration, abstaining and "not like the training images" on the real sets, features of one frozen backbone.

    python benchmarks/probabilities.py [--arch efficientnet_lite0] [--features features.npz]

Each set: pooled features at 224, a linear head fitted by 5 folds (whole patients where known), its out-of-fold
logits. Calibration before and after is out of fold too: no image is judged by a temperature that it helped to fit.
"not like": the detector knows 70 % of a set; the rest is its own kind, the other sets and the photographs of
scikit-learn and scikit-image (whole and in quarters) are not. AUROC and share flagged, the mean of ten such splits.
--features keeps the features for the next run.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from side_by_side import print_table, shared_data
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from medclf.images.reading import prepare
from medclf.metrics.abstention import abstain_curve
from medclf.metrics.calibration import calibrate_out_of_fold, split_parts
from medclf.metrics.ood import ood_fit
from medclf.metrics.reliability import brier, ece
from medclf.models.backbones import build_body, describe

PHOTOS = ("astronaut", "coffee", "chelsea", "camera", "coins", "page", "text", "brick", "grass", "gravel", "moon")


def real_sets(data: Path) -> dict[str, tuple[list[Path], list[str], list[str]]]:
    """Files, labels and patients (each image its own where unknown)."""
    found = {}
    for name in ("hyperkvasir-lower-gi", "hello-world"):
        files = sorted(p for p in (data / name).rglob("*") if p.suffix in (".jpg", ".png") and p.parent.name != "TEST")
        found[name] = files, [p.parent.name for p in files], [p.name for p in files]
    table = pd.read_csv(data / "hannover-cxr/data.csv").sort_values("image_id")
    files = [data / "hannover-cxr/png" / f"{image}.png" for image in table.image_id]
    found["hannover-cxr"] = files, table.projection.tolist(), table.patient_id.tolist()
    return found


def photographs() -> list[bytes]:
    """Natural photographs, whole and in quarters, as files."""
    from skimage import data

    whole = [np.asarray(getattr(data, name)()) for name in PHOTOS] + list(load_sample_images().images)
    files = []
    for image in whole:
        height, width = (side // 2 for side in image.shape[:2])
        for part in (
            image,
            image[:height, :width],
            image[height:, :width],
            image[:height, width:],
            image[height:, width:],
        ):
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(part)).convert("RGB").save(file, "PNG")
            files.append(file.getvalue())
    return files


def features(files: list, arch: str) -> np.ndarray:
    backbone, body = describe(arch), build_body(arch).eval().to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (backbone.mean, backbone.std))
    parts = []
    for start in range(0, len(files), 16):
        pixels = np.stack([prepare(file, 224) for file in files[start : start + 16]])
        batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.inference_mode():
            parts.append(body(batch.contiguous(memory_format=torch.channels_last)).mean((2, 3)).numpy())
    return np.concatenate(parts)


def out_of_fold_logits(values: np.ndarray, y: np.ndarray, patients: np.ndarray) -> np.ndarray:
    logits = np.zeros((len(y), y.max() + 1))
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(values, y, patients):
        mean, std = values[train].mean(axis=0), values[train].std(axis=0) + 1e-6
        head = LogisticRegression(C=1.0, max_iter=2000).fit((values[train] - mean) / std, y[train])
        logits[test] = np.log(np.maximum(head.predict_proba((values[test] - mean) / std), 1e-12))
    return logits


def calibration_rows(name: str, values: np.ndarray, labels: list[str], patients: list[str]) -> tuple[list, list]:
    y, groups = np.unique(labels, return_inverse=True)[1], np.unique(patients, return_inverse=True)[1]
    logits = out_of_fold_logits(values, y, groups)
    before = np.exp(logits)
    after, temperature = calibrate_out_of_fold(logits, y, groups=groups)
    shown = [
        f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (ece(y, p, groups=groups) for p in (before, after))
    ]
    scores = [f"{brier(y, p, groups=groups).value:.4f}" for p in (before, after)]
    curve = abstain_curve(y, after, n_points=10_000)
    at = [int(np.abs(curve["coverage"] - share).argmin()) for share in (1.0, 0.9, 0.75, 0.5)]
    accuracies = [f"{curve['accuracy'][i]:.3f} of {curve['n'][i]}" for i in at]
    return [name, len(y), f"{temperature.values[0]:.2f}", *shown, *scores], [name, *accuracies]


def strange_row(name: str, everything: dict[str, np.ndarray], splits: int = 10) -> list:
    flagged: dict[str, list[float]] = {other: [] for other in everything}
    aurocs: dict[str, list[float]] = {other: [] for other in everything}
    for seed in range(splits):
        known, fresh = split_parts(np.zeros(len(everything[name])), share=0.7, seed=seed)
        detector = ood_fit(everything[name][known], seed=seed)
        own = detector.score(everything[name][fresh])
        for other, values in everything.items():
            scores = own if other == name else detector.score(values)
            sides = np.repeat([0, 1], [len(own), len(scores)])
            aurocs[other].append(roc_auc_score(sides, np.concatenate([own, scores])))
            flagged[other].append(float((scores > detector.threshold).mean()))
    cells = [
        "" if other == name else f"{np.mean(aurocs[other]):.3f}, {np.mean(flagged[other]):.0%} flagged"
        for other in everything
    ]
    return [name, f"{np.mean(flagged[name]):.1%}", *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--features", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    sets = real_sets(shared_data())
    if arguments.features and arguments.features.is_file():
        everything = dict(np.load(arguments.features))
    else:
        everything = {name: features(files, arguments.arch) for name, (files, _, _) in sets.items()}
        everything["photographs"] = features(photographs(), arguments.arch)
        if arguments.features:
            np.savez(arguments.features, **everything)
    rows = [calibration_rows(name, everything[name], *rest[1:]) for name, rest in sets.items()]
    print_table(
        ["set", "images", "temperature", "ece before", "ece after", "brier before", "after"], [a for a, _ in rows]
    )
    print()
    print_table(["accuracy on the surest", "100 %", "90 %", "75 %", "50 %"], [b for _, b in rows])
    print()
    print_table(["detector knows", "own kind flagged", *everything], [strange_row(name, everything) for name in sets])


if __name__ == "__main__":
    main()

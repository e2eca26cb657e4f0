"""A bundle on ONNX Runtime against the same bundle on torch: probabilities, labels, speed; and what int8 costs.

    python benchmarks/onnx_parity.py [--arch efficientnet_lite0] [--images 500]

The bundle's head is fitted first (no epochs) on the real lower-GI images; then all are predicted by every runtime, on
one thread each. Accuracy is of the validation images alone, which the head did not see; int8's ranges are set by
training images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from side_by_side import print_table, shared_data


def fitted(arch: str, folder: Path):
    from medclf import MedDataLoaders, med_learner, save_bundle

    data = shared_data() / "hyperkvasir-lower-gi"
    dls = MedDataLoaders.from_csv(
        data / "labels.csv", path_col="file", split="stratified", valid_pct=0.4, seed=42, modality="endoscopy"
    )
    learn = med_learner(dls, arch)
    learn.fine_tune(0)
    return save_bundle(learn, folder / "real.bundle"), dls.table


def predicted(model, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Probabilities, and images a second."""
    model.predict_pixels(pixels[:16])
    start, rows = time.perf_counter(), []
    for first in range(0, len(pixels), 16):
        rows += [list(answer.probs.values()) for answer in model.predict_pixels(pixels[first : first + 16])]
    return np.array(rows), len(pixels) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=500)
    args = parser.parse_args()
    from medclf import export_onnx, load_bundle
    from medclf.inference.onnx import OnnxModel, quantize_onnx

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved, table = fitted(args.arch, folder)
        bundle = load_bundle(saved)
        root = Path(table.attrs.get("root", shared_data() / "hyperkvasir-lower-gi"))
        used = table[table["problem"] == ""].sort_values("partition", ascending=False).head(args.images)
        files = [root / path for path in used["path"]]
        train = [root / path for path in table[table["partition"] == "train"]["path"]]
        pixels = np.stack([bundle.prepare(file) for file in files])
        full = export_onnx(bundle, folder / "real.onnx")
        cost = quantize_onnx(full, folder / "int8.onnx", train[:: max(1, len(train) // 64)])
        models = {
            "torch": bundle,
            "onnx": OnnxModel(full, threads=1),
            "onnx, int8": OnnxModel(folder / "int8.onnx", threads=1),
        }
        sizes = {
            "torch": (saved / "weights.safetensors").stat().st_size,
            "onnx": full.stat().st_size,
            "onnx, int8": (folder / "int8.onnx").stat().st_size,
        }
        results = {name: predicted(model, pixels) for name, model in models.items()}
    reference = results["torch"][0]
    valid = (used["partition"] == "valid").to_numpy()
    y = np.array([bundle.vocab.index(label) for label in used["label"]])
    rows = []
    for name, (probs, rate) in results.items():
        moved = np.abs(probs - reference)
        right = probs.argmax(1) == y
        rows.append(
            [
                name,
                f"{sizes[name] / 1e6:.1f}",
                f"{rate:.0f}",
                f"{moved.max():.1e}",
                f"{moved.mean():.1e}",
                f"{(probs.argmax(1) == reference.argmax(1)).mean():.1%}",
                f"{right[valid].mean():.1%} of {valid.sum()}",
            ]
        )
    print(f"{len(pixels)} images, {args.arch}, one thread")
    print_table(["", "MB", "images/s", "largest difference", "mean", "same label", "accuracy, valid"], rows)
    print(f"\nas `medclf export --int8` says it: {cost}")


if __name__ == "__main__":
    main()

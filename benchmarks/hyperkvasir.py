"""Five classes of real endoscopy, stratified: medclf and plain fastai on the same split, seed by seed.

    python benchmarks/hyperkvasir.py [--epochs 5] [--seeds 42 7 2026] [--skip-fastai]

The same backbone (EfficientNet-Lite0), weights, images and split; whole processes, in turns; an empty cache each time.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, last_json, print_table, shared_data, timed


def ours(data: Path, epochs: int, seed: int, folder: Path) -> dict:
    run = folder / f"run-{epochs}-{seed}"
    command = [sys.executable, "-m", "medclf", "train", str(data), "--modality", "endoscopy", "--split", "stratified"]
    command += ["--arch", "efficientnet_lite0", "--seed", str(seed), "--epochs", str(epochs), "--out", str(run)]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        seconds, _ = timed(command, {"MEDCLF_CACHE": cache})
    facts = json.loads((run / "results.json").read_text())
    return {"seconds": seconds, "inside": facts["seconds"], "accuracy": facts["accuracy"]["value"], "run": run}


def peer(data: Path, epochs: int, seed: int, table: Path) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks/plain_fastai.py"), str(data), "--epochs", str(epochs)]
    seconds, text = timed([*command, "--table", str(table), "--seed", str(seed)])
    figures = last_json(text)
    return {"seconds": seconds, "inside": figures["total_s"], "accuracy": figures["accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 7, 2026])
    parser.add_argument("--skip-fastai", action="store_true")
    args = parser.parse_args()
    data = shared_data() / "hyperkvasir-lower-gi"
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for epochs in sorted({0, args.epochs}):
                result = ours(data, epochs, seed, Path(folder))
                found.setdefault(f"medclf, --epochs {epochs}", []).append(result)
                print(f"seed {seed}, medclf, {epochs} epochs: {result['accuracy']:.4f}", file=sys.stderr, flush=True)
            if not args.skip_fastai:
                result = peer(data, args.epochs, seed, result["run"] / "table.csv")
                found.setdefault(f"plain fastai, fine_tune({args.epochs})", []).append(result)
                print(f"seed {seed}, plain fastai: {result['accuracy']:.4f}", file=sys.stderr, flush=True)
    rows = []
    for name, results in found.items():
        shares = [r["accuracy"] for r in results]
        seconds = [statistics.median(r[key] for r in results) for key in ("seconds", "inside")]
        mean = f"{statistics.mean(shares):.4f}"
        rows.append([name, *(f"{a:.4f}" for a in shares), mean, *(f"{s:.0f}" for s in seconds)])
    print_table(["", *(f"seed {s}" for s in args.seeds), "mean accuracy", "process, s", "once imported, s"], rows)


if __name__ == "__main__":
    main()

"""The whole job at equal epochs: train, evaluate, report; medclf beside plain fastai, on one split, in turns.

    python benchmarks/whole_job.py hyperkvasir-lower-gi --arch resnet34 --modality endoscopy --epochs 1 [--runs 3]
    python benchmarks/whole_job.py hyperkvasir-lower-gi --accuracy --modality endoscopy --epochs 5 [--seeds 42 7 2026]

Whole processes and once imported, an empty cache each time. Of a network whose weights no package carries, random ones
are written to a file that both load in the place of pretrained ones: the times are the same, the accuracies mean
nothing. With `--peers torchvision monai` the projects' own loops take their turns as well (MONAI is not a dependency).
The second line gives, seed by seed, the accuracy of EfficientNet-Lite0's head alone
(the first model, which is evaluated and reported like any other), of its last stage and of all of it, beside plain
fastai's whole job; `--skip-fastai` leaves that out.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, last_json, print_table, ratios, shared_data, timed

LAST = "layer4"


def ours(args: argparse.Namespace, seed: int, folder: Path, *options: str) -> dict:
    """One `medclf train`, with a cache of its own."""
    run = folder / f"run-{seed}"
    command = [sys.executable, "-m", "medclf", "train", str(args.folder), "--overwrite", "--out", str(run)]
    command += ["--arch", args.arch, "--seed", str(seed), "--size", str(args.size), *args.ours, *options]
    if args.weights:
        command += ["--weights", args.weights]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        seconds, _ = timed(command, {"MEDCLF_CACHE": cache})
    facts = json.loads((run / "results.json").read_text())
    inside = json.loads((run / "run.json").read_text())["seconds"]
    return {"seconds": seconds, "inside": inside, "accuracy": facts["accuracy"]["value"], "table": run / "table.csv"}


def peer(args: argparse.Namespace, seed: int, table: Path, loader: str = "") -> dict:
    """The script that a fastai user writes, or the loop of another project's own example, on the same split."""
    command = [sys.executable, str(ROOT / "benchmarks" / ("plain_torch.py" if loader else "plain_fastai.py"))]
    command += [str(args.folder), "--table", str(table)]
    command += ["--loader", loader, "--workers", str(os.cpu_count())] if loader else []
    command += ["--arch", args.arch, "--epochs", str(args.epochs), "--seed", str(seed), "--size", str(args.size)]
    if args.weights:
        command += ["--weights", args.weights]
    seconds, text = timed(command)
    figures = last_json(text)
    return {"seconds": seconds, "inside": figures["total_s"], "accuracy": figures["accuracy"]}


def plans(args: argparse.Namespace) -> dict[str, list[str]]:
    """Options of `medclf train` by what they are called in the table."""
    epochs = ["--epochs", str(args.epochs)]
    found = {"medclf, all": epochs, f"medclf, --train-from {LAST}": [*epochs, "--train-from", LAST]}
    if args.accuracy:
        found = {"medclf, head alone": ["--epochs", "0"], **found}
    if args.modality:
        found = {name: [*options, "--modality", args.modality] for name, options in found.items()}
        kept = f"medclf, --train-from {LAST}, not augmented"
        found[kept] = [*epochs, "--train-from", LAST]
    return found


def times(args: argparse.Namespace) -> None:
    """A table of times and their ratios to plain fastai's."""
    found: dict[str, list[dict]] = {f"plain fastai, fine_tune({args.epochs})": []}
    found |= {name: [] for name in plans(args)}
    fastai = next(iter(found))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.runs):
            for name, options in plans(args).items():
                found[name].append(ours(args, args.seeds[0], Path(folder), *options))
            table = found[next(iter(plans(args)))][-1]["table"]
            found[fastai].append(peer(args, args.seeds[0], table))
            for loader in args.peers:
                found.setdefault(f"{loader}'s loop", []).append(peer(args, args.seeds[0], table, loader))
            print(f"turn {turn + 1} of {args.runs}", file=sys.stderr, flush=True)
    rows = []
    for name, results in found.items():
        cells = [name]
        for key in ("seconds", "inside"):
            mine = [result[key] for result in results]
            cells += [f"{statistics.median(mine):.1f}", ratios([r[key] for r in found[fastai]], mine)]
        rows.append([*cells, ", ".join(sorted({f"{result['accuracy']:.3f}" for result in results}))])
    header = ["", "process, s", "fastai / this", "once imported, s", "fastai / this", "accuracy"]
    print_table(header, rows)


def accuracies(args: argparse.Namespace) -> None:
    """A table of accuracies, seed by seed."""
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name, options in plans(args).items():
                found.setdefault(name, []).append(ours(args, seed, Path(folder), *options))
            if not args.skip_fastai:
                table = next(iter(found.values()))[-1]["table"]
                found.setdefault(f"plain fastai, fine_tune({args.epochs})", []).append(peer(args, seed, table))
            for name, results in found.items():
                print(f"seed {seed}, {name}: {results[-1]['accuracy']:.4f}", file=sys.stderr, flush=True)
    fastai = found.get(f"plain fastai, fine_tune({args.epochs})")
    rows = []
    for name, results in found.items():
        shares = [result["accuracy"] for result in results]
        cells = [name, *(f"{a:.4f}" for a in shares), f"{statistics.mean(shares):.4f}"]
        for key in ("seconds", "inside"):
            mine = [result[key] for result in results]
            cells += [f"{statistics.median(mine):.0f}", ratios([r[key] for r in fastai], mine) if fastai else "-"]
        rows.append(cells)
    timings = ["process, s", "fastai / this", "once imported, s", "fastai / this"]
    print_table(["", *(f"seed {seed}" for seed in args.seeds), "mean accuracy", *timings], rows)


def random_weights(arch: str, folder: Path) -> str:
    """A file of such a network's weights, drawn at random."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = folder / f"{arch}.pth"
    torch.save(getattr(torchvision.models, arch)().state_dict(), path)
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="a folder among the real images, or any other folder of labelled images")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--modality")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 7, 2026])
    parser.add_argument("--accuracy", action="store_true", help="of each way to train, instead of times")
    parser.add_argument("--peers", nargs="+", choices=["torchvision", "monai"], default=[], help="other loops to time")
    parser.add_argument("--skip-fastai", action="store_true")
    parser.add_argument("--ours", nargs=argparse.REMAINDER, default=[], help="more options for medclf train; the last")
    args = parser.parse_args()
    args.folder = Path(args.data) if Path(args.data).is_dir() else shared_data() / args.data
    if "--split" not in args.ours and args.folder.name != "hello-world":
        args.ours += ["--split", "stratified"]
    with tempfile.TemporaryDirectory() as folder:
        args.weights = None if args.arch == "efficientnet_lite0" else random_weights(args.arch, Path(folder))
        (accuracies if args.accuracy else times)(args)


if __name__ == "__main__":
    main()

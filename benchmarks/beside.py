"""This medclf beside another checkout of it, in turns: whole processes and the service.

    python benchmarks/beside.py OTHER [--runs 3] [--only cold page ...]

OTHER is the folder of another checkout (`git worktree add ../old COMMIT`), run by the same Python. Every job has an
empty cache. The ratio is the other's time over this one's, pair by pair: above 1, this one is sooner.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, print_table, ratios, shared_data, timed

Job = tuple[str, ...]


def jobs(out: Path) -> dict[str, Job]:
    """Arguments of Python by the job's name; the last two use the run that the job before them wrote."""
    data = shared_data()
    chest, endoscopy = data / "hello-world", data / "hyperkvasir-lower-gi"
    images = sorted(endoscopy.rglob("*.jpg"))
    net = ("--arch", "efficientnet_lite0", "--out", str(out))
    chests = ("-m", "medclf", "train", str(chest), "--modality", "radiograph", *net, "--epochs")
    classes = ("-m", "medclf", "train", str(endoscopy), "--modality", "endoscopy", *net, "--epochs")
    return {
        "import medclf": ("-c", "import medclf"),
        "medclf --help": ("-m", "medclf", "--help"),
        "medclf train --help": ("-m", "medclf", "train", "--help"),
        "chest against abdomen, --epochs 0": (*chests, "0"),
        "chest against abdomen, --epochs 3": (*chests, "3"),
        "five classes, --epochs 1": (*classes, "1"),
        "five classes, --epochs 0": (*classes, "0"),
        "page of the five classes": ("-m", "medclf", "report", str(out)),
        "one image, cold": ("-m", "medclf", "predict", str(out), str(images[0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, metavar="OTHER")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="jobs whose name contains one of these words")
    parser.add_argument("--seconds", type=float, default=15, help="of load on each service")
    args = parser.parse_args()
    checkouts = [args.other.resolve(), ROOT]
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / name for name in ("other", "this")]
        names = [name for name in jobs(outs[0]) if not args.only or any(word in name for word in args.only)]
        rows = []
        for name in names:
            times: list[list[float]] = [[], []]
            for turn in range(args.runs):
                for kind, (checkout, out) in enumerate(zip(checkouts, outs, strict=True)):
                    env = {"PYTHONPATH": str(checkout), "MEDCLF_CACHE": f"{folder}/cache-{name}-{turn}-{kind}"}
                    if "--out" in jobs(out)[name]:
                        shutil.rmtree(out, ignore_errors=True)
                    times[kind].append(timed([sys.executable, *jobs(out)[name]], env)[0])
            rows.append([name, *(f"{statistics.median(kind):.2f}" for kind in times), ratios(*times, digits=2)])
            print(rows[-1], file=sys.stderr, flush=True)
        print_table(["whole process", "other, s", "this, s", "other / this"], rows)
    if not args.only or "service" in args.only:
        load(checkouts, args.runs, args.seconds)


def load(checkouts: list[Path], runs: int, seconds: float) -> None:
    """Answers a second of each checkout's service, by the checkout's own script."""
    found: list[list[float]] = [[], []]
    for _ in range(runs):
        for kind, checkout in enumerate(checkouts):
            script = str(checkout / "benchmarks" / "serve_load.py")
            command = [sys.executable, script, "--servers", "medclf", "--seconds", str(seconds)]
            printed = timed(command, {"PYTHONPATH": str(checkout)})[1]
            header, row = (
                next(line.split("|") for line in printed.splitlines() if start in line)
                for start in ("answers/s", "| medclf")
            )
            column = next(n for n, cell in enumerate(header) if "answers/s" in cell)
            found[kind].append(float(row[column]))
    print()
    medians = [f"{statistics.median(kind):.0f}" for kind in found]
    print_table(
        ["service", "other, answers a second", "this", "this / other"],
        [["ONNX Runtime, 64 clients", *medians, ratios(found[1], found[0], digits=2)]],
    )


if __name__ == "__main__":
    main()

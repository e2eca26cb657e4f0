"""Time to the first evaluated model: medclf's head start against the whole job of plain fastai.

    python benchmarks/first_model.py [--runs 3] [--sets hello-world hyperkvasir]

Both end with the same things in hand: a trained network, matrix, most confused, report. Whole processes, in turns, the
cache emptied before each run of ours; the same backbone (EfficientNet-Lite0), weights, images and split.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import hello_world
import hyperkvasir
from side_by_side import print_table, ratios, shared_data

SEEDS = [42, 7, 2026]


def pairs_of(name: str, runs: int, folder: Path) -> tuple[list[dict], list[dict]]:
    """The peer's results and ours, run by run."""
    peer, ours = [], []
    if name == "hello-world":
        data = shared_data() / "hello-world"
        for _ in range(runs):
            ours.append(hello_world.ours(data, 0, folder))
            peer.append(hello_world.peer(data))
    else:
        data = shared_data() / "hyperkvasir-lower-gi"
        for run in range(runs):
            seed = SEEDS[run % len(SEEDS)]
            ours.append(hyperkvasir.ours(data, 0, seed, Path(tempfile.mkdtemp(dir=folder))))
            peer.append(hyperkvasir.peer(data, 5, seed, ours[-1]["run"] / "table.csv"))
    return peer, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=["hello-world", "hyperkvasir"])
    args = parser.parse_args()
    rows = []
    for name in args.sets:
        with tempfile.TemporaryDirectory() as folder:
            peer, ours = pairs_of(name, args.runs, Path(folder))
        for who, results in (("plain fastai", peer), ("medclf, --epochs 0", ours)):
            seconds, inside = ([result[key] for result in results] for key in ("seconds", "inside"))
            rows.append(
                [
                    f"{name}, {who}",
                    f"{statistics.median(seconds):.1f}",
                    ratios([p["seconds"] for p in peer], seconds),
                    f"{statistics.median(inside):.1f}",
                    ratios([p["inside"] for p in peer], inside),
                    ", ".join(right(result) for result in results),
                ]
            )
    print_table(["", "process, s", "fastai / this", "once imported, s", "fastai / this", "right, run by run"], rows)


def right(result: dict) -> str:
    return result["right"] if "right" in result else f"{result['accuracy']:.1%}"


if __name__ == "__main__":
    main()

"""The radiology tutorial's data, chest against abdomen: medclf and plain fastai side by side, in turns.

    python benchmarks/hello_world.py [--runs 3]

Whole processes, import to pages; the cache is emptied before each run of ours.
"""

import argparse
import csv
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import ROOT, last_json, print_table, ratios, shared_data, timed


def ours(data: Path, epochs: int, folder: Path) -> dict:
    run = folder / "run"
    command = [sys.executable, "-m", "medclf", "train", str(data), "--modality", "radiograph", "--overwrite"]
    command += ["--arch", "efficientnet_lite0", "--epochs", str(epochs), "--out", str(run)]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        seconds, _ = timed(command, {"MEDCLF_CACHE": cache})
    facts = json.loads((run / "results.json").read_text())
    right = sum(row[i] for i, row in enumerate(facts["confusion_matrix"]))
    _, table = timed([sys.executable, "-m", "medclf", "predict", str(run), str(data / "TEST"), "--csv"])
    labels = {Path(row["path"]).stem: row["label"] for row in csv.DictReader(io.StringIO(table))}
    test = (labels["chest2"] == "openI_CXR") + (labels["abd2"] == "openI_abd_xray")
    return {
        "seconds": seconds,
        "inside": facts["seconds"],
        "right": f"{right} of {facts['n']}",
        "test": f"{test} of 2",
    }


def peer(data: Path) -> dict:
    seconds, text = timed([sys.executable, str(ROOT / "benchmarks/plain_fastai.py"), str(data), "--epochs", "3"])
    figures = last_json(text)
    return {
        "seconds": seconds,
        "inside": figures["total_s"],
        "right": f"{figures['right']} of {figures['n']}",
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    data = shared_data() / "hello-world"
    found = {"plain fastai, fine_tune(3)": [], "medclf, --epochs 3": [], "medclf, --epochs 0": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            for name, job in zip(
                found,
                [
                    lambda: peer(data),
                    lambda: ours(data, 3, Path(folder)),
                    lambda: ours(data, 0, Path(folder)),
                ],
                strict=True,
            ):
                found[name].append(job())
    base = next(iter(found.values()))
    rows = []
    for name, results in found.items():
        whole, inside = ([r[k] for r in results] for k in ("seconds", "inside"))
        rows.append(
            [
                name,
                f"{statistics.median(whole):.1f}",
                f"{statistics.median(inside):.1f}",
                ratios([r["seconds"] for r in base], whole),
                ratios([r["inside"] for r in base], inside),
                ", ".join(sorted({r["right"] for r in results})),
                ", ".join(sorted({r.get("test", "-") for r in results})),
            ]
        )
    print_table(
        [
            "",
            "process, s",
            "once imported, s",
            "fastai / this, process",
            "once imported",
            "VAL right",
            "TEST right",
        ],
        rows,
    )


if __name__ == "__main__":
    main()

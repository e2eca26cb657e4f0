"""What medclf's own machinery brings a user: whole commands with it and without it, in turns.

    python benchmarks/ablation.py [--runs 5] [--only predict train]

`predict`: one image from a cold start, where the network is built by `models/plain_nets.py`, and where timm (for
EfficientNet-Lite0) or torchvision (for ResNet-34) is imported for it. `train`: chest against abdomen, one epoch, a
fresh cache, as the command line settles the process, and without one of its settings. Each cell is a process of its
own; processor seconds (user and system) are what a busy machine changes least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve_load import drawn, save_untrained
from side_by_side import ROOT, print_table, ratios, shared_data

ARCHS = {"efficientnet_lite0": "timm", "resnet34": "torchvision.models"}
SETTINGS = {
    "as it is": "",
    "memory given back": "parallel.keep_memory = lambda: None",
    "threads wait in OpenMP's own way": "parallel.settle_threads = lambda: None",
}


def command(before: str, *arguments: object) -> list[str]:
    """`medclf ARGUMENTS`, after some Python."""
    code = f"import sys; from medclf import parallel; {before}\nfrom medclf.cli import program; program()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def measured(run: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of a whole process on the clock, and of the processors."""
    with tempfile.TemporaryDirectory(dir=folder) as cache, (folder / "log").open("w") as log:
        start = time.perf_counter()
        process = subprocess.Popen(run, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "MEDCLF_CACHE": cache})
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit((folder / "log").read_text()[-3000:])
    return seconds, used.ru_utime + used.ru_stime


def in_turns(ways: dict[str, list[str]], runs: int, folder: Path) -> list[list[str]]:
    """A row a way: medians, and the ratios to the first way, run by run."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(runs + 1):
        for name, run in ways.items():
            found[name].append(measured(run, folder))
            print(f"{name}: {found[name][-1][0]:.2f} s, {found[name][-1][1]:.2f} s of processors", file=sys.stderr)
    rows, first = [], next(iter(ways))
    for name in ways:
        cells = [name]
        for part in (0, 1):
            own, base = ([one[part] for one in found[which][1:]] for which in (name, first))  # the first warms the disk
            cells += [f"{statistics.median(own):.2f}", ratios(own, base, 2)]
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=["predict", "train"], choices=["predict", "train"])
    args = parser.parse_args()
    header = ["", "s, clock", "this / first", "s, processors", "this / first"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "image.jpg").write_bytes(drawn(1)[0])
        for arch, library in ARCHS.items() if "predict" in args.only else ():
            bundle = save_untrained(arch, folder).rename(folder / f"{arch}.bundle")
            given = ("predict", bundle, folder / "image.jpg")
            ways = {
                f"{arch}, torch alone": command("", *given),
                f"with {library}": command(f"import {library}", *given),
            }
            print_table(header, in_turns(ways, args.runs, folder))
        if "train" in args.only:
            data = shared_data() / "hello-world"
            given = ("train", data, "--modality", "radiograph", "--arch", "efficientnet_lite0", "--epochs", 1)
            given += ("--overwrite", "--out", folder / "run")
            ways = {name: command(before, *given) for name, before in SETTINGS.items()}
            print_table(header, in_turns(ways, args.runs, folder))


if __name__ == "__main__":
    main()

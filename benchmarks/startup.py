"""Start-up: importing medclf against fastai, and the command line's first answers.

    python benchmarks/startup.py [--runs 5]

Whole processes in turns; medians of wall seconds.
"""

import argparse
import statistics
import sys

from side_by_side import print_table, ratios, timed

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import medclf": ["-c", "import medclf"],
    "import fastai.vision.all": ["-c", "import fastai.vision.all"],
    "medclf --help": ["-m", "medclf", "--help"],
    "medclf train --help": ["-m", "medclf", "train", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            found[name].append(timed([sys.executable, *arguments])[0])
    fastai = found["import fastai.vision.all"]
    rows = [[name, f"{statistics.median(times):.2f}", ratios(fastai, times)] for name, times in found.items()]
    print_table(["", "seconds", "fastai / this"], rows)
    loaded = "import sys, medclf; print('torch' in sys.modules)"
    print(f"\n`import medclf` loads torch: {timed([sys.executable, '-c', loaded])[1].strip()}")


if __name__ == "__main__":
    main()

"""Running commands in turns and comparing them: medians and paired ratios, never single timings."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shared_data() -> Path:
    """The real images, or a word about where they should be."""
    folder = Path(os.environ.get("MEDCLF_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"needs the real images in {folder.name}: set MEDCLF_TEST_DATA")
    return folder


def timed(command: list[str], env: dict[str, str] | None = None) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed.

    Raises:
        SystemExit: the command failed; its last words are shown.
    """
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds, done.stdout


def interval_of(values: list[float]) -> tuple[float, float, float]:
    """The mean of several draws, and its 95 % interval by Student's t."""
    from scipy.stats import t

    mean, n = statistics.mean(values), len(values)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else float("inf")
    return mean, mean - half, mean + half


def last_json(text: str) -> dict:
    """The last line of a command's output that is a JSON object."""
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


def ratios(peer: list[float], ours: list[float], digits: int = 1) -> str:
    """Median of the ratios pair by pair, and their range."""
    pairs = sorted(a / b for a, b in zip(peer, ours, strict=True))
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(pairs), pairs[0], pairs[-1]))
    return f"{middle} ({low} to {high})"


def print_table(header: list[str], rows: list[list[object]]) -> None:
    """A Markdown table, as docs/benchmarks.md holds it."""
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")

"""How fast the report page of a large validation set opens in Chromium, from disk.

The predictions are drawn; the pictures are real where --data names a folder of images, else drawn. Each image has five
neighbours among as many training images, so the page carries all that a real one carries.

    python benchmarks/page_10000.py --data ../shared/data/hyperkvasir-lower-gi
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from side_by_side import print_table

from medclf.demo_images import draw_endoscopy
from medclf.images.reading import read_display
from medclf.reporting.report import render
from medclf.results.predictions import Predictions
from medclf.results.results import summarize

VOCAB = [f"class {i}" for i in range(8)]


def draw_predictions(n: int) -> Predictions:
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(VOCAB), n)
    logits = rng.normal(size=(n, len(VOCAB)))
    logits[np.arange(n), y] += 3
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = pd.DataFrame(
        {
            "path": [f"{VOCAB[c]}/image-{i:05}.jpg" for i, c in enumerate(y)],
            "partition": "valid",
            "patient": [f"p{i // 3}" for i in range(n)],
            "sex": rng.choice(["f", "m"], n),
            "age": rng.integers(20, 90, n),
        }
    )
    return Predictions(VOCAB, False, y, probs, -np.log(probs[np.arange(n), y]), table)


def reader(data: str | None, folder: Path) -> Callable[[Any], np.ndarray]:
    source = Path(data) if data else draw_endoscopy(folder / "drawn", n_per_class=10, size=(256, 256))
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:200]
    pixels = [read_display(path, 3) for path in files]
    return lambda row: pixels[int(str(row["path"])[-9:-4]) % len(pixels)]


def open_page(browser: Any, page: Path) -> tuple[float, float]:
    """Seconds until the matrix stands there, and until the first sixty images do."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    tab = context.new_page()
    begun = time.perf_counter()
    tab.goto(page.as_uri(), wait_until="commit")
    tab.wait_for_selector("#matrix button")
    matrix = time.perf_counter() - begun
    tab.wait_for_function("[...document.querySelectorAll('#gallery img')].filter((i) => i.complete).length >= 6")
    tab.wait_for_function("document.querySelectorAll('#gallery img').length >= 60")
    images = time.perf_counter() - begun
    context.close()
    return matrix, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", help="folder of images to take pictures from")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    predictions = draw_predictions(options.images)
    table = predictions.to_frame()
    train = [f"{VOCAB[i % 8]}/train-{i:05}.jpg" for i in range(options.images)]
    rng = np.random.default_rng(1)
    table["neighbours"] = [[train[i] for i in rng.integers(0, len(train), 5)] for _ in range(len(table))]
    labels = {path: path.partition("/")[0] for path in train}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        facts = summarize(predictions, n_boot=200)
        made = time.perf_counter()
        read = reader(options.data, Path(folder))
        page = render(facts, table, Path(folder) / "report.html", read=read, labels=labels)
        written = time.perf_counter() - made
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            times = [open_page(browser, page) for _ in range(options.repeats)]
            version = browser.version
            browser.close()
        megabytes = page.stat().st_size / 1e6
    matrix, images = ([t[k] for t in times] for k in (0, 1))
    print(f"Chromium {version}, {options.images} images, median (range) of {options.repeats} openings\n")
    rows = [["page", f"{megabytes:.1f} MB"]]
    rows.append(["metrics, page written in", f"{made - begun:.1f} s, {written:.1f} s"])
    for name, seconds in (("until the matrix", matrix), ("until the first images", images)):
        rows.append([name, f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"])
    print_table(["", ""], rows)


if __name__ == "__main__":
    main()

"""`medclf audit` of ever more images: whether what one image costs stays the same, and whether twins are still found.

    python benchmarks/audit_scale.py [--sizes 500,1000,2000,10000] [--width 620] [--height 530]

Endoscopy-like frames are drawn (four labels, every frame its own) and enlarged to the size that HyperKvasir's have;
one in fifty gets a copy that was cropped, re-lit, mirrored at times and stored at JPEG quality 60, under another
label. Each row is one `medclf audit FOLDER --out OUT` as a process of its own: reading, fingerprints, the embedding of
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageOps
from side_by_side import print_table, timed

from medclf.demo_images import CLASSES, draw_frame

EVERY = 50  # one image in so many has a copy
COPIES = "copies"


def draw(folder: Path, first: int, last: int, size: tuple[int, int]) -> None:
    """Frames of these numbers, and the copies of some."""

    def one(number: int) -> None:
        label, random = CLASSES[number % len(CLASSES)], np.random.default_rng([7, number])
        path = folder / label / f"{number:05d}.jpg"
        image = draw_frame(label, random, (320, 288)).resize(size, Image.Resampling.BICUBIC)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)
        if number % EVERY == 0:
            changed(image, random).save(folder / COPIES / path.name, quality=60)

    (folder / COPIES).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(first, last)))


def changed(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Cropped to 85-95 % of each side, re-lit, and mirrored at times."""
    share = random.uniform(0.85, 0.95)
    width, height = round(image.width * share), round(image.height * share)
    x, y = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    image = ImageEnhance.Brightness(image.crop((x, y, x + width, y + height))).enhance(random.uniform(0.75, 1.25))
    return ImageOps.mirror(image) if random.random() < 0.5 else image


def audited(folder: Path) -> list[object]:
    """One row of the table."""
    n = sum(1 for _ in folder.rglob("*.jpg"))
    planted = len(list((folder / COPIES).iterdir()))
    with tempfile.TemporaryDirectory() as out:
        seconds, _ = timed([sys.executable, "-m", "medclf", "audit", str(folder), "--out", out, "--overwrite"])
        facts = json.loads((Path(out) / "audit.json").read_text(encoding="utf-8"))
        found = pd.read_csv(Path(out) / "audit.csv", keep_default_na=False)
    assert "embedding" in facts["searched_by"], "the embedding pass is part of it: install medclf[offline]"
    pairs = found[found["kind"] == "near-duplicate"]
    right = (pairs["path_a"].map(lambda p: Path(p).name) == pairs["path_b"].map(lambda p: Path(p).name)).sum()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [
        f"{n:,}",
        f"{seconds:.0f}",
        f"{1000 * seconds / n:.0f}",
        f"{facts['n_pairs_compared'] / n:.1f}",
        f"{right} of {planted}",
        len(pairs) - right,
        f"{peak:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="500,1000,2000,10000")
    parser.add_argument("--width", type=int, default=620)
    parser.add_argument("--height", type=int, default=530)
    options = parser.parse_args()
    rows, drawn = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted(map(int, options.sizes.split(","))):
            draw(Path(folder), drawn, size, (options.width, options.height))
            drawn = size
            rows.append(audited(Path(folder)))
            print(f"{rows[-1][0]} images: {rows[-1][1]} s", flush=True)
    print_table(["images", "seconds", "ms an image", "pairs compared an image", "twins found", "others", "MB"], rows)


if __name__ == "__main__":
    main()

"""Watching a service: how soon simulated changes are found, false alarms, and accuracy estimated without labels.

    python benchmarks/watch.py [--streams 50] [--simulations 100] [--images 80]

`hyperkvasir-lower-gi`, features of the frozen backbone. A linear probe and the out-of-distribution detector are
fitted on a third of the images; half of the others are the reference. An unchanged stream is drawn, with replacement,
from all of the others. A changed one is 400 of those, then 200 drawn from images that were changed as the table says:
`found after` is the number of changed images when the first alarm came. Then accuracy is estimated without labels: each
time another third trains, half of the others are the reference, and the other half are the images that come; where the
rarest class is to come twice as often, only half of the other classes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from label_next import Data, read_data
from PIL import Image, ImageFilter, ImageOps
from side_by_side import print_table, shared_data

from medclf.dataset.folds import folds
from medclf.dataset.labels import usable
from medclf.dataset.scan import scan
from medclf.images.reading import prepare
from medclf.inference.sketches import measures_of, sketch
from medclf.metrics.drift import estimate_accuracy, find_drift, stream_of
from medclf.metrics.ood import ood_fit
from medclf.models.features import embed_table
from medclf.models.linear_probe import fit_linear

Change = Callable[[Image.Image], Image.Image]


def _boxed(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.paste((20, 160, 60), (0, 150, 74, 224))
    return image


def _noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 25, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _gamma(power: float) -> Change:
    return lambda image: image.point(lambda value: round(255 * (value / 255) ** power))


CHANGES: dict[str, Change] = {
    "gamma 0.6": _gamma(0.6),
    "gamma 1.7": _gamma(1.7),
    "crop to the middle 60 %": lambda image: image.crop((45, 45, 179, 179)).resize((224, 224)),
    "a box painted": _boxed,
    "turned by 90 degrees": lambda image: image.rotate(90),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2.5)),
    "noise": _noisy,
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "inverted": ImageOps.invert,
}


def changed_features(paths: list[Path], change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Features and pixels of images after a change."""
    with tempfile.TemporaryDirectory() as folder:
        pixels = []
        for number, path in enumerate(paths):
            image = change(Image.fromarray(prepare(path, 224)))
            image.save(Path(folder) / f"{number}.png")
            pixels.append(np.asarray(image))
        table = pd.DataFrame({"path": [f"{number}.png" for number in range(len(paths))]})
        table.attrs["root"] = folder
        return embed_table(table, bs=16, progress=False), np.stack(pixels)


def parted(data: Data, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A third of the images to train on, and the others."""
    part = folds(data.y, None, 3, seed=seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part != 0)


def answering(data: Data, train: np.ndarray, vocab: list[str]) -> Callable[[np.ndarray, np.ndarray], list[dict]]:
    """From features and pixels to sketches of what a linear probe, fitted on `train`, says of them."""
    fit = fit_linear(data.last[train], data.y[train], data.n_classes)
    detector = ood_fit(data.last[train])

    def rows_of(features: np.ndarray, pixels: np.ndarray) -> list[dict]:
        logits = features @ fit.weight.T + fit.bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        probs = powers / powers.sum(1, keepdims=True)
        measures = measures_of(detector, features, pixels)
        answers = [SimpleNamespace(probs=dict(zip(vocab, row, strict=True)), flags=()) for row in probs]
        return [sketch(answer, one, {}, "m") for answer, one in zip(answers, measures, strict=True)]

    return rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--images", type=int, default=80)
    options = parser.parse_args()
    data = read_data("gi")
    table = usable(scan(shared_data() / "hyperkvasir-lower-gi", check_pixels=False, progress=False))
    paths = [Path(table.attrs["root"]) / path for path in table["path"]]
    train, others = parted(data, 0)
    rng = np.random.default_rng(0)
    reference_rows = rng.permutation(others)[: len(others) // 2]
    vocab = [str(code) for code in range(data.n_classes)]
    rows_of = answering(data, train, vocab)
    pixels = np.stack([prepare(path, 224) for path in paths])
    plain = rows_of(data.last, pixels)
    reference = stream_of([plain[row] for row in reference_rows], vocab)

    def drawn(rows: np.ndarray, n: int) -> list[dict]:
        return [plain[row] for row in rng.choice(rows, n)]

    alarms = [bool(find_drift(reference, stream_of(drawn(others, 2000), vocab))) for _ in range(options.streams)]
    if alarms:
        print(f"unchanged: {sum(alarms)} of {len(alarms)} streams of 2,000 images raised an alarm", flush=True)

    chosen = rng.permutation(others)[: options.images]
    found: dict[str, list[dict]] = {}
    for name, change in CHANGES.items():
        features, after = changed_features([paths[row] for row in chosen], change)
        kept = rows_of(features, after)
        found[name] = [kept[place] for place in rng.integers(0, len(chosen), 200)]
    rare = others[data.y[others] == np.bincount(data.y[others]).argmin()]
    rest = np.setdiff1d(others, rare)
    n_rare = round(200 * min(1, 3 * len(rare) / len(others)))
    mixed = drawn(rare, n_rare) + drawn(rest, 200 - n_rare)
    found["prevalence of a class times 3"] = [mixed[place] for place in rng.permutation(200)]
    flood = drawn(others, 140) + [plain[chosen[0]]] * 60
    found["one image is 30 % of what comes"] = [flood[place] for place in rng.permutation(200)]
    brain = read_data("brain")
    other = usable(scan(shared_data() / "brain-mri", check_pixels=False, progress=False))
    few = rng.permutation(len(brain.y))[:200]
    shown = np.stack([prepare(Path(other.attrs["root"]) / other["path"].iloc[row], 224) for row in few])
    found["another organ"] = rows_of(brain.last[few], shown)
    rows = []
    for name, changed in found.items():
        stream = stream_of(drawn(others, 400) + changed, vocab)
        first = [alarm for alarm in find_drift(reference, stream) if alarm.at > 400]
        rows.append([name, first[0].at - 400 if first else "not found", first[0].what if first else ""])
    print_table(["change", "found after", "by"], rows)

    asked: dict[str, list[bool]] = {"unchanged": [], "prevalence times 2": []}
    for draw in range(options.simulations):
        train, others = parted(data, draw)
        answers = answering(data, train, vocab)(data.last, pixels)
        reference_rows = rng.permutation(others)[: len(others) // 2]
        known = stream_of([answers[row] for row in reference_rows], vocab)
        came = np.setdiff1d(others, reference_rows)
        rare = np.flatnonzero(data.y == np.bincount(data.y[others]).argmin())
        rest = rng.permutation(np.setdiff1d(came, rare))
        twice = np.concatenate([np.intersect1d(came, rare), rest[: len(rest) // 2]])
        for name, picked in zip(asked, (came, twice), strict=True):
            stream = stream_of([answers[row] for row in picked], vocab)
            estimate = estimate_accuracy(known, known.pred == data.y[reference_rows], stream)
            if estimate.value == estimate.value:
                asked[name].append(estimate.low <= (stream.pred == data.y[picked]).mean() <= estimate.high)
    for name, held in asked.items():
        share = f"{np.mean(held):.0%}" if held else "none"
        print(f"accuracy, {name}: said in {len(held)} of {options.simulations}, within its interval in {share}")


if __name__ == "__main__":
    main()

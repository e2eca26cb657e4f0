"""The loaders alone: real endoscopy images enlarged to 720x576 and 1280x1024, read, resized to 224 and augmented.

    python benchmarks/loader.py [--images 400] [--runs 3] [--epochs 3] [--sizes 720x576 1280x1024]

An epoch is one pass over the training images and one over the validation images, as in any training. The first one
includes all that is done once: listing, checking, hashing, building the cache. Each loader in a process of its own, in
turns, with as many threads as there are cores. Batches are of 64 images, fastai's default, where nothing else is said;
medclf's are of its own default, 16 on a processor. MONAI is measured where it is installed (`pip install monai`).
"""

import argparse
import gc
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import last_json, print_table, ratios, shared_data, timed

STATS = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZE, BS = 224, 64
N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def enlarge(folder: Path, n: int, size: tuple[int, int]) -> Path:
    """`n` of the real images as JPEGs of one size, in class folders."""
    from PIL import Image

    files = sorted((shared_data() / "hyperkvasir-lower-gi").glob("*/*.jpg"))
    for i in range(n):
        source = files[i * len(files) // n]
        target = folder / source.parent.name / f"{i:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(target, quality=90)
    os.sync()  # so that nobody's first epoch waits for these files to reach the disk
    return folder


def plain_fastai(data: Path, workers: int, bs: int = BS):
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms

    tfms = [*aug_transforms(size=SIZE), Normalize.from_stats(*STATS, cuda=False)]
    dls = ImageDataLoaders.from_folder(
        data, valid_pct=0.2, seed=42, item_tfms=Resize(460), batch_tfms=tfms, bs=bs, num_workers=workers
    )
    return [dls.train, dls.valid]


def plain_fastai_16(data: Path, workers: int):
    return plain_fastai(data, workers, bs=16)


def medclf(data: Path, workers: int):
    """With fastai's own augmentation: the parameters of `aug_transforms()`, not those of a preset."""
    from medclf.learn.augment import Augment
    from medclf.learn.dataloaders import MedDataLoaders
    from medclf.learn.presets import MedResize, QuickNormalize

    augment = Augment(
        (SIZE, SIZE), max_rotate=10, flip_lr=True, max_zoom=1.1, max_warp=0.2, brightness=0.2, contrast=0.2
    )
    tfms = [augment, QuickNormalize.from_stats(*STATS, cuda=False)]  # as med_learner adds it
    dls = MedDataLoaders.from_folder(
        data, item_tfms=MedResize(SIZE, train_scale=1.15), batch_tfms=tfms, cache=True, progress=False
    )
    return [dls.train, dls.valid]


def medclf_endoscopy(data: Path, workers: int):
    """With the preset for endoscopy, which turns all round and changes colours too."""
    from medclf.learn.dataloaders import MedDataLoaders
    from medclf.learn.presets import QuickNormalize, endoscopy_tfms

    item_tfms, batch_tfms = endoscopy_tfms(SIZE)
    batch_tfms.append(QuickNormalize.from_stats(*STATS, cuda=False))
    dls = MedDataLoaders.from_folder(data, item_tfms=item_tfms, batch_tfms=batch_tfms, cache=True, progress=False)
    return [dls.train, dls.valid]


def torchvision_loop(data: Path, workers: int):
    """torchvision's reference for classification: RandomResizedCrop, flip; Resize and CenterCrop to validate."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets
    from torchvision.transforms import v2

    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*STATS)]
    train = datasets.ImageFolder(
        data, v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), *end])
    )
    valid = datasets.ImageFolder(data, v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(SIZE), *end]))
    held = set(range(0, len(train), 5))
    parts = Subset(train, [i for i in range(len(train)) if i not in held]), Subset(valid, sorted(held))
    return [DataLoader(part, BS, shuffle=i == 0, num_workers=workers) for i, part in enumerate(parts)]


def monai(data: Path, workers: int, cached: bool = True):
    """The transforms of MONAI's classification tutorial, with a Resize in front, since these images are large."""
    from monai.data import CacheDataset, DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirst,
        LoadImage,
        RandFlip,
        RandRotate,
        RandZoom,
        Resize,
        ScaleIntensity,
    )

    files = sorted(str(path) for path in data.glob("*/*.jpg"))
    first = [LoadImage(image_only=True), EnsureChannelFirst(), ScaleIntensity(), Resize((SIZE, SIZE))]
    draws = [
        RandRotate(range_x=0.26, prob=0.5, keep_size=True),
        RandFlip(spatial_axis=0, prob=0.5),
        RandZoom(min_zoom=0.9, max_zoom=1.1, prob=0.5),
    ]
    loaders = []
    for names, tfms in (
        ([f for i, f in enumerate(files) if i % 5], first + draws),
        (files[::5], first),
    ):
        if cached:
            part = CacheDataset(names, Compose(tfms), num_workers=N_CORES, progress=False)
        else:
            part = Dataset(names, Compose(tfms))
        loaders.append(DataLoader(part, batch_size=BS, shuffle=True, num_workers=workers))
    return loaders


def monai_live(data: Path, workers: int):
    return monai(data, workers, cached=False)


LOADERS = {
    "plain fastai": (plain_fastai, 0),
    "plain fastai, batches of 16": (plain_fastai_16, 0),
    "plain fastai, a worker a core": (plain_fastai, N_CORES),
    "torchvision's reference, a worker a core": (torchvision_loop, N_CORES),
    "MONAI, a worker a core": (monai_live, N_CORES),
    "MONAI CacheDataset": (monai, 0),
    "medclf, fastai's augmentation": (medclf, 0),
    "medclf, its own for endoscopy": (medclf_endoscopy, 0),
}


def measure(name: str, data: Path, epochs: int) -> None:
    """Print the seconds of the first epoch and of each later one, imports left out."""
    import torch

    torch.set_num_threads(N_CORES)
    make, workers = LOADERS[name]
    _warm(make, workers)
    gc.collect()  # the imports' garbage is no loader's: going through it takes 0.3 s, wherever it falls
    start = time.perf_counter()
    loaders = make(data, workers)
    seconds = []
    for _ in range(epochs):
        for loader in loaders:
            for batch in loader:
                assert len(batch)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    print(json.dumps({"first": seconds[0], "later": statistics.median(seconds[1:] or seconds)}))


def _warm(make, workers: int) -> None:
    """Import what the loader needs and let libraries set themselves up, on ten small images."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for label in "ab":
            (Path(folder) / label).mkdir()
            for i in range(5):
                pixels = np.random.default_rng(i).integers(0, 255, (300, 300, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(Path(folder) / label / f"{i}.jpg")
        for loader in make(Path(folder), workers):
            for _ in loader:
                pass


def compare_pixels(data: Path) -> str:
    """The largest and the mean difference from fastai's transforms, for the same parameters, on real images."""
    import numpy as np
    import torch
    from fastai.vision.augment import Brightness, Contrast, Flip, Rotate, TensorImage, Warp, Zoom, setup_aug_tfms

    from medclf.images.augment_ops import augment_bytes
    from medclf.images.reading import prepare
    from medclf.learn.augmentations import magnification, mirroring, perspective, rotation

    n, rng = 16, np.random.default_rng(0)
    files = sorted(data.glob("*/*.jpg"))[:n]
    pixels = np.stack([prepare(file, 258) for file in files])
    draws = {
        "flip": rng.integers(0, 2, n).astype(np.float32),
        "degrees": rng.uniform(-10, 10, n).astype(np.float32),
        "zoom": rng.uniform(1, 1.1, n).astype(np.float32),
        "col": rng.random(n).astype(np.float32),
        "row": rng.random(n).astype(np.float32),
        "warp_x": rng.uniform(-0.2, 0.2, n).astype(np.float32),
        "warp_y": rng.uniform(-0.2, 0.2, n).astype(np.float32),
        "change": rng.uniform(0.4, 0.6, n).astype(np.float32),
        "factor": np.exp(rng.uniform(np.log(0.8), np.log(1.25), n)).astype(np.float32),
    }
    t = {name: torch.from_numpy(values) for name, values in draws.items()}

    def draw(name):
        return lambda x: t[name]

    size = {"size": SIZE}
    tfms = [
        Flip(p=1.0, draw=draw("flip"), **size),
        Warp(p=1.0, draw_x=draw("warp_x"), draw_y=draw("warp_y"), **size),
        Rotate(max_deg=10, p=1.0, draw=draw("degrees"), **size),
        Zoom(max_zoom=1.1, p=1.0, draw=draw("zoom"), draw_x=draw("col"), draw_y=draw("row"), **size),
        Brightness(p=1.0, draw=draw("change")),
        Contrast(p=1.0, draw=draw("factor")),
    ]
    peer = TensorImage(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    for tfm in setup_aug_tfms(tfms):
        peer = tfm(peer, split_idx=0)
    geometry = perspective(t["warp_x"], t["warp_y"]) @ mirroring(1 - 2 * t["flip"], torch.ones(n))
    matrices = geometry @ rotation(t["degrees"]) @ magnification(t["zoom"], 2 * t["col"] - 1, 2 * t["row"] - 1)
    light = torch.logit(t["change"]).numpy(), draws["factor"]
    ours = augment_bytes(pixels, matrices.numpy(), (SIZE, SIZE), "reflection", *light)
    difference = np.abs(ours - 255 * peer.as_subclass(torch.Tensor).permute(0, 2, 3, 1).numpy())
    share = (difference <= 1).mean()
    return (
        f"Augmented pixels against fastai's for the same parameters, {n} images, in levels of 255: mean difference "
        f"{difference.mean():.2f}, {share:.2%} within 1, largest {difference.max():.1f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["720x576", "1280x1024"])
    parser.add_argument("--only", nargs="+", help="words in the names of the loaders to measure")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], Path(args.one[1]), args.epochs)
        return
    names = [n for n in LOADERS if "MONAI" not in n or importlib.util.find_spec("monai")]
    if args.only:
        names = [n for n in names if n == "plain fastai" or any(word in n for word in args.only)]
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            data = enlarge(Path(folder) / "data", args.images, (width, height))
            found: dict[str, list[dict]] = {name: [] for name in names}
            for _ in range(args.runs):
                for name in names:
                    command = [sys.executable, __file__, "--epochs", str(args.epochs), "--one", name, str(data)]
                    with tempfile.TemporaryDirectory(dir=folder) as cache:
                        _, text = timed(command, {"MEDCLF_CACHE": cache})
                    found[name].append(last_json(text))
            print(f"\n{size}, {args.images} images, {N_CORES} cores:\n")
            _print(found, args.images)
            print(f"\n{compare_pixels(data)}")


def _print(found: dict[str, list[dict]], n: int) -> None:
    base = next(iter(found.values()))
    rows = []
    for name, results in found.items():
        cells: list[object] = [name]
        for key in ("first", "later"):
            seconds = [result[key] for result in results]
            cells += [f"{1000 * statistics.median(seconds) / n:.2f}", ratios([b[key] for b in base], seconds)]
        rows.append(cells)
    print_table(["", "first epoch, ms an image", "fastai / this", "later epochs, ms an image", "fastai / this"], rows)


if __name__ == "__main__":
    main()

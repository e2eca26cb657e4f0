"""Where is the finding? A detector trained on few boxes beside the Grad-CAM of a classifier trained on the same images.

    python benchmarks/boxes.py drawn [--boxes 50] [--epochs 20] [--size 160] [--seeds 0]
    python benchmarks/boxes.py hyperkvasir [--epochs 20] [--size 224]

drawn: growths of the drawn endoscopy set whose place is known. Half as many images again without one are trained on;
60 fresh frames with a growth and 30 without are looked at. hyperkvasir: its 150 polyps with boxes and the images
without polyps of hyperkvasir-lower-gi, in three folds by image. Hit: the centre of the image's surest box (or of
Grad-CAM's hottest box) lies in the finding. Every part that is done is kept in --out and not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from saliency import Recorded
from side_by_side import print_table, shared_data

from medclf import demo_images
from medclf.images.heatmap import hottest_box

SIDES = ["x_min", "y_min", "x_max", "y_max"]
NAMES = ("first_hit_rate", "iou_hit_rate", "hit_rate", "false_alarms", "map50", "map")


def draw_growths(root: Path, n_train: int, n_test: int, side: int, seed: int) -> Path:
    """train/LABEL/*.jpg and valid/LABEL/*.jpg, half as many without a growth as with one, and boxes.csv."""
    rows = []
    for part, count, salt in (("train", n_train, 7), ("valid", n_test, 99)):
        for number in range(count + count // 2):
            found = number < count
            pair = (("polyp", demo_images._polyp), ("dyed", demo_images._dyed))
            plain = (("normal", demo_images._normal), ("inflamed", demo_images._inflamed))
            label, draw = (pair if found else plain)[number % 2]
            canvas = Recorded(np.random.default_rng([salt, seed, number]), (side, side))
            draw(canvas)
            file = root / part / label / f"{part}-{number:03}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            canvas.finished().save(file, quality=90)
            if found:
                box = hottest_box(np.asarray(canvas.where, np.float32))
                rows.append([file.relative_to(root).as_posix(), "growth", *box])
    pd.DataFrame(rows, columns=["path", "label", *SIDES]).to_csv(root / "boxes.csv", index=False)
    return root / "boxes.csv"


def kvasir_fold(root: Path, fold: int) -> Path:
    """Copies of the images, a third of each kind in valid; returns the file of boxes."""
    data = shared_data()
    files = [(path, "finding") for path in sorted((data / "hyperkvasir-boxes" / "images").glob("*.jpg"))]
    for folder in sorted((data / "hyperkvasir-lower-gi").iterdir()):
        if folder.is_dir() and folder.name != "polyp":
            files += [(path, folder.name) for path in sorted(folder.glob("*.jpg"))]
    order = np.random.default_rng(0).permutation(len(files))
    for place, row in enumerate(order):
        path, label = files[row]
        target = root / ("valid" if place % 3 == fold else "train") / label / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return data / "hyperkvasir-boxes" / "bounding-boxes.json"


def detect(root: Path, boxes: Path, args: argparse.Namespace) -> dict[str, float]:
    import medclf

    settings = {"arch": args.arch, "size": args.size, "epochs": args.epochs, "modality": "endoscopy"}
    start = time.perf_counter()
    run = medclf.train(root, boxes=boxes, out=root / "RUN", split="folders", overwrite=True, **settings)
    found = json.loads((run / "results.json").read_text())["boxes"]
    return {name: found[name]["value"] for name in NAMES} | {"seconds": time.perf_counter() - start}


def look(root: Path, boxes: Path, args: argparse.Namespace) -> dict[str, float]:
    """A linear probe's Grad-CAM on the same images: finding against none."""
    from medclf import MedDataLoaders, med_learner, save_bundle
    from medclf.dataset.boxes import read_boxes
    from medclf.dataset.scan import scan
    from medclf.inference.bundle import load_bundle
    from medclf.run.boxes import hottest

    table = scan(root, progress=False)
    given = read_boxes(boxes, table)
    found = set(given.table["path"])
    (name,) = given.vocab
    table["label"] = [name if path in found else "without" for path in table["path"]]
    start = time.perf_counter()
    dls = MedDataLoaders.from_table(table, modality="endoscopy", size=args.size, split="folders", seed=42)
    learn = med_learner(dls, args.arch)
    learn.fit_head()
    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(save_bundle(learn, Path(folder) / "b.bundle", calibration={}))
        valid = list(table[table["partition"] == "valid"]["path"])
        truth = given.table[given.table["path"].isin(valid)]
        measured = hottest(bundle, root, valid, truth)
    return {name: one.value for name, one in measured.items()} | {"seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["drawn", "hyperkvasir"])
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("boxes-benchmark.json"))
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    parts = args.seeds if args.task == "drawn" else range(3)
    for part in parts:
        for method, measure in (("detector", detect), ("grad-cam", look)):
            key = f"{args.task} {args.arch} {args.size} {args.epochs} {args.boxes} {part} {method}"
            if key in kept:
                continue
            with tempfile.TemporaryDirectory() as name:
                root = Path(name) / "images"
                if args.task == "drawn":
                    boxes = draw_growths(root, args.boxes, args.test, args.size, part)
                else:
                    boxes = kvasir_fold(root, part)
                kept[key] = measure(root, boxes, args)
            args.out.write_text(json.dumps(kept, indent=1))
    rows = []
    for method in ("detector", "grad-cam"):
        mine = [value for key, value in kept.items() if key.startswith(args.task) and key.endswith(method)]
        means = {
            name: np.mean([one[name] for one in mine if name in one])
            for name in (*NAMES, "seconds")
            if any(name in one for one in mine)
        }
        rows.append(
            [method, len(mine), *(f"{means[name]:.2f}" if name in means else "" for name in (*NAMES, "seconds"))]
        )
    print_table(["", "runs", *NAMES, "seconds"], rows)


if __name__ == "__main__":
    main()

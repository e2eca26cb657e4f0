"""Where is the finding? A detector trained on few boxes beside a classifier's Grad-CAM and torchvision's own recipe.

    python benchmarks/boxes.py drawn [--boxes 50] [--epochs 20] [--size 160] [--seeds 0]
    python benchmarks/boxes.py hyperkvasir [--epochs 20] [--size 160] [--folds 0 1 2]

drawn: growths of the drawn endoscopy set whose place is known. Half as many images again without one are trained on;
60 fresh frames with a growth and 30 without are looked at. hyperkvasir: its 150 polyps with boxes and the images
without polyps of hyperkvasir-lower-gi, in three folds by image. Hit: the centre of the image's surest box (or of
Grad-CAM's hottest box) lies in the finding. Every part that is done is kept in --out and not done again.

torchvision: its FCOS with its own pyramid, head, anchors and transforms on the same backbone and weights, trained as
its references/detection does (SGD at 0.01 for 16 images, warm-up, a tenth after 16 and 22 of 26 parts, flips), for as
many processor seconds as the detector took (so give all one thread: OMP_NUM_THREADS=1). on-a-classifier: the detector
with the light neck on a classifier's frozen backbone; the classifier's labels are compared with those that it gives on
the detector's backbone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from saliency import Recorded
from side_by_side import interval_of, print_table, shared_data
from torch import Tensor, nn

from medclf import demo_images
from medclf.images.heatmap import hottest_box
from medclf.metrics.detection import Detections, centres_in
from medclf.metrics.intervals import Sampling, critical

SIDES = ["x_min", "y_min", "x_max", "y_max"]
NAMES = ("first_hit_rate", "iou_hit_rate", "hit_rate", "false_alarms", "map50", "map")
DETECTOR, TORCHVISION, ON_CLASSIFIER, GRAD_CAM = "detector", "torchvision", "on-a-classifier", "grad-cam"
METHODS = {
    "drawn": (DETECTOR, GRAD_CAM),
    "hyperkvasir": (DETECTOR, TORCHVISION, ON_CLASSIFIER, GRAD_CAM),
}
PARTS, STEPS = 26, (16, 22)  # of torchvision's reference: epochs, and after which of them the rate is a tenth
BATCH, RATE = 8, 0.01 * 8 / 16


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


def detect(root: Path, boxes: Path, args: argparse.Namespace) -> dict[str, Any]:
    import medclf

    settings = {"arch": args.arch, "size": args.size, "epochs": args.epochs, "modality": "endoscopy"}
    start = time.process_time()
    run = medclf.train(root, boxes=boxes, out=root / "RUN", split="folders", overwrite=True, **settings)
    return _figures(run) | {"seconds": time.process_time() - start}


def _figures(run: Path) -> dict[str, Any]:
    """Of a RUN: the metrics, and which findings the surest box of their image hits."""
    found = json.loads((run / "results.json").read_text())["boxes"]
    rows = pd.read_csv(run / "boxes.csv")
    truth, predicted = rows[rows["kind"] == "given"], rows[rows["kind"] == "predicted"]
    return {name: found[name]["value"] for name in NAMES} | {"hits": hits_of(truth, predicted)}


def hits_of(truth: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, list[int]]:
    """Of each image with findings: which of them the surest box of the image hits."""
    found = {}
    for path, rows in truth.sort_values(["path", *SIDES]).groupby("path"):
        surest = predicted[predicted["path"] == path].nlargest(1, "prob")
        inside = centres_in(surest[SIDES].to_numpy(float), rows[SIDES].to_numpy(float))
        found[str(path)] = inside.any(axis=0).astype(int).tolist()
    return found


class _Pyramid(nn.Module):
    """torchvision's pyramid of 256 channels, with its two further levels, on the last three stages of our backbone."""

    out_channels = 256

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        from medclf.models.stages import stages

        self.body, self.stages = body, list(stages(nn.Sequential(body, nn.Identity())))[:-1]
        for module in body.modules():
            if isinstance(module, nn.BatchNorm2d):  # its references keep them as they are: FrozenBatchNorm2d
                module.requires_grad_(False)
        body.eval()
        widths = [one.shape[1] for one in self._maps(torch.zeros(1, 3, 64, 64))]
        self.pyramid = FeaturePyramidNetwork(widths, 256, LastLevelP6P7(256, 256))

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]

    def train(self, mode: bool = True) -> _Pyramid:
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.pyramid({str(place): one for place, one in enumerate(self._maps(x))})


def by_torchvision(root: Path, boxes: Path, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """torchvision's recipe for as many epochs as fit into the time that ours took."""
    from torchvision.models.detection import FCOS

    from medclf.dataset.boxes import read_boxes
    from medclf.dataset.scan import scan
    from medclf.images.preprocessing import Preprocessing
    from medclf.models.backbones import build_body, describe

    begun = time.process_time()
    table = scan(root, progress=False)
    given = read_boxes(boxes, table).table
    read = Preprocessing((args.size, args.size)).read
    items: dict[str, list[tuple[str, Tensor, dict[str, Tensor]]]] = {"train": [], "valid": []}
    for path, part in zip(table["path"], table["partition"], strict=True):
        pixels = torch.from_numpy(np.ascontiguousarray(read(root / path))).permute(2, 0, 1)
        corners = torch.tensor(given.loc[given["path"] == path, SIDES].to_numpy(np.float32)).reshape(-1, 4)
        items[part].append((path, pixels, {"boxes": corners, "labels": torch.ones(len(corners), dtype=torch.int64)}))
    torch.manual_seed(0)
    mean, std = describe(args.arch, "default").normalization(3)
    sides = {"min_size": args.size, "max_size": round(args.size * 1333 / 800)}
    body = build_body(args.arch, weights="default", n_in=3)
    net = FCOS(_Pyramid(body), 2, image_mean=list(mean), image_std=list(std), score_thresh=0.05, **sides)
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(wanted, lr=RATE, momentum=0.9, weight_decay=1e-4)
    draw, epoch, epochs = np.random.default_rng(0), 0, PARTS
    net.train()
    started = time.process_time()
    while epoch < epochs:
        order = draw.permutation(len(items["train"]))
        batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
        drop = 0.1 ** sum(epoch >= epochs * step / PARTS for step in STEPS)
        for number, batch in enumerate(batches):
            warm = min(1.0, 0.001 + number / max(len(batches) - 1, 1)) if epoch == 0 else 1.0
            for group in optimizer.param_groups:
                group["lr"] = RATE * drop * warm
            images, targets = zip(*(_flipped(*items["train"][row][1:], draw) for row in batch), strict=True)
            loss = sum(net(list(images), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch += 1
        each = (time.process_time() - started) / epoch
        epochs = max(1, round((seconds - (started - begun)) / each))
    spent = time.process_time() - begun
    net.eval()
    rows = []
    with torch.inference_mode():
        for path, pixels, _ in items["valid"]:
            (found,) = net([pixels.float() / 255])
            for corners, prob in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
                rows.append({"path": path, "label": given["label"].iloc[0], "prob": prob})
                rows[-1] |= dict(zip(SIDES, corners, strict=True))
    predicted = pd.DataFrame(rows, columns=["path", "label", "prob", *SIDES])
    paths = [path for path, *_ in items["valid"]]
    truth = given[given["path"].isin(paths)]
    detections = Detections(paths, truth, predicted)
    measured = detections.estimates(detections.best_threshold())
    hits = {"hits": hits_of(truth, predicted), "epochs": epoch, "seconds": spent}
    return {name: measured[name].value for name in NAMES} | hits


def _flipped(pixels: Tensor, target: dict[str, Tensor], draw: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    image, boxes = pixels.float() / 255, target["boxes"]
    if draw.random() < 0.5:
        width = image.shape[2]
        image, boxes = (
            image.flip(2),
            torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        )
    return image, target | {"boxes": boxes}


def on_classifier(root: Path, boxes: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A classifier, a light detector on its frozen backbone, and the labels before and after."""
    import medclf
    from medclf.inference.bundle import load_bundle
    from medclf.inference.detector_bundle import load_detector

    how = {"split": "folders", "modality": "endoscopy", "overwrite": True}
    settings = {"arch": args.arch, "size": args.size, "recipe": "probe", "saliency": 0, "audit": False}
    start = time.process_time()
    first = medclf.train(root, out=root / "CLASSIFIER", **settings, **how)
    run = medclf.train(root, boxes=boxes, out=root / "RUN", from_run=first, neck="light", epochs=args.epochs, **how)
    seconds = time.process_time() - start
    bundle = load_bundle(first / "bundle")
    files = sorted(path for path in (root / "valid").rglob("*.jpg"))
    before = bundle.predict(files)
    bundle.network[0] = load_detector(run / "bundle").detector.body
    after = bundle.predict(files)
    truth = [path.parent.name for path in files]
    right = [[int(one.label == label) for one, label in zip(part, truth, strict=True)] for part in (before, after)]
    moved = max(abs(a.probs[name] - b.probs[name]) for a, b in zip(before, after, strict=True) for name in a.probs)
    labels = {"right_before": right[0], "right_after": right[1], "moved": float(moved)}
    return _figures(run) | labels | {"seconds": seconds}


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
    start = time.process_time()
    dls = MedDataLoaders.from_table(table, modality="endoscopy", size=args.size, split="folders", seed=42)
    learn = med_learner(dls, args.arch)
    learn.fit_head()
    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(save_bundle(learn, Path(folder) / "b.bundle", calibration={}))
        valid = list(table[table["partition"] == "valid"]["path"])
        truth = given.table[given.table["path"].isin(valid)]
        measured = hottest(bundle, root, valid, truth)
    return {name: one.value for name, one in measured.items()} | {"seconds": time.process_time() - start}


def paired(first: list[int], second: list[int]) -> str:
    """The mean difference of 0 and 1 for the same images, with a 95 % interval."""
    gains = np.array(second, float) - np.array(first, float)
    sampling = Sampling.of(None, len(gains))
    half = critical(0.95, sampling.count - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    mean, low, high = (100 * value for value in (gains.mean(), gains.mean() - half, gains.mean() + half))
    return f"{mean:+.1f} points (95 % CI {low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(METHODS))
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("boxes-benchmark"), help="a folder of one file a part")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, list[dict[str, Any]]] = {}
    for part in args.seeds if args.task == "drawn" else args.folds:
        for method in METHODS[args.task]:
            file = args.out / f"{args.task}-{args.arch}-{args.size}-{args.epochs}-{args.boxes}-{part}-{method}.json"
            if not file.is_file():
                file.write_text(json.dumps(measured(method, part, kept, args)))
            kept.setdefault(method, []).append(json.loads(file.read_text()))
    show(kept)


def measured(method: str, part: int, kept: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        drawn = args.task == "drawn"
        boxes = draw_growths(root, args.boxes, args.test, args.size, part) if drawn else kvasir_fold(root, part)
        if method == TORCHVISION:
            return by_torchvision(root, boxes, args, kept[DETECTOR][-1]["seconds"])
        return {DETECTOR: detect, ON_CLASSIFIER: on_classifier, GRAD_CAM: look}[method](root, boxes, args)


def _shown(values: list[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.2f}" for value in values)
    return "{:.2f} ({:.2f} to {:.2f})".format(*interval_of(values))


def show(kept: dict[str, list[dict[str, Any]]]) -> None:
    rows = []
    for method, parts in kept.items():
        cells = [[one[name] for one in parts if name in one] for name in (*NAMES, "seconds")]
        rows.append([method, len(parts), *map(_shown, cells)])
    print_table(["", "runs", *NAMES, "seconds"], rows)
    if TORCHVISION in kept:
        hits = {
            method: [hit for one in kept[method] for path in sorted(one["hits"]) for hit in one["hits"][path]]
            for method in (DETECTOR, TORCHVISION)
        }
        print(f"surest box hits, {DETECTOR} less {TORCHVISION}: {paired(hits[TORCHVISION], hits[DETECTOR])}")
        print(f"epochs of {TORCHVISION}: {[one['epochs'] for one in kept[TORCHVISION]]}")
    if ON_CLASSIFIER in kept:
        before, after = (
            [one for part in kept[ON_CLASSIFIER] for one in part[name]] for name in ("right_before", "right_after")
        )
        text = f"labels right: {np.mean(before):.3f} without boxes, {np.mean(after):.3f} with: {paired(before, after)}"
        print(f"{text}; largest change of a probability {max(one['moved'] for one in kept[ON_CLASSIFIER]):.1e}")


if __name__ == "__main__":
    main()
